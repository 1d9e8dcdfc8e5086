"""Trains or scores one run directory: what the commands and `ser_jax.train`, `.evaluate` call."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ser_jax.cluster.hosts import ALONE, Hosts
from ser_jax.config import Config
from ser_jax.corpora import from_config
from ser_jax.experiment import (
    config_checks,
    cross_corpus,
    fusion,
    host_checks,
    pipeline,
    run_directory,
)
from ser_jax.features import audio
from ser_jax.protocols import named
from ser_jax.report import console
from ser_jax.runtime.errors import UserError
from ser_jax.training import model_files
from ser_jax.training.model_files import DIVERGED


class Results(dict[str, Any]):
    """What `results.json` holds (docs/run-directory.md); printed, it is the table of scores.

    Attributes:
      folder: The folder it lies in; of a training it is the run directory.
    """

    def __init__(self, values: dict[str, Any], folder: Path):
        """Stores both."""
        super().__init__(values)
        self.folder = folder

    def __repr__(self) -> str:
        """Returns the scores as a small table, and the path of the report, if there is one."""
        report = self.folder / "report.html"
        return console.summary_lines(self, report if report.is_file() else None)


def train(
    config: Config,
    workdir: str | os.PathLike[str] = "",
    config_file: str = "",
    hosts: Hosts = ALONE,
    *,
    report: bool = True,
) -> Results:
    """Trains every trial that is not trained yet, and scores them; a finished run is only read.

    Args:
      config: The resolved configuration.
      workdir: The run directory, which is made; empty: `runs/<protocol>-<config file stem>`.
      config_file: Preset or file that the configuration comes from, if any.
      hosts: Those that train together.
      report: Whether `report.html` is written.

    Raises:
      UserError: If configuration, corpus or run directory cannot be used.
    """
    config_checks.check(config)
    if config.system == run_directory.FUSION and hosts.count > 1:
        raise UserError(
            f"system={config.system} trains on one host: train each member on all of them, then"
            " ser-jax fuse their run directories"
        )
    host_checks.check_alike(hosts, config)
    rejected = from_config.rejected_list(Path(workdir or "runs"))
    corpus = from_config.read(config, rejected, audio.length)
    protocol, _ = named.find_spec(config.protocol.name, corpus)
    default = pipeline.default_workdir(config, protocol, config_file)
    folder = Path(workdir) if workdir else default
    with run_directory.locked(folder) if hosts.first else contextlib.nullcontext():
        host_checks.open_shared(hosts, folder, config)
        finished = pipeline.finished_results(folder, report) if hosts.first else None
        results = hosts.broadcast("finished", finished)
        if results is None:
            if config.system == run_directory.FUSION:
                results = fusion.train(config, corpus, folder, report)
            else:
                results = pipeline.train_and_evaluate(config, corpus, folder, hosts, report)
    return Results(results, folder)


def fuse(runs: Sequence[Path], workdir: Path, weights: str = "equal") -> Results:
    """Makes a fusion of finished runs in a run directory; see `fusion.fuse_runs`."""
    return Results(fusion.fuse_runs(runs, workdir, weights), workdir)


def train_only(config: Config, workdir: Path) -> list[str]:
    """Trains what `train` would, and scores nothing; `train` goes on from there.

    Returns:
      Names of the trials that diverged.

    Raises:
      UserError: If corpus or run directory cannot be used.
    """
    corpus = from_config.read(config, from_config.rejected_list(workdir), audio.length)
    with run_directory.locked(workdir):
        run_directory.open_directory(workdir, config)
        trials = pipeline.train(config, corpus, workdir).trials
        found = ((trial.name, workdir / "models" / trial.name) for trial in trials)
        described = {name: model_files.read_description(folder) for name, folder in found}
    return [name for name, one in described.items() if one and one["status"] == DIVERGED]


def evaluate(
    workdir: Path,
    other: Config | None = None,
    *,
    root: str = "",
    embeddings: str = "",
    output: str | os.PathLike[str] = "",
) -> Results:
    """Scores a finished run again, or on another corpus.

    Args:
      workdir: The run directory.
      other: Configuration that names another corpus; None: the run's own, whose results and report
        are written again.
      root: Where the run's own corpus lies now; empty: where it lay.
      embeddings: Where the embeddings of the run lie now; empty: where they lay.
      output: Folder for the results on another corpus; empty: `<workdir>/<corpus name>`.

    Raises:
      UserError: If run or corpus cannot be used, or a label of it is no class of the model.
    """
    own = run_directory.read_config(workdir)
    fused = own.system == run_directory.FUSION
    if other is not None:
        folder = Path(output) if output else workdir / other.corpus.name
        score = fusion.evaluate_other if fused else cross_corpus.evaluate
        return Results(score(own, other, workdir, folder), folder)
    with own.unlocked():
        own.corpus.root = root or own.corpus.root
        own.features.embeddings = embeddings or own.features.embeddings
    corpus = from_config.read(own, from_config.rejected_list(workdir), audio.length)
    with run_directory.locked(workdir):
        score = fusion.evaluate_again if fused else pipeline.evaluate_again
        return Results(score(own, corpus, workdir), workdir)
