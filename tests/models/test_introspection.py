"""Joint representation and saliency, against the logits they belong to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax.data import padding
from ser_jax.data.inputs import Inputs
from ser_jax.models import build, introspection

SYSTEMS = ("plain_crnn", "hsf_crnn", "multi_crnn", "end2you")
SKIP = "softmax_skip_kernel"
SIZES = {"plain_crnn": 5, "hsf_crnn": 6, "multi_crnn": 7, "end2you": 8}
LENGTHS = (95, 60)  # both end behind the last whole segment
COVERED = (90, 50)
saliency = jax.jit(introspection.saliency, static_argnums=0)


def model_of(system: str, skip: bool = False) -> Any:
    config = configuration.get_config()
    config.system = system
    m = config.model
    m.hsf_skip = skip
    m.filters, m.lstm_units = 4, 6
    m.plain_head, m.hsf_head, m.multi_head = (9, 5), (6,), (7,)
    m.hsf_dense, m.hsf_crnn_dense, m.multi_short_dense = (8,), (8,), (8,)
    m.end2you_filters, m.end2you_pools, m.end2you_units = 4, (2, 2), 8
    return build.build_model(config, 3)


def batch(system: str, dtype: Any, fill: float = 0.0) -> Inputs:
    rng = np.random.default_rng(0)
    if system == "end2you":
        return Inputs(jnp.array([3, 2]), wave=rng.normal(size=(2, 3, 640)).astype(dtype))
    frames = padding.pad_frames(
        [rng.normal(size=(n, 40)).astype(np.float32) for n in LENGTHS], 110, 50, -2.0
    )
    for row, length in zip(frames, LENGTHS, strict=True):
        row[length:] = fill
    hsf = rng.normal(size=(2, 20)).astype(dtype) if system == "hsf_crnn" else None
    return Inputs(jnp.array(LENGTHS), frames=frames.astype(dtype), hsf=hsf)


def params_of(model: Any, inputs: Inputs) -> Any:
    params = jax.device_get(build.initial_params(model, jax.random.key(1), inputs))
    noise = np.random.default_rng(2).normal  # Biases of zero would hide that one is forgotten.
    return jax.tree.map(lambda a: np.asarray(a + noise(0, 0.1, a.shape), a.dtype), params)


@pytest.mark.parametrize(
    ("system", "skip"), [*((system, False) for system in SYSTEMS), ("hsf_crnn", True)]
)
def test_the_last_layer_makes_logits_of_the_representation(system, skip):
    model, inputs = model_of(system, skip), batch(system, jnp.float32)
    params = params_of(model, inputs)
    before = jax.tree.map(np.array, params)
    of = jax.jit(introspection.representation, static_argnums=0)
    values = np.asarray(of(model, params, inputs))
    assert values.shape == (2, SIZES[system])
    kernel, bias = introspection.last_layer(params)
    logits = jax.jit(model.apply)({"params": params}, inputs)
    skipping = inputs.hsf @ params[SKIP] / np.sqrt(20) if skip else 0
    expected = values @ kernel + bias[None] + skipping
    np.testing.assert_allclose(expected, logits, rtol=1e-4, atol=1e-4)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, params))


@pytest.mark.parametrize("system", SYSTEMS[:3])
def test_saliency_is_the_gradient_of_the_logit(system, float64):
    """Oracle: central differences of single values, in float64."""
    model, inputs = model_of(system), batch(system, jnp.float64)
    params = jax.tree.map(np.float64, params_of(model, inputs))
    number = np.array([2, 0])
    found = np.asarray(saliency(model, params, inputs, number))
    assert inputs.frames is not None and found.shape == inputs.frames.shape
    frames = np.asarray(inputs.frames)

    @jax.jit
    def logits(frames):
        return model.apply({"params": params}, inputs._replace(frames=frames))

    def moved(place, by):
        changed = frames.copy()
        changed[place] += by
        return np.asarray(logits(changed))[place[0], number[place[0]]]

    step = 1e-6
    largest = [np.unravel_index(np.argmax(row), row.shape) for row in found]
    places = [(row, *place) for row, place in enumerate(largest)]
    places += [(0, 0, 0), (0, 40, 17), (1, 12, 39), (1, 30, 3)]
    for row, frame, band in places:
        place = row, frame, band
        expected = abs(moved(place, step) - moved(place, -step)) / (2 * step)
        assert float(found[place]) == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("system", SYSTEMS[:3])
@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_saliency_ends_with_the_last_segment(system, fill):
    model, inputs = model_of(system), batch(system, jnp.float32, fill)
    params = params_of(model, batch(system, jnp.float32))
    found = np.asarray(saliency(model, params, inputs, jnp.array([0, 1])))
    assert np.isfinite(found).all()
    for row, covered in zip(found, COVERED, strict=True):
        assert (row[covered:] == 0).all() and row[:covered].any(axis=1).mean() > 0.5
