"""The compare command: tables and a page for runs that may be compared, one sentence for those that may not."""

import shutil
from pathlib import Path

import pytest
import releases
import scored
from commands import Ended, command, read_json, real_command, train

from ser_jax import atomic


def compare(*arguments: str | Path) -> Ended:
    return command(*map(str, arguments), module="ser_jax.compare")


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
        (line,) = [line for line in ended.out.splitlines() if line.startswith(f"  {folder.name} ") and "−" not in line]
        assert f"{100 * results['ua']['mean']:.1f}" in line and results["system"] in line
    assert "plain − multi" in ended.out and "Holm p" in ended.out and "all 64 swaps of 6 speakers" in ended.out
    assert ended.out.endswith(f"  page    {output}\n")
    assert "plain − multi" in output.read_text("utf-8")


def test_flags_may_stand_anywhere(runs, tmp_path):
    ended = compare(runs[0], f"--output={tmp_path / 'c.html'}", runs[1])
    assert ended.code == 0 and (tmp_path / "c.html").is_file()


def test_as_a_user_runs_it_the_page_goes_to_the_current_folder(runs, tmp_path, monkeypatch):
    """No output is named, and nothing is imported that takes long to load."""
    monkeypatch.setattr("commands.ROOT", tmp_path)
    root = Path(__file__).resolve().parents[1]
    ended = real_command(*map(str, runs), module="ser_jax.compare", PYTHONPATH=str(root))
    assert (ended.code, ended.err) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["compare.html"]


def test_different_protocols_are_told_apart(runs, tmp_path):
    other = scored.write_run(tmp_path / "other", scored.make_rows(2), protocol="mine", protocol_sha256="facade" * 10)
    ended = compare(*runs, other, f"--output={tmp_path / 'c.html'}")
    assert ended.code == 0
    warning = "not comparable: different protocols (demo-speaker decadedecade… / mine facadefacade…)"
    assert f"warning: {warning}" in ended.out and warning in (tmp_path / "c.html").read_text("utf-8")
    assert ended.out.count(" − ") == 2, "the heading's and the one pair's"


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_runs_are_refused(runs, count):
    assert compare(*runs[:count]).refusal == (
        f"name at least 2 run directories, not {count}: python -m ser_jax.compare runs/a runs/b"
    )


def test_a_mistyped_folder_is_refused_before_anything_is_written(runs, tmp_path):
    sentence = compare(runs[0], tmp_path / "mulit", f"--output={tmp_path / 'c.html'}").refusal
    assert f"{tmp_path / 'mulit'} is not a finished run: there is no results.json" in sentence
    assert not (tmp_path / "c.html").exists()


def test_a_mistyped_flag_is_refused(runs):
    assert compare(*runs, "--outptu=x.html").refusal == "unknown flag --outptu; --help lists the flags"


def test_another_schema_is_refused_with_both(runs, tmp_path):
    copy = Path(shutil.copytree(runs[0], tmp_path / "copy"))
    atomic.write_json(copy / "results.json", read_json(copy / "results.json") | {"schema": 7})
    assert "has schema 7, this version reads schema 1" in compare(runs[1], copy).refusal


def test_other_utterances_under_the_same_protocol_are_refused(runs, tmp_path):
    part = scored.write_run(tmp_path / "part", [row for row in scored.make_rows(3) if row.fold != "f0"])
    sentence = compare(runs[0], part).refusal
    assert "plain was tested on 54 utterances, part on 45" in sentence


def test_trained_runs_can_be_compared(tmp_path):
    """What the train command writes is what the compare command reads."""
    root = releases.write_manifest(tmp_path / "corpus", releases.manifest_rows(speakers=3), seconds=0.4).parent
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={root}", "--config.training.epochs=1")
    train(tmp_path / "one", *corpus)
    train(tmp_path / "other", *corpus, "--config.protocol.seed=5", "--config.protocol.seeds=2")
    ended = compare(tmp_path / "one", tmp_path / "other", f"--output={tmp_path / 'c.html'}")
    assert ended.code == 0, ended.err
    assert "one − other" in ended.out and "not comparable" not in ended.out
    assert "differences: by utterance, too optimistic" in ended.out
