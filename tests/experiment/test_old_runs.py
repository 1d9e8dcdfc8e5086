"""Run directories of November 2026 load, predict, evaluate and export as on the day they were made.

They were made from `releases.manifest_rows(speakers=3, per_label=1)` at 0.6 s. Whoever changes a
file of the run directory adds new fixtures beside these and keeps a reader for these.
"""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import releases
from commands import command, keep_models, probabilities, read_json, read_table

import ser_jax
from ser_jax.commands import command_line

RUNS = Path(__file__).parents[1] / "fixtures/runs-2026-11"
DOCUMENT = Path(__file__).parents[2] / "docs/run-directory.md"
OPENSMILE = pytest.mark.skipif(
    importlib.util.find_spec("opensmile") is None, reason="openSMILE is not installed"
)
CLOSE = {"atol": 1e-5, "rtol": 0}
SYSTEMS = [
    "plain_crnn",
    "multi_crnn",
    "end2you",
    pytest.param("hsf_crnn", marks=OPENSMILE),
    pytest.param("svm", marks=OPENSMILE),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    rows = releases.manifest_rows(speakers=3, per_label=1)
    folder = tmp_path_factory.mktemp("old") / "corpus"
    return releases.write_manifest(folder, rows, seconds=0.6).parent


@pytest.fixture
def copy(tmp_path):
    return lambda system: Path(shutil.copytree(RUNS / system, tmp_path / system))


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_model_of_a_fold_predicts_its_test_part(system, copy, corpus):
    run = copy(system)
    keep_models(run, "s0-0")  # It predicts alone.
    rows = [row for row in read_table(RUNS / system / "predictions.csv") if row["fold"] == "s0"]
    predictor = ser_jax.load(run)
    assert len(rows) == 4
    for row in rows:
        predicted = predictor.predict(corpus / f"{row['id']}.wav")
        expected = {name: float(row[f"p_{name}"]) for name in predicted.probabilities}
        assert predicted.label == row["prediction"]
        assert predicted.probabilities == pytest.approx(expected, abs=CLOSE["atol"])


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_is_scored_again(system, copy, corpus):
    run = copy(system)
    root = f"--config.corpus.root={corpus}"
    ended = command(f"--model={run}", root, name="evaluate", figures=system == "hsf_crnn")
    assert ended.code == 0, ended.err
    np.testing.assert_allclose(probabilities(run), probabilities(RUNS / system), **CLOSE)
    before, now = (read_json(folder / "results.json") for folder in (RUNS / system, run))
    assert now.keys() >= before.keys() and now["corpus_sha256"] == before["corpus_sha256"]
    for found in (before, now):  # Their intervals are made in different ways.
        del found["ua"]["ci95"], found["wa"]["ci95"]
    for key in ("ua", "wa", "confusion", "runs", "protocol_sha256", "parameters"):
        assert now[key] == before[key], key
    assert (run / "report.html").is_file()


def test_old_runs_are_compared(tmp_path, capsys):
    page = tmp_path / "compare.html"
    runs = (str(RUNS / system) for system in ("plain_crnn", "multi_crnn"))
    assert command_line.call("compare", *runs, f"--output={page}") == 0
    assert "plain_crnn − multi_crnn" in capsys.readouterr().out and page.is_file()


@pytest.mark.parametrize(
    ("system", "kind"),
    [
        ("plain_crnn", "stablehlo"),
        *((system, "safetensors") for system in ("plain_crnn", "multi_crnn", "end2you")),
        pytest.param("hsf_crnn", "safetensors", marks=OPENSMILE),
    ],
)
def test_old_runs_are_exported(system, kind, tmp_path):
    output = tmp_path / f"model.{kind}"
    flags = (f"--model={RUNS / system}", f"--output={output}", f"--format={kind}")
    assert command_line.call("export", *flags) == 0 and output.stat().st_size > 1000


def test_a_run_that_is_older_than_a_key_loads(copy, corpus):
    run = copy("plain_crnn")
    stored = read_json(run / "config.json")
    del stored["training"]["recurrence"], stored["model"]["dropout"], stored["augment"]
    (run / "config.json").write_text(json.dumps(stored))
    recording = corpus / "audio/s0/sad0.wav"
    before, now = (ser_jax.load(folder).predict(recording) for folder in (RUNS / run.name, run))
    assert now.probabilities == before.probabilities


def keys(value) -> set[str]:
    """Returns all keys within, but those of the configuration and those that are class names."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    free = {"config", "label_mapping", "recall", "class_recall"}
    inner = (keys(item) for name, item in value.items() if name not in free)
    return set(value).union(*inner)


def test_every_file_and_key_is_documented():
    documented = set(
        re.findall(r"[\w.-]+", " ".join(re.findall(r"`([^`]+)`", DOCUMENT.read_text("utf-8"))))
    )
    for path in RUNS.rglob("*.*"):
        assert path.name in documented, path.name
        if path.suffix == ".csv":
            found = {name for name in path.read_text().partition("\n")[0].split(",")}
            found = {name for name in found if not name.startswith("p_")}
        elif path.suffix in (".json", ".jsonl") and path.name != "config.json":
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found = set().union(*(keys(json.loads(line)) for line in lines))
        else:
            continue
        missing = found - {name.lstrip(".") for name in documented}
        assert not missing, (path, missing)
