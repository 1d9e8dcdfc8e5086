"""Initial parameters: those of any lengths are those of the shortest inputs."""

import jax
import numpy as np
import pytest
import tiny
import untrained

from ser_jax.models import build


@pytest.mark.parametrize("system", ["plain_crnn", "hsf_crnn", "multi_crnn", "end2you"])
def test_they_depend_on_no_length(system):
    """To the bit, and the inputs of all lengths become the same ones."""
    config = untrained.small_config(system)
    model, short = build.build_model(config, 4), build.example(config)
    inputs = short._replace(
        length=np.array([7, 90], np.int32),
        frames=None if short.frames is None else np.ones((2, 90, 40), np.float32),
        wave=None if short.wave is None else np.ones((2, 5, 640), np.float32),
        hsf=None if short.hsf is None else np.ones((2, 6373), np.float32),
    )
    cut = build.shortest(config, inputs)
    assert jax.tree.map(np.shape, cut) == jax.tree.map(np.shape, short)
    key = jax.random.key(5)
    expected = jax.jit(model.init)(key, inputs)["params"]
    assert tiny.bits(build.initial_params(model, key, cut)) == tiny.bits(expected)
    shapes = build.parameter_shapes(model, cut)
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, expected)
