"""A run on variants, from the command to its files: its data, and folders that cannot be used."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import releases
import soundfile
from commands import TINY, command, feature_store, read_json, train

from ser_jax import config as configuration
from ser_jax.corpora import from_config
from ser_jax.experiment import pipeline, setup
from ser_jax.features import audio
from ser_jax.protocols import named

FOLD = "--config.protocol.folds=speaker01"
VARIANTS = "--config.augment.variants=2"
DENSE = tuple(f"--config.model.{name}=(8,)" for name in ("hsf_crnn_dense", "hsf_dense", "hsf_head"))
BAD = {"text.wav": b"no recording", "empty.flac": b""}


@pytest.fixture
def noises(tmp_path) -> Path:
    """Noise of another rate in stereo, a folder below it, and two files that are bad."""
    folder = tmp_path / "noises"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    soundfile.write(folder / "fan.wav", rng.normal(0, 0.1, (88200, 2)), 44100)
    soundfile.write(folder / "more/hall.flac", rng.normal(0, 0.1, 4000), 8000)
    (folder / "notes.txt").write_text("not a sound")
    for name, content in BAD.items():
        (folder / name).write_bytes(content)
    return folder


def rejected(run: Path) -> dict[str, str]:
    with (run / "rejected-variants.csv").open(newline="") as file:
        return {Path(row["file"]).name: row["reason"] for row in csv.DictReader(file)}


def test_streamed_training_is_that_of_arrays_in_memory_to_the_bit(tmp_path, noises):
    """With log-mel and functionals; a second run computes nothing, and bad files are listed."""
    rows = releases.manifest_rows(speakers=4, per_label=4)
    lengths = np.random.default_rng(0).uniform(0.3, 2, len(rows)).tolist()
    path = releases.write_manifest(tmp_path / "corpus", rows, seconds=lengths)
    options = ("--config.corpus.name=manifest", f"--config.corpus.root={path.parent}")
    options += ("--config.protocol.folds=s0", "--config.training.batch_size=4")
    options += ("--config.system=hsf_crnn", VARIANTS, *DENSE)
    options += (f"--config.augment.noise_folder={noises}", "--config.features.trim=ends")
    options += ("--config.features.functionals=eGeMAPSv02",)
    train(tmp_path / "resident", *options)
    before = feature_store()
    moved = Path(shutil.move(noises, tmp_path / "moved"))
    train(
        *(tmp_path / "streamed", *options, f"--config.augment.noise_folder={moved}"),
        *("--config.training.residence=streamed", f"--config.features.shards={tmp_path / 's'}"),
    )
    assert feature_store() == before and len(list(tmp_path.glob("s/*/index.json"))) == 1
    for name in ("predictions.csv", "models/s0-0/model.npz", "validation.csv"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("resident", "streamed"))
        assert one == other, name
    assert rejected(tmp_path / "resident") == dict.fromkeys(BAD, "unreadable")
    facts = read_json(tmp_path / "streamed/protocol.json")["variants"]
    assert facts.keys() == {"count", "noise_sha256", "sha256"} and facts["count"] == 2
    model = read_json(tmp_path / "resident/models/s0-0/model.json")
    assert model["variants"] == facts

    # The run, which has no report yet, is not taken up with other noise, and evaluate needs none.
    (moved / "fan.wav").unlink()
    again = command(
        *(*TINY, *options, f"--config.augment.noise_folder={moved}"),
        *("--config.training.residence=streamed", f"--workdir={tmp_path / 'streamed'}"),
    )
    assert again.refusal.startswith(f"{tmp_path / 'streamed'} was started with other variants")
    shutil.rmtree(moved)
    assert command(f"--model={tmp_path / 'resident'}", name="evaluate").code == 0
    assert read_json(tmp_path / "resident/protocol.json")["variants"] == facts


def test_what_the_training_of_a_fold_is_given(tmp_path):
    """Variants of what any fold trains on, and of nothing else; log-mel and functionals of each."""
    config = configuration.get_config()
    config.system, config.augment.variants, config.protocol.folds = "plain_crnn", 2, "speaker01"
    corpus = from_config.read(config, tmp_path / "rejected.csv", audio.length)
    name, spec = named.find_spec("auto", corpus)
    corpus = named.select(spec, corpus)
    features = pipeline.extract_features(config, corpus, None)
    protocol, _ = pipeline.make_protocol(config, name, spec, corpus, features)
    trials = pipeline.make_trials(config, protocol)
    found = pipeline.add_variants(config, corpus, features, protocol, trials, None)
    (fold,) = {trial.fold for trial in trials}
    assert found.variants is not None
    versions, count = found.variants.versions, len(features.utterances)
    others = np.setdiff1d(np.arange(count), fold.train)
    assert len(fold.validation) and len(fold.test)
    np.testing.assert_array_equal(versions[:, others], np.tile(others, (3, 1)))
    assert sorted(versions[1:, fold.train].reshape(-1).tolist()) == list(
        range(count, count + 2 * len(fold.train))
    )
    ids = [row.id for row in found.variants.features.utterances]
    for version, n in ((1, fold.train[0]), (2, fold.train[-1])):
        assert ids[versions[version, n] - count] == f"{features.utterances[n].id}~{version}"
    dataset = setup.make_dataset(config, protocol, found)
    assert sum(map(len, dataset.targets)) == count + 2 * len(fold.train)
    with config.unlocked():
        config.augment.variants = 0
    assert pipeline.add_variants(config, corpus, features, protocol, trials, None) is features


def test_bad_folders_are_refused(tmp_path, noises):
    def refused(folder: Path, key: str = "noise_folder") -> str:
        ended = command(
            *(*TINY, FOLD, VARIANTS, f"--config.augment.{key}={folder}"),
            f"--workdir={tmp_path / 'run'}",
        )
        return ended.refusal

    nowhere = tmp_path / "nowhere"
    assert refused(nowhere).startswith(f"augment.noise_folder={nowhere} is not a folder")
    (noises / "fan.wav").unlink()
    (noises / "more/hall.flac").unlink()
    sentence = f"augment.room_folder={noises}: None of 2 listed recordings is usable. empty.flac"
    assert refused(noises, "room_folder").startswith(sentence)
    assert rejected(tmp_path / "run") == dict.fromkeys(BAD, "unreadable")
    for name in BAD:
        (noises / name).unlink()
    sentence = f"augment.noise_folder={noises} holds no recording, nor do its folders"
    assert refused(noises).startswith(sentence)


def test_recordings_of_the_corpus_are_no_noise(tmp_path):
    """They would be heard in the training of folds that test on them."""
    config = configuration.get_config()
    corpus = from_config.read(config, tmp_path / "rejected.csv", audio.length)
    folder = tmp_path / "noises"
    folder.mkdir()
    shutil.copy(corpus.path(corpus.utterances[0]), folder / "babble.wav")
    ended = command(
        *(*TINY, FOLD, VARIANTS, f"--config.augment.noise_folder={folder}"),
        f"--workdir={tmp_path / 'run'}",
    )
    assert ended.refusal.startswith(
        f"augment.noise_folder={folder}: babble.wav is the recording {corpus.utterances[0].file}"
    )
