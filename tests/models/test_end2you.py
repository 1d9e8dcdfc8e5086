"""End2You: size, a NumPy loop as oracle, forms of the convolution, padding (R16) and dropout."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_same, values_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_loops import numpy_gru, numpy_lstm

from ser_jax import config as configuration
from ser_jax.data.inputs import Inputs
from ser_jax.models import build, end2you, layers
from ser_jax.models.layers import DEFAULT_COMPUTE, ComputeOptions

# Two convolutions 20·1·40 + 40 and 40·40·40 + 40; per layer gates · 128 · (inputs + 128 + 1) of
# 1280 and 128 inputs; linear 128·4 + 4.
PARAMETERS = {
    "lstm": 840 + 64_040 + 4 * 128 * (1280 + 129) + 4 * 128 * (128 + 129) + 516,
    "gru": 840 + 64_040 + 3 * 128 * (1280 + 129) + 3 * 128 * (128 + 129) + 516,
}
ORACLES = {"lstm": numpy_lstm, "gru": numpy_gru}
CHUNK, WIDTHS, POOLS, FILTERS = 20, (5, 4), (2, 3), 6
FORMS = {"xla": DEFAULT_COMPUTE, "unfold": ComputeOptions(unfold=True)}


def model_of(cell: str, compute: ComputeOptions = DEFAULT_COMPUTE, *, small: bool = True) -> Any:
    c = configuration.get_config()
    c.system, m = "end2you", c.model
    m.end2you_cell = cell
    if small:
        m.end2you_widths, m.end2you_pools = WIDTHS, POOLS
        m.end2you_filters, m.end2you_units = FILTERS, 3
    return build.build_model(c, 4, compute)


def batch(lengths, chunks=None, size=CHUNK, fill=0.0, dtype: Any = np.float32) -> Inputs:
    """Random waves, each a function of its place in the batch; the padding holds `fill`."""
    wave = np.full((len(lengths), chunks or max(lengths), size), fill, dtype)
    for row, length in enumerate(lengths):
        wave[row, :length] = np.random.default_rng(row).uniform(-1, 1, (length, size))
    return Inputs(jnp.array(lengths), wave=jnp.asarray(wave))


def random_params(model: Any, inputs: Inputs, dtype: Any = np.float32) -> Any:
    """Biases too, of a variance that every layer keeps."""
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]

    def draw(leaf: Any) -> jax.Array:
        return jnp.asarray(rng.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5, dtype)

    return jax.tree.map(draw, shapes)


def numpy_same(x, kernel, bias):
    """One chunk [L, I], one output at a time; zeros around it, the smaller half before it."""
    width = kernel.shape[0]
    out = np.zeros((len(x), kernel.shape[2]))
    for place in range(len(x)):
        for tap in range(width):
            source = place + tap - (width - 1) // 2
            if 0 <= source < len(x):
                out[place] += x[source] @ kernel[tap]
    return out + bias


def numpy_end2you(wave, length, params, cell, pools):
    """One utterance [C, S] without padding."""
    features = []
    for chunk in wave[:length]:
        x = np.maximum(numpy_same(chunk[:, None], params["conv1_kernel"], params["conv1_bias"]), 0)
        x = np.array([x[n : n + pools[0]].max(axis=0) for n in range(0, len(x), pools[0])])
        x = np.maximum(numpy_same(x, params["conv2_kernel"], params["conv2_bias"]), 0)
        x = np.stack([x[:, n : n + pools[1]].max(axis=1) for n in range(0, FILTERS, pools[1])], 1)
        features.append(x.ravel())
    x = np.array(features)[None]
    for layer in (1, 2):
        names = (f"{cell}{layer}_{name}" for name in ("kernel", "recurrent_kernel", "bias"))
        kernel, recurrent_kernel, bias = (params[name] for name in names)
        x = ORACLES[cell](x, kernel, recurrent_kernel, bias.ravel())
    return x[0, -1] @ params["softmax_kernel"] + params["softmax_bias"]


# --- Size and initial values


@pytest.mark.parametrize("cell", PARAMETERS)
def test_number_of_parameters(cell):
    assert PARAMETERS == {"lstm": 918_388, "gru": 705_140}
    model, raw = model_of(cell, small=False), batch([2, 3], size=640, dtype=np.int16)
    assert build.count_parameters(model, raw) == PARAMETERS[cell]


def test_a_chunk_has_1280_features():
    """640 samples → pool 2 → 320 x 40 filters → pool 10 across channels → 320 x 4."""
    init = model_of("lstm", small=False).init
    shapes = jax.eval_shape(init, jax.random.key(0), batch([1], size=640))["params"]
    assert shapes["lstm1_kernel"].shape == (320 * 4, 4 * 128)
    assert shapes["lstm2_kernel"].shape == (128, 4 * 128)


@pytest.mark.parametrize(("cell", "biases"), [("lstm", [0, 1, 0, 0]), ("gru", [1, 1, 0])])
def test_initial_values(cell, biases):
    """Gates that keep the state begin open; other biases at 0; recurrent kernels orthogonal."""
    params = jax.jit(model_of(cell).init)(jax.random.key(3), batch([2]))["params"]
    for name, leaf in params.items():
        if name.endswith("recurrent_kernel"):
            np.testing.assert_allclose(leaf @ leaf.T, np.eye(3), atol=1e-5)
        elif name.startswith(cell) and name.endswith("bias"):
            np.testing.assert_array_equal(leaf, np.repeat(np.array(biases)[:, None], 3, axis=1))
        else:
            assert np.any(leaf != 0) != name.endswith("bias")


# --- Oracle


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", PARAMETERS)
def test_numpy_loop(cell, form, float64):
    """Utterances of 1, 5 and 3 chunks in one batch, each against the loop by itself."""
    inputs = batch([1, 5, 3], dtype=np.float64)
    model = model_of(cell, FORMS[form])
    params = random_params(model, inputs, np.float64)
    logits = jax.jit(model.apply)({"params": params}, inputs)
    plain = {name: np.asarray(leaf) for name, leaf in params.items()}
    for row, length in enumerate([1, 5, 3]):
        expected = numpy_end2you(np.asarray(inputs.wave)[row], length, plain, cell, POOLS)
        np.testing.assert_allclose(logits[row], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_an_impulse_shows_the_kernel(form):
    """An even width has one tap more before the impulse than behind it: Σ k[t]·x[n + t − 1]."""
    kernel = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1)
    out = end2you.convolve_same(jnp.zeros((1, 6, 1)).at[0, 3].set(1), kernel, FORMS[form])
    np.testing.assert_array_equal(out[0, :, 0], [0, 4, 3, 2, 1, 0])


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 25), st.integers(1, 4))
def test_both_forms_of_the_convolution_against_a_loop(length, channels, width, filters):
    rng = np.random.default_rng(length)
    x, kernel = rng.normal(size=(2, length, channels)), rng.normal(size=(width, channels, filters))
    expected = [numpy_same(row, kernel, 0) for row in x]
    arrays = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    for form in FORMS.values():
        found = jax.jit(end2you.convolve_same, static_argnums=2)(*arrays, form)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cell", PARAMETERS)
def test_unfolded_systems_are_the_same_systems(cell, float64):
    inputs = batch([1, 5, 3], dtype=np.float64)
    params = random_params(model_of(cell), inputs, np.float64)

    def computed(form):
        model = model_of(cell, FORMS[form])
        return values_and_gradients(lambda p: model.apply({"params": p}, inputs), params)

    assert_same(computed("unfold"), expected := computed("xla"), 1e-9)
    assert all(np.any(gradient) for gradient in expected)


@pytest.mark.parametrize("cell", PARAMETERS)
def test_bfloat16_moves_the_logits_a_little(cell):
    inputs = batch([1, 5, 3])
    params = random_params(model_of(cell), inputs)
    exact, rough = (
        jax.jit(model_of(cell, a).apply)({"params": params}, inputs)
        for a in (DEFAULT_COMPUTE, ComputeOptions(jnp.bfloat16))
    )
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(rough - exact).max() < 0.1 * np.ptp(exact)


# --- Padding


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", PARAMETERS)
def test_padding_changes_nothing(cell, form):
    """Extra chunks, any fill, a longer companion: the same logits and gradients."""
    model, lengths = model_of(cell, FORMS[form]), [1, 4]
    alone = batch(lengths)
    params = random_params(model, alone)

    def loss(params, wave, inputs):
        logits = model.apply({"params": params}, inputs._replace(wave=wave))
        return jnp.sum(jnp.sin(logits[:2])), logits[:2]

    gradient_of = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (gradient_alone, _), logits_alone = gradient_of(params, alone.wave, alone)
    for fill in (0.0, 1e4, np.nan):
        padded = batch([*lengths, 7], chunks=9, fill=fill)
        (gradient, into_wave), logits = gradient_of(params, padded.wave, padded)
        np.testing.assert_allclose(logits, logits_alone, atol=1e-6)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(gradient_alone), strict=True):
            assert np.all(np.isfinite(a))
            np.testing.assert_allclose(a, b, atol=2e-6)
        for row, length in enumerate(lengths):
            assert np.all(np.asarray(into_wave)[row, length:] == 0)
            assert np.all(np.any(np.asarray(into_wave)[row, :length] != 0, axis=1))


def test_a_batch_without_wave_is_refused():
    with pytest.raises(ValueError, match="no wave"):
        model_of("lstm").init(jax.random.key(0), Inputs(jnp.array([3])))


# --- Dropout


def keys(*numbers: int) -> jax.Array:
    return jax.vmap(jax.random.key_data)(jax.vmap(jax.random.key)(jnp.array(numbers)))


def test_dropout_acts_on_the_input_and_only_with_keys():
    inputs, model = batch([3, 5]), model_of("gru")
    params = random_params(model, inputs)

    @jax.jit
    def logits(inputs):
        return model.apply({"params": params}, inputs)

    one, again, other = (logits(inputs._replace(keys=keys(*k))) for k in ([1, 2], [1, 2], [3, 4]))
    np.testing.assert_array_equal(one, again)
    for a, b in ((one, logits(inputs)), (one, other)):
        assert np.all(np.any(a != b, axis=1))
    dropped = layers.drop(jnp.asarray(inputs.wave), keys(1, 2), 0.5)
    np.testing.assert_allclose(one, logits(inputs._replace(wave=dropped)), atol=1e-6)
