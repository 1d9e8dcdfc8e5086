"""The three systems: size, padding (R16), and the literal form as oracle of the fast one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_same, values_and_gradients

from ser_jax import config as configuration
from ser_jax.data import inputs as inputs_
from ser_jax.data import padding
from ser_jax.models import build, convolution, crnn, recurrent

CONVOLUTIONS = ("conv1_kernel", "conv1_bias", "conv2_kernel", "conv2_bias")
PARAMETERS = {"plain_crnn": 189_788, "hsf_crnn": 7_320_548, "multi_crnn": 481_268}
# Layers that are not the paper's: name → what is set, and how many parameters that adds.
OPTIONS: dict[str, tuple[dict[str, Any], int]] = {
    "hsf_crnn skip": ({"hsf_skip": True}, 6373 * 4),
    "plain_crnn residual": ({"lstm_residual": True}, 120 * 128),
    # with 256 more inputs of the first dense layer
    "plain_crnn attention": ({"attention_units": 64}, (128 + 1 + 1) * 64 + 256 * 128),
}
CASES = (*PARAMETERS, *OPTIONS)


def config_of(case) -> Any:
    config = configuration.get_config()
    config.system = case.split()[0]
    config.model.update(OPTIONS.get(case, ({},))[0])
    return config


def model_of(case, classes=4) -> Any:
    return build.build_model(config_of(case), classes)


def params_of(case) -> Any:
    inputs = build.example(config_of(case))
    return build.initial_params(model_of(case), jax.random.key(3), inputs)


def batch(lengths, pad_to=None, hsf_size=6373, fill=0.0, seed=0) -> Any:
    rng = np.random.default_rng(seed)
    frames = [rng.normal(size=(n, 40)).astype(np.float32) for n in lengths]
    padded = padding.pad_frames(frames, pad_to or max(max(lengths), 50), minimum=50, silence=-2.0)
    for row, n in enumerate(lengths):
        padded[row, max(n, 50) :] = fill
    return inputs_.Inputs(
        length=jnp.array(lengths),
        frames=jnp.array(padded),
        hsf=jnp.array(rng.normal(size=(len(lengths), hsf_size)), jnp.float32),
    )


@pytest.mark.parametrize("system", CASES)
def test_number_of_parameters(system):
    inputs = batch([60, 90])
    params = jax.eval_shape(model_of(system).init, jax.random.key(0), inputs)
    expected = PARAMETERS[system.split()[0]] + OPTIONS.get(system, ({}, 0))[1]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize("system", CASES)
def test_initial_values(system):
    """Glorot-uniform kernels, zero biases, orthogonal recurrent kernel, forget bias one."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params_of(system)):
        name = path[-1].key
        if name == "lstm_bias":
            expected = np.repeat(np.eye(4)[1][:, None], 128, axis=1)
            np.testing.assert_array_equal(leaf.reshape(4, -1), expected)
        elif name.endswith("bias") or "skip" in name:
            assert np.all(leaf == 0)
        elif name == "lstm_recurrent_kernel":
            np.testing.assert_allclose(leaf @ leaf.T, np.eye(128), atol=1e-5)
        else:
            receptive = int(np.prod(leaf.shape[:-2]))
            bound = np.sqrt(6 / (receptive * (leaf.shape[-2] + leaf.shape[-1])))
            assert 0.95 * bound < np.abs(leaf).max() <= bound


@pytest.mark.parametrize("system", CASES)
def test_padding_changes_nothing(system):
    """Extra padding, any fill, other companions: the same logits and gradients."""
    model = model_of(system)
    lengths = [20, 57, 131]
    alone = batch(lengths[:2])
    params = params_of(system)

    def loss(params, frames, inputs):
        logits = model.apply({"params": params}, inputs._replace(frames=frames))
        return jnp.sum(jnp.sin(logits[:2])), logits[:2]

    gradient_of = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (gradient_alone, _), logits_alone = gradient_of(params, alone.frames, alone)
    for fill in (0.0, 1e4, np.nan):
        padded = batch(lengths, pad_to=171, fill=fill)
        padded = padded._replace(hsf=jnp.asarray(padded.hsf).at[:2].set(alone.hsf))
        (gradient, into_frames), logits = gradient_of(params, padded.frames, padded)
        np.testing.assert_allclose(logits, logits_alone, atol=1e-6)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(gradient_alone), strict=True):
            assert np.all(np.isfinite(a))
            np.testing.assert_allclose(a, b, atol=2e-6)
        for row, length in enumerate(lengths[:2]):
            assert np.all(np.asarray(into_frames)[row, max(length, 50) :] == 0)
        assert np.any(np.asarray(into_frames)[1, :30] != 0)


@pytest.mark.parametrize("system", CASES)
def test_literal_form_is_the_oracle_of_the_fast_form(system, float64):
    """The same parameters give the same logits and gradients (float64) from padded segments."""
    config = config_of(system)
    model: Any = build.build_model(config, 4)

    def doubled(tree: Any) -> Any:
        return jax.tree.map(lambda a: a.astype("f8") if a.dtype == jnp.float32 else a, tree)

    fast = doubled(batch([20, 57, 131]))
    frames, length = np.asarray(fast.frames), np.asarray(fast.length)
    cut = [padding.cut_segments(frames, length, *s)[0] for s in build.segmentations(config)]
    literal = fast._replace(frames=None, segments=tuple(map(jnp.asarray, cut)))
    with jax.enable_x64(False):
        params = params_of(system)
    params = doubled(params)
    found, expected = (
        values_and_gradients(lambda p, x=inputs: model.apply({"params": p}, x), params)
        for inputs in (fast, literal)
    )
    assert_same(found, expected)


def test_the_skip_adds_a_linear_map_of_the_functionals():
    """Nothing at first; then H · W / √D."""
    inputs, model, plain = batch([60], hsf_size=4), model_of("hsf_crnn skip"), model_of("hsf_crnn")
    params = jax.jit(model.init)(jax.random.key(0), inputs)["params"]
    of_plain = jax.jit(plain.init)(jax.random.key(0), inputs)["params"]
    apply, without = jax.jit(model.apply), jax.jit(plain.apply)({"params": of_plain}, inputs)
    np.testing.assert_array_equal(apply({"params": params}, inputs), without)
    kernel = jnp.arange(16.0).reshape(4, 4)
    added = apply({"params": params | {"softmax_skip_kernel": kernel}}, inputs) - without
    np.testing.assert_allclose(added, inputs.hsf @ kernel / 2, rtol=1e-5, atol=1e-5)


def hidden_of(model) -> Any:
    return jax.jit(functools.partial(model.apply, method="hidden"))


def test_the_residual_is_a_linear_map_of_what_the_lstm_reads():
    """Also where a sequence goes on after its first segment."""
    plain, residual = (model_of(case).crnn for case in ("plain_crnn", "plain_crnn residual"))
    segments = jnp.array(np.random.default_rng(0).normal(size=(1, 3, 30, 40)), jnp.float32)
    variables = jax.jit(residual.init)(jax.random.key(0), segments, jnp.array([70]))
    kernel = variables["params"].pop("residual_kernel")
    weights = convolution.Kernels(*(variables["params"][name] for name in CONVOLUTIONS))
    features = jax.jit(convolution.cnn_literal)(segments, weights)
    hidden, _ = hidden_of(plain)(variables, segments, jnp.array([70]))
    variables["params"]["residual_kernel"] = kernel
    zeros, hidden_of_residual = jnp.zeros((1, 128)), hidden_of(residual)
    found, state = [], recurrent.State(zeros, zeros)
    for part in (segments[:, :1], segments[:, 1:]):
        length = jnp.array([part.shape[1] * 20 + 10])
        more, state = hidden_of_residual(variables, part, length, state)
        found.append(more)
    whole, _ = hidden_of_residual(variables, segments, jnp.array([70]))
    np.testing.assert_allclose(whole, hidden + features @ kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.concatenate(found, axis=1), whole, rtol=1e-4, atol=1e-5)


def test_attention_scores_by_hand():
    """One unit: 2 · tanh(3 h + 1)."""
    params = {
        "Dense_0": {"kernel": jnp.array([[3.0]]), "bias": jnp.array([1.0])},
        "score_kernel": jnp.array([[2.0]]),
    }
    scores: Any = crnn.Attention(1).apply({"params": params}, jnp.array([[[0.0], [-0.5]]]))
    np.testing.assert_allclose(scores, 2 * np.tanh([[1.0, -0.5]]), rtol=1e-6)


def test_attention_comes_behind_max_mean_and_min():
    inputs, model = batch([131]), model_of("plain_crnn attention").crnn
    variables = jax.jit(model.init)(jax.random.key(0), inputs.frames, inputs.length)
    variables["params"]["attention"]["score_kernel"] *= 0  # All segments weigh the same.
    hidden = np.asarray(hidden_of(model)(variables, inputs.frames, inputs.length)[0])[0]
    pooled = jax.jit(model.apply)(variables, inputs.frames, inputs.length)[0]
    expected = (f(hidden, axis=0) for f in (np.max, np.mean, np.min, np.mean, np.std))
    np.testing.assert_allclose(pooled, np.concatenate(list(expected)), rtol=1e-4, atol=1e-6)


def test_batch_without_features_is_refused():
    with pytest.raises(ValueError, match="neither frames nor segments"):
        model_of("plain_crnn").init(jax.random.key(0), inputs_.Inputs(length=jnp.array([3])))
