"""Safetensors: every array of every model, bit for bit, under a flat name."""

import json

import numpy as np
import untrained
from safetensors import safe_open
from safetensors.numpy import load_file

from ser_jax.exporting import weights


def leaves(tree, prefix):
    """Yields (name, array) of nested dicts."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}/{name}")
        else:
            yield f"{prefix}/{name}", value


def test_arrays_come_back_bit_for_bit(tmp_path):
    found = untrained.make("hsf_crnn", 2)
    weights.write(tmp_path / "a", found, {})
    expected = {}
    for name, model in zip(("03-0", "03-1"), found.models, strict=True):
        expected |= dict(leaves(model.params, f"{name}/params"))
        expected |= {f"{name}/statistics/{key}": value for key, value in model.statistics._asdict().items()}
    expected["03-0/temperature"] = np.float64(1.5)  # the other model has none
    read = load_file(tmp_path / "a")
    assert set(read) == set(expected)
    for name, value in expected.items():
        assert read[name].dtype == value.dtype and read[name].shape == np.shape(value)
        assert read[name].tobytes() == value.tobytes(), name


def test_transposed_arrays_are_written_as_they_read(tmp_path):
    found = untrained.make("plain_crnn", 1)
    model = found.models[0]
    model.params["softmax"]["kernel"] = np.arange(24, dtype=np.float32).reshape(3, 8).T
    weights.write(tmp_path / "a", found, {})
    read = load_file(tmp_path / "a")["03-0/params/softmax/kernel"]
    np.testing.assert_array_equal(read, model.params["softmax"]["kernel"])


def test_metadata_are_strings(tmp_path):
    found = untrained.make("end2you", 1)
    weights.write(tmp_path / "a", found, {"system": "end2you", "classes": found.classes, "schema": 1, "none": None})
    with safe_open(tmp_path / "a", "numpy") as file:
        metadata = file.metadata()
    assert metadata["system"] == "end2you" and json.loads(metadata["classes"]) == list(found.classes)
    assert (metadata["schema"], metadata["none"]) == ("1", "null")
    assert json.loads(metadata["model"])["end2you_pools"] == [2, 2]
    assert json.loads(metadata["features"])["sample_rate"] == 16000
