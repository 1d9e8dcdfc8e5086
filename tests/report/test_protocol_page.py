"""The page about a protocol: by hand, its width, its counts, and from a configuration."""

import collections
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import releases

from ser_jax.config import get_config
from ser_jax.corpora.from_config import read_rejected
from ser_jax.corpora.registry import read_corpus
from ser_jax.experiment.run_directory import record_protocol
from ser_jax.protocols import named
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.report import protocol_page
from ser_jax.report.protocol_page import WIDTH, describe, overlaps
from ser_jax.runtime.errors import UserError

TINY = Protocol(
    name="tiny",
    corpus="manifest",
    classes=("angry", "sad"),
    label_mapping={"W": "angry", "sad": "sad"},
    ids=("a/1", "a/2", "b/1", "b/2", "c/1"),
    labels=("angry", "sad", "angry", "sad", ""),
    speakers=("a", "a", "b", "b", "c"),
    folds=(Fold("dev", "tvee-"), Fold("test", "tttte", epochs_from="dev")),
    validation_rule="the next one",
    refit_rule="fold test trains for as many epochs as fold dev",
)


def test_by_hand():
    counts = {"angry": (2, 2), "sad": (2, 3), "test": (1, 9)}
    page = describe(TINY, root="/data", counts=counts, notes=["look out"])
    expected = f"""\
tiny
  sha256      {TINY.sha256}
  corpus      manifest at /data
  size        5 utterances, 3 speakers, 2 folds
  metrics     wa, ua
  labels      W → angry, others as they are
  validation  the next one
  refit       fold test trains for as many epochs as fold dev

  class       found  expected
  angry           2         2
  sad             2         3  differs
  (no label)      1
  test            1         9  differs

  in both parts  train + validation  train + test  validation + test
  utterances     none                none          none
  speakers       1 in dev            none          none

  fold  part        utterances  angry  sad  speakers
  dev   train                1      1    0         1
        validation           1      0    1         1
        test                 2      1    1         1
  test  train                4      2    2         2
        validation           0      0    0         0
        test                 1      0    0         1

  note: look out"""
    assert page == expected


def test_unknown_speakers_are_said_to_be_unknown():
    page = describe(dataclasses.replace(TINY, speakers=("", "", "b", "b", "")), root="/", counts={})
    assert "  of 3 utterances the speaker is unknown\n" in page
    assert "5 utterances, 1 speaker," in page
    assert "  dev   train                1      1    0         ?" in page
    nobody = describe(dataclasses.replace(TINY, speakers=("",) * 5), root="/", counts={})
    assert "5 utterances, unknown speakers" in nobody


def test_what_is_in_two_parts_of_a_fold():
    twice = dataclasses.replace(TINY, ids=("a/1", "a/2", "a/1", "b/2", "c/1"))
    page = describe(twice, root="/", counts={})
    assert "  utterances     none                1 in dev      none" in page
    fold = Fold("f", "ttveev")
    found = overlaps(fold, ["a", "b", "b", "a", "", "c"])
    assert found == {
        ("train", "validation"): {"b"},
        ("train", "test"): {"a"},
        ("validation", "test"): set(),
    }


def many(folds: int, classes: int, name: str = "speaker {:03}") -> Protocol:
    """One speaker per fold, who says every class as often as its number is."""
    names = [name.format(number) for number in range(folds)]
    labels = [f"class {k:02} of a long name" for k in range(classes)]
    rows = [(who, label) for who in names for k, label in enumerate(labels) for _ in range(k + 1)]
    letters = [
        "".join("e" if who == test else "v" if who == names[n - 1] else "t" for who, _ in rows)
        for n, test in enumerate(names)
    ]
    return Protocol(
        name="many",
        corpus="manifest",
        classes=tuple(labels),
        label_mapping={label: label for label in labels},
        ids=tuple(f"{n:06}" for n in range(len(rows))),
        labels=tuple(label for _, label in rows),
        speakers=tuple(who for who, _ in rows),
        folds=tuple(Fold(who, parts) for who, parts in zip(names, letters, strict=True)),
        validation_rule="a rule of many words " * 12,
    )


@pytest.mark.parametrize("folds", [3, 19, 20, 60])
@pytest.mark.parametrize("classes", [2, 7, 12])
def test_the_page_is_never_too_wide(folds, classes):
    name = "one of the speakers with a name that is far too long for any table, number {:03}"
    page = describe(many(folds, classes, name), root="/data", counts={}, notes=["word " * 60])
    assert max(map(len, page.splitlines())) <= WIDTH
    assert f"number {folds - 1:03}" in page, "long names keep the end that tells them apart"


def test_few_folds_have_a_line_per_part_and_many_a_line_per_fold():
    assert len(describe(many(19, 2), root="/", counts={}).splitlines()) > 3 * 19
    lines = describe(many(40, 2), root="/", counts={}).splitlines()
    assert len(lines) < 40 + 30
    assert sum(line.startswith("  speaker 0") for line in lines) == 40


@pytest.mark.parametrize("folds", [5, 25])
def test_figures_equal_an_independent_count(folds):
    protocol = many(folds, 3)
    lines = describe(protocol, root="/", counts={}).splitlines()
    rows = zip(protocol.labels, protocol.folds[2].parts, strict=True)
    test = collections.Counter(label for label, part in rows if part == "e")
    expected = [str(test[name]) for name in protocol.classes]
    if folds < 20:
        start = next(n for n, line in enumerate(lines) if line.startswith("  speaker 002"))
        assert lines[start + 2].split() == ["test", "6", *expected, "1"]
        counts = [k * (folds - 2) for k in (6, 1, 2, 3, 1)]
        assert lines[start].split()[2:] == ["train", *map(str, counts)]
    else:
        (line,) = (line for line in lines if line.startswith("  speaker 002"))
        assert line.split()[2:] == [str(6 * (folds - 2)), "6", "6", f"{folds - 2}/1/1", *expected]
        (most,) = (line for line in lines if line.startswith("  train, most"))
        assert most.split()[2:] == [str((k + 1) * (folds - 2)) for k in range(3)]


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
    name, spec = named.find_spec("auto", corpus)
    chosen = named.select(spec, corpus)
    assert protocol == named.build_protocol(name, spec, chosen, chosen.utterances)[0]
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
    config = config_for("manifest", tmp_path, allow_missing=True)
    protocol, page = protocol_page.make_page(config, rejected)
    assert protocol.name == "manifest-speaker+modified" and len(protocol.ids) == 24
    assert len(read_rejected(rejected)) == 8
    # The lines of a page are wrapped.
    assert f"note: 8 rows cannot be used, all listed in {rejected}" in " ".join(page.split())


def test_places_that_cannot_be_written(tmp_path):
    releases.write_manifest(tmp_path, releases.manifest_rows(), seconds=0.01)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output=.*file/p.json cannot be written: "):
        protocol_page.write(tmp_path / "file/p.json", TINY)
    (tmp_path / "audio/s1/angry0.wav").unlink()
    config = config_for("manifest", tmp_path, allow_missing=True)
    with pytest.raises(UserError, match=r"^[^ ]*file/rejected.csv cannot be written: "):
        protocol_page.make_page(config, tmp_path / "file/rejected.csv")


def test_the_official_protocol_of_a_release_with_its_test_part(tmp_path):
    rows = releases.emotass_rows(train=10, devel=3, test=5)
    root = releases.write_emotass(tmp_path, rows, seconds=0.01)
    protocol, page = protocol_page.make_page(config_for("emotass", root), tmp_path / "rejected.csv")
    folds = [dataclasses.replace(fold, parts="") for fold in protocol.folds]
    assert folds == [Fold("devel", ""), Fold("test", "", epochs_from="devel")]
    cells = [line.split() for line in page.splitlines()]
    assert ["(no", "label)", "5"] in cells and ["test", "5", "3099", "differs"] in cells
    assert ["refit", *protocol.refit_rule.split()] in cells
