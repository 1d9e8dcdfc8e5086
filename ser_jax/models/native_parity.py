"""Kernels are used once they have given XLA's results on this machine: a compiler may err."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ser_jax.models import convolution, native, recurrence
from ser_jax.models.native_library import UnavailableError, load

TOLERANCE = 1e-5  # of the largest value: sums of some hundred products in float32 differ by about 1e-6


def prepare() -> str:
    """Has the kernels ready; what was compiled anew is compared with XLA first.

    Returns:
      What has compiled them, in words.

    Raises:
      UnavailableError: If they cannot be used on this machine.
    """
    library = load()
    if not library.trusted:
        worst = max(_differences())
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
        everything = tuple(range(len(arguments)))
        ours, theirs = (
            jax.value_and_grad(lambda *given, form=form: jnp.sum(weights * form(*given)), everything)(*arguments)  # noqa: B023
            for form in (own, usual)
        )
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            yield float(jnp.max(jnp.abs(one - other)) / jnp.max(jnp.abs(other)))
