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


def compare_recurrence(form: Callable[..., Any], units: int) -> None:
    """Compares another form of `recurrence.recur` with XLA's loop on this machine, in float32.

    Args:
      form: As `recurrence_gpu.recur`.
      units: H of the layer.

    Raises:
      UnavailableError: If it cannot be compiled or gives other results.
    """
    arguments = _draw(0, (4, 20, 4 * units)), _draw(1, (units, 4 * units)) / units**0.5
    try:
        with jax.default_matmul_precision("float32"):
            worst = float(np.max([*_difference(form, recurrence.recur, arguments)]))
    except Exception as error:  # Compilers of several layers fail in as many ways.
        raise UnavailableError(f"it cannot be compiled: {error}") from error
    if not worst < TOLERANCE:
        raise UnavailableError(f"its results differ from those of XLA's loop by {worst:.1e}")


def _differences() -> Iterator[float]:
    """Yields how far the kernels of native.py are from XLA's programs."""
    yield from _difference(native.recur, recurrence.recur, (_draw(0, (4, 5, 80)), 0.2 * _draw(1, (20, 80))))
    arguments = _draw(2, (3, 40, 7)), 0.2 * _draw(3, (5, 7, 30)), _draw(4, (30,))
    for stride in (1, 2):
        own, usual = (functools.partial(form.pooled_convolution, stride=stride) for form in (native, convolution))
        yield from _difference(own, usual, arguments)


def _difference(own: Any, usual: Any, arguments: tuple[Array, ...]) -> Iterator[float]:
    """Yields how far value and gradients of one form are from another's, as shares of the largest."""
    weights = _draw(5, usual(*arguments).shape)
    ours, theirs = (_value_and_gradients(form, weights, arguments) for form in (own, usual))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        yield float(jnp.max(jnp.abs(one - other)) / jnp.max(jnp.abs(other)))


def _draw(seed: int, shape: tuple[int, ...]) -> Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def _value_and_gradients(form: Callable[..., Array], weights: Array, arguments: tuple[Array, ...]) -> Any:
    """Returns the weighted sum of what a form gives, and its gradients with respect to all arguments."""

    def weighted(*given: Array) -> Array:
        return jnp.sum(weights * form(*given))

    return jax.value_and_grad(weighted, tuple(range(len(arguments))))(*arguments)
