"""From a configuration to a page: the protocol that training would use, and every row that cannot be used."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import releases

from ser_jax import protocol_page
from ser_jax.config import get_config
from ser_jax.corpora.registry import read_corpus
from ser_jax.errors import UserError
from ser_jax.evaluation.rejected import read_rejected
from ser_jax.protocols import registry
from ser_jax.protocols.protocol import Fold
from ser_jax.run_directory import record_protocol


def config_for(name: str, root: Path, protocol: str = "auto", allow_missing: bool = False):
    config = get_config()
    config.corpus.update(name=name, root=str(root), allow_missing=allow_missing)
    config.protocol.name = protocol
    return config


@pytest.fixture
def emodb(tmp_path) -> Path:
    return releases.write_emodb(tmp_path, releases.emodb_names(), seconds=0.01)


def test_the_protocol_is_the_one_that_training_makes(emodb, tmp_path):
    protocol, page = protocol_page.make_page(config_for("emodb", emodb), tmp_path / "rejected.csv")
    corpus = read_corpus("emodb", str(emodb), manifest="manifest.csv", allow_missing=False)
    name, spec = registry.find_spec("auto", corpus)
    chosen = registry.select(spec, corpus)
    assert protocol == registry.build_protocol(name, spec, chosen, chosen.utterances)[0]
    assert page.startswith(f"emodb4-speaker10+modified\n  sha256      {protocol.sha256}\n")
    assert f"corpus emodb at {emodb} size" in " ".join(page.split())
    assert "  angry        8       127  differs\n" in page
    assert "  note: counts differ from emodb4-speaker10: angry: 8 instead of 127; " in page
    assert not (tmp_path / "rejected.csv").exists(), "nothing was rejected"


def test_the_file_is_that_of_a_run_directory(emodb, tmp_path):
    protocol, _ = protocol_page.make_page(config_for("emodb", emodb), tmp_path / "rejected.csv")
    protocol_page.write(tmp_path / "new/p.json", protocol)
    record_protocol(tmp_path, protocol)
    assert (tmp_path / "new/p.json").read_bytes() == (tmp_path / "protocol.json").read_bytes()
    assert json.loads((tmp_path / "new/p.json").read_text())["sha256"] == protocol.sha256


def test_rows_that_cannot_be_used_are_listed_and_noted(tmp_path):
    releases.write_manifest(tmp_path, releases.manifest_rows(), seconds=0.01)
    shutil.rmtree(tmp_path / "audio/s1")
    rejected = tmp_path / "out/rejected.csv"
    with pytest.raises(UserError, match=f"; all 8 are listed in {rejected}$"):
        protocol_page.make_page(config_for("manifest", tmp_path), rejected)
    rejected.unlink()
    protocol, page = protocol_page.make_page(config_for("manifest", tmp_path, allow_missing=True), rejected)
    assert protocol.name == "manifest-speaker+modified" and len(protocol.ids) == 24
    assert len(read_rejected(rejected)) == 8
    # The lines of a page are wrapped.
    assert f"note: 8 rows cannot be used, all listed in {rejected}" in " ".join(page.split())


@pytest.mark.parametrize("place", ["list", "page"])
def test_places_that_cannot_be_written(tmp_path, place):
    releases.write_manifest(tmp_path, releases.manifest_rows(), seconds=0.01)
    (tmp_path / "file").touch()
    if place == "list":
        (tmp_path / "audio/s1/angry0.wav").unlink()
        with pytest.raises(UserError, match=r"^[^ ]*file/rejected.csv cannot be written: "):
            config = config_for("manifest", tmp_path, allow_missing=True)
            protocol_page.make_page(config, tmp_path / "file/rejected.csv")
    else:
        protocol, _ = protocol_page.make_page(config_for("manifest", tmp_path), tmp_path / "rejected.csv")
        with pytest.raises(UserError, match=r"--output=.*file/p.json cannot be written: "):
            protocol_page.write(tmp_path / "file/p.json", protocol)


def test_the_official_protocol_of_a_release_with_its_test_part(tmp_path):
    root = releases.write_emotass(tmp_path, releases.emotass_rows(train=10, devel=3, test=5), seconds=0.01)
    protocol, page = protocol_page.make_page(config_for("emotass", root), tmp_path / "rejected.csv")
    assert [dataclasses.replace(fold, parts="") for fold in protocol.folds] == [
        Fold("devel", ""),
        Fold("test", "", epochs_from="devel"),
    ]
    cells = [line.split() for line in page.splitlines()]
    assert ["(no", "label)", "5"] in cells and ["test", "5", "3099", "differs"] in cells
    assert ["refit", *protocol.refit_rule.split()] in cells
