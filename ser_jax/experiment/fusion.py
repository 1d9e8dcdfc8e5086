"""Fusion as a system: its members are run directories, `members/<name>/`, of one protocol.

Each member is trained, resumed, scored and reported like any other run. What is the fusion's own is
made from the tables that they have written (`evaluation/mixture.py`), so nothing is trained for it.
"""

import functools
import hashlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ser_jax import config as configuration
from ser_jax.baselines import svm
from ser_jax.config import NEUTRAL_KEYS, Config
from ser_jax.corpora.table import Corpus
from ser_jax.evaluation import finished_run, mixture, results
from ser_jax.evaluation import predictions as prediction_table
from ser_jax.evaluation.examples import Explanation, Recording
from ser_jax.evaluation.mixture import Member
from ser_jax.evaluation.predictions import Prediction
from ser_jax.experiment import config_checks, cross_corpus, pipeline, run_directory
from ser_jax.experiment.pipeline import PREDICTIONS, REJECTED, VALIDATION
from ser_jax.experiment.run_directory import FUSION, MEMBERS
from ser_jax.features import audio, functionals
from ser_jax.models import build
from ser_jax.runtime import files, strict_json
from ser_jax.runtime.errors import UserError

SHARED = ("corpus", "protocol", "features")  # sections that members take from the fusion
INHERITED = ("training.refit", *NEUTRAL_KEYS)  # keys of other sections that they take
OWN = ("model", "training", "augment", "svm")  # sections in which the presets of members differ
VALIDATED = "validation_sha256"  # key of the results of runs that have validation.csv
NO_REPRESENTATIONS = (
    "A fusion has no joint representation; the reports of its networks, in members/, show theirs."
)

log = logging.getLogger(__name__)


# --- Members from presets


def member_configs(config: Config) -> dict[str, Config]:
    """Returns the configuration of every member, by its name.

    Recipe and system are those of its preset, everything else that of the fusion.

    Raises:
      UserError: If a preset cannot be used, or a key is set that would change no member.
    """
    base = configuration.get_config()
    for key in (f"{section}.{name}" for section in OWN for name in config[section]):
        section, _, name = key.partition(".")
        value = config[section][name]
        if key not in INHERITED and value != base[section][name]:
            raise UserError(
                f"{key}={value} changes nothing: members of a fusion have the recipes of their"
                " presets; set it in a copy of the preset, and name that file in fusion.members"
            )
    found = {}
    for text in config.fusion.members:
        own = configuration.load_preset(text, "fusion.members").copy_and_resolve_references()
        for name, value in own.features.items():
            if value not in (config.features[name], base.features[name]):
                log.warning(
                    "note: %s has features.%s=%s; members of a fusion share its %s",
                    *(text, name, value, config.features[name]),
                )
        with own.unlocked():
            for section in SHARED:
                own[section].update(config[section])
            for section, _, name in (key.partition(".") for key in INHERITED):
                own[section][name] = config[section][name]
        config_checks.check(own)
        if own.system == FUSION:
            raise UserError(f"fusion.members: {text} is a fusion itself; name its members")
        found[run_directory.member_name(text)] = own.lock()
    return found


def train(config: Config, corpus: Corpus, workdir: Path, report: bool = True) -> dict[str, Any]:
    """Trains every member that is not finished, one after the other, then fuses them.

    Args:
      config: The resolved configuration of the fusion.
      corpus: The corpus table.
      workdir: The run directory; it exists and belongs to the configuration.
      report: Whether it and its members get their `report.html`.

    Returns:
      The content of `results.json`.
    """
    members = member_configs(config)
    for own in members.values():  # before the first is trained
        if build.uses_functionals(own):
            functionals.require_opensmile()
        if own.system == "svm":
            svm.require_scikit_learn()
    for number, (name, own) in enumerate(members.items(), start=1):
        log.info("member %d of %d: %s", number, len(members), name)
        folder = workdir / MEMBERS / name
        with run_directory.locked(folder):
            run_directory.open_directory(folder, own)
            if pipeline.finished_results(folder, report) is None:
                pipeline.train_and_evaluate(own, corpus, folder, report=report)
    return combine(config, workdir, corpus, report)


def evaluate_again(config: Config, corpus: Corpus, workdir: Path) -> dict[str, Any]:
    """Scores every member of a finished fusion again, then fuses them; see `pipeline`."""
    for folder in run_directory.member_folders(workdir, config).values():
        own = run_directory.read_config(folder)
        with own.unlocked():
            own.corpus.root = config.corpus.root
            own.features.embeddings = config.features.embeddings
        with run_directory.locked(folder):
            pipeline.evaluate_again(own, corpus, folder)
    return combine(config, workdir, corpus)


# --- Members from finished runs


def fuse_runs(runs: Sequence[Path], workdir: Path, weights: str) -> dict[str, Any]:
    """Makes a fusion of finished runs, which are copied into its run directory.

    Args:
      runs: Two or more run directories of the same protocol, recordings, seeds and features.
      workdir: Run directory of the fusion, which is made.
      weights: A value of fusion.weights.

    Returns:
      The content of `results.json`.

    Raises:
      UserError: If a run is not finished, lacks a model or is a fusion, runs do not fit together,
        or the folder holds something else.
    """
    names = [run_directory.member_name(run.resolve().name) for run in runs]
    read = dict(zip(names, runs, strict=True))
    if len(runs) < 2 or len(read) < len(runs):
        raise UserError(
            "name two or more run directories whose folders have different names, such as"
            " ser-jax fuse runs/svm runs/plain --workdir=runs/both"
        )
    _check_alike(read)
    for run in runs:
        run_directory.split_diverged(run, run_directory.read_trials(run))
    first = run_directory.read_config(runs[0])
    config = configuration.get_config()
    config.system, config.fusion.weights = FUSION, weights
    config.fusion.members = tuple(f"{MEMBERS}/{name}" for name in names)  # no names of presets
    for section in SHARED:
        config[section].update(first[section])
    config.training.refit = first.training.refit
    config_checks.check(config)
    with run_directory.locked(workdir):
        run_directory.open_directory(workdir, config)
        for leftover in filter(files.is_leftover, (workdir / MEMBERS).glob(".*")):
            shutil.rmtree(leftover)
        for name, run in read.items():
            _copy(run, workdir / MEMBERS / name)
        return combine(config, workdir)


def _copy(run: Path, folder: Path) -> None:
    """Copies a run, whole or not at all; does nothing if the folder holds the same one."""
    if folder.is_dir():
        theirs, ours = (finished_run.read_results(one) for one in (run, folder))
        if theirs["predictions_sha256"] != ours["predictions_sha256"]:
            raise UserError(f"{folder} holds another run than {run}: choose another --workdir")
        return
    unfinished = files.temporary(folder)
    unfinished.mkdir(parents=True)
    shutil.copytree(run / "models", unfinished / "models")
    for path in run.iterdir():
        if path.is_file():
            shutil.copy(path, unfinished)
    from ser_jax.report import run_page  # Loads matplotlib.

    run_page.write_report(unfinished)  # The links of the copy lead elsewhere.
    os.replace(unfinished, folder)


def _check_alike(runs: Mapping[str, Path]) -> None:
    """Raises a UserError with the differences if runs cannot be fused; the first is the measure."""
    (first, measure), *others = runs.items()
    own = _facts(measure)
    for name, folder in others:
        facts = _facts(folder)
        different = [
            f"{key} {_difference(own[key], facts[key])}" for key in own if own[key] != facts[key]
        ]
        if different:
            raise UserError(
                f"{name} and {first} cannot be fused: {'; '.join(different)}; fuse runs of one"
                " protocol, with the same recordings, seeds and features"
            )


def _facts(folder: Path) -> dict[str, Any]:
    """Returns what members must share, under the name that a message gives it."""
    found, config = finished_run.read_results(folder), run_directory.read_config(folder)
    if found["system"] == FUSION:
        raise UserError(f"{folder} is a fusion itself; name its members, {folder / MEMBERS}/…")
    protocol = run_directory.read_protocol(folder)
    return {
        "protocol": found["protocol"],
        "classes": found["classes"],
        "utterances": sorted(" ".join(row) for row in protocol["utterances"]),
        "folds": sorted(f"{one['name']} {one['parts']}" for one in protocol["folds"]),
        "refit": protocol["refit"],
        "SHA-256 of the protocol": found["protocol_sha256"],
        "SHA-256 of the recordings": found["corpus_sha256"],
        "trials": sorted(f"{run['fold']}-{run['seed']}" for run in found["runs"]),
        "features": sorted(
            f"features.{name}={value}"
            for name, value in config.features.items()
            if f"features.{name}" not in NEUTRAL_KEYS
        ),
    }


def _difference(first: Any, second: Any) -> str:
    """Returns in words how the second (there) differs from the first (here)."""
    if not isinstance(first, list):
        return f"({second:.60} there, {first:.60} here)"
    only = [sorted({*one} - {*other}) for one, other in ((second, first), (first, second))]
    texts = [", ".join(f"{x:.60}" for x in one[:3]) + " …" * (len(one) > 3) for one in only]
    return f"(only there: {texts[0] or 'none'}; only here: {texts[1] or 'none'})"


# --- What is the fusion's own


def combine(
    config: Config, workdir: Path, corpus: Corpus | None = None, report: bool = True
) -> dict[str, Any]:
    """Makes predictions, results and report of a fusion from the files of its members.

    Args:
      config: Its configuration.
      workdir: Its run directory; all members are finished.
      corpus: Its recordings, which the report links; None: without links.
      report: Whether `report.html` is written.

    Returns:
      The content of `results.json`.

    Raises:
      UserError: If members do not fit together, or a file of theirs is damaged.
    """
    folders = run_directory.member_folders(workdir, config)
    _check_alike(folders)
    fit = config.fusion.weights != "equal"
    members = [_read_member(name, folder) for name, folder in folders.items()]
    if lacking := [one.name for one in members if VALIDATED not in one.results]:
        why = f"{', '.join(lacking)} of {workdir} has no {VALIDATION}, as older runs"
        remedy = "ser-jax evaluate --model=RUN writes it"
        if fit:
            raise UserError(f"fusion.weights={config.fusion.weights}: {why}; {remedy}")
        log.warning("note: %s, so the mean is not calibrated; %s", why, remedy)
    fused = mixture.fuse(members, fit=fit)
    (place, *_), own = folders.values(), members[0].results
    protocol = run_directory.read_protocol(place)
    strict_json.write(workdir / run_directory.PROTOCOL, protocol, indent=None)
    run_directory.record_versions(workdir, f"those of the runs in {MEMBERS}/")
    _copy_rejected(place, workdir)
    tables = fused.test, fused.validation
    pipeline.write_tables(workdir, *tables, own["classes"], own["corpus"])
    ids = [row[0] for row in protocol["utterances"]]
    summarise = functools.partial(
        _summarise,
        members,
        pooled_folds=own["pooled_folds"],
        sessions=dict(zip(ids, protocol.get("sessions", ()), strict=False)),
    )
    found = summarise(fused.test, fused.trials)
    found["members"] = []
    for member in members:
        rest = mixture.fuse([one for one in members if one is not member], fit=fit)
        without = summarise(rest.test, rest.trials)
        found["members"].append(_contribution(member, fused, without))
    found[VALIDATED] = prediction_table.digest(fused.validation, own["classes"])
    run_directory.write_results(workdir, found)
    if not report:
        return found
    from ser_jax.report import run_page  # Loads matplotlib.

    run_page.write_report(workdir, _explanation(corpus, {row.id for row in fused.test}))
    return found


def _copy_rejected(member: Path, folder: Path) -> None:
    if (member / REJECTED).is_file():
        files.write_bytes(folder / REJECTED, (member / REJECTED).read_bytes())


def _read_member(name: str, folder: Path) -> Member:
    """Reads the tables of a member; the scores of one on another corpus have no validation part."""
    found, tables = finished_run.read_results(folder), []
    remedy = finished_run.REMEDY.format(folder)
    for table, key in ((PREDICTIONS, "predictions_sha256"), (VALIDATION, VALIDATED)):
        path, rows = folder / table, []
        if key in found:
            if not path.is_file():
                raise UserError(f"{path} is missing: {remedy}")
            if finished_run.sha256(path) != found[key]:
                raise UserError(f"{path} is not as it was written (SHA-256 differs): {remedy}")
            rows, _ = prediction_table.read_predictions(path)
        tables.append(mixture.by_trial(rows))
    return Member(name, found, *tables)


def _summarise(
    members: Sequence[Member], rows: Sequence[Prediction], trials: Sequence[dict], **more: Any
) -> dict[str, Any]:
    """Returns the results of rows that these members have made together."""
    first = members[0].results
    same = ("corpus", "corpus_sha256", "protocol", "protocol_sha256", "classes")
    return results.summarise(
        rows,
        system=FUSION,
        parameters=sum(member.results["parameters"] for member in members),
        ensemble=sum(member.results["ensemble"] for member in members),
        probabilities=f"mean of the probabilities of {', '.join(one.name for one in members)}",
        runs=trials,
        seconds={
            key: round(sum(member.results["seconds"][key] for member in members), 3)
            for key in first["seconds"]
        },
        **{key: first[key] for key in same},
        **more,
    )


def _contribution(
    member: Member, fused: mixture.Fused, without: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what a member scores alone, and the fusion without it."""
    weights = [trial["weights"].get(member.name, 0.0) for trial in fused.trials]
    scores = {key: member.results[key]["mean"] for key in ("ua", "wa")}
    return {
        **{"member": member.name, "system": member.results["system"]},
        **{"weight": float(np.mean(weights)), **scores},
        "ece": member.results["calibration"]["ece"],
        **{f"{key}_without": without[key]["mean"] for key in scores},
    }


def _explanation(corpus: Corpus | None, ids: set[str]) -> Explanation | None:
    if corpus is None:
        return None
    recordings = {}
    for row in corpus.utterances:
        known = audio.length(corpus.root / row.file) if row.id in ids else None
        if known:
            end = known[0] if row.end is None else min(row.end, known[0])
            place = corpus.root / row.file, end - (row.start or 0.0)
            recordings[row.id] = Recording(*place, row.start, row.end)
    return Explanation(recordings, no_representations=NO_REPRESENTATIONS)


# --- Prediction


class Together(NamedTuple):
    """The members that predict, and how."""

    config: Config  # of the fusion
    folders: dict[str, Path]  # run directories of the members, by name
    weights: np.ndarray  # [M] f64, their weights
    temperature: float | None  # of the mean; None: it is not calibrated

    def average(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns the probabilities [N, K] of the fusion, given those of every member [M, N, K]."""
        return mixture.average(probabilities, self.weights, self.temperature)

    def describe(self, workdir: Path) -> str:
        """Returns in words which fusion it is, that in `workdir`."""
        return f"the fusion of {workdir} ({', '.join(self.folders)})"


def read(workdir: Path) -> Together | None:
    """Reads how a finished fusion predicts; None if the folder holds no fusion.

    Each member predicts as it does alone, by all of its models; weights, and the logarithm of the
    temperature, are means over the trials.

    Raises:
      UserError: If the fusion is not finished, or a file is damaged.
    """
    if not workdir.is_dir():
        return None
    config = run_directory.read_config(workdir)
    if config.system != FUSION:
        return None
    found = finished_run.read_results(workdir)
    folders = run_directory.member_folders(workdir, config)
    weights = [[run["weights"].get(name, 0.0) for name in folders] for run in found["runs"]]
    mean = np.mean(weights, axis=0)
    voting = {name: folder for (name, folder), w in zip(folders.items(), mean, strict=True) if w}
    if not voting:
        raise UserError(f"{workdir} holds no trained model: all of its members have diverged")
    logs = [np.log(one) for one in found["calibration"]["temperature"] if one is not None]
    return Together(
        *(config, voting, mean[mean > 0] / mean.sum()),
        float(np.exp(np.mean(logs))) if logs else None,
    )


def evaluate_other(own: Config, other: Config, workdir: Path, output: Path) -> dict[str, Any]:
    """Scores the members of a fusion on another corpus, and their mean; see `cross_corpus`.

    Args:
      own: Configuration of the fusion.
      other: Configuration that names the other corpus.
      workdir: The run directory of the fusion.
      output: Folder for the results, and below it one for every member.

    Returns:
      The content of `results.json`.
    """
    together = read(workdir)
    assert together is not None and own.system == FUSION
    members, seen = [], {}  # by any member
    for name, folder in together.folders.items():
        place = output / MEMBERS / name
        config = run_directory.read_config(folder)
        _, left_out = cross_corpus.score(config, other, folder, place)
        seen |= {row.id: row for row in left_out}
        members.append(_read_member(name, place))
    first = members[0].results
    digests = [member.results["evaluation_sha256"] for member in members]
    evaluation = hashlib.sha256(" ".join(digests).encode()).hexdigest()
    cross_corpus.check_output(output, evaluation, first["corpus_sha256"])
    (key,) = members[0].test
    tables = [{row.id: row for row in member.test[key]} for member in members]
    usable = [name for name in tables[0] if all(name in table for table in tables)]
    if not usable:
        raise UserError(
            f"no utterance of {first['corpus']} is new to all members of {workdir}, which have"
            f" {len(seen)} of them or their speakers in their training: name another corpus"
        )
    rows = [[table[name] for name in usable] for table in tables]
    mean = together.average(mixture.stack(rows))
    rows = mixture.predicted(rows[0], mean, first["classes"])
    prediction_table.write_predictions(output / PREDICTIONS, rows, first["classes"])
    _copy_rejected(output / MEMBERS / members[0].name, output)
    trainings = [
        {"member": member.name, **one}
        for member in members
        for one in member.results["runs"][0]["members"]
    ]
    trial = {"fold": key[0], "seed": key[1], "best_epoch": None, "status": "done"}
    found = _summarise(members, rows, [{**trial, "members": trainings}])
    found |= {"evaluation_sha256": evaluation, "left_out": cross_corpus.left_out(seen.values())}
    run_directory.write_results(output, found)
    return found
