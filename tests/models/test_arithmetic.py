"""Products: unfolding changes nothing but rounding; bfloat16 rounds the factors and nothing else."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

from ser_jax import config as configuration
from ser_jax.arrays.inputs import Inputs
from ser_jax.config import CRNN_SYSTEMS
from ser_jax.models import build, convolution, recurrence
from ser_jax.models.arithmetic import DEFAULT, Arithmetic, add_bias, convolve, product

BF16 = Arithmetic(jnp.bfloat16)
ALL = {
    "default": DEFAULT,
    "unfold": Arithmetic(unfold=True),
    "bf16": BF16,
    "bf16 and unfold": Arithmetic(jnp.bfloat16, unfold=True),
}


def draw(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def rounded(values: Any) -> np.ndarray:
    """Rounds to the nearest bfloat16, in NumPy; keeps float64."""
    return np.asarray(values).astype(ml_dtypes.bfloat16).astype(np.float64)


def values_and_gradients(function: Any, *arguments: Any) -> list[np.ndarray]:
    """The values of a function, and the gradients of the sum of their sines."""

    def loss(*arguments):
        values = function(*arguments)
        return jnp.sum(jnp.sin(values)), values

    gradients, values = jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments))), has_aux=True))(*arguments)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((values, gradients))]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float = 1e-12) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


# --- The same mathematics ---------------------------------------------------------------------------------------------


def test_convolution_by_hand():
    """A kernel of two frames and one band: y[t] = 1·x[t] + 10·x[t + 1]."""
    x, kernel = jnp.array([[[1.0], [2.0], [3.0]]]), jnp.array([[[1.0]], [[10.0]]])
    for arithmetic in ALL.values():  # All of these numbers are bfloat16.
        assert convolve(x, kernel, arithmetic).tolist() == [[[21.0], [32.0]]]


@pytest.mark.parametrize("shape", [(3,), (7, 3), (2, 5, 3)])
def test_bias_and_its_gradient_are_those_of_a_broadcast_sum(float64, shape):
    arrays = list(map(jnp.asarray, draw(shape, (3,))))
    expected = values_and_gradients(lambda x, bias: x + jnp.broadcast_to(bias, x.shape), *arrays)
    assert_same(values_and_gradients(add_bias, *arrays), expected)


@pytest.mark.parametrize(("length", "width"), [(9, 5), (5, 5), (12, 1), (30, 3)])
def test_unfolded_convolution_is_the_convolution_of_xla(float64, length, width):
    arrays = list(map(jnp.asarray, draw((2, length, 6), (width, 6, 4))))

    def xla(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC"))

    expected = values_and_gradients(xla, *arrays)
    for name in ("default", "unfold"):
        assert_same(values_and_gradients(functools.partial(convolve, arithmetic=ALL[name]), *arrays), expected)


@pytest.mark.parametrize("leading", [(), (3,), (2, 5), (2, 3, 4)])
def test_product_against_automatic_differentiation(float64, leading):
    x, kernel = map(jnp.asarray, draw((*leading, 6), (6, 4)))
    expected = values_and_gradients(lambda x, kernel: jnp.einsum("...i,io->...o", x, kernel), x, kernel)
    assert_same(values_and_gradients(lambda x, kernel: product(x, kernel, None), x, kernel), expected)


# --- bfloat16 ---------------------------------------------------------------------------------------------------------
# In float64 the sums of an oracle and of XLA differ by 1e-16, and rounding to bfloat16 is the only rounding to be seen.


def test_rounding_by_hand():
    """bfloat16 has 8 bits: of 1 + 1/256 nothing is left (a tie goes to the even neighbour), 1 + 1/128 stays."""
    one, x = jnp.ones((1, 1)), jnp.array([[1 + 1 / 256], [1 + 3 / 256], [1 + 1 / 128]])
    assert product(x, one, jnp.bfloat16).ravel().tolist() == [1, 1 + 1 / 64, 1 + 1 / 128]
    assert product(one, x[:1], jnp.bfloat16).tolist() == [[1]]
    assert product(x, one, None).tolist() == x.tolist()


def test_products_of_rounded_factors(float64):
    """Forward and backward: also the slope is a factor there."""
    x, kernel = draw((3, 5, 7), (7, 4))
    found = values_and_gradients(
        lambda x, kernel: product(x, kernel, jnp.bfloat16), jnp.asarray(x), jnp.asarray(kernel)
    )
    values = rounded(x) @ rounded(kernel)
    slope = rounded(np.cos(values))
    assert_same(found, [values, slope @ rounded(kernel).T, np.einsum("bti,bto->io", rounded(x), slope)])


def test_sums_are_made_in_float32():
    """Products of two bfloat16 are exact in float32; a sum of n of them errs by at most n·2⁻²⁴ of Σ |x·k|."""
    n = 256
    x, kernel = (np.abs(values).astype(np.float32) for values in draw((5, n), (n, 3)))
    found = product(jnp.asarray(x), jnp.asarray(kernel), jnp.bfloat16)
    bound = n * 2.0**-24 * (np.abs(rounded(x)) @ np.abs(rounded(kernel)))
    assert found.dtype == jnp.float32 and np.all(np.abs(found - rounded(x) @ rounded(kernel)) <= bound)
    one_by_one = x[0].astype(ml_dtypes.bfloat16) * kernel[:, 0].astype(ml_dtypes.bfloat16)
    in_bf16 = np.add.accumulate(one_by_one)[-1].astype(np.float64)
    assert abs(in_bf16 - rounded(x[0]) @ rounded(kernel[:, 0])) > 10 * bound[0, 0], "otherwise this shows nothing"


def test_convolution_of_rounded_factors(float64):
    x, kernel = draw((2, 9, 3), (5, 3, 4))
    found = values_and_gradients(functools.partial(convolve, arithmetic=BF16), *map(jnp.asarray, (x, kernel)))
    windows = np.lib.stride_tricks.sliding_window_view(rounded(x), 5, axis=1)  # [B, L, I, width]
    values = np.einsum("blis,sic->blc", windows, rounded(kernel))
    slope = np.cos(values)
    into_x = np.zeros(x.shape)
    for shift in range(5):
        into_x[:, shift : shift + 5] += rounded(slope) @ rounded(kernel[shift]).T
    into_kernel = np.einsum("blis,blc->sic", windows, rounded(slope))
    assert_same(found, [values, into_x, into_kernel])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_lstm(inputs, kernel, recurrent_kernel, bias):
    """Textbook loops, forward and back through time; only factors of products are rounded.

    Returns the hidden states, and the gradients of the sum of their sines.
    """
    steps = range(inputs.shape[1])
    h = cell = np.zeros((len(inputs), recurrent_kernel.shape[0]))
    hidden, kept = np.zeros((*inputs.shape[:2], h.shape[1])), []
    for t in steps:
        z = rounded(inputs[:, t]) @ rounded(kernel) + bias + rounded(h) @ rounded(recurrent_kernel)
        i, f, g, o = np.split(z, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        kept.append((i, f, g, o, h, cell))
        cell = f * cell + i * g
        h = hidden[:, t] = o * np.tanh(cell)
    slopes = [np.zeros(array.shape) for array in (inputs, kernel, recurrent_kernel, bias)]
    dh = dc = np.zeros_like(h)
    for t in reversed(steps):
        i, f, g, o, h, cell = kept[t]
        squashed = np.tanh(f * cell + i * g)
        dh = dh + np.cos(hidden[:, t])
        dc = dc + dh * o * (1 - squashed**2)
        gates = dc * g * i * (1 - i), dc * cell * f * (1 - f), dc * i * (1 - g**2), dh * squashed * o * (1 - o)
        dz = np.concatenate(gates, axis=1)
        slopes[0][:, t] = rounded(dz) @ rounded(kernel).T
        slopes[1] += rounded(inputs[:, t]).T @ rounded(dz)
        slopes[2] += rounded(h).T @ rounded(dz)
        slopes[3] += dz.sum(axis=0)
        dh, dc = rounded(dz) @ rounded(recurrent_kernel).T, dc * f
    return [hidden, *slopes]


lstm_bf16 = functools.partial(recurrence.lstm, arithmetic=BF16)


def test_lstm_of_rounded_factors(float64):
    """The states are never rounded, only what is multiplied by a kernel."""
    arguments = draw((3, 7, 5), (5, 16), (4, 16), (16,))
    found = values_and_gradients(lstm_bf16, *map(jnp.asarray, arguments))
    assert_same(found, numpy_lstm(*arguments))


def test_values_and_gradients_are_float32():
    """As are the states that the LSTM carries: the oracle above would see any rounding of them."""

    def types(function, *shapes):
        arrays = [jnp.asarray(array, jnp.float32) for array in draw(*shapes)]
        return {leaf.dtype for leaf in values_and_gradients(function, *arrays)}

    def cnn(frames, *kernels):
        return convolution.cnn_fast(frames, convolution.Kernels(*kernels), 30, 20, BF16)

    lstm = types(lstm_bf16, (3, 7, 5), (5, 16), (4, 16), (16,))
    assert lstm | types(cnn, (2, 60, 6), (5, 6, 4), (4,), (3, 4, 4), (4,)) == {np.dtype(np.float32)}


# --- Whole systems ----------------------------------------------------------------------------------------------------


def model_of(system: str, arithmetic: Arithmetic) -> Any:
    """The systems in their structure, a few units wide."""
    config = configuration.get_config()
    config.system, m = system, config.model
    m.filters, m.lstm_units, m.plain_head = 6, 8, (8, 5)
    m.hsf_crnn_dense, m.hsf_dense, m.hsf_head = (7,), (20, 10, 7), (6,)
    m.multi_short_dense, m.multi_head = (9, 8), (7,)
    return build.build_model(config, 4, arithmetic)


def batch_of(dtype: Any) -> Inputs:
    frames, hsf = draw((3, 131, 10), (3, 30))
    return Inputs(jnp.array([20, 57, 131]), frames=jnp.asarray(frames, dtype), hsf=jnp.asarray(hsf, dtype))


def shapes_of(system: str, arithmetic: Arithmetic, dtype: Any) -> Any:
    return jax.eval_shape(model_of(system, arithmetic).init, jax.random.key(0), batch_of(dtype))["params"]


def applied(system: str, arithmetic: Arithmetic, dtype: Any) -> tuple[Any, Any, Any]:
    """A function of parameters and frames, and both: random, with biases, of a variance that every layer keeps."""
    rng, model, inputs = np.random.default_rng(1), model_of(system, arithmetic), batch_of(dtype)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1])), dtype),
        shapes_of(system, DEFAULT, dtype),
    )

    def run(params: Any, frames: Any) -> Any:
        return model.apply({"params": params}, inputs._replace(frames=frames))

    return run, params, inputs.frames


@pytest.mark.parametrize("system", CRNN_SYSTEMS)
def test_unfolded_systems_are_the_same_systems(float64, system):
    expected = values_and_gradients(*applied(system, DEFAULT, jnp.float64))
    assert_same(values_and_gradients(*applied(system, ALL["unfold"], jnp.float64)), expected)
    assert all(np.any(gradient) for gradient in expected)


@pytest.mark.parametrize("system", CRNN_SYSTEMS)
def test_bfloat16_moves_the_logits_a_little(system):
    """A path has at most eight products. Rounding both factors moves a product by up to 2·2⁻⁹ of Σ |x·k|, here about
    1, and nothing between the products makes an error larger: sigmoid, tanh, max and mean have slopes of at most 1.
    """
    run, params, frames = applied(system, DEFAULT, jnp.float32)
    exact, rough = (jax.jit(f)(params, frames) for f in (run, applied(system, BF16, jnp.float32)[0]))
    assert rough.dtype == jnp.float32 and np.ptp(exact) > 1
    assert 0 < np.abs(rough - exact).max() < 8 * 2.0**-8
    slopes = jax.eval_shape(jax.grad(lambda *a: jnp.sum(run(*a)), argnums=(0, 1)), params, frames)
    assert {leaf.dtype for leaf in jax.tree.leaves(slopes)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("system", CRNN_SYSTEMS)
def test_parameters_do_not_depend_on_the_arithmetic(system):
    """Names, shapes and types: a model file serves in any."""
    expected = shapes_of(system, DEFAULT, jnp.float32)
    assert all(shapes_of(system, arithmetic, jnp.float32) == expected for arithmetic in ALL.values())
