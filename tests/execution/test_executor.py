"""The compiled programs of a group: what each trial gives alone (R12), compiled once (R17)."""

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
from ser_jax.models.layers import ComputeOptions
from ser_jax.training import step as steps

STEPS = 30
LEARNING_RATE = 1e-3  # the default, for which 1e-5 is promised
CHUNK = 7
TRITON = "__gpu$xla.gpu.triton"
COMPILED = "/jax/core/compile/backend_compile_duration"
# Size of the group, devices, chunk.
BY_STEP = [(2, 2, 0), (4, 1, 0), (4, 2, 0), (4, 4, 0), (1, 2, 0), (1, 4, 0), (2, 4, 0)]
BY_CHUNK = [(4, 1, CHUNK), (2, 2, CHUNK), (2, 4, CHUNK)]


@functools.cache
def batches() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tiny.random_batches(STEPS)


def stacked(members: Sequence[int]) -> steps.TrialConstants:
    return tiny.stack([tiny.constants(tiny.trials()[n]) for n in members])


@pytest.fixture(
    scope="module", params=BY_STEP + BY_CHUNK, ids=lambda case: "-".join(map(str, case))
)
def case(request) -> tuple[int, int, int]:
    """Every group in turn with all its tests, so that it is compiled once, in whichever process."""
    return request.param


def train_group(size: int, devices: int, chunk: int, members: Sequence[int]) -> steps.TrainState:
    """Trains runs 0…3 of the protocol, whichever are members, in a group; returns the state on the
    host."""
    executor = tiny.executor(size, devices, chunk, learning_rate=LEARNING_RATE)
    state, run = executor.init(list(members))[0], executor.put(stacked(members))
    order, rows, mask = batches()
    return jax.device_get(executor.train(state, run, order, rows[:, members], mask[:, members]))


@functools.cache
def train_alone(number: int) -> steps.TrainState:
    """The pure step of one run, from the same start."""
    run = tiny.constants(tiny.trials()[number])
    state = tiny.member(tiny.executor(2, 2).init([number, number])[0], 0)
    settings = tiny.train_settings(LEARNING_RATE)
    step = jax.jit(functools.partial(steps.train_step, tiny.model(), settings))
    for bucket, rows, mask in zip(*batches(), strict=True):
        state = step(tiny.buckets()[bucket], state, run, rows[number], mask[number])
    return jax.device_get(state)


def test_group_equals_each_run_alone(case):
    """R12: one run per device, many runs per device, many devices per run, any number of devices;
    steps or chunks."""
    size, devices, chunk = case
    mesh = tiny.executor(*case, learning_rate=LEARNING_RATE).mesh
    shape = {"run": min(size, devices), "data": max(1, devices // size)}
    assert mesh.size == devices and dict(mesh.shape) == shape
    found = train_group(size, devices, chunk, range(size))
    for number in range(size):
        alone = train_alone(number)
        assert alone.adam.count > 20 and alone.counters.skipped == 0
        tiny.assert_close(tiny.member(found, number).params, alone.params, 1e-5)
        tiny.assert_close(tiny.member(found, number).adam, alone.adam, 1e-5)
        np.testing.assert_allclose(tiny.member(found, number).counters, alone.counters, rtol=1e-5)


@pytest.mark.parametrize("chunk", [0, CHUNK])
def test_same_devices_same_bits(chunk):
    """R12: neither chance nor the place in the group."""
    first, again, swapped = (
        train_group(2, 2, chunk, members) for members in ([0, 1], [0, 1], [1, 0])
    )
    assert tiny.bits(first) == tiny.bits(again)
    assert tiny.bits(tiny.member(first, 0)) == tiny.bits(tiny.member(swapped, 1))
    assert tiny.bits(tiny.member(first, 0)) != tiny.bits(tiny.member(first, 1))


@functools.cache
def for_gpus(pallas: bool) -> Any:
    """Two runs in one program of `CHUNK` steps, the recurrence by XLA's loop or as its own program;
    batches."""
    c = tiny.config().copy_and_resolve_references()
    c.model.lstm_units = 16
    system = build.build_model(c, len(tiny.CLASSES), ComputeOptions(unfold=True, pallas=pallas))
    order, rows, mask = (values[:CHUNK] for values in batches())
    return (
        tiny.new_executor(2, 1, CHUNK, learning_rate=LEARNING_RATE, system=system),
        order,
        rows[:, :2],
        mask[:, :2],
    )


def test_the_recurrence_of_gpus_trains_the_same():
    """In a loop over steps, with a program of its own for every shape, run by run beside others;
    interpreted."""
    found = []
    for pallas in (False, True):
        executor, *some = for_gpus(pallas)
        found.append(
            jax.device_get(
                executor.train(executor.init([0, 1])[0], executor.put(stacked([0, 1])), *some)
            )
        )
    tiny.assert_close(found[1].params, found[0].params, 1e-5)
    assert found[1].adam.count.min() >= 3 and found[1].counters.skipped.max() == 0


@pytest.mark.parametrize(("platform", "pallas"), [("cuda", False), ("cuda", True), ("tpu", False)])
def test_steps_are_one_program_of_every_accelerator(platform, pallas):
    """As far as jax lowers it without the device: all shapes in one; with Triton's kernels, one
    forward and one backward for every shape, there is no loop but that over the steps."""
    if pallas and jax.__version_info__ >= (0, 12):
        pytest.skip("from version 0.12 on jax lowers Triton's kernels only where there is a GPU")
    executor, *some = for_gpus(pallas)
    allowed = [export.DisabledSafetyCheck.custom_call(name) for name in (TRITON, "Sharding")]
    lowered = export.export(executor._train, platforms=[platform], disabled_checks=allowed)(
        executor.buckets,
        executor.init([0, 1])[0],
        executor.put(stacked([0, 1])),
        *executor._put_chunk(*some),
    )
    module, shapes = lowered.mlir_module(), len(tiny.buckets())
    assert module.count(f"custom_call @{TRITON}") == 2 * shapes * pallas
    assert module.count("stablehlo.while") == 1 + 2 * shapes * (not pallas)


def train_in_parts(executor: Any, parts: Sequence[tuple[np.ndarray, ...]]) -> steps.TrainState:
    state, run = executor.init([0, 1])[0], executor.put(stacked([0, 1]))
    for order, rows, mask in parts:
        state = executor.train(state, run, order, rows, mask)
    return jax.device_get(state)


@pytest.mark.parametrize(("devices", "chunk"), [(2, 0), (2, CHUNK), (4, CHUNK)])
def test_where_the_steps_are_cut_does_not_matter(devices, chunk):
    """To the bit: what fills a chunk up moves nothing. A training that was interrupted cuts them
    elsewhere."""
    executor = tiny.executor(2, devices, chunk)
    order, rows, mask = (values[:9] for values in batches())
    rows, mask = rows[:, :2], mask[:, :2]
    whole = tiny.bits(train_in_parts(executor, [(order, rows, mask)]))
    for cuts in ([5], [1, 6, 8]):
        parts = zip(*(np.split(values, cuts) for values in (order, rows, mask)), strict=True)
        assert tiny.bits(train_in_parts(executor, list(parts))) == whole


def test_padding_steps_of_a_chunk_change_nothing():
    """Five steps in a chunk of seven are those five, whatever bucket and rows the others hold."""
    executor = tiny.executor(2, 2, CHUNK)
    order, rows, mask = (values[:7].copy() for values in batches())
    rows, mask = rows[:, :2], mask[:, :2]
    mask[5:] = False
    five = tiny.bits(train_in_parts(executor, [(order[:5], rows[:5], mask[:5])]))
    order[5:], rows[5:] = 1 - order[5:], 11
    assert tiny.bits(train_in_parts(executor, [(order, rows, mask)])) == five
    assert tiny.bits(train_in_parts(executor, [(order[:3], rows[:3], mask[:3])])) != five


@pytest.mark.parametrize("chunk", [0, CHUNK])
def test_no_steps_at_all(chunk):
    executor = tiny.executor(2, 2, chunk)
    before = tiny.bits(executor.init([0, 1])[0])
    nothing = tuple(values[:0] for values in batches())
    assert tiny.bits(train_in_parts(executor, [nothing])) == before


def test_score_equals_each_run_alone(case):
    """Run by run the rows of all batches in order; behind them, what fills the last chunk up."""
    size, _, chunk = case
    executor = tiny.executor(*case, learning_rate=LEARNING_RATE)
    members, number_of_batches = list(range(size)), 9
    params, statistics = executor.init(members)[0].params, stacked(members).statistics
    order, rows, _ = (values[:number_of_batches] for values in batches())
    found = executor.score(params, executor.put(statistics), order, rows[:, members])
    shape = (size, chunk, tiny.BATCH) if chunk else (size, tiny.BATCH)
    assert [logits.shape for logits in found] == [(*shape, len(tiny.CLASSES))] * (
        2 if chunk else number_of_batches
    )
    logits = np.concatenate(
        [np.reshape(part, (size, -1, tiny.BATCH, len(tiny.CLASSES))) for part in found], axis=1
    )
    score = jax.jit(functools.partial(steps.score_step, tiny.model()))
    for number in members:
        own = tiny.member((jax.device_get(params), statistics), number)
        for place, bucket in enumerate(order):
            alone = score(tiny.buckets()[bucket], *own, rows[place, number])
            np.testing.assert_allclose(logits[number, place], alone, atol=1e-5)
    assert executor.score(params, executor.put(statistics), order[:0], rows[:0, members]) == ()


def test_the_start_depends_on_the_key_only():
    pair, best = tiny.executor(2, 2).init([5, 2**32 - 1])
    four, _ = tiny.executor(4, 1).init([2**32 - 1, 7, 5, 5])
    assert (
        tiny.bits(tiny.member(pair, 0))
        == tiny.bits(tiny.member(four, 2))
        == tiny.bits(tiny.member(four, 3))
    )
    assert tiny.bits(tiny.member(pair, 1)) == tiny.bits(tiny.member(four, 0))
    assert len({str(tiny.bits(tiny.member(four, place).params)) for place in range(3)}) == 3
    assert not any(
        np.any(leaf) for leaf in jax.tree.leaves((four.adam, four.counters._replace(active=0)))
    )
    assert four.counters.active.tolist() == [True] * 4
    assert tiny.bits(best.params) == tiny.bits(pair.params) and best.epoch.tolist() == [0, 0]


@pytest.mark.parametrize(("size", "devices", "chunk"), [(2, 2, 0), (2, 1, CHUNK), (1, 2, 0)])
def test_given_parameters_are_the_start_and_stay_where_they_are_frozen(size, devices, chunk):
    """Trials by steps, by chunks, and rows on two devices; what is not given is drawn as ever."""
    options: dict[str, Any] = {"front_rate": 0.0, "weight_decay": 0.1, "ema": 0.9}
    made = tiny.new_executor(size, devices, chunk, **options)
    keys = list(range(size))
    drawn = jax.device_get(made.init(keys)[0].params)
    given = [{"crnn": jax.tree.map(lambda leaf, n=n: leaf[n] + 1 + n, drawn["crnn"])} for n in keys]
    state, best = made.init(keys, given)
    expected = {**drawn, "crnn": tiny.stack([one["crnn"] for one in given])}
    before = jax.device_get(state)
    for tree in (before.params, before.average, best.params):
        assert tiny.bits(tree) == tiny.bits(expected)
    order, rows, mask = batches()
    trial = made.put(stacked(keys))
    after = jax.device_get(made.train(state, trial, order, rows[:, :size], mask[:, :size]))
    for old, new in ((before.params, after.params), (before.average, after.average)):
        for name in old:
            assert (tiny.bits(old[name]) == tiny.bits(new[name])) == (name != "softmax")


def test_number_of_parameters():
    number = sum(leaf.size for leaf in jax.tree.leaves(train_alone(0).params))
    assert tiny.executor(2, 2).parameters == tiny.executor(4, 1, CHUNK).parameters == number


@pytest.mark.parametrize(
    ("devices", "chunk", "ahead", "lazily"),
    [
        pytest.param(1, 0, 2 * len(tiny.buckets()), 3, id="by step"),  # lazily also the parameters
        pytest.param(2, CHUNK, 2, 2, id="by chunk, rows on two devices"),
    ],
)
def test_one_compilation_per_shape_and_none_later(devices, chunk, ahead, lazily, tmp_path):
    """R17. Everything that later epochs, groups and resumed trainings need is compiled in the first
    epoch."""
    compiled = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs
        if event == COMPILED and kwargs["fun_name"] in ("jit(local)", "jit(first_half)"):
            compiled.append(kwargs["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        executor = tiny.new_executor(1, devices, chunk)
        assert len(compiled) == ahead, "a train and a score program: for every shape, or for all"
        tiny.trainer(tmp_path / "one", executor, epochs=1).train(tiny.trials("a"))
        assert len(compiled) == ahead + lazily, "the start of the best epoch, its choice"
        compiled.clear()
        tiny.trainer(tmp_path / "more", executor, epochs=3).train(tiny.trials("b,c"))
        assert compiled == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_signal_waits_for_one_program_and_not_for_all(caplog):
    """As long as any is being compiled, steps are handed over one by one."""
    caplog.set_level("INFO")
    executor = tiny.new_executor(1, 1)
    executor.chunk = 5
    assert executor.next_chunk() == 5
    assert f"compiled {2 * len(tiny.buckets())} programs in" in caplog.text
    go_on = threading.Event()
    executor._compiler.submit(lambda _: go_on.wait(10) and jax.jit(abs).lower(1.0), [None])
    executor._compiled = False
    assert [executor.next_chunk() for _ in range(3)] == [1] * 3
    go_on.set()
    executor.wait()
    assert executor.next_chunk() == 5
