"""Runs on embeddings of another model, from the commands to their files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import releases
from commands import (
    TINY,
    Started,
    command,
    files_and_times,
    probabilities,
    read_json,
    read_table,
    train,
)

import ser_jax

DENSE = tuple(f"--config.model.{name}=(8,)" for name in ("hsf_crnn_dense", "hsf_dense", "hsf_head"))
ONE_FOLD = "--config.protocol.folds=s0"
WIDTH = 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    rows = releases.manifest_rows(speakers=3, per_label=2)
    folder = tmp_path_factory.mktemp("embedded") / "corpus"
    return releases.write_manifest(folder, rows, seconds=0.6).parent


def ids_of(corpus: Path) -> list[tuple[str, str]]:
    """File and label of every recording."""
    rows = read_table(corpus / "manifest.csv")
    return [(row["file"], row["label"]) for row in rows]


def write(corpus: Path, folder: Path, shape=(WIDTH,), scale=1.0) -> Path:
    """One array per recording, whose values tell its label."""
    labels = sorted({label for _, label in ids_of(corpus)})
    for number, (file, label) in enumerate(ids_of(corpus)):
        frames = 3 + number % 3
        size = tuple(frames if side == "T" else side for side in shape)
        values = np.random.default_rng(number).normal(size=size)
        values[..., labels.index(label)] += 3 * scale
        path = folder / f"{file.removesuffix('.wav')}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values.astype(np.float32))
    return folder


KINDS = {
    "hsf_crnn": ("utterance", (WIDTH,), DENSE),
    "svm": ("utterance", (WIDTH,), ("--config.svm.workers=1",)),
    "statistics": ("frame", ("T", WIDTH), ()),
    "mean": ("layers", (3, "T", WIDTH), ()),
    "lstm": ("layers", (3, "T", WIDTH), ()),
}


def arguments(kind: str, corpus: Path, folder: Path) -> tuple[str, ...]:
    level, _, more = KINDS[kind]
    system = kind if kind in ("hsf_crnn", "svm") else "probe"
    pooling = () if system == kind else (f"--config.model.probe_pooling={kind}",)
    return (
        *("--config.corpus.name=manifest", f"--config.corpus.root={corpus}", ONE_FOLD),
        f"--config.system={system}",
        f"--config.features.embeddings={folder}",
        f"--config.features.embeddings_level={level}",
        *(*pooling, *more),
    )


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """Makes the run of a kind and its embeddings, once."""
    root, made = tmp_path_factory.mktemp("runs"), {}

    def make(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            folder = write(corpus, root / f"{kind}-embeddings", KINDS[kind][1])
            train(root / kind, *arguments(kind, corpus, folder))
            made[kind] = root / kind, folder
        return made[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_trained_recorded_and_predicts_with_embeddings_that_are_brought(
    kind, runs, corpus, tmp_path
):
    run, folder = runs(kind)
    level, shape, _ = KINDS[kind]
    facts = read_json(run / "protocol.json")["embeddings"]
    assert facts["level"] == level and facts["width"] == WIDTH and facts["embedder"] is None
    assert facts["layers"] == (3 if len(shape) == 3 else 1)
    assert read_json(run / "results.json")["embeddings"] == facts
    assert read_json(run / "models/s0-0/model.json")["embeddings"] == facts
    rows = read_table(run / "predictions.csv")
    files = [str(corpus / f"{row['id']}.wav") for row in rows]
    output = tmp_path / "table.csv"
    for options in ((), ("--no_store",)):
        ended = command(
            f"--model={run}", f"--embeddings={folder}", f"--output={output}", *options, *files,
            name="predict",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        table = read_table(output)
        for name in (key for key in rows[0] if key.startswith("p_")):
            got, expected = ([float(row[name]) for row in part] for part in (table, rows))
            np.testing.assert_allclose(got, expected, atol=1e-5)
    assert (
        "reads embeddings of another model: name the file"
        in command(f"--model={run}", files[0], name="predict").refusal
    )
    refused = command(f"--model={run}", f"--embeddings={folder}", "--timeline", files[0],
                      name="predict").refusal  # fmt: skip
    assert "--embedder=FILE.onnx" in refused


def test_they_stand_behind_the_functionals(corpus, tmp_path):
    pytest.importorskip("opensmile")
    folder = write(corpus, tmp_path / "embeddings")
    both = (*arguments("hsf_crnn", corpus, folder), "--config.features.embeddings_beside=true")
    train(tmp_path / "run", *both)
    with np.load(tmp_path / "run/models/s0-0/model.npz") as arrays:
        assert arrays["statistics/hsf_mean"].shape == (6373 + WIDTH,)
        assert arrays["params/hsf_dense/Dense_0/kernel"].shape == (6373 + WIDTH, 8)
    file = str(corpus / ids_of(corpus)[0][0])
    predictor = ser_jax.load(tmp_path / "run", embeddings=folder)
    assert sum(predictor.predict(file).probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["hsf_crnn", "statistics", "mean"])
def test_streamed_training_gives_the_same_bits(kind, runs, corpus, tmp_path):
    run, folder = runs(kind)
    train(
        tmp_path / "run",
        *arguments(kind, corpus, folder),
        "--config.training.residence=streamed",
        f"--config.features.shards={tmp_path / 'shards'}",
    )
    assert len(list(tmp_path.glob("shards/*/index.json"))) == 1, "it was streamed"
    name = "models/s0-0/model.npz"
    assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def test_another_content_is_refused_and_another_place_is_not(runs, corpus, tmp_path):
    run, folder = runs("mean")
    started = Path(shutil.copytree(run, tmp_path / "run"))
    for name in ("results.json", "models/s0-0/model.json"):
        (started / name).unlink()
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    changed = write(corpus, tmp_path / "changed", KINDS["mean"][1], scale=2)
    refused = command(*TINY, *arguments("mean", corpus, changed), f"--workdir={started}").refusal
    assert "was started with other embeddings" in refused
    without = [f"--config.corpus.root={corpus}", "--config.corpus.name=manifest", ONE_FOLD]
    svm = Path(shutil.copytree(runs("svm")[0], tmp_path / "svm"))
    (svm / "results.json").unlink()
    ended = command(*TINY, *without, "--config.system=svm", "--config.svm.workers=1",
                    f"--workdir={svm}")  # fmt: skip
    assert ended.code == 2
    train(started, *arguments("mean", corpus, moved))
    assert (started / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()


def test_a_killed_training_goes_on(runs, corpus, tmp_path):
    run, folder = runs("statistics")
    options = (
        *(*TINY, "--noreport", *arguments("statistics", corpus, folder)),
        f"--workdir={tmp_path / 'run'}",
        "--config.training.checkpoint_seconds=0",
    )
    started = Started(*options)
    while not list((tmp_path / "run").glob("checkpoints/*")) and started.running:
        started.ends_within(0.05)
    if started.running:
        started.send(9)
    started.wait()
    assert command(*options).code == 0
    name = "models/s0-0/model.npz"
    assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def test_dropped_utterances_are_recorded_and_the_protocol_is_modified(runs, corpus, tmp_path):
    _, folder = runs("svm")
    less = Path(shutil.copytree(folder, tmp_path / "less"))
    file = ids_of(corpus)[0][0]
    (less / f"{file.removesuffix('.wav')}.npy").unlink()
    options = arguments("svm", corpus, less)
    refused = command(*TINY, *options, f"--workdir={tmp_path / 'run'}").refusal
    assert f"1 have none: {file.removesuffix('.wav')}; " in refused
    assert "features.embeddings_missing=drop" in refused
    results = train(tmp_path / "run", *options, "--config.features.embeddings_missing=drop",
                    "--config.features.max_bad_share=0.1")  # fmt: skip
    assert results["protocol"].endswith("+modified")
    rejected = read_table(tmp_path / "run/rejected.csv")
    assert [(row["file"], row["reason"]) for row in rejected] == [(file, "no embedding")]
    assert len(read_json(tmp_path / "run/protocol.json")["utterances"]) == len(ids_of(corpus)) - 1


@pytest.mark.parametrize("kind", ["hsf_crnn", "mean"])
def test_both_exports_give_the_shares_of_the_run(kind, runs, corpus, tmp_path):
    run, folder = runs(kind)
    row = read_table(run / "predictions.csv")[0]
    file = corpus / f"{row['id']}.wav"
    expected = [float(row[key]) for key in row if key.startswith("p_")]
    weights, program = tmp_path / "m.safetensors", tmp_path / "m.stablehlo"
    for path, kind_of in ((weights, "safetensors"), (program, "stablehlo")):
        ended = command(f"--model={run}", f"--output={path}", f"--format={kind_of}", name="export")
        assert ended.code == 0, ended.err
    answer = ser_jax.load(weights, embeddings=folder).predict(file)
    np.testing.assert_allclose(list(answer.probabilities.values()), expected, atol=1e-5)
    assert "embeddings may extend to this model" in (tmp_path / "m.safetensors.md").read_text()
    from jax import export

    with np.load(program) as archive:
        metadata = json.loads(archive["metadata.json"])
        called = export.deserialize(bytearray(archive["program"])).call
        arrays = {name: archive[name] for name in metadata["weights"]}
    embedding = np.load(folder / f"{row['id']}.npy")
    if kind == "mean":
        assert metadata["inputs"] == [f"embeddings [rows, frames, 3, {WIDTH}] f32",
                                      "lengths [rows] i32"]  # fmt: skip
        frames = np.swapaxes(embedding, 0, 1)[None]
        got = called(arrays, frames, np.array([frames.shape[1]], np.int32))
    else:
        from ser_jax.features import audio

        samples = audio.decode(file, max_seconds=9).samples
        assert metadata["inputs"][2] == f"embeddings [rows, {WIDTH}] f32"
        got = called(arrays, samples[None], np.array([len(samples)], np.int32), embedding[None])
    np.testing.assert_allclose(np.asarray(got)[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("system=plain_crnn",), "probe, svm, fusion, not for plain_crnn: leave it out"),
        (("system=probe", "features.embeddings="), "system=probe reads embeddings: name"),
        (("system=svm", "features.embeddings_level=frame"), "reads one vector per utterance"),
        (
            ("system=svm", "features.embeddings_level=word"),
            "choose one of utterance, frame, layers",
        ),
        (("system=probe", "model.probe_pooling=max"), "choose one of mean, statistics, lstm"),
        (("system=probe", "model.form=literal"), "the probe needs model.form=fast"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_done(options, sentence, runs, tmp_path):
    _, folder = runs("svm")
    flags = (f"--config.{option}" for option in options)
    before = files_and_times(tmp_path)
    refused = command(
        f"--config.features.embeddings={folder}", *flags, f"--workdir={tmp_path / 'run'}"
    ).refusal
    assert sentence in refused and files_and_times(tmp_path) == before


def test_files_that_are_not_there_are_refused(corpus, tmp_path):
    options = arguments("svm", corpus, tmp_path / "nothing")
    refused = command(*options, f"--workdir={tmp_path / 'run'}").refusal
    assert "nothing does not exist; name a folder" in refused


def test_the_labels_are_learnt(runs):
    results = read_json(runs("svm")[0] / "results.json")
    assert results["ua"]["mean"] > 0.6 and len(probabilities(runs("svm")[0])) == 8


def test_another_corpus_is_scored_with_its_own_embeddings(runs, tmp_path):
    run, folder = runs("svm")
    rows = releases.manifest_rows(speakers=5, per_label=1)
    other = releases.write_manifest(tmp_path / "other", rows, seconds=0.5).parent
    flags = (f"--model={run}", "--config.corpus.name=manifest", f"--config.corpus.root={other}",
             f"--output={tmp_path / 'scores'}")  # fmt: skip
    assert "name those of the other corpus" in command(*flags, name="evaluate").refusal
    wide = write(other, tmp_path / "wide", (WIDTH + 1,))
    refused = command(*flags, f"--config.features.embeddings={wide}", name="evaluate").refusal
    assert f"of {WIDTH + 1} values, the models read {WIDTH} values" in refused
    made = write(other, tmp_path / "made")
    ended = command(*flags, f"--config.features.embeddings={made}", name="evaluate")
    assert ended.code == 0, ended.err
    facts = read_json(tmp_path / "scores/results.json")["embeddings"]
    assert facts["width"] == WIDTH and facts["sha256"] != read_json(run / "results.json")[
        "embeddings"]["sha256"]  # fmt: skip


@pytest.mark.parametrize("kind", ["hsf_crnn", "mean"])
def test_training_starts_from_models_that_read_embeddings_of_the_same_kind(kind, runs, tmp_path):
    run, _ = runs(kind)
    rows = releases.manifest_rows(speakers=3, per_label=1)
    other = releases.write_manifest(tmp_path / "other", rows, seconds=0.5).parent
    *shape, width = KINDS[kind][1]
    wide = write(other, tmp_path / "wide", (*shape, width + 1))
    options = (f"--config.training.init_from={run}", f"--workdir={tmp_path / 'run'}")
    refused = command(*TINY, *arguments(kind, other, wide), *options).refusal
    assert f"{tmp_path / 'wide'} holds embeddings of" in refused and "the models read" in refused
    made = write(other, tmp_path / "made", (*shape, width))
    train(tmp_path / "run", *arguments(kind, other, made), options[0])
    assert set(read_json(tmp_path / "run/init_from.json")["folds"].values()) == {"s0-0"}
