"""Trackers: what they are told of the lines of metrics, and that they never stop a training."""

import signal
import sys
import types

import pytest

from ser_jax.runtime.errors import UserError
from ser_jax.runtime.signals import Interrupted
from ser_jax.training import tracking

LINE = {"fold": "a/b", "seed": 1, "phase": 1, "epoch": 2, "loss": 0.5, "validation_ua": 0.75}
REFIT = {"fold": "a/b", "seed": 1, "phase": 2, "epoch": 1, "loss": 0.25, "validation_ua": None}
CONFIG = {"training": {"epochs": 3}}


def test_tensorboard_as_its_own_reader_sees_it(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    with tracking.listening("tensorboard", tmp_path, CONFIG) as listen:
        listen([LINE | {"epoch": 1, "loss": 0.75}, REFIT])
        listen([LINE])
    folder = tmp_path / "tensorboard"
    assert sorted(path.name for path in folder.iterdir()) == ["a%2Fb-1", "a%2Fb-1-refit"]
    seen = EventAccumulator(str(folder / "a%2Fb-1"))
    seen.Reload()
    loss = [(e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in seen.Tensors("loss")]
    assert loss == [(1, 0.75), (2, 0.5)]
    assert len(seen.Tensors("validation_ua")) == 2
    refit = EventAccumulator(str(folder / "a%2Fb-1-refit"))
    refit.Reload()
    assert refit.Tags()["tensors"] == ["loss"]


@pytest.fixture
def calls(monkeypatch):
    """Stands in for mlflow and wandb; returns the calls that it gets."""
    found: list[tuple] = []

    def noting(name):
        return lambda *a, **k: found.append((name, *a, *([k] if k else [])))

    def opened(**arguments):
        found.append(("open", arguments))
        methods = ("define_metric", "log", "finish")
        return types.SimpleNamespace(**{name: noting(name) for name in methods})

    names = ("set_experiment", "log_params", "log_metrics", "end_run")
    mlflow = types.SimpleNamespace(start_run=opened, **{name: noting(name) for name in names})
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=opened))
    return found


def test_mlflow(calls, tmp_path):
    with tracking.listening("mlflow", tmp_path / "mine", CONFIG) as listen:
        listen([LINE, REFIT])
    assert calls == [
        ("set_experiment", "ser_jax"),
        ("open", {"run_name": "mine"}),
        ("log_params", {"training.epochs": 3}),
        ("log_metrics", {"a_2Fb-1/loss": 0.5, "a_2Fb-1/validation_ua": 0.75}, {"step": 2}),
        ("log_metrics", {"a_2Fb-1-refit/loss": 0.25}, {"step": 1}),
        ("end_run", "FINISHED"),
    ]


def test_wandb(calls, tmp_path):
    with tracking.listening("wandb", tmp_path / "mine", CONFIG) as listen:
        listen([LINE, LINE | {"epoch": 3}])
    folder = str(tmp_path / "mine")
    assert calls[0] == (
        "open",
        {"project": "ser_jax", "name": "mine", "dir": folder, "config": CONFIG},
    )
    assert calls[1] == ("define_metric", "a%2Fb-1/*", {"step_metric": "a%2Fb-1/epoch"})
    names = ("a%2Fb-1/epoch", "a%2Fb-1/loss", "a%2Fb-1/validation_ua")
    assert calls[2:4] == [("log", dict(zip(names, (n, 0.5, 0.75), strict=True))) for n in (2, 3)]
    assert calls[4:] == [("finish", {"exit_code": 0})]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Interrupted(signal.SIGTERM), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (ZeroDivisionError(), "FAILED"),
    ],
)
def test_a_training_that_does_not_finish_is_shown_so(calls, tmp_path, error, status):
    """And its error is not taken for one of the tracker."""
    for kind, last in (("mlflow", ("end_run", status)), ("wandb", ("finish", {"exit_code": 1}))):
        with pytest.raises(type(error)), tracking.listening(kind, tmp_path, CONFIG):
            raise error
        assert calls[-1] == last


@pytest.mark.parametrize("failing", ["start_run", "log_metrics"])
def test_a_tracker_that_fails_stops_itself_only(calls, tmp_path, monkeypatch, caplog, failing):
    def fail(*_, **__):
        raise OSError("the server\nis away")

    monkeypatch.setattr(sys.modules["mlflow"], failing, fail)
    with tracking.listening("mlflow", tmp_path, CONFIG) as listen:
        listen([LINE])
        listen([LINE])
    said = [one.getMessage() for one in caplog.records]
    assert said == ["note: training.track=mlflow stops: the server is away"]


def test_none_listens_to_nothing(tmp_path):
    with tracking.listening("none", tmp_path, CONFIG) as listen:
        listen([LINE])
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ser_jax\[wandb\]', or set training.track=n"):
        tracking.check("wandb")
    tracking.check("none")
