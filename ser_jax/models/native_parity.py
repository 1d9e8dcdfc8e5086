"""Kernels are used once they have given XLA's results on this machine: a compiler may err."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ser_jax.models import convolution, native, recurrence
from ser_jax.models.native_library import UnavailableError, load

TOLERANCE = 1e-5  # of the largest value: sums of some hundred products in float32 differ by about 1e-6


def prepare(of_training: Callable[[], Iterator[float]]) -> str:
    """Has the kernels ready; what was compiled anew is compared with XLA first.

    Args:
      of_training: Yields how far the kernels of training are from XLA's results; see `factored.differences`.

    Returns:
      What has compiled them, in words.

    Raises:
      UnavailableError: If they cannot be used on this machine.
    """
    library = load()
    if not library.trusted:
        worst = float(np.max([*_differences(), *of_training()]))  # NaN stays, whatever stands before it
        if not worst < TOLERANCE:
            library.distrust()
            raise UnavailableError(f"what {library.compiler} has compiled differs from XLA's results by {worst:.1e}")
        library.trust()
    return library.compiler


def _differences() -> Iterator[float]:
    """Yields how far values and gradients are from XLA's, as shares of the largest."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    forms: list[tuple[Any, Any, tuple[Array, ...]]] = [
        (native.recur, recurrence.recur, (draw(4, 5, 80), 0.2 * draw(20, 80)))
    ]
    for stride in (1, 2):
        own, usual = (functools.partial(form.pooled_convolution, stride=stride) for form in (native, convolution))
        forms.append((own, usual, (draw(3, 40, 7), 0.2 * draw(5, 7, 30), draw(30))))
    for own, usual, arguments in forms:
        weights = draw(*usual(*arguments).shape)
        ours, theirs = (_value_and_gradients(form, weights, arguments) for form in (own, usual))
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            yield float(jnp.max(jnp.abs(one - other)) / jnp.max(jnp.abs(other)))


def _value_and_gradients(form: Callable[..., Array], weights: Array, arguments: tuple[Array, ...]) -> Any:
    """Returns the weighted sum of what a form gives, and its gradients with respect to all arguments."""

    def weighted(*given: Array) -> Array:
        return jnp.sum(weights * form(*given))

    return jax.value_and_grad(weighted, tuple(range(len(arguments))))(*arguments)
