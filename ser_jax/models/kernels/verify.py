"""Compares the package's own kernels with XLA on this machine before their first use.

A compiler may err, and a processor that we have not seen may differ. The CPU kernels are compared
once, after they were compiled, at the sizes of training: convolutions of depth 200 and 90 over more
pooled rows than are summed at a time, 200 steps of an LSTM of 128 units, Adam, values and
gradients. One program holds all comparisons: most of the time is its compilation.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ser_jax.models import convolution, recurrent
from ser_jax.models.kernels import cpu
from ser_jax.models.kernels.cpu import UnavailableError, load

# Relative to the largest value: sums of some hundred products in float32 differ by about 1e-6.
TOLERANCE = 1e-5
BATCH, STEPS, UNITS = 9, 200, 128
# Frames and kernel [width, M, C] of the convolutions by the stride of their pool. With this seed no
# two maxima of a pool, and no maximum and the ReLU's zero, are nearer than 1e-4: rounding does
# not decide where a gradient goes.
STAGES = {1: (112, (5, 40, 30)), 2: (112, (3, 30, 30))}
SEED = 25
QUICKLY: Any = {"xla_backend_optimization_level": 0}  # of XLA's programs: half the time
ADAM = {"rate": 0.1, "weight_decay": 0.01, "decay1": 0.9, "decay2": 0.999, "epsilon": 1e-8}


def prepare() -> str:
    """Loads the CPU kernels, compared with XLA if just compiled; returns the compiler's version.

    Raises:
      UnavailableError: If they cannot be used on this machine.
    """
    library = load()
    if not library.trusted:
        arguments = _draw_all()
        compare = jax.jit(lambda *given: _differences(*given)).lower(*arguments)
        worst = np.max(compare.compile(QUICKLY)(*arguments))
        if not worst < TOLERANCE:  # also where it is NaN
            library.remove()
            raise UnavailableError(
                f"what {library.compiler} has compiled differs from XLA's results by {worst:.1e}"
            )
        library.trust()
    return library.compiler


def compare_recurrence(form: Callable[..., Any], units: int) -> None:
    """Compares a form of `recurrent.recur` of H = `units` with XLA's loop here, in float32.

    Raises:
      UnavailableError: If it cannot be compiled or gives other results.
    """
    rng = np.random.default_rng(SEED)
    arguments = (
        _draw(rng, 4, 20, 4 * units),
        _draw(rng, units, 4 * units) / np.float32(units) ** 0.5,
    )
    try:
        with jax.default_matmul_precision("float32"):
            compare = jax.jit(functools.partial(_difference, form, recurrent.recur))
            worst = np.max(compare(*arguments))
    except Exception as error:  # Compilers of several layers fail in as many ways.
        raise UnavailableError(f"it cannot be compiled: {error}") from error
    if not worst < TOLERANCE:
        raise UnavailableError(f"its results differ from those of XLA's loop by {worst:.1e}")


def _draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _draw_all() -> tuple[Any, Any, Any]:
    """Returns arguments of the convolutions by stride, the recurrence, and Adam of two trials."""
    rng = np.random.default_rng(SEED)
    stages = {
        stride: (
            _draw(rng, BATCH, frames, kernel[1]),
            _draw(rng, *kernel) / np.float32(kernel[0] * kernel[1]) ** 0.5,
            _draw(rng, kernel[2]),
        )
        for stride, (frames, kernel) in STAGES.items()
    }
    lstm = (
        _draw(rng, STEPS, BATCH, 4 * UNITS),
        _draw(rng, UNITS, 4 * UNITS) / np.float32(UNITS) ** 0.5,
    )
    state = np.array([[1, 0.5, 1 / (1 - 0.9**3), 1 / (1 - 0.999**3)]] * 2, np.float32)
    kernel, moment = _draw(rng, 2, 210, 130), _draw(rng, 2, 210, 130)
    adam = _draw(rng, 2, 32, 210), _draw(rng, 2, 32, 130), state, kernel, moment, moment**2
    return stages, lstm, adam


def _differences(stages: Any, lstm: Any, adam: Any) -> Array:
    """Returns how far every value and gradient of the kernels is from XLA's, one f32 for each."""
    found = [
        _difference(
            functools.partial(cpu.pooled_convolution, stride=stride),
            functools.partial(convolution.pooled_convolution, stride=stride),
            *arguments,
        )
        for stride, arguments in stages.items()
    ]
    found.append(_difference(cpu.recur, recurrent.recur, *lstm))
    own_adam: Any = functools.partial(cpu.adam, **ADAM)
    found.append(_relative(jax.vmap(own_adam)(*adam), jax.vmap(_plain_adam)(*adam)))
    return jnp.concatenate(found)


def _difference(own: Any, usual: Any, *arguments: Any) -> Array:
    """Returns how far value and gradients of one form are from another's."""

    def evaluate(form: Any) -> Any:
        value, backward = jax.vjp(form, *arguments)
        grads = jnp.cos(jnp.arange(value.size, dtype=jnp.float32))
        return value, backward(grads.reshape(value.shape))

    return _relative(evaluate(own), evaluate(usual))


def _relative(found: Any, expected: Any) -> Array:
    """Returns, per array of two trees, the largest difference relative to the largest value.

    NaN where a value is not finite: XLA's maximum may pass over NaN on CPUs.
    """

    def largest(one: Array, two: Array) -> Array:
        difference = jnp.max(jnp.abs(one - two)) / jnp.max(jnp.abs(two))
        return jnp.where(jnp.all(jnp.isfinite(one)), difference, jnp.nan)

    return jnp.stack(jax.tree.leaves(jax.tree.map(largest, found, expected)))


def _plain_adam(
    inputs: Array, grads: Array, state: Array, value: Array, moment1: Array, moment2: Array
) -> tuple[Array, ...]:
    """Kingma and Ba 2015 with the gradient written out, decoupled weight decay."""
    gradient = state[1] * (inputs.T @ grads)
    moment1 = ADAM["decay1"] * moment1 + (1 - ADAM["decay1"]) * gradient
    moment2 = ADAM["decay2"] * moment2 + (1 - ADAM["decay2"]) * gradient**2
    step = state[2] * moment1 / (jnp.sqrt(state[3] * moment2) + ADAM["epsilon"])
    return value - ADAM["rate"] * (step + ADAM["weight_decay"] * value), moment1, moment2
