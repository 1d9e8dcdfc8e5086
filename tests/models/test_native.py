"""The package's own kernels against XLA's forms in float64: values, gradients, NaN, threads, whole systems."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ser_jax import config as configuration
from ser_jax.arrays.inputs import Inputs
from ser_jax.models import build, convolution, kernel_parity, native, native_library, recurrence
from ser_jax.models.arithmetic import Arithmetic
from ser_jax.models.native_library import UnavailableError
from ser_jax.training import factored

pytestmark = pytest.mark.skipif(native_library.compiler() is None, reason="there is no C++ compiler")

EPS = 5e-6  # float32 sums of some hundred products, as a share of the largest value
SETTINGS = settings(max_examples=15, deadline=None)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def assert_near(found, expected, floor=1e-3 * EPS):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=floor + EPS * np.abs(other).max(initial=0))


def with_gradients(form, arguments, slope):
    value, backward = jax.vjp(form, *arguments)
    return value, backward(jnp.asarray(slope, value.dtype))


def in_float64(form, arguments, slope):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, with_gradients(form, [jnp.asarray(a, jnp.float64) for a in arguments], slope))


# --- Convolution ------------------------------------------------------------------------------------------------------


def test_a_convolution_by_hand():
    """x = 1 … 6, width 2, kernel (1, 1): sums 3, 5, 7, 9, 11; pools of three: 7 and 11; bias −8: 0 and 3."""
    x = jnp.arange(1.0, 7.0).reshape(1, 6, 1)
    form = functools.partial(native.pooled_convolution, stride=2)
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
@example(rows=130, sizes=(2, 5, 47, 3), stride=2, seed=0)  # longer windows and more rows than are summed at a time
@example(rows=130, sizes=(9, 5, 40, 33), stride=1, seed=0)
def test_convolution_equals_that_of_xla(rows, sizes, stride, seed):
    batch, width, channels, filters = sizes
    arguments = draw(seed, (batch, rows + width - 1, channels), (width, channels, filters), (filters,))
    (slope,) = draw(seed + 1, (batch, (rows - 3) // stride + 1, filters))
    own = functools.partial(native.pooled_convolution, stride=stride)
    usual = functools.partial(convolution.pooled_convolution, stride=stride)
    assert_near(with_gradients(own, arguments, slope), in_float64(usual, arguments, slope))


def test_nan_stays_in_its_utterance_and_is_seen():
    """A diverged network must look like one: the NaN is the maximum of all pools that see it, so windows of frames with
    it at the first, third and fifth place are added up, for every filter."""
    x, kernel, bias = draw(0, (3, 20, 4), (5, 4, 6), (6,))
    x[1, 10, 2] = np.nan
    form = functools.partial(native.pooled_convolution, stride=2)
    value, (of_x, of_kernel, of_bias) = with_gradients(form, (x, kernel, bias), np.ones((3, 7, 6)))
    assert np.isnan(value[1]).any(axis=0).all() and np.isfinite(value[::2]).all()
    assert np.isnan(of_kernel[::2, 2]).all() and np.isfinite(of_x[::2]).all()
    assert np.isfinite(of_kernel[:, [0, 1, 3]]).all() and np.isfinite(of_bias).all()


def test_equal_rows_share_one_gradient():
    """Of equal maxima one is taken; where the frames are equal, that is as good as any."""
    x, kernel, bias = draw(1, (2, 1, 4), (5, 4, 6), (6,))
    x = np.repeat(x, 20, axis=1)
    slope = np.ones((2, 7, 6))
    own = with_gradients(functools.partial(native.pooled_convolution, stride=2), (x, kernel, bias), slope)
    usual = in_float64(functools.partial(convolution.pooled_convolution, stride=2), (x, kernel, bias), slope)
    assert_near((own[0], own[1][1:]), (usual[0], usual[1][1:]))


# --- Recurrence -------------------------------------------------------------------------------------------------------


@SETTINGS
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
@example(sizes=(1, 1, 1), scale=30.0, seed=90)
def test_recurrence_equals_that_of_xla(sizes, scale, seed):
    """Of a saturated gate, float32 knows the slope 1 − tanh² to its step at 1 in any form: the floor."""
    steps, batch, units = sizes
    projected, kernel, slope = draw(seed, (steps, batch, 4 * units), (units, 4 * units), (steps, batch, units))
    arguments = scale * projected, kernel / np.sqrt(np.float32(units))
    assert_near(
        with_gradients(native.recur, arguments, slope),
        in_float64(lambda p, k: recurrence.recur(p, k), arguments, slope),
        floor=np.finfo(np.float32).eps * np.abs(slope).max(),
    )


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-30, -3e-4, 0.62, 0.63, -9.0, 88.5, -88.5, 1e4, np.inf, -np.inf])
def test_gates_of_one_unit(value):
    """One step from nothing: sigmoid, tanh and their products, to the last digits."""
    z = np.float32(value)
    found = native.recur(jnp.full((1, 1, 4), z), jnp.zeros((1, 4)))
    with np.errstate(over="ignore"):
        gate = 1 / (1 + np.exp(-np.float64(z)))
    expected = gate * np.tanh(gate * np.tanh(np.float64(z)))
    np.testing.assert_allclose(found.item(), expected, rtol=5e-7, atol=1e-38)


def test_nan_stays_in_its_row():
    projected, kernel = draw(0, (5, 3, 32), (8, 32))
    projected[2, 1, 3] = np.nan
    value, (slopes, _) = with_gradients(native.recur, (projected, kernel), np.ones((5, 3, 8)))
    assert np.isfinite(value[:2]).all() and np.isfinite(value[:, ::2]).all() and np.isnan(value[3:, 1]).all()
    assert np.isfinite(slopes[:, ::2]).all() and np.isnan(slopes[:2, 1]).any()


# --- Both -------------------------------------------------------------------------------------------------------------


def test_float64_is_refused(float64):
    with pytest.raises(TypeError, match="float32"):
        native.recur(jnp.zeros((1, 1, 4)), jnp.zeros((1, 4)))


def test_threads_change_no_bit():
    x, kernel, bias, projected, recurrent = draw(0, (9, 90, 7), (5, 7, 30), (30,), (6, 9, 160), (40, 160))

    def both(*arguments):
        stage = functools.partial(native.pooled_convolution, stride=2)
        return with_gradients(stage, arguments[:3], np.ones((9, 42, 30))), with_gradients(
            native.recur, arguments[3:], np.ones((6, 9, 40))
        )

    lowered = jax.jit(both).lower(x, kernel, bias, projected, recurrent)
    found = [
        lowered.compile({"xla_cpu_multi_thread_eigen": several})(x, kernel, bias, projected, recurrent)
        for several in (True, False)
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_runs_of_a_group_on_one_device():
    projected, kernel = draw(0, (3, 4, 2, 32), (3, 8, 32))
    together = jax.jit(jax.vmap(native.recur))(projected, kernel)
    for run in range(3):
        np.testing.assert_array_equal(together[run], native.recur(projected[run], kernel[run]))


@pytest.mark.parametrize("system", configuration.CRNN_SYSTEMS)
def test_systems_equal_their_literal_form(system):
    """Logits and gradients of all parameters, lengths of one segment and more, against segments in float64."""
    c = configuration.get_config()
    c.system = system
    channels = build.channels(c)
    lengths = np.array([50, 77, 131], np.int32)
    frames, hsf = draw(0, (3, 140, 40), (3, 6373))
    segments = tuple(
        np.stack([frames[:, k * hop : k * hop + window] for k in range((140 - window) // hop + 1)], axis=1)
        for window, hop in channels
    )

    def loss(model, params, inputs):
        logits = model.apply({"params": params}, inputs)
        return jnp.sum(jnp.sin(logits)), logits

    fast = build.build_model(c, 4, Arithmetic(native=True))
    inputs = Inputs(jnp.asarray(lengths), frames=jnp.asarray(frames), hsf=jnp.asarray(hsf))
    params = jax.jit(fast.init)(jax.random.key(0), inputs)["params"]
    found = jax.jit(jax.grad(functools.partial(loss, fast), has_aux=True))(params, inputs)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, segments, hsf))
        literal = Inputs(jnp.asarray(lengths), segments=exact[1], hsf=exact[2])
        expected = jax.grad(functools.partial(loss, build.build_model(c, 4)), has_aux=True)(exact[0], literal)
        expected = jax.tree.map(np.asarray, expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * (1e-2 + np.abs(other).max()))


def test_kernels_that_err_are_not_used(monkeypatch):
    """A compiler may err; what it made is then thrown away."""
    library = native_library.load()
    native_library._digest_file(library.path).unlink(missing_ok=True)
    exact: Any = recurrence.recur
    monkeypatch.setattr(native, "recur", lambda *given: 1.001 * exact(*given))
    content = library.path.read_bytes()
    with pytest.raises(UnavailableError, match=r"differs from XLA's results by [5-9]\.\de-04|1\.\de-03"):
        kernel_parity.prepare(factored.differences)
    assert not library.path.exists()
    library.path.write_bytes(content)
    monkeypatch.undo()
    assert kernel_parity.prepare(factored.differences) == library.compiler and library.trusted
