"""The whole way from recordings to a report, for one configuration: what main and evaluate call."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax import agreement, cache, checks, ensembles, inside, machinery, reading, residence, run_directory, systems
from ser_jax.config import Config
from ser_jax.corpora.table import Corpus, Rejection
from ser_jax.errors import Diverged, UserError
from ser_jax.evaluation import predictions as prediction_table
from ser_jax.evaluation import submission
from ser_jax.evaluation.results import DIVERGED, summarise
from ser_jax.features.extract import Engine, Features, extract
from ser_jax.neural import Neural
from ser_jax.protocols import registry
from ser_jax.protocols.protocol import Protocol
from ser_jax.training import model_files, scoring, shares
from ser_jax.training.hosts import ALONE, Hosts
from ser_jax.training.runs import Run, list_runs

SUBMISSION = "submission.arff"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Material:
    """What training and evaluation work on.

    Attributes:
      protocol: The protocol.
      features: Features of exactly its utterances.
      root: Folder that their files are relative to.
    """

    protocol: Protocol
    features: Features
    root: Path


def default_workdir(config: Config, protocol: str, config_file: str) -> Path:
    """Returns `runs/<protocol>-<config file stem>`."""
    return Path("runs") / f"{protocol}-{Path(config_file).stem if config_file else config.system}"


def prepare(config: Config, corpus: Corpus, folder: Path | None) -> Material:
    """Extracts the features of a corpus and makes the protocol; see `extract_features` for the folder."""
    name, spec = registry.find_spec(config.protocol.name, corpus)
    corpus = registry.select(spec, corpus)
    features = extract_features(config, corpus, folder)
    protocol, warnings = registry.build_protocol(name, spec, corpus, features.utterances, refit=config.training.refit)
    for warning in warnings:
        log.warning("note: %s", warning)
    return Material(protocol, features, corpus.root)


def extract_features(
    config: Config,
    corpus: Corpus,
    folder: Path | None,
    *,
    engine: Engine | None = None,
    most_bytes: float | None = None,
) -> Features:
    """Extracts the features that the system reads; what cannot be used is listed in `folder/rejected.csv`, if any.

    Args:
      config: The resolved configuration.
      corpus: The utterances.
      folder: Folder for the list, or None.
      engine: What computes; None: this machine.
      most_bytes: Features that take more stay in the store; None: what the configuration says.

    Returns:
      The features.

    Raises:
      UserError: See `features.extract.extract`.
    """
    f = config.features
    features = extract(
        corpus,
        machinery.logmel_settings(config),
        log_mel=systems.uses_log_mel(config),
        hsf=systems.uses_hsf(config),
        waves=systems.uses_wave(config),
        store_root=Path(f.store).expanduser() if f.store else cache.cache_folder() / "features",
        max_seconds=f.max_seconds,
        max_bad_share=f.max_bad_share,
        workers=f.workers,
        most_bytes=residence.most_feature_bytes(config) if most_bytes is None else most_bytes,
        engine=engine,
        on_rejected=lambda rejected: _report_rejected(folder, rejected),
    )
    for warning in corpus.warnings:
        log.warning("note: %s", warning)
    for flag, count in features.flagged.items():
        log.info("note: %d recordings are used although %s", count, flag)
    return features


@dataclasses.dataclass(frozen=True)
class Workshop:
    """Everything that training and scoring need.

    Attributes:
      material: Protocol and features.
      system: The system, ready to train and score.
      runs: The runs asked for.
      seconds: Wall times so far.
    """

    material: Material
    system: systems.System
    runs: list[Run]
    seconds: dict[str, float]


def train_and_evaluate(config: Config, corpus: Corpus, workdir: Path, hosts: Hosts = ALONE) -> dict[str, Any]:
    """Trains every run of the protocol that is not finished, scores the test parts and writes the report.

    Args:
      config: The resolved configuration.
      corpus: The corpus table.
      workdir: The run directory; it exists and belongs to the configuration.
      hosts: The processes that train together: each trains its share, the first one writes and scores.

    Returns:
      The content of `results.json`.
    """
    shop = set_up(config, corpus, workdir, training=True, hosts=hosts)
    protocol = shop.material.protocol
    description = {
        "system": config.system,
        "classes": list(protocol.classes),
        "protocol": protocol.name,
        "protocol_sha256": protocol.sha256,
        "config": {name: config[name].to_dict() for name in shop.system.sections},
    }
    for job in shares.jobs(shop.runs, workdir, hosts):
        shop.system.train(job.runs, workdir, description, job.folder)
    if hosts.count > 1:
        log.info("waiting for what other processes train")
    hosts.wait("trained")
    results = None
    if hosts.first:
        if not agreement.wait_for(hosts, lambda: not _unfinished(shop.runs, workdir)):
            raise UserError(f"{workdir}: models of other hosts do not arrive: mend its mount and run the command again")
        shares.gather(workdir)
        results = score(config, shop, workdir)
        shares.forget(workdir)
    hosts.wait("scored")
    return hosts.from_first("results", results)


def evaluate_again(config: Config, corpus: Corpus, workdir: Path) -> dict[str, Any]:
    """Scores the stored models of a finished run again and writes results and report anew.

    Raises:
      UserError: If a run is not finished.
    """
    shop = set_up(config, corpus, workdir, training=False)
    missing = _unfinished(shop.runs, workdir)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(shop.runs)} runs of {workdir} are not finished ({', '.join(missing[:5])}): "
            f"run the training command again"
        )
    with contextlib.suppress(UserError):  # Damaged results are what this command is to mend.
        before = run_directory.finished_results(workdir)
        if before:  # Training, not this command, is what the wall times are about.
            shop.seconds.update({name: before["seconds"][name] for name in ("features", "compile")})
    return score(config, shop, workdir)


def set_up(config: Config, corpus: Corpus, workdir: Path, *, training: bool, hosts: Hosts = ALONE) -> Workshop:
    """Extracts features and makes protocol and system; see `train_and_evaluate` for the arguments."""
    begin = time.monotonic()
    checks.check(config)
    make_system = systems.start(config, training=training)
    material = prepare(config, corpus, workdir if hosts.first else None)
    seconds = {"features": time.monotonic() - begin}
    protocol, p = material.protocol, config.protocol
    runs = list_runs(protocol, seeds=p.seeds * p.ensemble, first_seed=p.seed, folds=p.folds)
    hosts.wait("prepared")
    found = {"protocol": protocol.sha256, "recordings": material.features.corpus_sha256}
    agreement.check_same(hosts, "protocol and recordings", found)
    shares.check(runs, hosts)
    if hosts.first:
        run_directory.record_protocol(workdir, protocol)
    log.info(
        "%s: %d utterances, %.0f s of speech, %d runs (fold x seed) of %s",
        *(protocol.name, len(protocol.ids), material.features.seconds.sum(), len(runs), config.system),
    )
    system = make_system(protocol, material.features, -(-len(runs) // hosts.count))
    if hosts.first:
        run_directory.record_versions(workdir, system.devices, hosts.count)
    seconds["compile"] = system.compile_seconds
    return Workshop(material, system, runs, seconds)


def score(config: Config, shop: Workshop, workdir: Path) -> dict[str, Any]:
    """Scores the test part of every run with its stored model; writes predictions, results and report.

    Returns:
      The content of `results.json`.
    """
    begin = time.monotonic()
    protocol = shop.material.protocol
    read = {run: model_files.read_description(workdir / "models" / run.name) for run in shop.runs}
    descriptions = {run: found for run, found in read.items() if found}
    # A final model has no test part.
    usable = [run for run, found in descriptions.items() if found["status"] != DIVERGED and len(run.fold.test)]
    scores = shop.system.scores([workdir / "models" / run.name for run in usable], [run.fold.test for run in usable])
    probabilities = {
        run: scoring.softmax(values, descriptions[run]["temperature"])
        for run, values in zip(usable, scores, strict=True)
    }
    rows = []
    members = ensembles.members(shop.runs, config.protocol.ensemble)
    for run, voters in members.items():
        votes = [probabilities[voter] for voter in voters if voter in probabilities]
        if votes:
            rows += prediction_table.from_probabilities(
                [shop.material.features.utterances[number] for number in run.fold.test],
                np.mean(votes, axis=0),
                classes=protocol.classes,
                fold=run.fold.name,
                seed=run.seed,
            )
    prediction_table.write_predictions(workdir / "predictions.csv", rows, protocol.classes)
    withheld = [row for row in rows if not row.label]
    if withheld and protocol.corpus == "emotass":
        submission.write_submission(workdir / SUBMISSION, withheld, protocol.classes)
        log.info("the test labels are withheld: %s holds the predictions for the organisers", workdir / SUBMISSION)
    # A run's own seconds outlive interruptions; the clock of this process does not.
    seconds = shop.seconds | {"train": sum(found["seconds"] for found in descriptions.values())}
    seconds["evaluate"] = time.monotonic() - begin
    seconds["total"] = sum(seconds.values())
    results = summarise(
        rows,
        system=config.system,
        parameters=shop.system.parameters,
        corpus=protocol.corpus,
        corpus_sha256=shop.material.features.corpus_sha256,
        protocol=protocol.name,
        protocol_sha256=protocol.sha256,
        classes=protocol.classes,
        probabilities=ensembles.describe(shop.system.probabilities, config.protocol.ensemble),
        pooled_folds=protocol.pooled_folds({run.fold.name for run in shop.runs}),
        runs=ensembles.outcomes(members, descriptions),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )
    run_directory.write_results(workdir, results)
    from ser_jax.evaluation.report import write_report  # Loads matplotlib, for which training should not wait.

    looked_at = {run: workdir / "models" / run.name for run in usable if run.fold.name in results["pooled_folds"]}
    dataset, material = shop.system.dataset if isinstance(shop.system, Neural) else None, shop.material
    write_report(workdir, inside.look(config, dataset, protocol, material.features, material.root, looked_at, rows))
    return results


def _unfinished(runs: Sequence[Run], workdir: Path) -> list[str]:
    return [run.name for run in runs if model_files.read_description(workdir / "models" / run.name) is None]


def check_diverged(results: dict[str, Any]) -> None:
    """Raises Diverged if runs diverged; everything that can be written has been written."""
    diverged = [f"{run['fold']}-{run['seed']}" for run in results["runs"] if run["status"] == DIVERGED]
    if diverged:
        raise Diverged(
            f"{len(diverged)} of {len(results['runs'])} runs diverged ({', '.join(diverged[:5])}): try a lower "
            f"training.learning_rate or training.clip_norm in another --workdir"
        )


def _report_rejected(folder: Path | None, rejected: Sequence[Rejection]) -> None:
    if folder is None:
        return
    path = folder / "rejected.csv"
    reading.list_rejected(path, rejected)
    if rejected:
        log.warning("note: %d recordings cannot be used, see %s", len(rejected), path)
