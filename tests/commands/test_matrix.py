"""The matrix command, and what else runs on several corpora: doctor, training, evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
import releases
from commands import TINY, command, files_and_times, read_json, read_table, train

from ser_jax import metrics

QUICK = (*TINY, "--config.training.epochs=1", "--config.corpus.labels=anger=angry")


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> tuple[Path, Path]:
    """EMO-DB with three speakers; a list with two of them, by name."""
    folder = tmp_path_factory.mktemp("corpora")
    names = releases.emodb_names(("03", "08", "09"), emotions="WT", per_emotion=2)
    emodb = releases.write_emodb(folder / "one", names, seconds=0.4)
    rows = [
        {"file": f"{speaker}{label}{n}.wav", "label": label, "speaker": speaker}
        for speaker in ("03", "08")
        for label in ("anger", "sad", "calm")
        for n in range(3)
    ]
    return emodb, releases.write_manifest(folder / "two", rows, seconds=0.4).parent


@pytest.fixture(scope="module")
def matrix(roots, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    corpora = f"--corpora=emodb={roots[0]},manifest={roots[1]}"
    ended = command(*QUICK, corpora, f"--workdir={folder}", name="matrix", figures=True)
    assert ended.code == 0, ended.err
    assert ended.out.split()[:4] == ["trained", "on", "emodb", "manifest"]
    assert "calm (6, not in emodb)" in ended.err
    return folder


def joined(roots: tuple[Path, Path]) -> tuple[str, ...]:
    folders = ",".join(map(str, roots))
    return "--config.corpus.name=emodb+manifest", f"--config.corpus.root={folders}"


def test_cells_are_the_ua_of_the_predictions_of_each_run(matrix):
    found = read_json(matrix / "matrix.json")
    assert (found["corpora"], found["classes"]) == (["emodb", "manifest"], ["angry", "sad"])
    utterances = {"emodb": 12, "manifest": 12}
    for trained, cells in found["cells"].items():
        rows = read_table(matrix / trained / "predictions.csv")
        for tested, cell in cells.items():
            own = [row for row in rows if row["id"].startswith(f"{tested}/")]
            truth, predicted = (
                np.array([found["classes"].index(row[key]) for row in own])
                for key in ("label", "prediction")
            )
            confusion = metrics.confusion_matrix(truth, predicted, 2)
            assert cell["mean"] == pytest.approx(metrics.unweighted_accuracy(confusion))
            assert (cell["utterances"], len(own)) == (utterances[tested],) * 2
            # With other speakers of the same corpus, or with none of it.
            folds = {row["fold"] for row in own}
            assert folds == (
                {f"emodb/{n}" for n in ("03", "08", "09")} if trained == tested else {trained}
            )
    # Two speakers are too few to be left out.
    assert list(found["cells"]["manifest"]) == ["emodb"]
    page = (matrix / "matrix.html").read_text()
    assert "–" in page and "emodb" in page and "<svg" in page


def test_a_finished_matrix_is_only_read_and_another_is_refused(matrix, roots):
    before = files_and_times(matrix)
    corpora = f"--corpora=emodb={roots[0]},manifest={roots[1]}"
    ended = command(*QUICK, corpora, f"--workdir={matrix}", name="matrix")
    assert ended.code == 0, ended.err
    changed = {name for name, time in files_and_times(matrix).items() if before.get(name) != time}
    assert {Path(name).suffix for name in changed} <= {".html", ".json"} and not any(
        "models" in name for name in changed
    )
    other = "--config.training.epochs=3"
    ended = command(*QUICK, corpora, other, f"--workdir={matrix}", name="matrix")
    assert "was made with another configuration (training.epochs: 1 there, 3" in ended.refusal


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--corpora=emodb=/a",), "a matrix needs at least two corpora: --corpora=emodb="),
        (("--corpora=emodb=/a,=/b",), "write NAME=FOLDER,NAME=FOLDER"),
        (
            ("--corpora=emodb=/a,emodb=/b", "--config.protocol.name=auto2"),
            "protocol.name=auto2 and protocol.folds='': the runs of a matrix have their own",
        ),
    ],
)
def test_what_cannot_be_a_matrix_is_refused(arguments, sentence, tmp_path):
    ended = command(*arguments, f"--workdir={tmp_path / 'm'}", name="matrix")
    assert sentence in ended.refusal and not (tmp_path / "m").exists()


def test_leave_one_corpus_out_is_a_run_like_others(roots, tmp_path):
    arguments = (*QUICK[len(TINY) :], *joined(roots), "--config.protocol.name=leave-one-corpus-out")
    results = train(tmp_path / "run", *arguments, report=True)
    assert [run["fold"] for run in results["runs"]] == ["emodb", "manifest"]
    assert results["utterances"] == 24 and results["corpus"] == "emodb+manifest"
    page = (tmp_path / "run/report.html").read_text()
    assert "Recall by corpus" in page
    # Its own corpus under its own name is no other corpus.
    ended = command(
        *(f"--model={tmp_path / 'run'}", "--config.corpus.name=emodb"),
        *(f"--config.corpus.root={roots[0]}", f"--output={tmp_path / 'scores'}"),
        name="evaluate",
    )
    assert "all 12 utterances of the corpus, or their speakers, were in the training" in (
        ended.refusal
    )


def test_the_doctor_looks_into_every_folder(roots, tmp_path):
    (roots[1] / "spare.wav").write_bytes((roots[1] / "03sad0.wav").read_bytes())
    try:
        ended = command(*QUICK, *joined(roots), f"--output={tmp_path / 'found.csv'}", name="doctor")
    finally:
        (roots[1] / "spare.wav").unlink()
    assert ended.code in (0, 2), ended.err
    text = json.dumps([path.read_text() for path in tmp_path.glob("*.csv")]) + ended.out
    assert "spare.wav" in text and "labels that not all corpora" in ended.out
