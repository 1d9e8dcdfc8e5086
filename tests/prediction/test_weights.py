"""Safetensors: every array of every model, bit for bit, under a flat name."""

import json

import jax
import numpy as np
import pytest
import untrained
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ser_jax.prediction import weights
from ser_jax.runtime.errors import UserError


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
        expected |= {
            f"{name}/statistics/{key}": value for key, value in model.statistics._asdict().items()
        }
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
    weights.write(
        tmp_path / "a",
        found,
        {"system": "end2you", "classes": found.classes, "schema": 1, "none": None},
    )
    with safe_open(tmp_path / "a", "numpy") as file:
        metadata = file.metadata()
    assert metadata["system"] == "end2you" and json.loads(metadata["classes"]) == list(
        found.classes
    )
    assert (metadata["schema"], metadata["none"]) == ("1", "null")
    assert json.loads(metadata["model"])["end2you_pools"] == [2, 2]
    assert json.loads(metadata["features"])["sample_rate"] == 16000


def test_a_flipped_bit_is_named(tmp_path):
    """In the arrays, where any value is one, and in the metadata, such as the order of classes."""
    path, found = tmp_path / "m.safetensors", untrained.make("plain_crnn")
    weights.write(path, found, described(found))
    content = path.read_bytes()
    header = content.index(b"angry")
    for place in (header, header + 1, len(content) - 1, len(content) // 2):
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=rf"{path} is damaged or was edited by hand .*: export"):
            weights.read(path)


def described(found):
    """Returns what an export adds to the arrays."""
    listed = zip(found.names, found.models, strict=True)
    models = [
        {"name": name, **{key: model.description[key] for key in ("fold", "seed", "temperature")}}
        for name, model in listed
    ]
    return {"system": found.config.system, "classes": list(found.classes), "models": models}


@pytest.mark.parametrize(("system", "count"), [("plain_crnn", 2), ("hsf_crnn", 1), ("end2you", 1)])
def test_what_is_written_is_read(tmp_path, system, count):
    found = untrained.make(system, count)
    weights.write(tmp_path / "m.safetensors", found, described(found))
    read = weights.read_models(tmp_path / "m.safetensors")
    assert (read.names, read.classes) == (found.names, found.classes)
    place = tmp_path / "m.safetensors"
    assert read.description.endswith(f"of {place} ({system}, {CALIBRATED[count]})")
    for key in weights.SECTIONS:
        assert read.config[key].to_json() == found.config[key].to_json()
    for one, other in zip(read.models, found.models, strict=True):
        for key in ("fold", "seed", "temperature", "system"):
            assert one.description[key] == other.description[key]
        jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
        jax.tree.map(np.testing.assert_array_equal, one.statistics, other.statistics)


CALIBRATED = {1: "calibrated", 2: "1 of them calibrated"}


@pytest.mark.parametrize("kind", ["text", "empty", "foreign", "cut", "none", "svm", "newer"])
def test_what_is_no_such_file_is_refused(tmp_path, kind):
    path = tmp_path / "m.safetensors"
    path.write_bytes({"text": b"# a card", "empty": b""}.get(kind, b""))
    if kind == "foreign":
        save_file({"a": np.zeros(3, np.float32)}, path)
    if kind in ("cut", "none", "svm", "newer"):
        system = "svm" if kind == "svm" else "plain_crnn"
        description = {"system": system, "classes": ["a"], "models": []}
        found = untrained.make("plain_crnn")
        if kind == "newer":
            with found.config.unlocked():
                found.config.model.invented = 1
        weights.write(path, found, description)
        path.write_bytes(path.read_bytes()[: -1 if kind == "cut" else None])
    sentence = "by a newer version" if kind == "newer" else r"m.safetensors holds no models \("
    with pytest.raises(UserError, match=sentence):
        weights.read_models(path)


BOUNDS = {"bounds": {"level": [-40.0, -10.0]}, "log_mel": {}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("features", value) for value in ([], "x", None)),
        ("model", 3),
        *(("classes", value) for value in ("angry", {"angry": 1}, [1, 2, 3], None)),
        *(("models", value) for value in ({}, "x", [1], [[]], [{}])),
        *(("models", [{"fold": "03", **one}]) for one in ({"name": 1}, {"name": "03-0"})),
        *(
            ("models", [{"name": "03-0", "fold": "03", "seed": 0, "temperature": value}])
            for value in ("1.5", True, [1], -1.0)
        ),
        *(("domain", value) for value in ([], "x", {"bounds": []}, {"bounds": {}})),
        *(
            ("domain", BOUNDS | {"bounds": {name: pair}})
            for name, pair in (("level", 3), ("level", ["a", "b"]), ("level", [1]), ("x", [1, 2]))
        ),
        ("domain", BOUNDS | {"log_mel": {"mean": [1.0], "std": "x"}}),
        *(("embeddings", value) for value in ([], {}, {"level": "frame", "embedder": None})),
        ("embeddings", {"level": "frame", "layers": 1, "width": 4, "embedder": {"sha256": 1}}),
    ],
)
def test_metadata_of_another_type_are_named(tmp_path, key, value, monkeypatch):
    """As somebody else's program may have written them, with a digest that fits."""
    path, found = tmp_path / "m.safetensors", untrained.make("plain_crnn")
    weights.write(path, found, described(found) | {"domain": BOUNDS})
    assert weights.read(path).models[0].description["domain"] == BOUNDS
    monkeypatch.setattr(weights, "SECTIONS", ())
    sections = {name: found.config[name].to_dict() for name in ("features", "model")}
    weights.write(path, found, described(found) | sections | {key: json.dumps(value)})
    monkeypatch.undo()
    sentence = rf"holds no models \({key} in its metadata: another form .*: name a run directory"
    with pytest.raises(UserError, match=sentence):
        weights.read(path)


@pytest.mark.parametrize(
    ("system", "place", "value", "sentence"),
    [
        ("plain_crnn", "params/softmax/kernel", np.zeros((3, 8)), r"is \[3, 8\]; .* \[8, 3\]"),
        ("plain_crnn", "params/softmax/bias", None, r"is missing; its configuration needs \[3\]"),
        ("multi_crnn", "statistics/mean", np.zeros(41), r"is \[41\]; .* needs \[40\]"),
        ("hsf_crnn", "statistics/hsf_std", np.zeros(()), r"is \[\]; .* needs \[6373\]"),
        ("end2you", "params/softmax_kernel", np.zeros((8, 4)), r"is \[8, 4\]; .* \[8, 3\]"),
    ],
)
def test_arrays_that_do_not_fit_the_configuration_are_refused(
    tmp_path, monkeypatch, system, place, value, sentence
):
    found = untrained.make(system, 2)
    name, file = f"{found.names[-1]}/{place}", tmp_path / "m.safetensors"
    arrays = weights.tensors(found) | {name: value}
    kept = {key: array for key, array in arrays.items() if array is not None}
    monkeypatch.setattr(weights, "tensors", lambda _: kept)
    weights.write(file, found, described(found))
    with pytest.raises(UserError, match=rf"m.safetensors holds no models \({name} {sentence}\)"):
        weights.read_models(file)
