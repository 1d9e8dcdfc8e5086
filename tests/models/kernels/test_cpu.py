"""The CPU kernels against XLA in float64: values, gradients, NaN, threads, systems, bad shapes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ser_jax import config as configuration
from ser_jax.data.inputs import Inputs
from ser_jax.models import build, convolution, recurrent
from ser_jax.models.kernels import cpu
from ser_jax.models.layers import ComputeOptions

pytestmark = pytest.mark.skipif(cpu.compiler() is None, reason="there is no C++ compiler")

CRNNS = [name for name, spec in build.REGISTRY.items() if spec.own_kernels]
EPS = 5e-6  # float32 sums of some hundred products, as a share of the largest value
SETTINGS = settings(max_examples=15, deadline=None)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def assert_near(found, expected, floor=1e-3 * EPS):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        bound = floor + EPS * np.abs(other).max(initial=0)
        np.testing.assert_allclose(one, other, rtol=0, atol=bound)


def with_gradients(form, arguments, grads):
    """One program: operation by operation would compile dozens for every shape."""

    @jax.jit
    def program(arguments, grads):
        value, backward = jax.vjp(form, *arguments)
        return value, backward(grads.astype(value.dtype))

    return program(tuple(arguments), grads)


def in_float64(form, arguments, grads):
    with jax.enable_x64(True):
        exact = [np.asarray(values, np.float64) for values in arguments]
        return jax.tree.map(np.asarray, with_gradients(form, exact, grads))


def test_a_convolution_by_hand():
    """x = 1 … 6, kernel (1, 1): sums 3, 5, 7, 9, 11; pools of three: 7, 11; bias −8: 0, 3."""
    x = jnp.arange(1.0, 7.0).reshape(1, 6, 1)
    form = functools.partial(cpu.pooled_convolution, stride=2)
    value, (of_x, of_kernel, of_bias) = with_gradients(
        form, (x, jnp.ones((2, 1, 1)), -8 * jnp.ones(1)), np.array([[[10.0], [1.0]]])
    )
    np.testing.assert_array_equal(value.ravel(), [0, 3])
    np.testing.assert_array_equal(of_x.ravel(), [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(of_kernel.ravel(), [5, 6])
    np.testing.assert_array_equal(of_bias, [1])


@SETTINGS
@given(
    rows=st.integers(3, 40),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 40), st.integers(1, 70)),
    stride=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
# Longer windows and more rows than are summed at a time.
@example(rows=130, sizes=(2, 5, 47, 3), stride=2, seed=0)
@example(rows=130, sizes=(9, 5, 40, 33), stride=1, seed=0)
def test_convolution_equals_that_of_xla(rows, sizes, stride, seed):
    batch, width, channels, filters = sizes
    shapes = (batch, rows + width - 1, channels), (width, channels, filters), (filters,)
    arguments = draw(seed, *shapes)
    (grads,) = draw(seed + 1, (batch, (rows - 3) // stride + 1, filters))
    own = functools.partial(cpu.pooled_convolution, stride=stride)
    usual = functools.partial(convolution.pooled_convolution, stride=stride)
    assert_near(with_gradients(own, arguments, grads), in_float64(usual, arguments, grads))


def test_nan_stays_in_its_utterance_and_is_seen():
    """A diverged network must look like one: the NaN is the maximum of all pools that see it, so
    windows of frames with it at the first, third and fifth place are added up, for every filter."""
    x, kernel, bias = draw(0, (3, 20, 4), (5, 4, 6), (6,))
    x[1, 10, 2] = np.nan
    form = functools.partial(cpu.pooled_convolution, stride=2)
    value, (of_x, of_kernel, of_bias) = with_gradients(form, (x, kernel, bias), np.ones((3, 7, 6)))
    assert np.isnan(value[1]).any(axis=0).all() and np.isfinite(value[::2]).all()
    assert np.isnan(of_kernel[::2, 2]).all() and np.isfinite(of_x[::2]).all()
    assert np.isfinite(of_kernel[:, [0, 1, 3]]).all() and np.isfinite(of_bias).all()


def test_equal_rows_share_one_gradient():
    """Of equal maxima one is taken; where the frames are equal, that is as good as any."""
    x, kernel, bias = draw(1, (2, 1, 4), (5, 4, 6), (6,))
    given = (np.repeat(x, 20, axis=1), kernel, bias), np.ones((2, 7, 6))
    own = with_gradients(functools.partial(cpu.pooled_convolution, stride=2), *given)
    usual = in_float64(functools.partial(convolution.pooled_convolution, stride=2), *given)
    assert_near((own[0], own[1][1:]), (usual[0], usual[1][1:]))


@SETTINGS
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
@example(sizes=(1, 1, 1), scale=30.0, seed=90)
def test_recurrence_equals_that_of_xla(sizes, scale, seed):
    """The floor: of a saturated gate, float32 holds the derivative 1 − tanh² to its step at 1."""
    steps, batch, units = sizes
    shapes = (steps, batch, 4 * units), (units, 4 * units), (steps, batch, units)
    projected, kernel, grads = draw(seed, *shapes)
    arguments = scale * projected, kernel / np.sqrt(np.float32(units))
    assert_near(
        with_gradients(cpu.recur, arguments, grads),
        in_float64(lambda p, k: recurrent.recur(p, k), arguments, grads),
        floor=np.finfo(np.float32).eps * np.abs(grads).max(),
    )


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1e-30, -3e-4, 0.62, 0.63, -9.0, 88.5, -88.5, 1e4, np.inf, -np.inf]
)
def test_gates_of_one_unit(value):
    """One step from nothing: sigmoid, tanh and their products, to the last digits."""
    z = np.float32(value)
    found = cpu.recur(jnp.full((1, 1, 4), z), jnp.zeros((1, 4)))
    with np.errstate(over="ignore"):
        gate = 1 / (1 + np.exp(-np.float64(z)))
    expected = gate * np.tanh(gate * np.tanh(np.float64(z)))
    np.testing.assert_allclose(found.item(), expected, rtol=5e-7, atol=1e-38)


def test_nan_stays_in_its_row():
    projected, kernel = draw(0, (5, 3, 32), (8, 32))
    projected[2, 1, 3] = np.nan
    value, (grads, _) = with_gradients(cpu.recur, (projected, kernel), np.ones((5, 3, 8)))
    assert np.isfinite(value[:2]).all() and np.isfinite(value[:, ::2]).all()
    assert np.isnan(value[3:, 1]).all()
    assert np.isfinite(grads[:, ::2]).all() and np.isnan(grads[:2, 1]).any()


def test_float64_is_refused(float64):
    with pytest.raises(TypeError, match="float32"):
        cpu.recur(jnp.zeros((1, 1, 4)), jnp.zeros((1, 4)))


def test_threads_change_no_bit():
    given = draw(0, (9, 90, 7), (5, 7, 30), (30,), (6, 9, 160), (40, 160))

    def both(*arguments):
        stage = functools.partial(cpu.pooled_convolution, stride=2)
        convolved = with_gradients(stage, arguments[:3], np.ones((9, 42, 30)))
        return convolved, with_gradients(cpu.recur, arguments[3:], np.ones((6, 9, 40)))

    lowered = jax.jit(both).lower(*given)
    options: Any = ({"xla_cpu_multi_thread_eigen": several} for several in (True, False))
    found = [lowered.compile(one)(*given) for one in options]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_trials_of_a_group_on_one_device():
    projected, kernel = draw(0, (3, 4, 2, 32), (3, 8, 32))
    together = jax.jit(jax.vmap(cpu.recur))(projected, kernel)
    for n in range(3):
        np.testing.assert_array_equal(together[n], cpu.recur(projected[n], kernel[n]))


@pytest.mark.parametrize("system", CRNNS)
def test_systems_equal_their_literal_form(system):
    """Logits and gradients of all parameters, against segments in float64."""
    c = configuration.get_config()
    c.system = system
    lengths = np.array([50, 77, 131], np.int32)
    frames, hsf = draw(0, (3, 140, 40), (3, 6373))
    segments = tuple(
        np.stack([frames[:, k : k + window] for k in range(0, 141 - window, hop)], axis=1)
        for window, hop in build.segmentations(c)
    )

    def loss(model, params, inputs):
        logits = model.apply({"params": params}, inputs)
        return jnp.sum(jnp.sin(logits)), logits

    fast = build.build_model(c, 4, ComputeOptions(native=True))
    inputs = Inputs(jnp.asarray(lengths), frames=jnp.asarray(frames), hsf=jnp.asarray(hsf))
    params = build.initial_params(build.build_model(c, 4), jax.random.key(0), build.example(c))
    found = jax.jit(jax.grad(functools.partial(loss, fast), has_aux=True))(params, inputs)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, segments, hsf))
        literal = Inputs(jnp.asarray(lengths), segments=exact[1], hsf=exact[2])
        of_literal = jax.jit(
            jax.grad(functools.partial(loss, build.build_model(c, 4)), has_aux=True)
        )
        expected = jax.tree.map(np.asarray, of_literal(exact[0], literal))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * (1e-2 + np.abs(other).max()))


# Valid calls of every kernel: outputs, inputs and attributes. B = 3, F = 20, M = 4, C = 6, width 5,
# P = 14; T = 5, H = 8; a gradient of 4 rows of 9 and 7 values, two trials.
X, KERNEL, POOLED, STATE, GATES = (3, 20, 4), (5, 4, 6), (3, 14, 6), (5, 3, 8), (5, 3, 32)
FACTORS, MATRIX = [(2, 4, 9), (2, 4, 7), (2, 4)], [(2, 9, 7)] * 3
STRIDE = {"stride": np.int64(1)}
ADAM = ("rate", "weight_decay", "decay1", "rest1", "decay2", "rest2", "epsilon")
CALLS: dict[str, tuple[list[Any], list[Any], dict[str, Any]]] = {
    "convolve_forward": ([POOLED, (*POOLED, "u8")], [X, KERNEL, (6,)], STRIDE),
    "convolve_kernel_gradient": ([KERNEL, (6,)], [X, (*POOLED, "u8"), POOLED], STRIDE),
    "convolve_inputs_gradient": ([X], [KERNEL, (*POOLED, "u8"), POOLED], STRIDE),
    "lstm_forward": ([STATE, STATE, GATES], [GATES, (8, 32)], {}),
    "lstm_backward": ([GATES], [STATE, GATES, (8, 32), STATE], {}),
    "adam_of_product": (MATRIX, [*FACTORS, *MATRIX], dict.fromkeys(ADAM, np.float32(0.5))),
}


def call(name: str, outputs: list[Any], inputs: list[Any], attributes: Any, fill: int = 0) -> Any:
    """Calls a kernel as XLA does, with whatever buffers."""

    def split(shape: Any) -> tuple[Any, Any]:
        return (shape[:-1], np.uint8) if "u8" in shape else (shape, np.float32)

    made = [jax.ShapeDtypeStruct(*split(shape)) for shape in outputs]
    aliases = {3: 0, 4: 1, 5: 2} if name == "adam_of_product" else None
    function = jax.ffi.ffi_call(cpu.load().prefix + name, made, input_output_aliases=aliases)
    arrays = (np.full(*split(shape)[:1], fill, split(shape)[1]) for shape in inputs)
    return jax.block_until_ready(function(*arrays, **attributes))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("fill", [0, 200])
def test_valid_calls(name, fill):
    """Also where the places of maxima are no places."""
    outputs, inputs, attributes = CALLS[name]
    for shape, found in zip(outputs, call(name, outputs, inputs, attributes, fill), strict=True):
        assert found.shape == tuple(size for size in shape if size != "u8")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_bad_shapes_are_refused(data):
    """Any single size that does not fit the others: an error, not a read of other memory.

    Where every output is empty XLA does not call the kernel at all."""
    name = data.draw(st.sampled_from(sorted(CALLS)))
    outputs, inputs, attributes = CALLS[name]
    buffers = [*outputs, *inputs]
    place = data.draw(st.integers(0, len(buffers) - 1))
    tail = [size for size in buffers[place] if size == "u8"]
    shape = [size for size in buffers[place] if size != "u8"]
    change = data.draw(st.sampled_from(["size", "drop", "add"]))
    axis = data.draw(st.integers(0, len(shape) - 1))
    if change == "size":
        sizes = {0, 1, 2, shape[axis] - 1, shape[axis] + 1, 40, 1000} - {shape[axis]}
        shape[axis] = data.draw(st.sampled_from(sorted(sizes)))
    elif change == "drop":
        del shape[axis]
    else:
        shape.insert(axis, data.draw(st.sampled_from([1, 2])))
    if name == "adam_of_product" and place in (0, 1, 2, 6, 7, 8):
        return  # Operands that share a buffer with a result: JAX itself compares their shapes.
    buffers[place] = (*shape, *tail)
    count = len(outputs)
    if all(0 in shape for shape in buffers[:count]):
        assert all(found.size == 0 for found in call(name, buffers[:count], inputs, attributes))
        return
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT"):
        call(name, buffers[:count], buffers[count:], attributes)


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("convolve")])
@pytest.mark.parametrize("stride", [-(2**62), -1, 0, 2, 2**62])
def test_bad_strides_are_refused(name, stride):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT"):
        call(name, *CALLS[name][:2], {"stride": np.int64(stride)})


@pytest.mark.parametrize(("batch", "frames"), [(0, 20), (2, 1), (2, 5), (2, 6)])
def test_arrays_too_small_for_a_pool(batch, frames):
    """No utterance, one frame, fewer frames than the kernel's width, fewer rows than a pool."""
    arguments = jnp.zeros((batch, frames, 4)), jnp.zeros(KERNEL), jnp.zeros(6)
    form = functools.partial(cpu.pooled_convolution, stride=2)
    grads = jnp.zeros((batch, max(0, (frames - 7) // 2 + 1), 6))
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT|invalid tensor dimension size"):
        jax.vjp(form, *arguments)[1](grads)


def test_adam_wants_its_results_in_place():
    outputs, inputs, attributes = CALLS["adam_of_product"]
    made = [jax.ShapeDtypeStruct(shape, np.float32) for shape in outputs]
    function = jax.ffi.ffi_call(cpu.load().prefix + "adam_of_product", made)
    arrays = [np.zeros(shape, np.float32) for shape in inputs]
    with pytest.raises(jax.errors.JaxRuntimeError, match="lie where the operands lie"):
        jax.block_until_ready(function(*arrays, **attributes))
