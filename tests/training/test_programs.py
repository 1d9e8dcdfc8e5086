"""The compiled programs of a group: what each run gives alone (R12), compiled once (R17)."""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.monitoring
import numpy as np
import pytest
import tiny
from jax import export

from ser_jax.models import build
from ser_jax.models.arithmetic import Arithmetic
from ser_jax.training import step as steps

STEPS = 30
LEARNING_RATE = 1e-3  # the default, for which 1e-5 is promised
CHUNK = 7
TRITON = "__gpu$xla.gpu.triton"
pytestmark = pytest.mark.xdist_group("training")
COMPILED = "/jax/core/compile/backend_compile_duration"
# Size of the group, devices, chunk.
BY_STEP = [(2, 2, 0), (4, 1, 0), (4, 2, 0), (4, 4, 0), (1, 2, 0), (1, 4, 0), (2, 4, 0)]
BY_CHUNK = [(4, 1, CHUNK), (2, 2, CHUNK), (2, 4, CHUNK)]


@functools.cache
def batches() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bucket [S] of every step, rows [S, 4, B] and mask [S, 4, B]; now and then a run has nothing to do."""
    rng = np.random.default_rng(0)
    order = np.arange(STEPS) % len(tiny.buckets())
    rows, mask = [], []
    for bucket in order:
        rows.append(rng.integers(len(tiny.buckets()[bucket].targets), size=(4, tiny.BATCH)).astype(np.int32))
        mask.append(np.arange(tiny.BATCH) < rng.integers(tiny.BATCH + 1, size=(4, 1)))
    assert not np.any(mask, axis=2).all()
    return order, np.stack(rows), np.stack(mask)


def stacked(members: Sequence[int]) -> steps.RunConstants:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(tiny.constants(tiny.runs()[n]) for n in members))


@pytest.fixture(scope="module", params=BY_STEP + BY_CHUNK, ids=lambda case: "-".join(map(str, case)))
def case(request) -> tuple[int, int, int]:
    """Every group in turn, with all tests that take it: so they are compiled once, whichever process does it."""
    return request.param


def train_group(size: int, devices: int, chunk: int, members: Sequence[int]) -> steps.TrainState:
    """Trains runs 0…3 of the protocol, whichever are members, in a group; returns the state on the host."""
    programs = tiny.programs(size, devices, chunk, learning_rate=LEARNING_RATE)
    state, run = programs.init(list(members))[0], programs.put(stacked(members))
    order, rows, mask = batches()
    return jax.device_get(programs.train(state, run, order, rows[:, members], mask[:, members]))


def member(tree, place):
    return jax.tree.map(lambda leaf: leaf[place], tree)


@functools.cache
def train_alone(number: int) -> steps.TrainState:
    """The pure step of one run, from the same start."""
    run = tiny.constants(tiny.runs()[number])
    state = member(jax.device_get(tiny.programs(2, 2).init([number, number])[0]), 0)
    step = jax.jit(
        functools.partial(steps.train_step, apply=tiny.apply, learning_rate=LEARNING_RATE, clip_norm=tiny.CLIP_NORM)
    )
    for bucket, rows, mask in zip(*batches(), strict=True):
        state = step(tiny.buckets()[bucket], state, run, rows[number], mask[number])
    return jax.device_get(state)


def test_group_equals_each_run_alone(case):
    """R12: one run per device, many runs per device, many devices per run, any number of devices; steps or chunks."""
    size, devices, chunk = case
    mesh = tiny.programs(*case, learning_rate=LEARNING_RATE).mesh
    assert mesh.size == devices and dict(mesh.shape) == {"run": min(size, devices), "data": max(1, devices // size)}
    found = train_group(size, devices, chunk, range(size))
    for number in range(size):
        alone = train_alone(number)
        assert alone.adam.count > 20 and alone.counters.skipped == 0
        tiny.assert_close(member(found, number).params, alone.params, 1e-5)
        tiny.assert_close(member(found, number).adam, alone.adam, 1e-5)
        np.testing.assert_allclose(member(found, number).counters, alone.counters, rtol=1e-5)


@pytest.mark.parametrize("chunk", [0, CHUNK])
def test_same_devices_same_bits(chunk):
    """R12: neither chance nor the place in the group."""
    first, again, swapped = (train_group(2, 2, chunk, members) for members in ([0, 1], [0, 1], [1, 0]))
    assert tiny.bits(first) == tiny.bits(again)
    assert tiny.bits(member(first, 0)) == tiny.bits(member(swapped, 1))
    assert tiny.bits(member(first, 0)) != tiny.bits(member(first, 1))


@functools.cache
def for_gpus(pallas: bool) -> Any:
    """Two runs in one program of `CHUNK` steps, the recurrence by XLA's loop or as its own program; batches."""
    c = tiny.config().copy_and_resolve_references()
    c.model.lstm_units = 16
    system = build.build_model(c, len(tiny.CLASSES), Arithmetic(unfold=True, pallas=pallas))
    order, rows, mask = (values[:CHUNK] for values in batches())
    return tiny.new_programs(2, 1, CHUNK, learning_rate=LEARNING_RATE, system=system), order, rows[:, :2], mask[:, :2]


def test_the_recurrence_of_gpus_trains_the_same():
    """In a loop over steps, with a program of its own for every shape, run by run beside others; interpreted."""
    found = []
    for pallas in (False, True):
        programs, *some = for_gpus(pallas)
        found.append(jax.device_get(programs.train(programs.init([0, 1])[0], programs.put(stacked([0, 1])), *some)))
    tiny.assert_close(found[1].params, found[0].params, 1e-5)
    assert found[1].adam.count.min() >= 3 and found[1].counters.skipped.max() == 0


@pytest.mark.parametrize(("platform", "pallas"), [("cuda", False), ("cuda", True), ("tpu", False)])
def test_steps_are_one_program_of_every_accelerator(platform, pallas):
    """As far as jax lowers it without the device: all shapes in one; with Triton's kernels, one forward and one
    backward for every shape, there is no loop but that over the steps."""
    programs, *some = for_gpus(pallas)
    allowed = [export.DisabledSafetyCheck.custom_call(name) for name in (TRITON, "Sharding")]
    lowered = export.export(programs._engine._train, platforms=[platform], disabled_checks=allowed)(
        programs._engine.buckets, programs.init([0, 1])[0], programs.put(stacked([0, 1])), *programs._engine._put(*some)
    )
    module, shapes = lowered.mlir_module(), len(tiny.buckets())
    assert module.count(f"custom_call @{TRITON}") == 2 * shapes * pallas
    assert module.count("stablehlo.while") == 1 + 2 * shapes * (not pallas)


def train_in_parts(programs: Any, parts: Sequence[tuple[np.ndarray, ...]]) -> steps.TrainState:
    state, run = programs.init([0, 1])[0], programs.put(stacked([0, 1]))
    for order, rows, mask in parts:
        state = programs.train(state, run, order, rows, mask)
    return jax.device_get(state)


@pytest.mark.parametrize(("devices", "chunk"), [(2, 0), (2, CHUNK), (4, CHUNK)])
def test_where_the_steps_are_cut_does_not_matter(devices, chunk):
    """To the bit: what fills a chunk up moves nothing. A training that was interrupted cuts them elsewhere."""
    programs = tiny.programs(2, devices, chunk)
    order, rows, mask = (values[:9] for values in batches())
    rows, mask = rows[:, :2], mask[:, :2]
    whole = tiny.bits(train_in_parts(programs, [(order, rows, mask)]))
    for cuts in ([5], [1, 6, 8]):
        parts = zip(*(np.split(values, cuts) for values in (order, rows, mask)), strict=True)
        assert tiny.bits(train_in_parts(programs, list(parts))) == whole


def test_steps_that_fill_a_chunk_up_move_nothing():
    """Five steps in a chunk of seven are those five, whatever the others hold and of whatever shape they are."""
    programs = tiny.programs(2, 2, CHUNK)
    order, rows, mask = (values[:7].copy() for values in batches())
    rows, mask = rows[:, :2], mask[:, :2]
    mask[5:] = False
    five = tiny.bits(train_in_parts(programs, [(order[:5], rows[:5], mask[:5])]))
    assert tiny.bits(train_in_parts(programs, [(order, rows, mask)])) == five
    order[5:], rows[5:] = 1 - order[5:], 11
    assert tiny.bits(train_in_parts(programs, [(order, rows, mask)])) == five
    assert tiny.bits(train_in_parts(programs, [(order[:3], rows[:3], mask[:3])])) != five


def test_no_steps_at_all():
    for chunk in (0, CHUNK):
        programs = tiny.programs(2, 2, chunk)
        state = programs.init([0, 1])[0]
        before = tiny.bits(state)
        assert tiny.bits(train_in_parts(programs, [tuple(values[:0] for values in batches())])) == before


def test_score_equals_each_run_alone(case):
    """Run by run the rows of all batches in order; behind them, what fills the last chunk up."""
    size, _, chunk = case
    programs = tiny.programs(*case, learning_rate=LEARNING_RATE)
    members, number_of_batches = list(range(size)), 9
    params, statistics = programs.init(members)[0].params, stacked(members).statistics
    order, rows, _ = (values[:number_of_batches] for values in batches())
    found = programs.score(params, programs.put(statistics), order, rows[:, members])
    shape = (size, chunk, tiny.BATCH) if chunk else (size, tiny.BATCH)
    assert [logits.shape for logits in found] == [(*shape, len(tiny.CLASSES))] * (2 if chunk else number_of_batches)
    logits = np.concatenate([np.reshape(part, (size, -1, tiny.BATCH, len(tiny.CLASSES))) for part in found], axis=1)
    apply = jax.jit(functools.partial(steps.score_step, apply=tiny.apply))
    for number in members:
        own = member((jax.device_get(params), statistics), number)
        for place, bucket in enumerate(order):
            alone = apply(tiny.buckets()[bucket], *own, rows[place, number])
            np.testing.assert_allclose(logits[number, place], alone, atol=1e-5)
    assert programs.score(params, programs.put(statistics), order[:0], rows[:0, members]) == ()


def test_the_start_depends_on_the_key_only():
    pair, best = tiny.programs(2, 2).init([5, 2**32 - 1])
    four, _ = tiny.programs(4, 1).init([2**32 - 1, 7, 5, 5])
    assert tiny.bits(member(pair, 0)) == tiny.bits(member(four, 2)) == tiny.bits(member(four, 3))
    assert tiny.bits(member(pair, 1)) == tiny.bits(member(four, 0))
    assert len({str(tiny.bits(member(four, place).params)) for place in range(3)}) == 3
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((four.adam, four.counters._replace(active=0))))
    assert four.counters.active.tolist() == [True] * 4
    assert tiny.bits(best.params) == tiny.bits(pair.params) and best.epoch.tolist() == [0, 0]


def test_number_of_parameters():
    number = sum(leaf.size for leaf in jax.tree.leaves(train_alone(0).params))
    assert tiny.programs(2, 2).parameters == tiny.programs(4, 1, CHUNK).parameters == number


@pytest.mark.parametrize(
    ("devices", "chunk", "ahead", "lazily"),
    [
        pytest.param(1, 0, 2 * len(tiny.buckets()), 3, id="by step"),  # lazily also the parameters
        pytest.param(2, CHUNK, 2, 2, id="by chunk, rows on two devices"),
    ],
)
def test_one_compilation_per_shape_and_none_later(devices, chunk, ahead, lazily, tmp_path):
    """R17. Everything that later epochs, groups and resumed trainings need is compiled in the first epoch."""
    compiled = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs
        if event == COMPILED and kwargs["fun_name"] in ("jit(local)", "jit(step)"):
            compiled.append(kwargs["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        programs = tiny.new_programs(1, devices, chunk)
        assert len(compiled) == ahead, "a train and a score program: for every shape, or for all"
        tiny.trainer(tmp_path / "one", programs, epochs=1).train(tiny.runs("a"))
        assert len(compiled) == ahead + lazily, "the start of the best epoch, its choice"
        compiled.clear()
        tiny.trainer(tmp_path / "more", programs, epochs=3).train(tiny.runs("b,c"))
        assert compiled == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_signal_waits_for_one_program_and_not_for_all(caplog):
    """As long as any is being compiled, steps are handed over one by one."""
    caplog.set_level("INFO")
    programs = tiny.new_programs(1, 1)
    programs.chunk = 5
    assert programs.next_chunk() == 5
    assert f"compiled {2 * len(tiny.buckets())} programs in" in caplog.text
    go_on = threading.Event()
    programs._compiler.begin(lambda _: go_on.wait(10) and jax.jit(abs).lower(1.0), [None])
    programs._compiled = False
    assert [programs.next_chunk() for _ in range(3)] == [1] * 3
    go_on.set()
    programs.wait()
    assert programs.next_chunk() == 5
