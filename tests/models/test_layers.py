"""Products unfolded and in bfloat16 (only factors are rounded), dropout, and whole systems."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from gradients import assert_same, values_and_gradients
from jax import lax

from ser_jax import config as configuration
from ser_jax.data.inputs import Inputs
from ser_jax.models import build
from ser_jax.models.layers import DEFAULT_COMPUTE, ComputeOptions, add_bias, convolve, drop, product

BF16 = ComputeOptions(jnp.bfloat16)
CRNNS = [name for name, spec in build.REGISTRY.items() if spec.own_kernels]
ALL = {
    "default": DEFAULT_COMPUTE,
    "unfold": ComputeOptions(unfold=True),
    "bf16": BF16,
    "bf16 and unfold": ComputeOptions(jnp.bfloat16, unfold=True),
}


def draw(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def rounded(values: Any) -> np.ndarray:
    """Rounds to the nearest bfloat16, in NumPy; keeps float64."""
    return np.asarray(values).astype(ml_dtypes.bfloat16).astype(np.float64)


# --- The same mathematics


def test_convolution_by_hand():
    """A kernel of two frames and one band: y[t] = 1·x[t] + 10·x[t + 1]."""
    x, kernel = jnp.array([[[1.0], [2.0], [3.0]]]), jnp.array([[[1.0]], [[10.0]]])
    for compute in ALL.values():  # All of these numbers are bfloat16.
        assert convolve(x, kernel, compute).tolist() == [[[21.0], [32.0]]]


@pytest.mark.parametrize("shape", [(3,), (7, 3), (2, 5, 3)])
def test_bias_and_its_gradient_are_those_of_a_broadcast_sum(float64, shape):
    arrays = list(map(jnp.asarray, draw(shape, (3,))))
    expected = values_and_gradients(lambda x, bias: x + jnp.broadcast_to(bias, x.shape), *arrays)
    assert_same(values_and_gradients(add_bias, *arrays), expected)


@pytest.mark.parametrize(("length", "width"), [(9, 5), (5, 5), (12, 1), (30, 3)])
def test_unfolded_convolution_is_the_convolution_of_xla(float64, length, width):
    arrays = list(map(jnp.asarray, draw((2, length, 6), (width, 6, 4))))

    def xla(x, kernel):
        numbers = ("NHC", "HIO", "NHC")
        return lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=numbers)

    expected = values_and_gradients(xla, *arrays)
    for name in ("default", "unfold"):
        form = functools.partial(convolve, compute=ALL[name])
        assert_same(values_and_gradients(form, *arrays), expected)


@pytest.mark.parametrize("leading", [(), (3,), (2, 5), (2, 3, 4)])
def test_product_against_automatic_differentiation(float64, leading):
    arrays = list(map(jnp.asarray, draw((*leading, 6), (6, 4))))
    expected = values_and_gradients(jnp.matmul, *arrays)
    assert_same(values_and_gradients(functools.partial(product, operands=None), *arrays), expected)


# --- bfloat16


def test_rounding_by_hand():
    """bfloat16 has 8 bits: 1 + 1/256 becomes 1 (a tie goes to even), 1 + 1/128 stays."""
    one, x = jnp.ones((1, 1)), jnp.array([[1 + 1 / 256], [1 + 3 / 256], [1 + 1 / 128]])
    assert product(x, one, jnp.bfloat16).ravel().tolist() == [1, 1 + 1 / 64, 1 + 1 / 128]
    assert product(one, x[:1], jnp.bfloat16).tolist() == [[1]]
    assert product(x, one, None).tolist() == x.tolist()


def test_products_of_rounded_factors(float64):
    """Forward and backward, where the gradient of the product is a factor."""
    x, kernel = draw((3, 5, 7), (7, 4))
    form = functools.partial(product, operands=jnp.bfloat16)
    found = values_and_gradients(form, *map(jnp.asarray, (x, kernel)))
    values = rounded(x) @ rounded(kernel)
    grads = rounded(np.cos(values))
    into_kernel = np.einsum("bti,bto->io", rounded(x), grads)
    assert_same(found, [values, grads @ rounded(kernel).T, into_kernel])


def test_sums_are_made_in_float32():
    """Products of two bfloat16 are exact in float32; a sum of n errs by n·2⁻²⁴ of Σ|x·k|."""
    n = 256
    x, kernel = (np.abs(values).astype(np.float32) for values in draw((5, n), (n, 3)))
    found = product(jnp.asarray(x), jnp.asarray(kernel), jnp.bfloat16)
    exact = rounded(x) @ rounded(kernel)  # of positive values
    bound = n * 2.0**-24 * exact
    assert found.dtype == jnp.float32 and np.all(np.abs(found - exact) <= bound)
    one_by_one = x[0].astype(ml_dtypes.bfloat16) * kernel[:, 0].astype(ml_dtypes.bfloat16)
    in_bf16 = np.add.accumulate(one_by_one)[-1].astype(np.float64)
    assert abs(in_bf16 - exact[0, 0]) > 10 * bound[0, 0], "otherwise this shows nothing"


def test_convolution_of_rounded_factors(float64):
    x, kernel = draw((2, 9, 3), (5, 3, 4))
    form = functools.partial(convolve, compute=BF16)
    found = values_and_gradients(form, *map(jnp.asarray, (x, kernel)))
    windows = np.lib.stride_tricks.sliding_window_view(rounded(x), 5, axis=1)  # [B, L, I, width]
    values = np.einsum("blis,sic->blc", windows, rounded(kernel))
    grads = np.cos(values)
    into_x = np.zeros(x.shape)
    for shift in range(5):
        into_x[:, shift : shift + 5] += rounded(grads) @ rounded(kernel[shift]).T
    into_kernel = np.einsum("blis,blc->sic", windows, rounded(grads))
    assert_same(found, [values, into_x, into_kernel])


# --- Dropout


def keys(*numbers: int) -> jax.Array:
    return jax.vmap(jax.random.key_data)(jax.vmap(jax.random.key)(jnp.array(numbers)))


@pytest.mark.parametrize("fraction", [0.5, 0.2])
def test_values_that_stay_are_scaled_up(fraction):
    dropped = np.asarray(drop(jnp.ones((2, 50, 100)), keys(1, 2), fraction))
    assert set(np.unique(dropped)) == {0, np.float32(1 / (1 - fraction))}
    bound = 5 * np.sqrt(fraction / 5000)
    np.testing.assert_allclose(np.mean(dropped == 0, axis=(1, 2)), fraction, atol=bound)
    assert 0.05 < np.mean(dropped[0] != dropped[1]) < 0.95, "every row draws for itself"


def test_the_draw_of_a_row_depends_on_its_key_alone():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)
    together = drop(x, keys(1, 2, 3), 0.5)
    np.testing.assert_array_equal(together[1:], drop(x[1:], keys(2, 3), 0.5))


def test_layers_draw_independently():
    x, places = jnp.ones((1, 1000)), ("", "head/0", "head/1", "head/0")
    masks = [np.asarray(drop(x, keys(1), 0.5, place)) > 0 for place in places]
    np.testing.assert_array_equal(masks[1], masks[3])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert 0.4 < np.mean(masks[one] == masks[other]) < 0.6


def test_nothing_to_drop():
    x = jnp.ones((2, 3))
    assert drop(x, None, 0.5) is x and drop(x, keys(1, 2), 0.0) is x


# --- Whole systems


def model_of(system: str, compute: ComputeOptions) -> Any:
    """The systems in their structure, a few units wide."""
    config = configuration.get_config()
    config.system, m = system, config.model
    m.filters, m.lstm_units, m.plain_head = 6, 8, (8, 5)
    m.hsf_crnn_dense, m.hsf_dense, m.hsf_head = (7,), (20, 10, 7), (6,)
    m.multi_short_dense, m.multi_head = (9, 8), (7,)
    return build.build_model(config, 4, compute)


def batch_of(dtype: Any) -> Inputs:
    frames, hsf = draw((3, 131, 10), (3, 30))
    return Inputs(
        jnp.array([20, 57, 131]), frames=jnp.asarray(frames, dtype), hsf=jnp.asarray(hsf, dtype)
    )


def shapes_of(system: str, compute: ComputeOptions, dtype: Any) -> Any:
    init = model_of(system, compute).init
    return jax.eval_shape(init, jax.random.key(0), batch_of(dtype))["params"]


def applied(system: str, compute: ComputeOptions, dtype: Any) -> tuple[Any, Any, Any]:
    """A function of parameters and frames, and both: random, biases too, of constant variance."""
    rng, model, inputs = np.random.default_rng(1), model_of(system, compute), batch_of(dtype)

    def draw_leaf(leaf: Any) -> jax.Array:
        return jnp.asarray(rng.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5, dtype)

    params = jax.tree.map(draw_leaf, shapes_of(system, DEFAULT_COMPUTE, dtype))

    def run(params: Any, frames: Any) -> Any:
        return model.apply({"params": params}, inputs._replace(frames=frames))

    return run, params, inputs.frames


@pytest.mark.parametrize("system", CRNNS)
def test_unfolded_systems_are_the_same_systems(float64, system):
    expected = values_and_gradients(*applied(system, DEFAULT_COMPUTE, jnp.float64))
    assert_same(values_and_gradients(*applied(system, ALL["unfold"], jnp.float64)), expected)
    assert all(np.any(gradient) for gradient in expected)


@pytest.mark.parametrize("system", CRNNS)
def test_bfloat16_moves_the_logits_a_little(system):
    """A path has at most eight products. Rounding both factors moves one by up to 2·2⁻⁹ of Σ|x·k|,
    here about 1; sigmoid, tanh, max and mean have derivatives of at most 1."""
    run, params, frames = applied(system, DEFAULT_COMPUTE, jnp.float32)
    forms = run, applied(system, BF16, jnp.float32)[0]
    exact, rough = (jax.jit(form)(params, frames) for form in forms)
    assert rough.dtype == jnp.float32 and np.ptp(exact) > 1
    assert 0 < np.abs(rough - exact).max() < 8 * 2.0**-8
    total = jax.grad(lambda *given: jnp.sum(forms[1](*given)), argnums=(0, 1))
    grads = jax.eval_shape(total, params, frames)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("system", CRNNS)
def test_parameters_do_not_depend_on_the_compute_options(system):
    """Names, shapes and types: a model file serves with any."""
    expected = shapes_of(system, DEFAULT_COMPUTE, jnp.float32)
    assert all(shapes_of(system, compute, jnp.float32) == expected for compute in ALL.values())
