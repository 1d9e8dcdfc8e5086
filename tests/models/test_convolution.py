"""The CNN's fast form equals the literal one, values and gradients, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_same, values_and_gradients
from jax import export

from ser_jax.models import convolution


def kernels(bands=6, filters=4, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (5, bands, filters), (filters,), (3, filters, filters), (filters,)
    return convolution.Kernels(*(jnp.asarray(rng.normal(size=shape)) for shape in shapes))


def cut(frames, window, hop):
    count = (frames.shape[1] - window) // hop + 1
    return jnp.stack([frames[:, k * hop : k * hop + window] for k in range(count)], axis=1)


def numpy_cnn(segment, weights):
    """One segment, written as loops over the formulas of the paper."""
    x = np.asarray(segment)
    for kernel, bias in ((weights.kernel1, weights.bias1), (weights.kernel2, weights.bias2)):
        kernel, bias = np.asarray(kernel), np.asarray(bias)
        places = range(len(x) - len(kernel) + 1)
        conv = [np.einsum("wm,wmc->c", x[t : t + len(kernel)], kernel) + bias for t in places]
        conv = np.maximum(conv, 0)
        x = np.stack([conv[t : t + 3].max(axis=0) for t in range(0, len(conv) - 2, 2)])
    return x.reshape(-1)


@pytest.mark.parametrize(("window", "values"), [(30, 120), (50, 270)])
def test_literal_form_is_the_paper(float64, window, values):
    weights = kernels(bands=40, filters=30)
    segments = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, window, 40)))
    out = jax.jit(convolution.cnn_literal)(segments, weights)
    assert out.shape == (2, 3, values)
    assert_same(out[1, 2], numpy_cnn(segments[1, 2], weights))


@pytest.mark.parametrize(
    ("window", "hop"), [(30, 20), (50, 25), (30, 30), (30, 7), (50, 4), (31, 60), (30, 26)]
)
@pytest.mark.parametrize("extra", [0, 1, 3, 77, 101])
def test_fast_form_equals_literal_form(float64, window, hop, extra):
    weights = kernels()
    frames = jnp.asarray(np.random.default_rng(extra).normal(size=(2, window + extra, 6)))

    def fast(x, w):
        return convolution.cnn_fast(x, w, window, hop)

    def literal(x, w):
        return convolution.cnn_literal(cut(x, window, hop), w)

    found, expected = (values_and_gradients(form, frames, weights) for form in (fast, literal))
    assert_same(found, expected)


def test_windows_by_hand():
    x = jnp.arange(10.0).reshape(1, 10, 1)
    out = convolution.windows(x, count=3, hop=2, rows=3, stride=2)
    np.testing.assert_array_equal(out[0, :, :, 0], [[0, 2, 4], [2, 4, 6], [4, 6, 8]])


@pytest.mark.parametrize(("window", "hop"), [(30, 20), (50, 25)])
def test_exported_for_any_length(float64, window, hop):
    """One program for all lengths, which cuts its windows in another way."""
    weights = kernels()
    rows, frames = export.symbolic_shape("rows, frames", constraints=["frames >= 50"])
    program = jax.jit(lambda x: convolution.cnn_fast(x, weights, window, hop))
    exported = export.export(program)(jax.ShapeDtypeStruct((rows, frames, 6), jnp.float64))
    literal = jax.jit(lambda x: convolution.cnn_literal(cut(x, window, hop), weights))
    for extra in (0, 1, 24, 77):
        x = jnp.asarray(np.random.default_rng(extra).normal(size=(2, 50 + extra, 6)))
        assert_same(exported.call(x), literal(x))
