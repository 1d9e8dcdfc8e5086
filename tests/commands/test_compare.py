"""The compare command: tables and a page, or one sentence for runs that cannot be compared."""

import shutil
from pathlib import Path

import pytest
import releases
import scored
from commands import Ended, command, read_json, real_command, train

from ser_jax.runtime import files


def compare(*arguments: str | Path) -> Ended:
    return command(*map(str, arguments), name="compare")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Two run directories of one protocol, with one and two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    first = scored.write_run(folder / "plain", scored.make_rows(0, seeds=(0,), skill=0.2))
    second = scored.write_run(folder / "multi", scored.make_rows(1, skill=0.8), system="multi_crnn")
    return first, second


def test_two_runs(runs, tmp_path):
    output = tmp_path / "both.html"
    ended = compare(*runs, f"--output={output}")
    assert (ended.code, ended.err) == (0, "")
    for folder in runs:
        results = read_json(folder / "results.json")
        lines = [line for line in ended.out.splitlines() if "−" not in line]
        (line,) = (line for line in lines if line.startswith(f"  {folder.name} "))
        assert f"{100 * results['ua']['mean']:.1f}" in line and results["system"] in line
    for part in ("plain − multi", "Holm p", "all 64 swaps of 6 speakers"):
        assert part in ended.out
    assert ended.out.endswith(f"  page    {output}\n")
    assert "plain − multi" in output.read_text("utf-8")


def test_as_a_user_runs_it_the_page_goes_to_the_current_folder(runs, tmp_path, monkeypatch):
    """No output is named, and nothing is imported that takes long to load."""
    monkeypatch.setattr("commands.ROOT", tmp_path)
    root = Path(__file__).resolve().parents[2]
    ended = real_command(*map(str, runs), name="compare", PYTHONPATH=str(root))
    assert (ended.code, ended.err) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["compare.html"]


def test_different_protocols_are_told_apart(runs, tmp_path):
    mine = {"protocol": "mine", "protocol_sha256": "facade" * 10}
    other = scored.write_run(tmp_path / "other", scored.make_rows(2), **mine)
    ended = compare(runs[0], f"--output={tmp_path / 'c.html'}", runs[1], other)
    assert ended.code == 0
    protocols = "demo-speaker decadedecade… / mine facadefacade…"
    warning = f"not comparable: different protocols ({protocols})"
    assert f"warning: {warning}" in ended.out
    assert warning in (tmp_path / "c.html").read_text("utf-8")
    assert ended.out.count(" − ") == 2, "the heading's and the one pair's"


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_runs_are_refused(runs, count):
    sentence = f"name at least 2 run directories, not {count}: ser-jax compare runs/a runs/b"
    assert compare(*runs[:count]).refusal == sentence


def test_a_mistyped_folder_is_refused_before_anything_is_written(runs, tmp_path):
    sentence = compare(runs[0], tmp_path / "mulit", f"--output={tmp_path / 'c.html'}").refusal
    assert f"{tmp_path / 'mulit'} is not a finished run: there is no results.json" in sentence
    assert not (tmp_path / "c.html").exists()


def test_another_schema_is_refused_with_both(runs, tmp_path):
    copy = Path(shutil.copytree(runs[0], tmp_path / "copy"))
    files.write_json(copy / "results.json", read_json(copy / "results.json") | {"schema": 7})
    assert "has schema 7, this version reads schema 1" in compare(runs[1], copy).refusal


def test_other_utterances_under_the_same_protocol_are_refused(runs, tmp_path):
    rows = [row for row in scored.make_rows(3) if row.fold != "f0"]
    sentence = compare(runs[0], scored.write_run(tmp_path / "part", rows)).refusal
    assert "plain was tested on 54 utterances, part on 45" in sentence


def test_trained_runs_can_be_compared(tmp_path):
    """What the train command writes is what the compare command reads."""
    rows = releases.manifest_rows(speakers=3)
    root = releases.write_manifest(tmp_path / "corpus", rows, seconds=0.4).parent
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={root}")
    small = (*corpus, "--config.training.epochs=1")
    train(tmp_path / "one", *small)
    train(tmp_path / "other", *small, "--config.protocol.seed=5", "--config.protocol.seeds=2")
    ended = compare(tmp_path / "one", tmp_path / "other", f"--output={tmp_path / 'c.html'}")
    assert ended.code == 0, ended.err
    assert "one − other" in ended.out and "not comparable" not in ended.out
    assert "differences: by utterance, too optimistic" in ended.out
