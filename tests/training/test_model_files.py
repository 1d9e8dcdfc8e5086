"""Model files: what was written comes back; anything else is an error that names the file."""

import hashlib
import json
from typing import Any

import numpy as np
import pytest
import tiny

from ser_jax.data.standardise import Statistics
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.training import model_files

DESCRIPTION = {"fold": "Ä/b", "seed": 3, "status": "done", "validation": {"ua": 1 / 3}}
RNG = np.random.default_rng(0)
PARAMS = {
    "crnn": {
        "conv1_kernel": RNG.normal(size=(5, 4, 3)).astype(np.float32),
        "bias": np.array([-0.0, 1e-42], np.float32),
    },
    "softmax": {"kernel": RNG.normal(size=(2, 2)).astype(np.float32)},
}
LOG_MEL = Statistics(RNG.normal(size=4), RNG.uniform(1, 2, 4))
WITH_HSF = LOG_MEL._replace(hsf_mean=RNG.normal(size=7) * 1e13, hsf_std=RNG.uniform(1, 2, 7))


@pytest.fixture
def folder(tmp_path):
    model_files.write_model(tmp_path / "models" / "b-3", DESCRIPTION, PARAMS, LOG_MEL)
    return tmp_path / "models" / "b-3"


def change(folder, **values):
    path = folder / "model.json"
    changed = strict_json.with_checksum({**json.loads(path.read_text()), **values})
    path.write_text(json.dumps(changed))


@pytest.mark.parametrize("statistics", [LOG_MEL, WITH_HSF], ids=["log-mel", "functionals"])
def test_roundtrip_to_the_bit(tmp_path, statistics):
    model_files.write_model(tmp_path, DESCRIPTION, PARAMS, statistics)
    model = model_files.read_model(tmp_path)
    assert model.description.items() >= {**DESCRIPTION, "schema": 1}.items()
    assert model.description == model_files.read_description(tmp_path)
    assert tiny.bits(model.params) == tiny.bits(PARAMS)
    assert tiny.bits(model.statistics) == tiny.bits(statistics)


def test_same_content_same_bytes(tmp_path, folder):
    """The files hold no time or path: a resumed training can be compared byte by byte."""
    model_files.write_model(tmp_path / "again", DESCRIPTION, PARAMS, LOG_MEL)
    for name in ("model.json", "model.npz"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda content: flip(content, 500), "is not the file that"),
        (lambda content: content[:-100], "is not the file that"),
        (lambda content: b"", "is not the file that"),
        (None, "is missing, which"),
    ],
    ids=["bit", "short", "empty", "missing"],
)
def test_damaged_arrays(folder, damage, what):
    path = folder / "model.npz"
    model_files.check(folder)
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(content))
    sentence = rf"{path} {what} model.json .* delete {folder}"
    for act in (model_files.read_model, model_files.check):
        with pytest.raises(UserError, match=sentence):
            act(folder)


@pytest.mark.parametrize("content", [b"", b'{"schema": 1, "fo', b"\xff\xfe"])
def test_damaged_description(folder, content):
    (folder / "model.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"{folder}/model.json is damaged .* delete {folder}"):
        model_files.read_description(folder)


@pytest.mark.parametrize("file", ["model.json", "choice.json"])
def test_flipped_bits_in_a_description_are_noticed(folder, file):
    """R7: every bit of it; a temperature or an epoch that was changed would still be JSON."""
    model_files.write_choice(folder, DESCRIPTION)
    read = model_files.read_description if file == "model.json" else model_files.read_choice
    content, expected = (folder / file).read_bytes(), read(folder)
    silent = []
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / file).write_bytes(flipped)
        try:
            if read(folder) != expected:
                silent.append(bit)
        except UserError as error:
            assert str(folder / file) in str(error)
    assert silent == []


def test_a_description_without_a_checksum_is_not_trusted(folder):
    path = folder / "model.json"
    description = json.loads(path.read_text())
    del description[strict_json.CHECKSUM]
    path.write_text(json.dumps(description))
    sentence = rf"{path} is damaged .*checksum is missing or wrong\): delete {folder} and run"
    with pytest.raises(UserError, match=sentence):
        model_files.read_description(folder)


@pytest.mark.parametrize("schema", [2, None, "1"])
def test_other_schema(folder, schema):
    change(folder, schema=schema)
    sentence = f"model.json has schema {schema}; this version reads schema 1"
    with pytest.raises(UserError, match=sentence):
        model_files.read_model(folder)


def test_trial_that_is_not_finished(tmp_path, folder):
    """The description is written last: arrays alone are no model."""
    (folder / "model.json").unlink()
    assert model_files.read_description(folder) is None
    assert model_files.read_description(tmp_path / "nowhere") is None
    with pytest.raises(UserError, match=rf"{folder} holds no trained model"):
        model_files.read_model(folder)


def test_finished_trials_are_listed(folder):
    workdir = folder.parent.parent
    (folder.parent / "unfinished").mkdir()
    assert model_files.list_models(workdir / "nowhere") == []
    model_files.write_model(
        folder.parent / "a-0", {**DESCRIPTION, "status": "diverged"}, None, None
    )
    assert model_files.list_models(workdir) == [folder.parent / "a-0", folder]


def test_diverged_trial_has_a_description_and_no_arrays(tmp_path):
    model_files.write_model(tmp_path, {**DESCRIPTION, "status": "diverged"}, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    found = model_files.read_description(tmp_path)
    assert found is not None and found["status"] == "diverged" and found["sha256"] is None
    with pytest.raises(UserError, match="holds no trained model"):
        model_files.read_model(tmp_path)


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_is_ever_unpickled(tmp_path, folder):
    """R24: an array file with a pickle inside and the right digest is refused, and never runs."""
    path = folder / "model.npz"
    trap: Any = {"params/a": np.array([Trap(tmp_path / "canary")], object)}
    trap["statistics/mean"] = np.zeros(1)
    np.savez(path, **trap)
    change(folder, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    sentence = rf"{path} holds no model \(.*allow_pickle=False\); delete {folder}"
    with pytest.raises(UserError, match=sentence):
        model_files.read_model(folder)
    assert not (tmp_path / "canary").exists()


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError):
        model_files.write_model(tmp_path, DESCRIPTION, {"a": np.array([{}], object)}, LOG_MEL)
    assert model_files.read_description(tmp_path) is None
