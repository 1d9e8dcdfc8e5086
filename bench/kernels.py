"""The kernels of models/kernels.cc against XLA's programs for the same mathematics, part by part, forward and backward.

    taskset -c 0 python bench/kernels.py --json kernels.json

A batch of 32 utterances of 550 frames, 27 segments, the shapes of the plain CRNN; of HSF-CRNN, Adam's update of its
largest kernel, gradient and norm included. The first convolution's gradient is that of its weights only, as in
training.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np

import ser_jax  # noqa: F401  (sets the compiler guard)
from ser_jax.models import convolution, native, native_parity, recurrence
from ser_jax.training import factored, optimiser

BATCH, FRAMES, BANDS, FILTERS, SEGMENTS, UNITS = 32, 550, 40, 30, 27, 128
FUNCTIONALS, WIDTH = 6373, 1024
RECIPE = {"clip_norm": 5.0, "learning_rate": 1e-3, "weight_decay": 0.0}
UPDATE = "Adam of 6373 × 1024 parameters"
REPEATS = 20  # calls of a round


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", default="", help="file for the results")
    options = parser.parse_args()
    compiler = native_parity.prepare(factored.differences)
    candidates: dict[str, Callable[[], float | None]] = {}
    for name, arguments, places, forms in parts():
        for form, function in forms.items():
            candidates[f"{name}, {form}"] = repeated(function, arguments, places)
    for form, step in {"XLA": written(), "own": by_factors()}.items():
        candidates[f"{UPDATE}, {form}"] = updating(step)
    seconds = measure.alternate(candidates, options.rounds)
    rows = []
    for name in [*(name for name, *_ in parts()), UPDATE]:
        xla, own = (1e3 * measure.median(seconds[f"{name}, {form}"]) / REPEATS for form in ("XLA", "own"))
        rows.append((name, round(xla, 2), round(own, 2), round(xla / own, 2)))
    columns = ("forward and gradient", "XLA, ms", "kernels.cc, ms", "ratio")
    measure.print_table(f"{compiler}; medians of {options.rounds} rounds", columns, rows)
    environment = measure.environment("jax", "jaxlib")
    print(f"\n{environment}")
    measure.write_json(options.json, {"environment": environment, "compiler": compiler, "rows": rows})


def parts() -> list[tuple[str, tuple[Any, ...], tuple[int, ...], dict[str, Any]]]:
    """Returns name, arguments, which of them a gradient is taken of, and the two forms of every part."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    rows = (FRAMES - 4 - 3) // 2 + 1
    stages = {
        "XLA": functools.partial(convolution.pooled_convolution, stride=2),
        "own": functools.partial(native.pooled_convolution, stride=2),
    }
    first = (draw(BATCH, FRAMES, BANDS), draw(5, BANDS, FILTERS), draw(FILTERS))
    second = (draw(BATCH, rows, FILTERS), draw(3, FILTERS, FILTERS), draw(FILTERS))
    gates = (draw(SEGMENTS, BATCH, 4 * UNITS), draw(UNITS, 4 * UNITS) / 12)
    return [
        ("first convolution, pool, bias, ReLU", first, (1, 2), stages),
        ("second convolution, pool, bias, ReLU", second, (0, 1, 2), stages),
        ("recurrence of the LSTM", gates, (0, 1), {"XLA": recurrence.recur, "own": native.recur}),
    ]


def repeated(function: Callable[..., Any], arguments: tuple[Any, ...], places: tuple[int, ...]) -> Callable[[], None]:
    """Returns what computes value and gradient `REPEATS` times."""
    gradient = jax.jit(jax.value_and_grad(lambda *given: jnp.sum(function(*given) ** 2), places))

    def work() -> None:
        for _ in range(REPEATS):
            jax.block_until_ready(gradient(*arguments))

    return work


def written() -> Callable[..., Any]:
    """Returns the update by the gradient as an array: two programs, as optimiser.py explains."""

    @functools.partial(jax.jit, donate_argnums=1)
    def moments(params, state, factors):
        gradient = {"w": factors.inputs.T @ factors.slopes}
        norm = optimiser.global_norm(gradient)
        return optimiser.update_moments(state, gradient, norm, jnp.array(True), clip_norm=RECIPE["clip_norm"])

    @functools.partial(jax.jit, donate_argnums=0)
    def move(params, state):
        rest = {name: RECIPE[name] for name in ("learning_rate", "weight_decay")}
        return optimiser.update_params(params, None, state, jnp.array(True), ema=0.0, **rest)[0]

    def step(params, state, factors):
        state = moments(params, state, factors)
        return move(params, state), state

    return step


def by_factors() -> Callable[..., Any]:
    """Returns the update that never writes the gradient."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, factors):
        norm, good = optimiser.global_norm({"w": factors}), jnp.array(True)
        state = optimiser.update_moments(state, {"w": factors}, norm, good, clip_norm=RECIPE["clip_norm"])
        return factored.update(params, state, {"w": factors}, norm, good, **RECIPE)

    return step


def updating(step: Callable[..., Any]) -> Callable[[], None]:
    """Returns what makes `REPEATS` updates."""
    rng = np.random.default_rng(0)
    shapes = (BATCH, FUNCTIONALS), (BATCH, WIDTH)
    factors = optimiser.Factors(*(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes))
    params = {"w": jnp.zeros((FUNCTIONALS, WIDTH))}
    held = [params, optimiser.init(params)]

    def work() -> None:
        for _ in range(REPEATS):
            held[:] = step(*held, factors)
        jax.block_until_ready(held)

    return work


if __name__ == "__main__":
    main()
