"""The search: its figure, that it goes on, what it refuses, and that no test part is read."""

import html
import json
import shlex

import numpy as np
import pytest
import releases
from commands import TINY, command, read_json

from ser_jax.commands import command_line
from ser_jax.config import get_config
from ser_jax.experiment import run, run_directory
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.signals import Interrupted
from ser_jax.tuning import search, space, tuning_page

optuna = pytest.importorskip("optuna")

SPACE = {"training.learning_rate": space.Range(1e-4, 1e-2, log=True)}


def write_metrics(folder, *rows) -> None:
    """Rows of fold, seed, epoch, validation UA."""
    folder.mkdir(parents=True, exist_ok=True)
    names = "fold seed epoch validation_ua".split()
    lines = [json.dumps(dict(zip(names, row, strict=True)) | {"phase": 1}) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_the_figure_by_hand(tmp_path):
    """Of ten epochs the last two count; seeds 0 and 1 have means over the folds a and b."""
    epochs = [("a", 0, n, 1.0 if n < 9 else 0.5) for n in range(1, 11)]
    others = [("b", 0, 1, 0.7), ("a", 1, 1, 0.2), ("b", 1, 1, 0.4), ("b", 1, 1, 0.4)]
    write_metrics(tmp_path, *epochs, *others)
    assert search.validation_ua(tmp_path) == pytest.approx([0.6, 0.3])


def test_epochs_without_a_validation_part_do_not_count(tmp_path):
    write_metrics(tmp_path, ("a", 0, 1, 0.5), ("a", 0, 2, None))
    assert search.validation_ua(tmp_path) == [0.5]
    write_metrics(tmp_path, ("a", 0, 1, None))
    with pytest.raises(UserError, match="no validation scores: choose a protocol with validation"):
        search.validation_ua(tmp_path)


@pytest.fixture
def trained(monkeypatch):
    """Replaces training: the UA is best at a learning rate of 1e-3; returns what was trained."""
    found = []

    def train_only(config, folder):
        rate = config.training.learning_rate
        found.append((folder.name, rate))
        write_metrics(folder, ("a", 0, 1, 1 - abs(np.log10(rate) + 3) / 4))
        (folder / "models/a-0").mkdir(parents=True, exist_ok=True)
        (folder / "models/a-0/model.npz").touch()
        return []

    monkeypatch.setattr(run, "train_only", train_only)
    return found


def test_it_finds_the_optimum_and_adds_to_what_was_tried(trained, tmp_path):
    first = search.search(get_config(), SPACE, tmp_path, 3)
    assert [name for name, _ in trained] == ["0", "1", "2"]
    again = search.search(get_config(), SPACE, tmp_path, 25)
    assert [name for name, _ in trained] == [str(number) for number in range(25)]
    assert len({rate for _, rate in trained}) == 25, "the sampler does not begin again"
    assert {one.number: one for one in again}.items() >= {one.number: one for one in first}.items()
    assert [one.ua for one in again] == sorted((one.ua for one in again), reverse=True)
    assert (
        0.9 < again[0].ua <= 1
        and again[0].values["training.learning_rate"]
        == dict((int(name), rate) for name, rate in trained)[again[0].number]
    )
    assert search.search(get_config(), SPACE, tmp_path, 5) == again and len(trained) == 25


def test_the_models_of_the_best_try_stay_and_those_of_others_go(trained, tmp_path):
    def with_models() -> set[str]:
        return {path.parts[-4] for path in tmp_path.glob("*/models/a-0/model.npz")}

    found = search.search(get_config(), SPACE, tmp_path, 4, keep_all=True)
    assert with_models() == {"0", "1", "2", "3"}
    best, second, *others = (str(one.number) for one in found)
    (tmp_path / second / "results.json").touch()  # as `ser-jax train` leaves it
    with run_directory.locked(tmp_path / others[0]):  # as it is at work
        assert search.search(get_config(), SPACE, tmp_path, 4) == found
        assert with_models() == {best, second, others[0]}
    assert search.search(get_config(), SPACE, tmp_path, 4) == found
    assert with_models() == {best, second}
    more = search.search(get_config(), SPACE, tmp_path, 12)
    assert with_models() == {str(more[0].number), second}
    assert all((tmp_path / str(one.number) / "metrics.jsonl").is_file() for one in more)


def test_a_stopped_training_is_gone_on_with(trained, tmp_path, monkeypatch):
    finish = run.train_only

    def stop(config, folder):
        finish(config, folder)
        raise Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(run, "train_only", stop)
        with pytest.raises(Interrupted):
            search.search(get_config(), SPACE, tmp_path, 2)
    assert (tmp_path / "0/models/a-0").is_dir(), "it goes on with what it has"
    search.search(get_config(), SPACE, tmp_path, 2)
    assert [name for name, _ in trained] == ["0", "0", "1"] and trained[0] == trained[1]


def test_tries_that_fail_count_and_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "train_only", lambda config, folder: ["a-0"])
    values = {"training.schedule": space.Choices(("constant", "constnt"))}
    found = search.search(get_config(), values, tmp_path, 6)
    assert len(found) == 6 and not any(one.per_seed for one in found)
    assert {one.problem for one in found} == {
        "1 trial diverged (a-0)",
        "training.schedule='constnt' is not known; choose one of constant, cosine, linear",
    }
    assert "6 configurations tried, 6 of which failed" in tuning_page.write(
        tmp_path, found, get_config()
    )


def test_another_configuration_or_space_is_refused(trained, tmp_path):
    search.search(get_config(), SPACE, tmp_path, 1)
    other = space.apply(get_config(), {"training.epochs": 3})
    with pytest.raises(UserError, match=r"a search with another config \(training.epochs\): cho"):
        search.search(other, SPACE, tmp_path, 2)
    with pytest.raises(UserError, match=r"another space \(model.dropout\)"):
        search.search(get_config(), SPACE | {"model.dropout": space.Range(0, 0.5)}, tmp_path, 2)
    neutral = space.apply(get_config(), {"training.devices": 1})
    assert len(search.search(neutral, SPACE, tmp_path, 2)) == 2


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match=r"not installed: pip install 'ser_jax\[tune\]'"):
        search.require_optuna()


def test_a_system_without_epochs_is_refused(tmp_path):
    config = space.apply(get_config(), {"system": "svm"})
    with pytest.raises(
        UserError, match="system=svm has no epochs that validation parts could score"
    ):
        search.search(config, SPACE, tmp_path, 1)


def test_the_command_and_scoring_the_best(tmp_path):
    """For real, on a tiny corpus: nothing of a test part is there until `train` scores it."""
    rows = releases.manifest_rows(speakers=3, per_label=1)
    root = releases.write_manifest(tmp_path / "corpus", rows, seconds=0.4).parent
    (tmp_path / "space.toml").write_text('"training.learning_rate" = [1e-3, 2e-3]\n')
    flags = (*TINY, "--config.corpus.name=manifest", f"--config.corpus.root={root}")
    flags += (f"--space={tmp_path}/space.toml", "--trials=2", f"--workdir={tmp_path}/tune")
    ended = command(*flags, name="tune", figures=True)
    assert ended.code == 0, ended.err
    assert "2 configurations tried; validation UA" in ended.out and "tuning.html" in ended.out
    names = {path.name for path in (tmp_path / "tune").rglob("*")}
    assert not names & {"predictions.csv", "results.json", "report.html"}
    page = (tmp_path / "tune/tuning.html").read_text()
    assert "The best of 2 tries is partly luck" in page
    shown = html.unescape(page.partition("<pre>")[2].partition("</pre>")[0])
    words = shlex.split(shown.replace("\\\n", " "))
    assert words[:2] == ["ser-jax", "train"]
    best = tmp_path / "tune" / words[-1].rpartition("/")[2]
    assert list((tmp_path / "tune").glob("*/models")) == [best / "models"]
    before = (best / "metrics.jsonl").read_text()
    scored = command(*words[2:], "--config.training.devices=2")
    assert scored.code == 0, scored.err
    assert (best / "metrics.jsonl").read_text() == before, "nothing was trained again"
    assert read_json(best / "results.json")["seeds"] == [0]


def test_bad_numbers(capsys):
    assert command_line.main(["tune", "--trials=0"]) == 2
    assert "trials" in capsys.readouterr().err
