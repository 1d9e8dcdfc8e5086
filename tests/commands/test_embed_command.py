"""`ser-jax embed`, and predictions by the model that made the embeddings of the training."""

import importlib.util
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import releases
import tiny_onnx
import web_servers
from commands import SLOW, command, files_and_times, read_json, read_table, train

import ser_jax
from ser_jax.features import audio, embedder
from ser_jax.runtime.errors import UserError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"
)
LAYERS = "--outputs=frames,rectified"
FOLD = "--config.protocol.folds=s0"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[str, str]:
    rows = releases.manifest_rows(speakers=3, per_label=2)
    folder = tmp_path_factory.mktemp("embed") / "corpus"
    root = releases.write_manifest(folder, rows, seconds=0.6).parent
    return "--config.corpus.name=manifest", f"--config.corpus.root={root}"


def root_of(corpus) -> Path:
    return Path(corpus[1].partition("=")[2])


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory) -> tuple[Path, Path]:
    """The model and a folder of embeddings by it, two layers each."""
    folder = tmp_path_factory.mktemp("made")
    model = tiny_onnx.write(folder / "tiny.onnx")
    ended = command(f"--model={model}", f"--output={folder / 'out'}", LAYERS, *corpus, name="embed")
    assert ended.code == 0, ended.err
    assert ended.out == f"24 embeddings in {folder / 'out'}, 24 of them new\n"
    return model, folder / "out"


@pytest.fixture(scope="module")
def run(corpus, made, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run") / "run"
    level = "--config.features.embeddings_level=layers"
    system = ("--config.system=probe", "--config.model.probe_pooling=mean", level)
    train(workdir, *corpus, FOLD, *system, f"--config.features.embeddings={made[1]}")
    return workdir


def samples_of(path: Path) -> np.ndarray:
    return np.round(audio.decode(path, max_seconds=9).samples * 32768).astype(np.float32) / 32768


def test_arrays_are_what_the_model_computes_of_each_recording(corpus, made):
    root = root_of(corpus)
    for row in read_table(root / "manifest.csv"):
        found = np.load(made[1] / row["file"].replace(".wav", ".npy"))
        frames = tiny_onnx.frames(samples_of(root / row["file"]))
        np.testing.assert_allclose(found, [frames, np.abs(frames)], atol=1e-4)
    facts = read_json(made[1] / "embedder.json")
    assert facts["sha256"] == embedder.digest(made[0]) and facts["outputs"] == LAYERS[10:].split(
        ","
    )


def test_it_goes_on_and_makes_only_what_is_missing(corpus, made):
    model, folder = made
    before = files_and_times(folder)
    gone = sorted(folder.rglob("*.npy"))[3]
    gone.unlink()
    ended = command(f"--model={model}", f"--output={folder}", LAYERS, *corpus, name="embed")
    assert ended.code == 0 and "24 embeddings" in ended.out and ", 1 of them new" in ended.out
    changed = {name for name, time in files_and_times(folder).items() if before[name] != time}
    assert changed == {gone.relative_to(folder).as_posix(), "embedder.json", "rejected.csv"}


def test_other_embeddings_are_not_mixed_with_these(corpus, made, tmp_path):
    other = tiny_onnx.write(tmp_path / "other.onnx", seed=1)
    for options, differs in (
        ((f"--model={other}", LAYERS), "(model, sha256)"),
        ((f"--model={made[0]}", "--outputs=pooled"), "(outputs)"),
        ((f"--model={made[0]}", LAYERS, "--normalise"), "(normalise)"),
        ((f"--model={made[0]}", LAYERS, "--config.features.level=rms"), "(samples)"),
    ):
        refused = command(*options, f"--output={made[1]}", *corpus, name="embed").refusal
        assert f"made otherwise {differs}: name another" in refused
    full = root_of(corpus)
    refused = command(f"--model={other}", LAYERS, f"--output={full}", *corpus, name="embed").refusal
    assert "is not empty and holds no embeddings" in refused


def test_recordings_are_predicted_by_the_same_model(corpus, made, run, tmp_path):
    model = read_json(run / "models/s0-0/model.json")["embeddings"]
    assert model["embedder"]["sha256"] == embedder.digest(made[0]) and model["layers"] == 2
    files, expected = scored(corpus, run)
    flags = (f"--model={run}", f"--embedder={made[0]}", f"--output={tmp_path / 'table.csv'}")
    for more in ((), ("--no_store",)):
        assert command(*flags, *more, *files, name="predict").code == 0
        table = read_table(tmp_path / "table.csv")
        got = [[float(row[key]) for key in row if key.startswith("p_")] for row in table]
        np.testing.assert_allclose(got, expected, atol=1e-5)
    output = tmp_path / "timeline.csv"
    ended = command(*flags[:2], "--timeline", "--window=0.3", "--hop=0.1", f"--output={output}",
                    files[0], name="predict")  # fmt: skip
    assert ended.code == 0, ended.err
    assert len(read_table(output)) >= 3
    predictor = ser_jax.load(run, embedder=made[0])
    answer = predictor.predict(samples_of(Path(files[0])), rate=16000)
    np.testing.assert_allclose(list(answer.probabilities.values()), expected[0], atol=1e-5)


def scored(corpus, run) -> tuple[list[str], list[list[float]]]:
    """The files of the run's test part, and their probabilities in its table."""
    rows = read_table(run / "predictions.csv")
    files = [str(root_of(corpus) / f"{row['id']}.wav") for row in rows]
    return files, [[float(row[key]) for key in row if key.startswith("p_")] for row in rows]


def test_served_models_embed_uploads(corpus, made, run, tmp_path):
    (file, *_), (expected, *_) = scored(corpus, run)
    with web_servers.started(run, tmp_path, f"--embedder={made[0]}") as (_, url):
        live = httpx.get(f"{url}/api/model").json()
        answer = httpx.post(
            f"{url}/api/predict", files={"file": Path(file).read_bytes()}, timeout=SLOW
        ).json()
    np.testing.assert_allclose(list(answer["probabilities"].values()), expected, atol=1e-5)
    assert not live["live"] and "needs the whole utterance" in live["live_reason"]
    refused = command(f"--model={run}", "--port=0", name="serve").refusal
    assert "reads embeddings of another model: name the file that made them" in refused


def test_changed_recordings_are_embedded(corpus, made, run, tmp_path):
    """The answers to unchanged recordings are those of the run's own table."""
    output = tmp_path / "stress"
    flags = (f"--model={run}", f"--embedder={made[0]}", f"--output={output}")
    ended = command(*flags, name="stress")
    assert ended.code == 0, ended.err
    found = read_json(output / "stress.json")
    unchanged = found["changes"][0]
    scores = read_json(run / "results.json")["ua"]["mean"]
    assert unchanged["ua"] == pytest.approx(scores) and found["recordings"] == 8
    assert any(row["stays"] < 1 for row in found["changes"])


def test_workers_on_ray_embed(corpus, made, run, tmp_path):
    pytest.importorskip("ray")
    files, expected = scored(corpus, run)
    table = tmp_path / "table.csv"
    flags = (f"--model={run}", "--engine=ray", f"--output={table}", *files)
    refused = command(*flags, name="predict").refusal
    assert "with --engine=ray name the file that made them, --embedder=FILE.onnx" in refused
    refused = command(*flags, f"--embeddings={made[1]}", name="predict").refusal
    assert "--embeddings is for this machine alone: leave out that or --engine=ray" in refused
    ended = command(*flags, f"--embedder={made[0]}", name="predict")
    assert ended.code == 0, ended.err
    got = [[float(row[key]) for key in row if key.startswith("p_")] for row in read_table(table)]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_stream_of_models_that_need_whole_recordings_says_what_there_is(run):
    """It advises no --embedder, which would not help."""
    refused = command(f"--model={run}", name="stream").refusal
    assert refused.startswith("probe needs the whole utterance and cannot follow a stream; score")


def test_another_model_is_refused(made, run, tmp_path):
    other = tiny_onnx.write(tmp_path / "tiny.onnx", seed=1)
    with pytest.raises(UserError, match="is another model .* than the one that made the"):
        ser_jax.load(run, embedder=other)
    (other.parent / f"{other.name}.data").write_bytes(b"weights")
    tiny_onnx.write(other)
    with pytest.raises(UserError, match="is another model"):  # Its weights beside it are others.
        ser_jax.load(run, embedder=other)
    with pytest.raises(UserError, match="does not exist; name an ONNX file"):
        ser_jax.load(run, embedder=tmp_path / "nothing.onnx")


def test_training_takes_recordings_as_they_were_embedded(corpus, made, tmp_path):
    refused = command(
        *(*corpus, "--config.system=probe", "--config.features.embeddings_level=layers"),
        *(f"--config.features.embeddings={made[1]}", "--config.features.level=rms"),
        f"--workdir={tmp_path / 'run'}",
    ).refusal
    assert "was made of recordings with {}, and the configuration has {'level': 'rms'}" in refused


@pytest.mark.parametrize("rows", ["rows", 1])
def test_rows_of_one_length_are_computed_together(rows, tmp_path):
    network = embedder.Embedder(tiny_onnx.write(tmp_path / "m.onnx", rows=rows), ["pooled"])
    assert network.rows == (16 if rows == "rows" else 1)
    wave = np.random.default_rng(0).uniform(-1, 1, 1600).astype(np.float32)
    waves = [wave, wave[::-1].copy()][: network.rows]
    for found, one in zip(network(waves), waves, strict=True):
        np.testing.assert_allclose(found, tiny_onnx.frames(one).mean(0), atol=1e-4)


def test_waves_are_normalised_when_asked_for(tmp_path):
    model = tiny_onnx.write(tmp_path / "m.onnx")
    wave = np.random.default_rng(0).uniform(0, 0.1, 1600).astype(np.float32)
    (found,) = embedder.Embedder(model, ["frames"], normalise=True)([wave])
    expected = tiny_onnx.frames((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_what_cannot_be_run_says_why(tmp_path, monkeypatch):
    model = tiny_onnx.write(tmp_path / "m.onnx")
    for outputs in ([], ["nothing"], ["frames", "nothing.*"]):
        with pytest.raises(UserError, match="has the outputs frames, rectified, pooled: name one"):
            embedder.Embedder(model, outputs)
    (tmp_path / "bad.onnx").write_text("no model")
    with pytest.raises(UserError, match="bad.onnx is no ONNX model that can be run"):
        embedder.Embedder(tmp_path / "bad.onnx")
    with pytest.raises(UserError, match="fails on 0.01 s of speech"):
        embedder.Embedder(model, ["frames"])([np.zeros(160, np.float32)])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ser_jax\[onnx\]'"):
        embedder.Embedder(model)


def test_model_and_output_must_be_named():
    assert "--model is missing" in command("--output=x", name="embed").refusal
