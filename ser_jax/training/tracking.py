"""Shows the lines of `metrics.jsonl` in TensorBoard, MLflow or Weights & Biases as they come."""

import contextlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax.protocols.protocol import trial_name
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.signals import Interrupted
from ser_jax.training import trials

NONE = "none"
TRACKERS = ("tensorboard", "mlflow", "wandb")  # names of packages and of extras alike

Line = Mapping[str, Any]  # of metrics.jsonl
Listener = Callable[[Sequence[Line]], None]
Close = Callable[[str], None]  # receives how the training ended
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"  # as MLflow calls it

log = logging.getLogger(__name__)


def check(kind: str) -> None:
    """Refuses a tracker whose package is not installed."""
    if kind != NONE and importlib.util.find_spec(kind) is None:
        raise UserError(
            f"training.track={kind} needs a package that is not installed: pip install"
            f" 'ser_jax[{kind}]', or set training.track={NONE}"
        )


@contextlib.contextmanager
def listening(kind: str, workdir: Path, config: Mapping[str, Any]) -> Iterator[Listener]:
    """Gives a function that takes lines; what goes wrong in it ends the tracking, not the training.

    Args:
      kind: NONE, or one of TRACKERS.
      workdir: The run directory; its name is that of the run in MLflow and Weights & Biases.
      config: Configuration, a section to a key, that they show beside the curves.
    """
    opened = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
    listeners: list[Listener] = []  # one, or none when it has failed
    closers: list[Close] = []  # one, or none if it did not open

    @contextlib.contextmanager
    def warning() -> Iterator[None]:
        try:
            yield
        except Exception as error:  # A server that is away, a full disk, an account.
            listeners.clear()
            log.warning("note: training.track=%s stops: %s", kind, " ".join(str(error).split()))

    def listen(lines: Sequence[Line]) -> None:
        with warning():
            for listener in listeners:
                listener(lines)

    with warning():
        if kind != NONE:
            listener, close = opened[kind](workdir, config)
            listeners.append(listener)
            closers.append(close)
    ended = FAILED
    try:
        yield listen
        ended = FINISHED
    except (Interrupted, KeyboardInterrupt):
        ended = KILLED
        raise
    finally:
        with warning():
            for close in closers:
                close(ended)


def _named(line: Line) -> tuple[str, int, dict[str, float]]:
    """Returns the trial of a line, its epoch, and its scores; phase 2 is a curve of its own."""
    trial = trial_name(line["fold"], line["seed"])
    if line["phase"] != trials.CHOOSE_EPOCH:
        trial += "-refit"
    left_out = ("fold", "seed", "phase", "epoch")
    values = {k: v for k, v in line.items() if k not in left_out and v is not None}
    return trial, line["epoch"], values


def _tensorboard(workdir: Path, config: Mapping[str, Any]) -> tuple[Listener, Close]:
    """A folder per trial in `<workdir>/tensorboard`, so that their curves lie over one another."""
    from tensorboard.summary import Writer

    writers: dict[str, Writer] = {}

    def listen(lines: Sequence[Line]) -> None:
        for line in lines:
            trial, epoch, values = _named(line)
            if trial not in writers:
                writers[trial] = Writer(str(workdir / "tensorboard" / trial))
            for name, value in values.items():
                writers[trial].add_scalar(name, value, epoch)
        for writer in writers.values():
            writer.flush()

    def close(ended: str) -> None:
        del ended  # It has no word for it.
        for writer in writers.values():
            writer.close()

    return listen, close


def _mlflow(workdir: Path, config: Mapping[str, Any]) -> tuple[Listener, Close]:
    """One run, in the experiment ser_jax or MLFLOW_EXPERIMENT_NAME, of MLFLOW_TRACKING_URI."""
    import mlflow  # pyright: ignore[reportMissingImports]

    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "ser_jax"))
    mlflow.start_run(run_name=workdir.name)
    flat = {f"{s}.{k}": v for s, found in config.items() for k, v in found.items()}
    try:
        mlflow.log_params(flat)
    except Exception:
        mlflow.end_run(FAILED)
        raise

    def listen(lines: Sequence[Line]) -> None:
        for line in lines:
            trial, epoch, values = _named(line)
            trial = re.sub(r"[^\w. :/-]", "_", trial, flags=re.ASCII)  # Others are refused.
            named = {f"{trial}/{name}": value for name, value in values.items()}
            mlflow.log_metrics(named, step=epoch)

    return listen, mlflow.end_run


def _wandb(workdir: Path, config: Mapping[str, Any]) -> tuple[Listener, Close]:
    """One run, in the project ser_jax or WANDB_PROJECT; an x axis of epochs per trial."""
    import wandb  # pyright: ignore[reportMissingImports]

    project = os.environ.get("WANDB_PROJECT", "ser_jax")
    settings = {"project": project, "name": workdir.name, "dir": str(workdir)}
    run = wandb.init(**settings, config=dict(config))
    known = set()

    def listen(lines: Sequence[Line]) -> None:
        for line in lines:
            trial, epoch, values = _named(line)
            if trial not in known:
                run.define_metric(f"{trial}/*", step_metric=f"{trial}/epoch")
                known.add(trial)
            run.log({f"{trial}/{k}": v for k, v in {"epoch": epoch, **values}.items()})

    def close(ended: str) -> None:
        run.finish(exit_code=int(ended != FINISHED))  # It calls both failed.

    return listen, close
