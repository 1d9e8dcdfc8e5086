"""The explanation of a run against logits and gradients of single utterances, and its page."""

import functools
import json
import re
import urllib.parse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import releases
import tiny
import untrained
from commands import command, train

from ser_jax import config as configuration
from ser_jax.corpora.table import Utterance
from ser_jax.data import dataset as datasets
from ser_jax.data.inputs import Inputs
from ser_jax.data.standardise import standardise
from ser_jax.evaluation import predictions
from ser_jax.experiment import explain
from ser_jax.features.extraction import Features
from ser_jax.models import build
from ser_jax.prediction.network import Network, Values
from ser_jax.training import model_files, scoring
from ser_jax.training.trials import Trial

IDS = tiny.protocol().ids
BANDS = 6


def config(**model: Any) -> Any:
    c = configuration.from_json(json.loads(tiny.config().to_json()))
    c.features.bands, c.model.form = BANDS, model.get("form", "fast")
    return c


def alone(utterance: int) -> Inputs:
    """Returns an utterance of the dataset as a batch of one."""
    data = tiny.dataset()
    bucket, row = data.bucket[utterance], data.row[utterance]
    return jax.tree.map(lambda leaf: leaf[row : row + 1], data.buckets[bucket])


def statistics_of(trial: Trial) -> Any:
    return tiny.dataset().statistics(trial.fold.train)


@functools.cache
def first_params() -> Any:
    return jax.jit(tiny.model().init)(jax.random.key(0), alone(0))["params"]


def params_of(trial: Trial) -> Any:
    """Returns parameters of this trial only, larger than initial ones, so that logits differ."""
    rng = np.random.default_rng([trial.seed, tiny.protocol().folds.index(trial.fold)])
    return jax.tree.map(
        lambda leaf: (2 * np.asarray(leaf) + rng.normal(0, 0.3, leaf.shape)).astype(np.float32),
        first_params(),
    )


@jax.jit
def logits(params: Any, statistics: Any, inputs: Inputs) -> jax.Array:
    return tiny.apply(params, standardise(inputs, statistics, jnp))


@jax.jit
@jax.grad
def gradient(frames: jax.Array, params: Any, inputs: Inputs, label: int) -> jax.Array:
    """The logit of one class; differentiated."""
    return tiny.apply(params, inputs._replace(frames=frames))[0, label]


def logits_of(trial: Trial, utterance: int) -> np.ndarray:
    statistics = tiny.dataset().device_statistics(statistics_of(trial))
    return np.asarray(logits(params_of(trial), statistics, alone(utterance)))[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[Trial, Path]:
    """Untrained models of every fold and two seeds."""
    folder = tmp_path_factory.mktemp("models")
    made = {}
    for trial in tiny.trials(seeds=2):
        made[trial] = folder / trial.name
        description = {"fold": trial.fold.name, "seed": trial.seed, "status": "done"}
        description["temperature"] = 0.5
        arrays = params_of(trial), statistics_of(trial)
        model_files.write_model(made[trial], description, *arrays)
    return made


@pytest.fixture(scope="module")
def rows(models) -> list[predictions.Prediction]:
    """Predictions for their test parts."""
    found = []
    for trial in models:
        test = trial.fold.test.tolist()
        found += predictions.from_probabilities(
            [utterances()[number] for number in test],
            scoring.softmax(np.stack([logits_of(trial, number) for number in test]), 0.5),
            classes=tiny.CLASSES,
            fold=trial.fold.name,
            seed=trial.seed,
        )
    return found


def utterances() -> list[Utterance]:
    protocol = tiny.protocol()
    columns = zip(protocol.ids, protocol.labels, protocol.speakers, strict=True)
    return [
        Utterance(name, f"{name}.wav", 0.5, 2.0, label, speaker) for name, label, speaker in columns
    ]


def explained(models: Any, rows: Any, c: Any = None, network=True) -> Any:
    seconds = np.linspace(1, 2, len(IDS))
    features = Features(tuple(utterances()), [], None, seconds, (), {}, "", 0)
    system: Any = SimpleNamespace(dataset=tiny.dataset() if network else None)
    arguments = (system, tiny.protocol(), features, Path("/corpus"), models, rows)
    return explain.explain(c or config(), *arguments)


def test_every_utterance_is_represented_by_the_model_that_tests_on_it(models, rows):
    folds = tiny.protocol().folds
    found = explained(models, rows).representations
    assert [(one.fold, one.seed) for one in found] == [(fold.name, 0) for fold in folds]
    for one, fold in zip(found, folds, strict=True):
        assert one.ids == tuple(IDS[number] for number in fold.test)
        assert one.test == len(fold.test)
        expected = [logits_of(Trial(fold, 0), number) for number in fold.test.tolist()]
        np.testing.assert_allclose(one.logits, expected, atol=1e-5)
        assert one.values.shape == (len(fold.test), 8)


def test_saliency_is_that_of_the_prediction_of_the_model_that_tests(models, rows):
    """Oracle: the gradient of one utterance by itself."""
    found = explained(models, rows)
    assert len(found.examples) >= 4
    for example in found.examples:
        fold = next(fold for fold in tiny.protocol().folds if fold.name == example.row.fold)
        trial = Trial(fold, 0)
        number, label = IDS.index(example.row.id), tiny.CLASSES.index(example.row.prediction)
        assert number in fold.test and example.row.seed == 0
        assert int(logits_of(trial, number).argmax()) == label
        statistics = tiny.dataset().device_statistics(statistics_of(trial))
        batch = standardise(alone(number), statistics, np)
        assert batch.frames is not None
        length = min(int(batch.length[0]), batch.frames.shape[1])
        expected = np.abs(gradient(batch.frames, params_of(trial), batch, label))[0, :length]
        assert example.frames.shape == example.saliency.shape == (length, BANDS)
        np.testing.assert_allclose(example.frames, batch.frames[0, :length], atol=1e-6)
        np.testing.assert_allclose(example.saliency, expected, rtol=1e-4, atol=1e-5)
        assert example.saliency.any()


def test_a_fold_whose_first_model_is_missing_uses_the_next(models, rows):
    first = next(iter(models))
    rest = {trial: folder for trial, folder in models.items() if trial != first}
    kept = [row for row in rows if (row.fold, row.seed) != (first.fold.name, first.seed)]
    assert [one.seed for one in explained(rest, kept).representations] == [1, 0, 0, 0]


def test_many_utterances_are_sampled(models, rows, monkeypatch):
    monkeypatch.setattr(explain, "MOST_UTTERANCES", 20)
    found = explained(models, rows).representations
    for one, fold in zip(found, tiny.protocol().folds, strict=True):
        assert (len(one.ids), one.test) == (5, 12)
        assert (one.ids[0], one.ids[-1]) == (IDS[fold.test[0]], IDS[fold.test[-1]])


def test_recordings_and_bands(models, rows):
    found = explained(models, rows)
    assert set(found.recordings) == set(IDS)
    recording = found.recordings[IDS[0]]
    assert recording == (Path("/corpus") / f"{IDS[0]}.wav", 1.0, 0.5, 2.0)
    # Equally far apart in mel, HTK Book: 2595 log10(1 + f / 700).
    mel = 2595 * np.log10(1 + found.hertz / 700)
    np.testing.assert_allclose(mel, np.arange(1, 7) / 7 * 2595 * np.log10(1 + 8000 / 700))
    assert found.hop == 0.01


def test_why_something_is_missing(models, rows):
    c = config()
    c.system = "svm"
    found = explained({}, rows, c, network=False)
    assert found.no_representations == "svm is no network: it has no joint representation."
    assert not found.representations and found.recordings
    found = explained(models, rows, config(form="literal"))
    assert len(found.representations) == 4 and not found.examples
    assert "model.form=fast" in found.no_examples


def test_functionals_beside_stored_states_give_the_logits_of_the_network():
    """Importance runs the CRNN once; nothing shuffled, the logits are those of the network."""
    c = untrained.small_config("hsf_crnn")
    c.features.functionals = "eGeMAPSv02"
    model = untrained.make("hsf_crnn", config=c).models[0]
    rng = np.random.default_rng(0)
    frames = [rng.normal(-6, 2, (length, 40)).astype(np.float32) for length in (30, 80, 64)]
    assert model.statistics.hsf_mean is not None
    hsf = (model.statistics.hsf_mean + rng.normal(0, 1, (3, 88))).astype(np.float32)
    data = datasets.frames_dataset(
        datasets.frames_source(frames, hsf),
        np.zeros(3, np.int32),
        segmentations=build.segmentations(c),
        form="fast",
        silence=-23.0,
        shapes=2,
        batch_size=2,
        train_fraction=1.0,
    ).loaded()
    values, logits = explain._ModelProbe(c, data, 3).reader(model)(np.arange(3))
    assert values.shape == (3, 88)
    expected = Network(c, [model], 3).logits(Values(frames, hsf))[0]
    found = logits(values[[2, 0, 1]], np.array([2, 0, 1]))
    np.testing.assert_allclose(found, expected[[2, 0, 1]], rtol=1e-4, atol=1e-4)


def test_without_models_there_are_only_recordings():
    found = explained({}, [])
    assert found.representations == found.examples == () and len(found.recordings) == len(IDS)


def test_main_and_evaluate_make_the_page(tmp_path):
    manifest = releases.manifest_rows(speakers=3)
    root = releases.write_manifest(tmp_path / "my corpus", manifest, seconds=0.5).parent
    run = tmp_path / "runs/x"
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={root}")
    train(run, *corpus, report=True)
    text = (run / "report.html").read_text("utf-8")
    for title in ("Joint representation", "Saliency", "Most confused"):
        assert f"<h2>{title}</h2>" in text
    addresses = re.findall(r'<a href="([^"]+)"', text)
    assert addresses and all((run / urllib.parse.unquote(a)).is_file() for a in addresses)
    assert text.count("<details name=") == 3, "one per fold"
    ended = command(f"--model={run}", name="evaluate", figures=True)
    assert ended.code == 0 and "explained 3 models" in ended.err, ended
    again = (run / "report.html").read_text("utf-8")
    seconds = re.compile(r"[\d.]+ s</dd>|figure\">[^<]* s<")
    assert seconds.sub("", again) == seconds.sub("", text)
