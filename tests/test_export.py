"""The command, and the ten lines of the docs: a file that gives, without this package, what `predict` gives."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, command, files_and_times
from safetensors.numpy import load_file

import ser_jax
from ser_jax.features.logmel import log_mel
from ser_jax.machinery import logmel_settings
from ser_jax.prediction.network import Values
from ser_jax.training import model_files

# Reading the file needs jax and NumPy alone: neither this package nor what it is made with can be imported.
ABSENT = (
    "ser_jax",
    "flax",
    "optax",
    "orbax",
    "absl",
    "ml_collections",
    "scipy.signal",
    "soundfile",
    "soxr",
    "opensmile",
)
ALONE = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"


def export(*arguments: object):
    return command(*map(str, arguments), module="ser_jax.export")


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory) -> Path:
    """The run as one file, named as in the docs."""
    path = tmp_path_factory.mktemp("export") / "model.stablehlo"
    ended = export(f"--model={trained_run}", f"--output={path}")
    assert ended.code == 0, ended.err
    assert f"the ensemble of 3 models of {trained_run} (plain_crnn, calibrated): {path}" in ended.out
    return path


def ten_lines() -> str:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(encoding="utf-8"), re.DOTALL)[0]


def python(program: str, folder: Path) -> str:
    arguments = [sys.executable, "-c", ALONE + program]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    ended = subprocess.run(arguments, capture_output=True, text=True, cwd=folder, env=environment, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_ten_lines_of_the_docs(trained_run, exported):
    program = ten_lines()
    assert len([line for line in program.splitlines() if line]) <= 10
    said = ast.literal_eval(python(program, exported.parent))
    model = ser_jax.load(trained_run)
    quiet = log_mel(np.zeros(80000, np.float32), logmel_settings(model.config))
    assert list(said) == list(model.classes)
    np.testing.assert_allclose(list(said.values()), model.probabilities(Values([quiet]))[0], atol=1e-5)


def test_recordings_padded_together(trained_run, exported):
    rng = np.random.default_rng(0)
    waves = [rng.uniform(-0.2, 0.2, length).astype(np.float32) for length in (3000, 16001, 40000)]
    padded = np.full((3, 40000), np.nan, np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    np.savez(exported.parent / "rows.npz", waves=padded, lengths=np.array([3000, 16001, 40000], np.int32))
    lines = ten_lines().splitlines()[:-2]
    lines.append("rows = np.load('rows.npz'); print(predict(weights, rows['waves'], rows['lengths']).tolist())")
    said = ast.literal_eval(python("\n".join(lines), exported.parent))
    model = ser_jax.load(trained_run)
    expected = [list(model.predict(wave, 16000).probabilities.values()) for wave in waves]
    np.testing.assert_allclose(said, expected, atol=1e-5)


def test_what_the_file_says(trained_run, exported):
    metadata = json.loads(np.load(exported)["metadata.json"])
    results = json.loads((trained_run / "results.json").read_text())
    for key in ("system", "classes", "corpus", "corpus_sha256", "protocol", "protocol_sha256"):
        assert metadata[key] == results[key]
    described = [model_files.read_description(folder) for folder in model_files.list_models(trained_run)]
    assert [model["temperature"] for model in metadata["models"]] == [
        model and model["temperature"] for model in described
    ]
    assert [model["name"] for model in metadata["models"]] == ["s0-0", "s1-0", "s2-0"]
    assert metadata["sample_rate"] == 16000 and metadata["functionals"] is None and metadata["jax"]


def test_safetensors_and_card_of_one_model(trained_run, tmp_path):
    path = tmp_path / "m.safetensors"
    ended = export(f"--model={trained_run}", f"--output={path}", "--format=safetensors", "--run=s1-0")
    assert ended.code == 0, ended.err
    assert f"the model s1-0 of {trained_run}" in ended.out and str(path) in ended.out
    read, model = load_file(path), model_files.read_model(trained_run / "models/s1-0")
    assert {name.split("/")[0] for name in read} == {"s1-0"}
    assert read["s1-0/temperature"] == model.description["temperature"]
    assert read["s1-0/params/softmax/kernel"].tobytes() == model.params["softmax"]["kernel"].tobytes()
    assert read["s1-0/statistics/mean"].tobytes() == np.asarray(model.statistics.mean).tobytes()
    assert "one model (s1-0)" in (tmp_path / "m.safetensors.md").read_text(encoding="utf-8")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.safetensors", "m.safetensors.md"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output={out}/m.stablehlo"], "--model is missing: name the run directory"),
        (["--model={run}"], "--output is missing: name the file to write, such as model.stablehlo"),
        (["--model={run}x", "--output={out}/m.stablehlo"], "x is not a run directory"),
        (["--model={run}", "--output={out}/m.onnx", "--format=onnx"], "format=onnx is not known; choose one of"),
        (["--model={run}", "--output={out}/m.bin"], "writes a file that ends in .stablehlo"),
        (["--model={run}", "--output={out}/no/m.stablehlo"], "there is no folder"),
        (
            ["--model={run}", "--output={out}/m.stablehlo", "--run=s9-0"],
            "run=s9-0: {run} holds no such model; choose one of ensemble, s0-0, s1-0, s2-0",
        ),
        (["--model={run}", "--output={out}/m.stablehlo", "--run=final"], "choose one of ensemble, s0-0"),
        (["--modle={run}", "--output={out}/m.stablehlo"], "unknown flag --modle; --help lists the flags"),
    ],
)
def test_what_it_cannot_do_it_says_and_leaves_nothing_behind(trained_run, tmp_path, arguments, sentence):
    before = files_and_times(trained_run)
    refusal = export(*(argument.format(run=trained_run, out=tmp_path) for argument in arguments)).refusal
    assert sentence.format(run=trained_run) in refusal
    assert not list(tmp_path.iterdir()) and files_and_times(trained_run) == before


def test_runs_that_are_not_finished_or_have_no_program_are_refused(trained_run, tmp_path):
    copy = Path(shutil.copytree(trained_run, tmp_path / "run"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "system": "svm"}))
    output = f"--output={tmp_path / 'm.stablehlo'}"
    assert "is an SVM, which has no export" in export(f"--model={copy}", output).refusal
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "results.json").unlink()
    assert "is not finished: it holds 3 models" in export(f"--model={copy}", output).refusal
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run"]
