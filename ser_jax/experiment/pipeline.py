"""The whole way from recordings to a report, for one configuration: what main and evaluate call."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.cluster import assignment
from ser_jax.cluster.hosts import ALONE, Hosts
from ser_jax.config import Config
from ser_jax.corpora import findings, from_config, joined
from ser_jax.corpora.registry import READERS
from ser_jax.corpora.table import Corpus, Rejection
from ser_jax.evaluation import finished_run, submission
from ser_jax.evaluation import predictions as prediction_table
from ser_jax.evaluation.results import DIVERGED, diverged, summarise
from ser_jax.experiment import (
    config_checks,
    ensembles,
    explain,
    host_checks,
    initial_models,
    run_directory,
    setup,
    stored_variants,
    systems,
)
from ser_jax.features import domain, embeddings
from ser_jax.features.extraction import Engine, Features, extract
from ser_jax.models import build
from ser_jax.protocols import folds, list_checks, named, speaker_rule
from ser_jax.protocols.copies import LEAK, copy_findings
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.runtime import machine
from ser_jax.runtime.errors import Diverged, UserError
from ser_jax.runtime.progress import counted
from ser_jax.training import model_files, scoring
from ser_jax.training.trials import Trial, list_trials

SUBMISSION = "submission.arff"
PREDICTIONS, VALIDATION = "predictions.csv", "validation.csv"
REJECTED = "rejected.csv"
REPORT = "report.html"
# Files of a finished run that the training command makes again without training.
REMADE = ("protocol.json", "versions.json", REJECTED, PREDICTIONS)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that training and scoring need."""

    protocol: Protocol
    features: Features  # features of exactly its utterances
    root: Path  # folder that their files are relative to
    system: systems.System  # the system, ready to train and score
    trials: list[Trial]  # the trials requested
    seconds: dict[str, float]  # wall times so far
    # what the training parts are like, see `features.domain.describe`; empty without training
    domain: dict[str, Any]


def default_workdir(config: Config, protocol: str, config_file: str, kind: str = "") -> Path:
    """Returns `runs/<kind>-<protocol>-<config file stem>`, another folder for other corpora.

    Protocols of joined corpora that do not name them (`leave-one-corpus-out`) get their names in
    front. `kind` is what is made other than a run, such as "tune".
    """
    corpora = config.corpus.name
    if joined.PLUS in corpora and not protocol.startswith(corpora):
        protocol = f"{corpora}-{protocol}"
    stem = Path(config_file).stem if config_file else config.system
    return Path("runs") / "-".join([*([kind] if kind else []), protocol, stem])


def extract_features(
    config: Config,
    corpus: Corpus,
    folder: Path | None,
    *,
    engine: Engine | None = None,
    most_bytes: float | None = None,
) -> Features:
    """Extracts the features that the system reads; errors as of `features.extraction.extract`.

    Args:
      config: The resolved configuration.
      corpus: The utterances.
      folder: Folder for `rejected.csv`, the list of those that cannot be used; None: no list.
      engine: What computes; None: this machine.
      most_bytes: Features that take more stay in the store; None: what the configuration says.
    """
    mix, gains = setup.mix(config), None
    if most_bytes is None:
        most_bytes = setup.most_feature_bytes(config)
    given = None
    if build.uses_embeddings(config):  # Faults of theirs are found before hours of extraction.
        corpus, given = setup.embeddings_of(config, corpus, most_bytes)
    extract_some = functools.partial(
        *(_extractor(config, engine), corpus),
        on_rejected=lambda rejected: _report_rejected(folder, rejected),
    )
    if mix.level == speaker_rule.SPEAKER:
        as_recorded = dataclasses.replace(mix, level="none")
        none: dict[str, Any] = {"log_mel": False, "hsf": False, "waves": False}
        recorded = extract_some(**none, levels=True, mix=as_recorded)
        gains = setup.speaker_gains(config, recorded)
    features = extract_some(gains=gains, most_bytes=most_bytes)
    for flag, count in features.flagged.items():
        log.info("note: %s used although %s", counted(count, "recording"), flag)
    if len(features.rates) > 1:
        rates = ", ".join(f"{rate} Hz ({count})" for rate, count in sorted(features.rates.items()))
        log.warning(
            "note: recordings have several sampling rates: %s; all are read as 16 kHz", rates
        )
    if given is None:
        return features
    return embeddings.join(features, given, frames=build.uses_embedded_frames(config))


def add_variants(
    config: Config,
    corpus: Corpus,
    features: Features,
    protocol: Protocol,
    trials: Sequence[Trial],
    folder: Path | None,
    *,
    engine: Engine | None = None,
    most_bytes: float | None = None,
) -> Features:
    """Returns the features with variants of what the trials train on, if they are requested.

    `folder` is that of `rejected-variants.csv`; see `extract_features` and `stored_variants.add`.
    """
    if not config.augment.variants:
        return features
    if most_bytes is None:
        most_bytes = setup.most_feature_bytes(config)
    utterances = stored_variants.trained_on(config, protocol, trials)
    extract_some = _extractor(config, engine)
    return stored_variants.add(
        config, corpus, features, utterances, folder, extract_some, most_bytes
    )


def _extractor(config: Config, engine: Engine | None) -> Callable[..., Features]:
    """Returns `extract` of what the system reads, given a corpus; arguments can be replaced."""
    f = config.features
    return functools.partial(
        extract,
        settings=setup.logmel_settings(config),
        log_mel=build.uses_log_mel(config),
        hsf=build.uses_functionals(config),
        feature_set=f.functionals,
        waves=build.uses_wave(config),
        mix=setup.mix(config),
        store_root=Path(f.store).expanduser() if f.store else machine.feature_folder(),
        max_seconds=f.max_seconds,
        max_bad_share=f.max_bad_share,
        workers=f.workers,
        engine=engine,
    )


def train_and_evaluate(
    config: Config, corpus: Corpus, workdir: Path, hosts: Hosts = ALONE, report: bool = True
) -> dict[str, Any]:
    """Trains every unfinished trial of the protocol, scores the test parts and writes the report.

    Args:
      config: The resolved configuration.
      corpus: The corpus table.
      workdir: The run directory; it exists and belongs to the configuration.
      hosts: Each trains some trials, the first one writes and scores.
      report: Whether `report.html` is written.

    Returns:
      The content of `results.json`.
    """
    experiment = train(config, corpus, workdir, hosts)
    if hosts.count > 1:
        log.info("waiting for what other processes train")
    hosts.barrier("trained")
    results = None
    if hosts.first:
        if not host_checks.wait_for(hosts, lambda: not _unfinished(experiment.trials, workdir)):
            remedy = "mend its mount and run the command again"
            raise UserError(f"{workdir}: models of other hosts do not arrive: {remedy}")
        assignment.merge_metrics(workdir)
        results = score(config, experiment, workdir, report)
        assignment.remove_host_folders(workdir)
    hosts.barrier("scored")
    return hosts.broadcast("results", results)


def train(config: Config, corpus: Corpus, workdir: Path, hosts: Hosts = ALONE) -> Experiment:
    """Trains every unfinished trial that falls to this host, and scores nothing."""
    experiment = set_up(config, corpus, workdir, training=True, hosts=hosts)
    protocol, system = experiment.protocol, experiment.system
    description = {
        "system": config.system,
        "classes": list(protocol.classes),
        "protocol": protocol.name,
        "protocol_sha256": protocol.sha256,
        "config": {name: config[name].to_dict() for name in system.sections},
        "domain": experiment.domain,
    }
    if experiment.features.embeddings:
        description["embeddings"] = experiment.features.embeddings
    if experiment.features.variants:
        description["variants"] = experiment.features.variants.facts
    for job in assignment.jobs(experiment.trials, workdir, hosts):
        system.train(job.trials, workdir, description, job.folder)
    return experiment


def finished_results(workdir: Path, report: bool = True) -> dict[str, Any] | None:
    """Returns the results of a run that has all its files, which `train` has only to print.

    None: it is not finished, or a file or model is missing, which `train_and_evaluate` makes again.
    The report may be missing if none is asked for.

    Raises:
      UserError: If a file is damaged.
    """
    results = run_directory.finished_results(workdir)
    if results is None:
        return None
    submitted = results.get("unlabelled") and _takes_submissions(results["corpus"])
    requested = [*REMADE, *([SUBMISSION] if submitted else []), *([REPORT] if report else [])]
    missing = [name for name in requested if not (workdir / name).is_file()]
    members = run_directory.member_folders(workdir, run_directory.read_config(workdir))
    finished = {folder: finished_results(folder, report) for folder in members.values()}
    missing += [str(folder) for folder, found in finished.items() if found is None]
    trials = {} if members else run_directory.read_trials(workdir)
    missing += [f"models/{name}" for name, found in trials.items() if found is None]
    for name in trials:
        model_files.check(workdir / "models" / name)
    if (workdir / "protocol.json").is_file():
        run_directory.read_protocol(workdir)
    table = workdir / PREDICTIONS
    if table.is_file() and finished_run.sha256(table) != results["predictions_sha256"]:
        missing.append(table.name)
    if missing:
        log.info("%s: %s missing or not as scored: made again", workdir, ", ".join(missing))
    return None if missing else results


def evaluate_again(config: Config, corpus: Corpus, workdir: Path) -> dict[str, Any]:
    """Scores a finished run again (else a UserError); writes results and report again."""
    experiment = set_up(config, corpus, workdir, training=False)
    missing = _unfinished(experiment.trials, workdir)
    if missing:
        raise UserError(
            f"{len(missing)} of {counted(len(experiment.trials), 'trial')} of {workdir} are not"
            f" finished ({', '.join(missing[:5])}): run the training command again"
        )
    with contextlib.suppress(UserError):  # Damaged results are what this command is to mend.
        before = run_directory.finished_results(workdir)
        if before:  # Training, not this command, is what the wall times are about.
            kept = {name: before["seconds"][name] for name in ("features", "compile")}
            experiment.seconds.update(kept)
    return score(config, experiment, workdir)


def set_up(
    config: Config, corpus: Corpus, workdir: Path, *, training: bool, hosts: Hosts = ALONE
) -> Experiment:
    """Extracts features, makes protocol and system; arguments as for `train_and_evaluate`."""
    begin = time.monotonic()
    config_checks.check(config)
    source = initial_models.open_source(config) if training else None
    make_system = systems.start(config, training=training)
    from_config.log_warnings(corpus)
    name, spec = named.find_spec(run_directory.protocol_name(workdir, config), corpus)
    listed = list_checks.examine(config, corpus, name, spec)
    if training:  # else it has been trained with
        if corpus.rejected and hosts.first:
            from_config.list_rejected(workdir / REJECTED, corpus.rejected)
        list_checks.refuse_errors(listed)
        for sentence in findings.sentences(listed.findings):
            log.warning("note: %s", sentence)
    corpus = named.select(spec, corpus)
    listing = workdir if hosts.first else None
    features = extract_features(config, corpus, listing)
    protocol, warnings = make_protocol(config, name, spec, corpus, features)
    for warning in warnings:
        if warning not in listed.warnings:
            log.warning("note: %s", warning)
    if training:
        digests = zip(features.utterances, features.digests, strict=True)
        speech = {row.id: f"{digest} {row.start} {row.end}" for row, digest in digests}
        copies = copy_findings(features.utterances, protocol, speech)
        for sentence in findings.sentences(row for row in copies if row.finding != LEAK):
            log.warning("note: %s", sentence)
    trials = make_trials(config, protocol)
    if training:
        features = add_variants(config, corpus, features, protocol, trials, listing)
    seconds = {"features": time.monotonic() - begin}
    hosts.barrier("prepared")
    found: dict[str, Any] = {"protocol": protocol.sha256, "recordings": features.corpus_sha256}
    initial = None
    if source is not None:
        rows = zip(features.utterances, features.digests, strict=True)
        recordings = {row.id: digest for row, digest in rows}
        folds = {trial.fold.name for trial in trials}
        initial = initial_models.read(
            *(source, config, protocol, recordings, folds, features.embeddings)
        )
        found["models to start from"] = [
            [name, one["sha256"]] for name, one in initial.record["models"].items()
        ]
    found["embeddings"] = (features.embeddings or {}).get("sha256", "")
    facts = features.variants.facts if features.variants else None
    found["variants"] = facts or {}
    host_checks.check_same(hosts, "protocol, recordings, embeddings and variants", found)
    assignment.check(trials, hosts)
    if hosts.first:
        if initial:
            initial_models.record(workdir, initial)
        run_directory.record_protocol(
            workdir, protocol, features.digests, features.embeddings, facts
        )
    log.info(
        "%s: %s, %.0f s of speech, %s (fold x seed) of %s",
        *(protocol.name, counted(len(protocol.ids), "utterance"), features.seconds.sum()),
        *(counted(len(trials), "trial"), config.system),
    )
    # Before the system takes the frames away.
    domain_facts = _domain(config, features, trials) if training else {}
    system = make_system(protocol, features, -(-len(trials) // hosts.count))
    if initial:
        assert isinstance(system, systems.NeuralSystem)  # as `config_checks` has checked
        system.initial = initial.params
    if hosts.first:
        trained_with = system.trained_with if training else None
        run_directory.record_versions(workdir, system.devices, hosts.count, trained_with)
    seconds["compile"] = system.compile_seconds
    return Experiment(protocol, features, corpus.root, system, trials, seconds, domain_facts)


def make_protocol(
    config: Config, name: str, spec: named.Spec, corpus: Corpus, features: Features
) -> tuple[Protocol, tuple[str, ...]]:
    """Makes the protocol of what can be used of a corpus; see `named.build_protocol`."""
    return named.build_protocol(
        *(name, spec, corpus, features.utterances),
        refit=config.training.refit,
        recordings=features.digests,
        rule=speaker_rule.rule(config),
    )


def make_trials(config: Config, protocol: Protocol) -> list[Trial]:
    """Returns the trials that the configuration wants; see `list_trials`."""
    p = config.protocol
    return list_trials(protocol, seeds=p.seeds * p.ensemble, first_seed=p.seed, folds=p.folds)


def _domain(config: Config, features: Features, trials: Sequence[Trial]) -> dict[str, Any]:
    """What the recordings of all training parts are like, with their variants."""
    rows = np.unique(np.concatenate([trial.fold.train for trial in trials]))
    parts = [features]
    if features.variants:
        parts.append(features.variants.features)
        rows = np.unique(features.variants.versions[:, rows])
    log_mel = ()
    if build.uses_log_mel(config):
        frames = [part.deferred.get("logmel", part.log_mel) for part in parts]
        log_mel = setup.joined(frames)
    facts, seconds = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("facts", "seconds")
    )
    return domain.describe(facts, seconds, log_mel, rows)


def score(
    config: Config, experiment: Experiment, workdir: Path, report: bool = True
) -> dict[str, Any]:
    """Scores the test part of every trial; writes predictions, report and (returns) results."""
    begin = time.monotonic()
    protocol, system, features = experiment.protocol, experiment.system, experiment.features
    folders = {trial: workdir / "models" / trial.name for trial in experiment.trials}
    read = {trial: model_files.read_description(folder) for trial, folder in folders.items()}
    descriptions = {trial: found for trial, found in read.items() if found}
    usable = {
        trial: (folders[trial], found["temperature"])
        for trial, found in descriptions.items()
        if found["status"] != DIVERGED
    }
    members = ensembles.members(experiment.trials, config.protocol.ensemble)
    # A final model has no test part.
    rows = _predictions(experiment, members, usable, lambda fold: fold.test)
    validation = []
    if config.training.refit == folds.NO_REFIT:  # else the models have been trained on that part
        validation = _predictions(experiment, members, usable, lambda fold: fold.validation)
    write_tables(workdir, rows, validation, protocol.classes, protocol.corpus)
    # A trial's own seconds outlive interruptions; the clock of this process does not.
    trained = sum(found["seconds"] for found in descriptions.values())
    seconds = experiment.seconds | {"train": trained, "evaluate": time.monotonic() - begin}
    seconds["total"] = sum(seconds.values())
    results = summarise(
        rows,
        system=config.system,
        parameters=system.parameters * config.protocol.ensemble,
        ensemble=config.protocol.ensemble,
        corpus=protocol.corpus,
        corpus_sha256=features.corpus_sha256,
        protocol=protocol.name,
        protocol_sha256=protocol.sha256,
        classes=protocol.classes,
        sessions=dict(zip(protocol.ids, protocol.sessions, strict=False)),
        probabilities=ensembles.describe(
            ensembles.calibrated(
                system.probabilities, (found["temperature"] for found in descriptions.values())
            ),
            config.protocol.ensemble,
            sum(found["status"] == DIVERGED for found in descriptions.values()),
        ),
        pooled_folds=protocol.pooled_folds({trial.fold.name for trial in experiment.trials}),
        runs=ensembles.outcomes(members, descriptions),
        trained_with=_count_trained_with(list(descriptions.values())),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )
    if features.embeddings:
        results["embeddings"] = features.embeddings
    results["validation_sha256"] = prediction_table.digest(validation, protocol.classes)
    run_directory.write_results(workdir, results)
    if not report:
        return results
    from ser_jax.report import run_page  # Loads matplotlib, for which training should not wait.

    tested = [trial for trial in usable if len(trial.fold.test)]
    pooled = [trial for trial in tested if trial.fold.name in results["pooled_folds"]]
    explanation = explain.explain(
        *(config, system, protocol, features, experiment.root),
        *({trial: folders[trial] for trial in pooled}, rows),
    )
    run_page.write_report(workdir, explanation)
    return results


def _predictions(
    experiment: Experiment,
    members: Mapping[Trial, Sequence[Trial]],
    models: Mapping[Trial, tuple[Path, float | None]],
    part: Callable[[Fold], np.ndarray],
) -> list[prediction_table.Prediction]:
    """Predicts a part of the fold of every ensemble, by its members that have not diverged.

    Args:
      experiment: Features, protocol and system.
      members: The trials of every ensemble, by its first.
      models: Folder and temperature of the usable trials.
      part: Returns the utterances of a fold that are predicted.
    """
    used = [trial for trial in models if len(part(trial.fold))]
    parts = [part(trial.fold) for trial in used]
    scores = experiment.system.scores([models[trial][0] for trial in used], parts)
    probabilities = {
        trial: scoring.softmax(values, models[trial][1])
        for trial, values in zip(used, scores, strict=True)
    }
    rows = []
    for trial, voters in members.items():
        votes = [probabilities[voter] for voter in voters if voter in probabilities]
        if votes:
            rows += prediction_table.from_probabilities(
                [experiment.features.utterances[number] for number in part(trial.fold)],
                np.mean(votes, axis=0),
                classes=experiment.protocol.classes,
                fold=trial.fold.name,
                seed=trial.seed,
            )
    return rows


def write_tables(
    workdir: Path,
    rows: Sequence[prediction_table.Prediction],
    validation: Sequence[prediction_table.Prediction],
    classes: Sequence[str],
    corpus: str,
) -> None:
    """Writes the predictions of test and validation parts, and those of withheld labels.

    Until there is a new report, the run is unfinished.
    """
    (workdir / REPORT).unlink(missing_ok=True)
    prediction_table.write_predictions(workdir / PREDICTIONS, rows, classes)
    prediction_table.write_predictions(workdir / VALIDATION, validation, classes)
    withheld = [row for row in rows if not row.label]
    if withheld and _takes_submissions(corpus):
        path = workdir / SUBMISSION
        submission.write_submission(path, withheld, classes)
        log.info("the test labels are withheld: %s is for the organisers", path)


def _count_trained_with(descriptions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the settings that the bits of these trials depend on, each with its `trials`.

    A trial that was resumed with other ones counts in each; one of an earlier version in none.
    """
    used = [description.get("trained_with", []) for description in descriptions]
    distinct: list[dict[str, Any]] = []
    for settings in itertools.chain.from_iterable(used):
        if settings not in distinct:
            distinct.append(settings)
    return [one | {"trials": sum(one in settings for settings in used)} for one in distinct]


def _takes_submissions(corpus: str) -> bool:
    return corpus in READERS and READERS[corpus].has_submissions


def _unfinished(trials: Sequence[Trial], workdir: Path) -> list[str]:
    names = [trial.name for trial in trials]
    return [n for n in names if model_files.read_description(workdir / "models" / n) is None]


def check_diverged(results: dict[str, Any]) -> None:
    """Raises Diverged if trials diverged; everything that can be written has been written."""
    failed, count = diverged(results)
    if failed:
        remedy = "try a lower training.learning_rate or training.clip_norm in another --workdir"
        names = ", ".join(failed[:5])
        raise Diverged(f"{len(failed)} of {counted(count, 'trial')} diverged ({names}): {remedy}")


def _report_rejected(folder: Path | None, rejected: Sequence[Rejection]) -> None:
    if folder is None:
        return
    path = folder / REJECTED
    from_config.list_rejected(path, rejected)
    if rejected:
        log.warning("note: %s cannot be used, see %s", counted(len(rejected), "recording"), path)
