"""The file: a ZIP that NumPy opens, without pickles, the same bytes every time."""

import json
import zipfile

import numpy as np
import pytest
import untrained

from ser_jax.exporting import stablehlo
from ser_jax.exporting.program import make_members, named


@pytest.mark.parametrize(
    ("system", "inputs"),
    [("plain_crnn", ["waves", "lengths"]), ("hsf_crnn", ["waves", "lengths", "functionals"])],
)
def test_what_is_in_the_file(tmp_path, system, inputs):
    found = untrained.make(system, 2)
    members = make_members(found.models)
    stablehlo.write(tmp_path / "a", found, members, {"classes": found.classes, "note": "häppy"})
    stablehlo.write(tmp_path / "b", found, members, {"classes": found.classes, "note": "häppy"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with np.load(tmp_path / "a", allow_pickle=False) as file:
        metadata = json.loads(file["metadata.json"])
        assert metadata["classes"] == list(found.classes) and metadata["note"] == "häppy"
        assert metadata["platforms"] == ["cpu", "cuda", "tpu"]
        assert [text.split()[0] for text in metadata["inputs"]] == inputs
        assert set(file.files) == {*metadata["weights"], "metadata.json", "program"}
        for name, leaf in named(members).items():
            assert file[name].dtype == np.float32 and len(leaf) == 2
            np.testing.assert_array_equal(file[name], leaf)
    assert zipfile.ZipFile(tmp_path / "a").testzip() is None


def test_names_of_weights_are_paths_in_the_model():
    found = untrained.make("hsf_crnn", 1)
    names = set(named(make_members(found.models)))
    assert {
        "params/crnn/lstm_kernel",
        "params/softmax/bias",
        "statistics/hsf_mean",
        "centre",
        "temperature",
    } <= names


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    (tmp_path / "a").write_text("before")
    monkeypatch.setattr(np.lib.format, "write_array", interrupt)
    found = untrained.make("plain_crnn", 1)
    with pytest.raises(KeyboardInterrupt):
        stablehlo.write(tmp_path / "a", found, make_members(found.models), {})
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (
        tmp_path / "a"
    ).read_text() == "before"
