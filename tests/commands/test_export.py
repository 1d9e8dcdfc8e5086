"""The export command, and the ten lines of the docs that predict without this package."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import releases
from commands import ROOT, command, files_and_times
from safetensors.numpy import load_file

import ser_jax
from ser_jax.experiment.setup import logmel_settings
from ser_jax.features.logmel import log_mel
from ser_jax.prediction.network import Values
from ser_jax.runtime import strict_json
from ser_jax.training import model_files

# What docs/export.md says is needed for each of its snippets: nothing else can be imported.
INSTALLED = re.findall(
    r"`pip install ([\w ]+)`", (ROOT / "docs/export.md").read_text(encoding="utf-8")
)


def export(*arguments: object):
    return command(*map(str, arguments), name="export")


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory) -> Path:
    """The run as one file, named as in the docs."""
    path = tmp_path_factory.mktemp("export") / "model.stablehlo"
    ended = export(f"--model={trained_run}", f"--output={path}")
    assert ended.code == 0, ended.err
    assert (
        f"the ensemble of 3 models of {trained_run} (plain_crnn, calibrated): {path}" in ended.out
    )
    return path


def ten_lines(number: int = 0) -> str:
    text = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[number]


def with_requirements(names: list[str]) -> set[str]:
    """Returns the packages and what they need, without extras."""
    found, left = set(), list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            needed = importlib.metadata.requires(name) or ()
            left += [re.split(r"[^\w.-]", one)[0] for one in needed if "extra ==" not in one]
    return found


def packages(folder: Path, snippet: int) -> Path:
    """Makes a folder in which the packages of a snippet lie as if they had been installed there."""
    for name in with_requirements(INSTALLED[snippet].split()):
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
    assert not {"ser_jax", "flax", "soundfile"} & {path.name for path in folder.iterdir()}
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    return packages(tmp_path_factory.mktemp("packages"), 0)


def python(program: str, folder: Path, packages: Path) -> str:
    alone = f"import sys; sys.path.append({str(packages)!r})\n"
    arguments = [sys.executable, "-I", "-S", "-c", alone + program]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    ended = subprocess.run(
        arguments, capture_output=True, text=True, cwd=folder, env=environment, timeout=600
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_ten_lines_of_the_docs(trained_run, exported, environment):
    program = ten_lines()
    assert len([line for line in program.splitlines() if line]) <= 10
    said = ast.literal_eval(python(program, exported.parent, environment))
    model = ser_jax.load(trained_run)
    quiet = log_mel(np.zeros(80000, np.float32), logmel_settings(model.config))
    assert list(said) == list(model.classes)
    expected = model.probabilities(Values([quiet]))[0]
    np.testing.assert_allclose(list(said.values()), expected, atol=1e-5)


def test_recordings_padded_together(trained_run, exported, environment):
    rng = np.random.default_rng(0)
    waves = [rng.uniform(-0.2, 0.2, length).astype(np.float32) for length in (3000, 16001, 40000)]
    padded = np.full((3, 40000), np.nan, np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    lengths = np.array([3000, 16001, 40000], np.int32)
    np.savez(exported.parent / "rows.npz", waves=padded, lengths=lengths)
    lines = ten_lines().splitlines()[:-2] + ["rows = np.load('rows.npz')"]
    lines.append("print(predict(weights, rows['waves'], rows['lengths']).tolist())")
    said = ast.literal_eval(python("\n".join(lines), exported.parent, environment))
    model = ser_jax.load(trained_run)
    expected = [list(model.predict(wave, 16000).probabilities.values()) for wave in waves]
    np.testing.assert_allclose(said, expected, atol=1e-5)


def test_what_the_file_says(trained_run, exported):
    metadata = json.loads(np.load(exported)["metadata.json"])
    results = json.loads((trained_run / "results.json").read_text())
    for key in ("system", "classes", "corpus", "corpus_sha256", "protocol", "protocol_sha256"):
        assert metadata[key] == results[key]
    folders = model_files.list_models(trained_run)
    described = [model_files.read_description(folder) or {} for folder in folders]
    for exported_model, model in zip(metadata["models"], described, strict=True):
        assert exported_model["temperature"] == model["temperature"]
    assert [model["name"] for model in metadata["models"]] == ["s0-0", "s1-0", "s2-0"]
    assert metadata["sample_rate"] == 16000 and metadata["functionals"] is None and metadata["jax"]


def test_safetensors_and_card_of_one_model(trained_run, tmp_path, tmp_path_factory):
    path = tmp_path / "m.safetensors"
    one = ("--format=safetensors", "--run=s1-0")
    ended = export(f"--model={trained_run}", f"--output={path}", *one)
    assert ended.code == 0, ended.err
    assert f"the model s1-0 of {trained_run}" in ended.out and str(path) in ended.out
    read, model = load_file(path), model_files.read_model(trained_run / "models/s1-0")
    assert {name.split("/")[0] for name in read} == {"s1-0"}
    assert read["s1-0/temperature"] == model.description["temperature"]
    kernel = model.params["softmax"]["kernel"]
    assert read["s1-0/params/softmax/kernel"].tobytes() == kernel.tobytes()
    assert read["s1-0/statistics/mean"].tobytes() == np.asarray(model.statistics.mean).tobytes()
    assert "one model (s1-0)" in (tmp_path / "m.safetensors.md").read_text(encoding="utf-8")
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, f"{path.name}.md"}
    check = ten_lines(2) + "print(len(arrays))"
    path.rename(tmp_path / "model.safetensors")
    alone = packages(tmp_path_factory.mktemp("packages"), 1)
    assert int(python(check, tmp_path, alone)) == len(read)


def test_the_snippets_of_the_card_run(trained_run, tmp_path, monkeypatch, capsys):
    """Beside the file and a recording, as its reader would; the models are those of the run."""
    path = tmp_path / "m.safetensors"
    ended = export(f"--model={trained_run}", f"--output={path}", "--format=safetensors")
    assert ended.code == 0, ended.err
    samples = releases.tone_like_speech(1.0, "sad", "s0", 0)
    releases.write_wav(tmp_path / "recording.wav", samples)
    monkeypatch.chdir(tmp_path)
    card = path.with_name("m.safetensors.md").read_text(encoding="utf-8")
    predicting, arrays = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {}
    exec(predicting, names)
    expected = ser_jax.load(trained_run).predict("recording.wav")
    assert names["answer"] == expected
    assert capsys.readouterr().out == f"{expected.label} {expected.probabilities}\n"
    assert repr(names["model"]).startswith("<Predictor: the ensemble of 3 models of m.safetensors")
    exec(arrays, names)
    assert names["arrays"]["s1-0/params/softmax/kernel"].dtype == np.float32
    ended = command(f"--model={path}", str(tmp_path / "recording.wav"), name="predict")
    assert ended.code == 0 and f"recording.wav  {expected.label}" in ended.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output={out}/m.stablehlo"], "--model is missing: name the run directory"),
        (["--model={run}"], "--output is missing: name the file to write, such as model.stablehlo"),
        (["--model={run}x", "--output={out}/m.stablehlo"], "x is not a run directory"),
        (
            ["--model={run}", "--output={out}/m", "--format=onnx"],
            "format=onnx is not known; choose",
        ),
        (["--model={run}", "--output={out}/m.stablehlo", "--licence=mit"], "is for the model card"),
        (
            ["--model={run}", "--output={out}/m.safetensors", "--format=safetensors"]
            + ["--licence=my own"],
            "--licence='my own': give the SPDX name",
        ),
        (["--model={run}", "--output={out}/m.bin"], "writes a file that ends in .stablehlo"),
        (["--model={run}", "--output={out}/no/m.stablehlo"], "there is no folder"),
        (
            ["--model={run}", "--output={out}/m.stablehlo", "--run=s9-0"],
            "run=s9-0: {run} holds no such model; choose one of ensemble, s0-0, s1-0, s2-0",
        ),
    ],
)
def test_refusals_leave_nothing_behind(trained_run, tmp_path, arguments, sentence):
    before = files_and_times(trained_run)
    given = (argument.format(run=trained_run, out=tmp_path) for argument in arguments)
    refusal = export(*given).refusal
    assert sentence.format(run=trained_run) in refusal
    assert not list(tmp_path.iterdir()) and files_and_times(trained_run) == before


def test_runs_that_are_not_finished_or_have_no_program_are_refused(trained_run, tmp_path):
    copy = Path(shutil.copytree(trained_run, tmp_path / "run"))
    config = json.loads((copy / "config.json").read_text())
    strict_json.write(copy / "config.json", {**config, "system": "svm"})
    weights = (f"--output={tmp_path / 'm.safetensors'}", "--format=safetensors")
    assert "is of system=svm, of which" in export(f"--model={copy}", *weights).refusal
    output = f"--output={tmp_path / 'm.stablehlo'}"
    strict_json.write(copy / "config.json", config)
    (copy / "results.json").unlink()
    assert "is not finished: it holds 3 models" in export(f"--model={copy}", output).refusal
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run"]
