"""Values and gradients of a function, and their comparison with those of another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def values_and_gradients(function: Any, *arguments: Any) -> list[np.ndarray]:
    """The values of a function, and the gradients of the sum of their sines."""

    def loss(*arguments):
        values = function(*arguments)
        return jnp.sum(jnp.sin(values)), values

    numbers = tuple(range(len(arguments)))
    gradients, values = jax.jit(jax.grad(loss, argnums=numbers, has_aux=True))(*arguments)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((values, gradients))]


def assert_same(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
