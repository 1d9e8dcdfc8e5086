"""The GPU recurrence, interpreted, against loops of XLA and NumPy; the program made for CUDA."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from recurrent_loops import numpy_lstm

from ser_jax import config as configuration
from ser_jax.data.inputs import Inputs
from ser_jax.models import build, recurrent
from ser_jax.models.kernels import gpu_lstm
from ser_jax.models.layers import ComputeOptions

UNITS = 16
TRITON = "__gpu$xla.gpu.triton"
own: Any = gpu_lstm.recur
loop: Any = recurrent.recur


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def value_and_gradients(form: Any, projected: jax.Array, kernel: jax.Array) -> Any:
    weights = draw(*projected.shape[:2], kernel.shape[0], seed=2)
    total = jax.value_and_grad(lambda *given: jnp.sum(weights * form(*given)), (0, 1))
    return jax.jit(total)(projected, kernel)


def assert_same(found: Any, expected: Any) -> None:
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-13)
    jax.tree.map(compare, found, expected)


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (2, 16), (7, 17), (5, 40)])
def test_equals_the_loop(float64, steps, batch):
    """Also where the batch does not divide into blocks of rows."""
    given = draw(steps, batch, 4 * UNITS), draw(UNITS, 4 * UNITS, seed=1)
    np.testing.assert_allclose(own(*given), loop(*given), rtol=1e-13)
    assert_same(*(value_and_gradients(form, *given) for form in (own, loop)))


def test_equals_a_numpy_loop(float64):
    given = draw(3, 6, 5), draw(5, 4 * UNITS), draw(UNITS, 4 * UNITS, seed=1), draw(4 * UNITS)
    found = recurrent.lstm(*given, compute=ComputeOptions(pallas=True))
    expected = numpy_lstm(*map(np.asarray, given))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_trials_have_their_own_weights(float64):
    given = draw(3, 4, 17, 4 * UNITS), draw(3, UNITS, 4 * UNITS, seed=1)
    together = jax.jit(jax.vmap(lambda *one: value_and_gradients(own, *one)))(*given)
    for n in range(3):
        alone = value_and_gradients(loop, *(values[n] for values in given))
        assert_same(jax.tree.map(lambda values, n=n: values[n], together), alone)


def test_factors_in_bfloat16():
    """Both forms round the same factors; sums are in float32 and in another order."""
    given = [draw(6, 5, 4 * UNITS).astype("f4"), draw(UNITS, 4 * UNITS, seed=1).astype("f4") / 4]
    found, expected, exact = (
        value_and_gradients(lambda *x, form=form, kind=kind: form(*x, kind), *given)
        for form, kind in ((own, jnp.bfloat16), (loop, jnp.bfloat16), (loop, None))
    )
    for one, other, plain in zip(*map(jax.tree.leaves, (found, expected, exact)), strict=True):
        assert one.dtype == jnp.float32
        rounding = np.abs(other - plain).max()
        assert np.abs(one - other).max() < 0.3 * rounding, "rounded where the loop rounds"


def test_a_row_does_not_see_the_others(float64):
    projected, kernel = draw(5, 18, 4 * UNITS), draw(UNITS, 4 * UNITS, seed=1)
    found = own(projected.at[3, 4].set(np.nan), kernel)
    sick = np.zeros(found.shape, bool)
    sick[3:, 4] = True
    np.testing.assert_array_equal(np.isnan(found), sick)
    expected = loop(projected, kernel)
    np.testing.assert_allclose(np.asarray(found)[~sick], np.asarray(expected)[~sick], rtol=1e-13)


@pytest.mark.parametrize(("units", "fits"), [(8, False), (16, True), (96, False), (128, True)])
def test_sizes_that_triton_has(units, fits):
    assert gpu_lstm.fits(units) == fits


@pytest.mark.skipif(
    jax.__version_info__ >= (0, 12),
    reason="from version 0.12 on jax lowers Triton's kernels only where there is a GPU",
)
@pytest.mark.parametrize("kind", [None, jnp.bfloat16])
def test_cuda_is_given_one_program_each_way(kind):
    """For ten trials of the paper's size; nothing loops over the steps outside of them."""

    def gradient(projected: jax.Array, kernel: jax.Array) -> Any:
        return jax.grad(lambda *given: jnp.sum(own(*given, kind) ** 2), (0, 1))(projected, kernel)

    sizes = (10, 27, 32, 512), (10, 128, 512)
    shapes = [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]
    program = export.export(
        jax.jit(jax.vmap(gradient)),
        platforms=["cuda"],
        disabled_checks=[export.DisabledSafetyCheck.custom_call(TRITON)],
    )(*shapes).mlir_module()
    assert program.count(f"custom_call @{TRITON}") == 2 and "stablehlo.while" not in program


def test_a_system_computes_the_same(float64):
    """Logits and gradients of all parameters, with two recurrences."""
    c = configuration.get_config()
    c.system, c.model.lstm_units, c.model.filters = "multi_crnn", UNITS, 6
    inputs = Inputs(jnp.array([50, 77, 90]), frames=draw(3, 90, 40))
    found, params = [], None
    for pallas in (False, True):
        model: Any = build.build_model(c, 4, ComputeOptions(unfold=True, pallas=pallas))
        params = params or jax.jit(model.init)(jax.random.key(0), inputs)

        def loss(params: Any, model: Any = model) -> Any:
            logits = model.apply(params, inputs)
            return jnp.sum(jnp.sin(logits)), logits

        found.append(jax.jit(jax.grad(loss, has_aux=True))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *found)
