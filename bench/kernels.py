"""Where the time of a training step goes, by XLA's programs and by the package's own kernels.

    taskset -c 0 python bench/kernels.py --json kernels.json
    python bench/kernels.py --runs 50                          # on a GPU

A batch of 32 utterances of 550 frames, 27 segments, the shapes of the plain CRNN, forward and
backward; of HSF-CRNN, Adam's update of its largest kernel, gradient and norm included. The first
convolution's gradient is that of its weights only, as in training. The floor is one large matrix
product, timed in the same rounds. Own kernels are those of models/kernels/cpu.cc on a CPU and of
models/kernels/gpu_lstm.py on a GPU.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import ours
import workload

from ser_jax import config as configuration
from ser_jax.experiment import setup
from ser_jax.models import convolution, recurrent
from ser_jax.models.kernels import cpu as native
from ser_jax.models.kernels import gpu_lstm, verify
from ser_jax.models.layers import ComputeOptions, add_bias, product
from ser_jax.training import step

BATCH, FRAMES, BANDS, FILTERS, SEGMENTS, UNITS = 32, 550, workload.BANDS, 30, 27, 128
ROWS1 = (FRAMES - 4 - 3) // 2 + 1  # of the first convolution, pooled
READ = 4 * FILTERS  # values that the LSTM reads of a segment
FUNCTIONALS, WIDTH = workload.FUNCTIONALS, 1024
UPDATE = "HSF-CRNN: Adam of 6373 × 1024 parameters"
GEMM = 2048  # rows and columns of the factors of the floor
REPEATS = 20  # calls of a round
FORMS = ("XLA", "own")


class Part(NamedTuple):
    """What a step consists of.

    Attributes:
      name: As the table has it.
      products: Multiplications of its matrix products, forward and backward.
      shapes: Of its arguments.
      places: Which of them a gradient is taken of.
      forms: "XLA" and, where there is one, "own" → function of the arguments.
    """

    name: str
    products: int
    shapes: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]
    forms: dict[str, Callable[..., Any]]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1, help="runs side by side; on a CPU 1")
    parser.add_argument("--precision", choices=("float32", "tf32"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", default="", help="file for the results")
    options = parser.parse_args()
    config = configuration.get_config()
    config.system, config.training.precision = "plain_crnn", options.precision
    devices = setup.start(config)
    cpu = devices[0].platform == "cpu"
    changes = {"kernels": "native"} if cpu else {"recurrence": "pallas"}
    candidates: dict[str, Callable[[], None]] = {"floor": floor()}
    of_step = parts(cpu)
    for part in of_step:
        for form, function in part.forms.items():
            candidates[f"{part.name}, {form}"] = repeated(function, part, options.runs)
    for form, keys in {"XLA": {"kernels": "xla"}, "own": changes}.items():
        candidates[f"whole step, {form}"] = whole_step(config, keys, devices, options.runs)
    if cpu:
        for form in FORMS:
            candidates[f"{UPDATE}, {form}"] = updating(low_rank=form == "own")
    taken = {
        name: measure.median(values)
        for name, values in measure.alternate(candidates, options.rounds).items()
    }
    result = table(
        taken, [(part.name, part.products) for part in of_step], options.runs, options.rounds
    )
    environment = measure.environment("jax", "jaxlib")
    print(f"\n{environment}")
    measure.write_json(options.json, {"environment": environment, "runs": options.runs} | result)


def parts(cpu: bool) -> list[Part]:
    """Returns the parts of a step; no product is counted for elementwise work."""
    unfold = ComputeOptions(unfold=not cpu)
    stages: dict[str, Any] = {
        "XLA": functools.partial(convolution.pooled_convolution, stride=2, compute=unfold)
    }
    loops: dict[str, Any] = {"XLA": recurrent.recur, "own": native.recur if cpu else gpu_lstm.recur}
    if cpu:
        verify.prepare()
        stages["own"] = functools.partial(native.pooled_convolution, stride=2)
    gates = (SEGMENTS, BATCH, 4 * UNITS)
    return [
        Part(
            "first convolution, pool, bias, ReLU",
            2 * BATCH * (FRAMES - 4) * 5 * BANDS * FILTERS,
            ((BATCH, FRAMES, BANDS), (5, BANDS, FILTERS), (FILTERS,)),
            (1, 2),
            stages,
        ),
        Part(
            "second convolution, pool, bias, ReLU",
            3 * BATCH * (ROWS1 - 2) * 3 * FILTERS * FILTERS,
            ((BATCH, ROWS1, FILTERS), (3, FILTERS, FILTERS), (FILTERS,)),
            (0, 1, 2),
            stages,
        ),
        Part(
            "what the LSTM reads of its input",
            3 * SEGMENTS * BATCH * READ * 4 * UNITS,
            ((SEGMENTS, BATCH, READ), (READ, 4 * UNITS), (4 * UNITS,)),
            (0, 1, 2),
            {"XLA": lambda x, kernel, bias: add_bias(product(x, kernel, None), bias)},
        ),
        Part(
            "recurrence of the LSTM",
            3 * SEGMENTS * BATCH * UNITS * 4 * UNITS,
            (gates, (UNITS, 4 * UNITS)),
            (0, 1),
            loops,
        ),
    ]


def repeated(function: Callable[..., Any], part: Part, runs: int) -> Callable[[], None]:
    """Returns what computes value and gradient of every run `REPEATS` times."""
    rng = np.random.default_rng(0)
    arguments = [
        jnp.asarray(rng.standard_normal((runs, *shape)), jnp.float32) / 12 for shape in part.shapes
    ]
    gradient = jax.value_and_grad(lambda *given: jnp.sum(function(*given) ** 2), part.places)
    if runs == 1:
        arguments = [values[0] for values in arguments]
    compiled = jax.jit(gradient if runs == 1 else jax.vmap(gradient))

    def work() -> None:
        for _ in range(REPEATS):
            found = compiled(*arguments)
        jax.block_until_ready(found)

    return work


def whole_step(
    config: Any, changes: dict[str, str], devices: list[Any], runs: int
) -> Callable[[], None]:
    """Returns what trains `REPEATS` steps, everything included but the draw of the batches."""
    config = config.copy_and_resolve_references()
    config.training.update(changes)
    dataset, protocol = ours.a_few(config, np.array([FRAMES]), BATCH)
    group = ours.Group(config, dataset, protocol, devices, runs)
    return group.step_of(0, REPEATS)


def floor() -> Callable[[], None]:
    """Returns what the floor is measured by."""
    multiply, factor = jax.jit(jnp.matmul), jnp.ones((GEMM, GEMM), jnp.float32)

    def work() -> None:
        jax.block_until_ready(multiply(factor, factor))

    return work


def table(
    taken: dict[str, float], of_parts: list[tuple[str, int]], runs: int, rounds: int
) -> dict[str, Any]:
    """Prints what was measured, in ms, and returns it."""
    floor_gflops = 2e-9 * GEMM**3 / taken["floor"]
    whole = ("whole step", sum(products for _, products in of_parts))
    found: list[dict[str, Any]] = []
    for name, products in [*of_parts, whole, (UPDATE, 0)]:
        keys = {form: f"{name}, {form}" for form in FORMS}
        times = {form: 1e3 * taken[key] / REPEATS for form, key in keys.items() if key in taken}
        if times:
            found.append({"name": name, "gflop": 2e-9 * runs * products, **times})
    columns = (
        "forward and backward",
        "GFLOP",
        "at the floor, ms",
        "XLA, ms",
        "own kernel, ms",
        "% of floor",
    )
    rows = []
    for row in found:
        least = 1e3 * row["gflop"] / floor_gflops
        share = 100 * least / min(row[form] for form in FORMS if form in row)
        shown = [f"{row[form]:.2f}" if form in row else "–" for form in FORMS]
        counted = (f"{row['gflop']:.2f}", f"{least:.2f}") if least else ("–", "–")
        rows.append((row["name"], *counted, *shown, f"{share:.0f}" if least else "–"))
    measure.print_table(
        f"{runs} run(s), floor {floor_gflops:.0f} GFLOP/s; medians of {rounds} rounds",
        columns,
        rows,
    )
    return {"floor_gflops": floor_gflops, "rows": found}


def updating(*, low_rank: bool) -> Callable[[], None]:
    """Returns what makes `REPEATS` updates of a kernel, in the two programs of `PerStep`.

    With `low_rank` the kernel's gradient stays two factors, and the package's own Adam reads those.
    """
    settings = step.TrainSettings(learning_rate=1e-3, clip_norm=5.0)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def first_half(params, adam, factors):
        grads = in_place(factors if low_rank else factors.inputs.T @ factors.output_grads)
        gradients = step.Gradients(grads, step.global_norm(grads), jnp.array(True))
        return step.update_moments(settings, params, adam, gradients)

    @functools.partial(jax.jit, donate_argnums=0)
    def second_half(params, adam):
        valid = jnp.array(True)
        return step.update_params(settings, params, None, adam, valid, low_rank=low_rank)[0]

    rng = np.random.default_rng(0)
    shapes = (BATCH, FUNCTIONALS), (BATCH, WIDTH)
    factors = step.LowRankGradient(
        *(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
    )
    params = in_place(jnp.zeros((FUNCTIONALS, WIDTH)))
    held = [params, step.init_adam(params)]

    def work() -> None:
        for _ in range(REPEATS):
            params, adam = first_half(*held, factors)
            held[:] = second_half(params, adam), adam
        jax.block_until_ready(held)

    return work


def in_place(leaf: Any) -> Any:
    """Returns the tree of parameters with this leaf only, at the place of the largest kernel."""
    for key in reversed(step.LOW_RANK_KERNEL):
        leaf = {key: leaf}
    return leaf


if __name__ == "__main__":
    main()
