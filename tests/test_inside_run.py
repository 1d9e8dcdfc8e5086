"""What a look into the models of a run gives: held against the logits of single utterances, and as a page."""

import functools
import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import releases
from commands import command, train
from training import tiny

from ser_jax import config as configuration
from ser_jax import inside
from ser_jax.arrays.inputs import Inputs
from ser_jax.arrays.standardise import standardise
from ser_jax.corpora.table import Utterance
from ser_jax.evaluation import predictions
from ser_jax.features.extract import Features
from ser_jax.training import model_files, scoring
from ser_jax.training.runs import Run

IDS = tiny.protocol().ids
BANDS = 6


def config(**model: Any) -> Any:
    c = configuration.from_json(json.loads(tiny.config().to_json()))
    c.features.bands, c.model.form = BANDS, model.get("form", "fast")
    return c


def alone(utterance: int) -> Inputs:
    """An utterance as it lies in the dataset, by itself."""
    data = tiny.dataset()
    bucket, row = data.bucket[utterance], data.row[utterance]
    return jax.tree.map(lambda leaf: leaf[row : row + 1], data.buckets[bucket])


def statistics_of(run: Run) -> Any:
    return tiny.dataset().statistics(run.fold.train)


@functools.cache
def first_params() -> Any:
    return jax.jit(tiny.model().init)(jax.random.key(0), alone(0))["params"]


def params_of(run: Run) -> Any:
    """Parameters that no other run has, larger than at the beginning, so that the logits differ."""
    rng = np.random.default_rng([run.seed, tiny.protocol().folds.index(run.fold)])
    return jax.tree.map(
        lambda leaf: (2 * np.asarray(leaf) + rng.normal(0, 0.3, leaf.shape)).astype(np.float32), first_params()
    )


@jax.jit
def logits(params: Any, statistics: Any, inputs: Inputs) -> jax.Array:
    return tiny.apply(params, standardise(inputs, statistics, jnp))


@jax.jit
@jax.grad
def slopes(frames: jax.Array, params: Any, inputs: Inputs, answer: int) -> jax.Array:
    """The logit of one class; differentiated."""
    return tiny.apply(params, inputs._replace(frames=frames))[0, answer]


def logits_of(run: Run, utterance: int) -> np.ndarray:
    statistics = tiny.dataset().device_statistics(statistics_of(run))
    return np.asarray(logits(params_of(run), statistics, alone(utterance)))[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[Run, Path]:
    """Untrained models of every fold and two seeds."""
    folder = tmp_path_factory.mktemp("models")
    made = {}
    for run in tiny.runs(seeds=2):
        made[run] = folder / run.name
        description = {"fold": run.fold.name, "seed": run.seed, "status": "done", "temperature": 0.5}
        model_files.write_model(made[run], description, params_of(run), statistics_of(run))
    return made


@pytest.fixture(scope="module")
def rows(models) -> list[predictions.Prediction]:
    """What they say about their test parts."""
    found = []
    for run in models:
        values = np.stack([logits_of(run, number) for number in run.fold.test.tolist()])
        part = [utterances()[number] for number in run.fold.test.tolist()]
        found += predictions.from_probabilities(
            part, scoring.softmax(values, 0.5), classes=tiny.CLASSES, fold=run.fold.name, seed=run.seed
        )
    return found


def utterances() -> list[Utterance]:
    protocol = tiny.protocol()
    columns = zip(protocol.ids, protocol.labels, protocol.speakers, strict=True)
    return [Utterance(name, f"{name}.wav", 0.5, 2.0, label, speaker) for name, label, speaker in columns]


def look(models: Any, rows: Any, c: Any = None, dataset: Any = None) -> Any:
    seconds = np.linspace(1, 2, len(IDS))
    features = Features(tuple(utterances()), [], None, seconds, (), {}, "", 0)
    data = dataset or tiny.dataset()
    return inside.look(c or config(), data, tiny.protocol(), features, Path("/corpus"), models, rows)


def test_every_utterance_is_seen_by_the_model_that_tests_on_it(models, rows):
    views = look(models, rows).views
    assert [(view.fold, view.seed) for view in views] == [(fold.name, 0) for fold in tiny.protocol().folds]
    for view, fold in zip(views, tiny.protocol().folds, strict=True):
        assert view.ids == tuple(IDS[number] for number in fold.test) and view.test == len(fold.test)
        expected = [logits_of(Run(fold, 0), number) for number in fold.test.tolist()]
        np.testing.assert_allclose(view.logits, expected, atol=1e-5)
        assert view.values.shape == (len(fold.test), 8)


def test_saliency_is_that_of_the_answer_of_the_model_that_tests(models, rows):
    """Oracle: the gradient of one utterance by itself."""
    found = look(models, rows)
    assert len(found.examples) >= 4
    for example in found.examples:
        fold = next(fold for fold in tiny.protocol().folds if fold.name == example.row.fold)
        number, answer = IDS.index(example.row.id), tiny.CLASSES.index(example.row.prediction)
        assert number in fold.test and example.row.seed == 0
        assert int(logits_of(Run(fold, 0), number).argmax()) == answer
        statistics = tiny.dataset().device_statistics(statistics_of(Run(fold, 0)))
        batch = standardise(alone(number), statistics, np)
        assert batch.frames is not None
        length = min(int(batch.length[0]), batch.frames.shape[1])
        expected = np.abs(slopes(batch.frames, params_of(Run(fold, 0)), batch, answer))[0, :length]
        assert example.frames.shape == example.saliency.shape == (length, BANDS)
        np.testing.assert_allclose(example.frames, batch.frames[0, :length], atol=1e-6)
        np.testing.assert_allclose(example.saliency, expected, rtol=1e-4, atol=1e-5)
        assert example.saliency.any()


def test_a_fold_whose_first_model_is_lost_shows_the_next(models, rows):
    first = next(iter(models))
    rest = {run: folder for run, folder in models.items() if run != first}
    kept = [row for row in rows if (row.fold, row.seed) != (first.fold.name, first.seed)]
    assert [view.seed for view in look(rest, kept).views] == [1, 0, 0, 0]


def test_of_many_utterances_some_are_shown(models, rows, monkeypatch):
    monkeypatch.setattr(inside, "MOST_UTTERANCES", 20)
    for view, fold in zip(look(models, rows).views, tiny.protocol().folds, strict=True):
        assert (len(view.ids), view.test) == (5, 12)
        assert (view.ids[0], view.ids[-1]) == (IDS[fold.test[0]], IDS[fold.test[-1]])


def test_recordings_and_bands(models, rows):
    found = look(models, rows)
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
    features = Features(tuple(utterances()), [], None, np.ones(len(IDS)), (), {}, "", 0)
    found = inside.look(c, None, tiny.protocol(), features, Path("/corpus"), models, rows)
    assert found.no_views == "svm has no network to look into." and not found.views and found.recordings
    # The same models, and only what the configuration says is another.
    found = look(models, rows, config(form="literal"))
    assert len(found.views) == 4 and not found.examples and "model.form=fast" in found.no_examples


def test_no_model_gives_no_views():
    found = look({}, [])
    assert found.views == found.examples == () and len(found.recordings) == len(IDS)


# --- The whole way ----------------------------------------------------------------------------------------------------


def test_main_and_evaluate_make_the_page(tmp_path):
    manifest = releases.manifest_rows(speakers=3)
    root = releases.write_manifest(tmp_path / "my corpus", manifest, seconds=0.5).parent
    run = tmp_path / "runs/x"
    train(run, "--config.corpus.name=manifest", f"--config.corpus.root={root}")
    text = (run / "report.html").read_text("utf-8")
    assert all(f"<h2>{title}</h2>" in text for title in ("Joint representation", "Saliency", "Most confused"))
    addresses = re.findall(r'<a href="([^"]+)"', text)
    assert addresses and all((run / urllib.parse.unquote(address)).is_file() for address in addresses)
    assert text.count("<details name=") == 3, "one per fold"
    ended = command(f"--model={run}", module="ser_jax.evaluate")
    assert ended.code == 0 and "looked into 3 models" in ended.err, ended
    again = (run / "report.html").read_text("utf-8")
    seconds = re.compile(r"[\d.]+ s</dd>|figure\">[^<]* s<")
    assert seconds.sub("", again) == seconds.sub("", text)
