"""Model files: what was written comes back; anything else is an error that names the file."""

import hashlib
import json
from typing import Any

import jax
import numpy as np
import pytest

from ser_jax.arrays.standardise import Statistics
from ser_jax.errors import UserError
from ser_jax.training import model_files, seal

DESCRIPTION = {"fold": "Ä/b", "seed": 3, "status": "done", "best_epoch": 2, "validation": {"ua": 1 / 3}}
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
    path.write_text(json.dumps(seal.sealed({**json.loads(path.read_text()), **values})))


@pytest.mark.parametrize("statistics", [LOG_MEL, WITH_HSF], ids=["log-mel", "functionals"])
def test_roundtrip_to_the_bit(tmp_path, statistics):
    model_files.write_model(tmp_path, DESCRIPTION, PARAMS, statistics)
    model = model_files.read_model(tmp_path)
    assert model.description.items() >= {**DESCRIPTION, "schema": 1}.items()
    assert model.description == model_files.read_description(tmp_path)
    assert jax.tree.structure(model.params) == jax.tree.structure(PARAMS)
    pairs = [(model.params[layer][name], value) for layer in PARAMS for name, value in PARAMS[layer].items()]
    for found, value in [*pairs, *zip(model.statistics, statistics, strict=True)]:
        assert (found is None) == (value is None)
        if found is not None and value is not None:
            assert found.dtype == value.dtype and found.tobytes() == value.tobytes()


def test_same_content_same_bytes(tmp_path, folder):
    """No time or path in the files: a resumed run can be compared byte by byte."""
    model_files.write_model(tmp_path / "again", DESCRIPTION, PARAMS, LOG_MEL)
    for name in ("model.json", "model.npz"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("place", [0, 40, 0.5, -30, -1])
def test_flipped_bit(folder, place):
    path = folder / "model.npz"
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path} is not the file that model.json describes"):
        model_files.read_model(folder)


@pytest.mark.parametrize("damage", ["missing", "empty", "short"])
def test_damaged_arrays(folder, damage):
    path = folder / "model.npz"
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(content[: {"empty": 0, "short": -100}[damage]])
    with pytest.raises(UserError, match=rf"{path} is not the file .* delete {folder}"):
        model_files.read_model(folder)


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
    content = (folder / file).read_bytes()
    silent = []
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / file).write_bytes(flipped)
        try:
            if read(folder) != json.loads(content):
                silent.append(bit)
        except UserError as error:
            assert str(folder / file) in str(error)
    assert silent == []


def test_a_description_without_a_seal_is_not_trusted(folder):
    path = folder / "model.json"
    path.write_text(json.dumps({name: v for name, v in json.loads(path.read_text()).items() if name != seal.KEY}))
    with pytest.raises(UserError, match=rf"{path} is damaged \(its seal does not fit\); delete {folder} and run"):
        model_files.read_description(folder)


def test_check_reads_everything(folder):
    model_files.check(folder)
    model_files.check(folder / "nowhere")
    (folder / "model.npz").write_bytes(b"")
    with pytest.raises(UserError, match="is not the file that model.json describes"):
        model_files.check(folder)


@pytest.mark.parametrize("schema", [0, 2, None, "1"])
def test_other_schema(folder, schema):
    change(folder, schema=schema)
    with pytest.raises(UserError, match=rf"model.json has schema {schema}; this version reads schema 1"):
        model_files.read_model(folder)


def test_run_that_is_not_finished(tmp_path, folder):
    """The description is written last: arrays alone are no model."""
    (folder / "model.json").unlink()
    assert model_files.read_description(folder) is None
    assert model_files.read_description(tmp_path / "nowhere") is None
    with pytest.raises(UserError, match=rf"{folder} holds no trained model"):
        model_files.read_model(folder)


def test_trained_runs_are_listed_without_those_that_diverged(folder):
    workdir = folder.parent.parent
    model_files.write_model(workdir / "models" / "a-0", {**DESCRIPTION, "status": "diverged"}, None, None)
    assert model_files.list_trained(workdir) == {folder: model_files.read_description(folder)}
    (folder / "model.json").unlink()
    with pytest.raises(UserError, match=f"{workdir} holds no trained model; run the training command again"):
        model_files.list_trained(workdir)


def test_diverged_run_has_a_description_and_no_arrays(tmp_path):
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
    """R24: an array file with a pickle inside and a digest that fits is refused, and nothing of it runs."""
    path = folder / "model.npz"
    trap: Any = {"params/a": np.array([Trap(tmp_path / "canary")], object), "statistics/mean": np.zeros(1)}
    np.savez(path, **trap)
    change(folder, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=rf"{path} holds no model \(.*allow_pickle=False\); delete {folder}"):
        model_files.read_model(folder)
    assert not (tmp_path / "canary").exists()


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError):
        model_files.write_model(tmp_path, DESCRIPTION, {"a": np.array([{}], object)}, LOG_MEL)
    assert model_files.read_description(tmp_path) is None


def test_list_models(tmp_path, folder):
    assert model_files.list_models(tmp_path / "nowhere") == []
    (folder.parent / "unfinished").mkdir()
    model_files.write_model(folder.parent / "a-0", DESCRIPTION, PARAMS, LOG_MEL)
    assert model_files.list_models(tmp_path) == [folder.parent / "a-0", folder]
