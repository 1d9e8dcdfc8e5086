"""Training that starts from models of another run: which, when it is refused, what is recorded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import releases
from commands import TINY, Ended, command, read_json, read_table, train

from ser_jax.experiment import initial_models
from ser_jax.experiment.training_data import TrainedOn
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.training import model_files

KEY = ("iemocap",)


def protocol(*folds: Fold) -> Protocol:
    """Utterances u0 … u3 of the speakers a, a, b and c."""
    return Protocol(
        *("p", "iemocap", ("angry", "sad"), {}, ("u0", "u1", "u2", "u3"), ("sad",) * 4),
        speakers=("a", "a", "b", "c"),
        folds=folds,
        validation_rule="",
    )


def source(**seen: tuple[str, str, tuple[str, ...]]) -> initial_models.Source:
    """Models by name, with recordings, speakers and corpus that each was trained on."""
    trained_on = {
        name: [TrainedOn(frozenset(recordings.split()), frozenset(speakers.split()), corpus)]
        for name, (recordings, speakers, corpus) in seen.items()
    }
    return initial_models.Source(Path("run"), {}, trained_on)


FOLDS = (Fold("a", "eevt"), Fold("b", "tvet"), Fold("c", "ttve"))


@pytest.mark.parametrize(
    ("seen", "chosen", "validated"),
    [
        # Another corpus with the same names of speakers: the first model, for every fold.
        ({"x": ("r9", "a b c", ("emodb",)), "y": ("", "", ("emodb",))}, "xxx", 0),
        # The same corpus: the model of each fold, whose validation part was its own, too.
        ({"a": ("", "b c", KEY), "b": ("", "a c", KEY), "c": ("", "a b", KEY)}, "abc", 3),
        ({"final": ("", "a b c", KEY)}, "---", 0),
        # A recording of speaker b under another name, in a corpus with other names of speakers.
        ({"x": ("r2", "z", ("emodb",))}, "x-x", 2),
    ],
)
def test_the_first_model_that_has_seen_nothing_of_the_test_part(seen, chosen, validated, caplog):
    recordings = {f"u{n}": f"r{n}" for n in range(4)}
    found = initial_models.choose(source(**seen), protocol(*FOLDS), recordings, {"": KEY})
    assert [name or "-" for name in found.values()] == list(chosen)
    assert (f"{validated} fold" in caplog.text) == bool(validated)


def test_a_fold_that_sets_the_epochs_of_another_has_seen_nothing_of_that():
    folds = Fold("devel", "ttve"), Fold("test", "tett", epochs_from="devel")
    seen = source(x=("", "a", KEY), y=("", "b", KEY))
    recordings = {f"u{n}": f"r{n}" for n in range(4)}
    found = initial_models.choose(seen, protocol(*folds), recordings, {"": KEY})
    assert found == {"devel": "y", "test": "y"}


# --- From run to run


def manifest(folder: Path, prefix: str, labels: str, seconds: float) -> tuple[str, ...]:
    """Three speakers with names of their own; returns the arguments."""
    rows = [
        {**row, "speaker": prefix + row["speaker"]}
        for row in releases.manifest_rows(speakers=3, per_label=1)
        if row["label"] in labels.split()
    ]
    root = releases.write_manifest(folder, rows, seconds=seconds).parent
    return "--config.corpus.name=manifest", f"--config.corpus.root={root}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """`first`: a cross-validation on a corpus; `second`, on another one, starts from it, frozen."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "first", *manifest(folder / "one", "x", "angry sad", 0.4))
    second = manifest(folder / "two", "y", "angry happy sad", 0.5)
    train(folder / "second", *second, *start(folder / "first"), "--config.training.front_rate=0")
    return folder


def start(run: Path) -> tuple[str]:
    return (f"--config.training.init_from={run}",)


def corpus(run: Path) -> tuple[str, ...]:
    root = read_json(run / "config.json")["corpus"]["root"]
    return "--config.corpus.name=manifest", f"--config.corpus.root={root}"


def begin(workdir: Path, *arguments: str) -> Ended:
    return command(*TINY, "--noreport", f"--workdir={workdir}", *arguments)


def test_a_frozen_front_end_is_that_of_the_source(runs):
    """All but the last layer, whose classes differ; standardisation is that of the new corpus."""
    record = read_json(runs / "second/init_from.json")
    first = model_files.read_model(runs / "first/models/xs0-0")
    assert record["folds"] == dict.fromkeys(("ys0", "ys1", "ys2"), "xs0-0")
    assert record["models"]["xs0-0"]["sha256"] == first.description["sha256"]
    for fold in record["folds"]:
        own = model_files.read_model(runs / f"second/models/{fold}-0")
        for name, leaf in first.params["crnn"].items():
            np.testing.assert_array_equal(own.params["crnn"][name], leaf)
        assert own.params["softmax"]["bias"].shape == (3,)
        means = [np.asarray(model.statistics.mean) for model in (own, first)]
        assert not np.array_equal(means[0], means[1])


def test_a_source_that_has_seen_the_test_speakers_is_refused_also_through_others(runs, tmp_path):
    """`second` has seen all of `first`'s corpus but speaker xs0, who was tested by its source."""
    ended = begin(tmp_path / "run", *corpus(runs / "first"), *start(runs / "second"))
    assert "every model there has seen recordings or speakers that fold xs1, xs2 tests" in (
        ended.refusal
    )
    assert "or train only protocol.folds=xs0" in ended.refusal
    # Nothing has started: the command can be mended. Its own corpus has a model for every fold.
    mended = (*corpus(runs / "second"), *start(runs / "second"))
    ended = begin(tmp_path / "run", *mended)
    assert ended.code == 0, ended.err
    assert "note: 3 folds (fold ys0, ys1, ys2): the model that training" in ended.err
    record = read_json(tmp_path / "run/init_from.json")
    assert record["folds"] == {fold: f"{fold}-0" for fold in ("ys0", "ys1", "ys2")}
    assert [len(model["trained_on"]) for model in record["models"].values()] == [2, 2, 2]


def test_scores_on_the_corpus_of_the_source_leave_out_what_it_was_trained_on(runs, tmp_path):
    found = command(
        *(f"--model={runs / 'second'}", *corpus(runs / "first"), f"--output={tmp_path}"),
        name="evaluate",
    )
    assert found.code == 0, found.err
    assert {row["speaker"] for row in read_table(tmp_path / "predictions.csv")} == {"xs0"}
    shutil.copytree(runs / "second", tmp_path / "run")
    (tmp_path / "run/init_from.json").unlink()
    arguments = (f"--model={tmp_path / 'run'}", *corpus(runs / "first"))
    assert "init_from.json is missing" in command(*arguments, name="evaluate").refusal


def test_another_architecture_is_refused(runs, tmp_path):
    arguments = (*corpus(runs / "second"), *start(runs / "first"))
    ended = begin(tmp_path / "run", *arguments, "--config.model.filters=5")
    assert "is of another architecture (model.filters: 4 there, 5 now): train with" in ended.refusal
    ended = begin(tmp_path / "other", *arguments[:2], *start(tmp_path))
    assert f"{tmp_path} is not a run directory" in ended.refusal


def test_a_run_that_is_resumed_with_a_changed_source_is_refused(runs, tmp_path):
    run = Path(shutil.copytree(runs / "second", tmp_path / "second"))
    shutil.rmtree(run / "models/ys1-0")
    kept = read_json(run / "init_from.json")
    arguments = (*corpus(run), *start(runs / "first"), "--config.training.front_rate=0")
    changed = json.loads(json.dumps(kept))
    changed["models"]["xs0-0"]["sha256"] = "0" * 64
    del changed["seal"]
    (run / "init_from.json").write_text(json.dumps(changed))
    assert "began with models of" in begin(run, *arguments).refusal
    (run / "init_from.json").write_text(json.dumps(kept))
    ended = begin(run, *arguments)
    assert ended.code == 0, ended.err
    again, before = (
        model_files.read_model(folder / "models/ys1-0").params for folder in (run, runs / "second")
    )
    np.testing.assert_array_equal(again["softmax"]["kernel"], before["softmax"]["kernel"])
