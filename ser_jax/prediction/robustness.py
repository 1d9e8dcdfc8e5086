"""Scores the models of a run on recordings that are changed, each by models that never saw it."""

import contextlib
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ser_jax.config import Config
from ser_jax.corpora import from_config, release_files
from ser_jax.corpora.table import Corpus, Rejection, Utterance
from ser_jax.evaluation import stress_table
from ser_jax.experiment import cross_corpus, run_directory, setup, training_data
from ser_jax.features import audio, changes, extraction, stressed
from ser_jax.features.pcm import BadAudio
from ser_jax.prediction import batch
from ser_jax.prediction.network import Values
from ser_jax.prediction.predictor import Predictor
from ser_jax.protocols.protocol import TEST
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.machine import available_cores
from ser_jax.runtime.progress import counted, progress
from ser_jax.runtime.workers import WorkerDied, run

SCHEMA = 1
SEED = 0  # of all random draws
POOL = 30  # recordings whose voices make up babble
PORTION = 60_000_000  # bytes of features that are scored together: some seconds, for Ctrl-C

log = logging.getLogger(__name__)

_Waiting = tuple[str, str, stressed.Stressed]  # utterance id, change, features


class Plan(NamedTuple):
    """Which recordings are scored by which models."""

    corpus: Corpus  # the recordings, with their labels and speakers as far as they are known
    voters: Mapping[str, tuple[int, ...]]  # utterance id → numbers of the models that answer
    training: bool  # whether these models were trained on these recordings
    left_out: int  # recordings left out because every model was trained on them or their speakers


def listed(arguments: Sequence[str], follow_links: bool) -> Corpus:
    """Returns files, folders and lists, as `predict` takes them, as a corpus without labels.

    Raises:
      UserError: If an argument names nothing, or nothing that can be read.
    """
    with release_files.following_links(follow_links):
        found = batch.find(arguments)
    utterances = tuple(source for source in found if isinstance(source, Utterance))
    rejected = tuple(source for source in found if isinstance(source, Rejection))
    return Corpus("recordings", Path(), utterances, "", {}, rejected)


def read(config: Config, output: Path) -> Corpus:
    """Reads the corpus that a configuration names; errors as of `from_config.read`."""
    corpus = from_config.read(config, from_config.rejected_list(output), audio.length)
    from_config.log_warnings(corpus)
    return corpus


def own_recordings(predictor: Predictor, workdir: Path, root: str = "") -> Plan:
    """Plans the run's own corpus: the models of a fold answer for its test part.

    A run without test parts (a final model) answers for all that it was trained on.

    Args:
      predictor: The models of the run.
      workdir: The run directory.
      root: Where its corpus lies now; empty: where it lay.

    Raises:
      UserError: If the run or its corpus cannot be read.
    """
    if workdir.is_file():
        raise UserError(
            f"{workdir} does not tell what its models were trained on: name a corpus"
            " (--config.corpus.name=…) or recordings to change"
        )
    config = run_directory.read_config(workdir)
    with config.unlocked():
        config.corpus.root = root or config.corpus.root
    protocol = run_directory.read_protocol(workdir)
    corpus = read(config, workdir)
    known = {name for name, _, _ in protocol["utterances"]}
    corpus = dataclasses.replace(
        corpus, utterances=tuple(u for u in corpus.utterances if u.id in known)
    )
    tested: dict[str, set[str]] = {}
    for fold in protocol["folds"]:
        for (name, _, _), part in zip(protocol["utterances"], fold["parts"], strict=True):
            if part == TEST:
                tested.setdefault(name, set()).add(fold["name"])
    return _plan(predictor, corpus, tested)


def other_recordings(
    predictor: Predictor, workdir: Path, corpus: Corpus, other: Config | None
) -> Plan:
    """Plans recordings that need not be the run's: models answer for what they never saw.

    Args:
      predictor: The models of the run.
      workdir: The run directory, or a file of exported weights, which does not tell what they were
        trained on.
      corpus: The recordings.
      other: The configuration that names the corpus; None: files without labels.

    Raises:
      UserError: If a label is none of the classes, or the run cannot be read.
    """
    cross_corpus.check_labels(corpus, list(predictor.classes))
    folds = {description["fold"] for description in predictor.descriptions}
    if workdir.is_file():
        log.warning(
            "note: %s does not tell what its models were trained on: if these recordings were among"
            " it, the table is too good",
            workdir,
        )
        return _plan(predictor, corpus, {u.id: folds for u in corpus.utterances})
    protocol = run_directory.read_protocol(workdir)
    training_data.warn_without_digests(workdir, protocol)
    keys = {"": ("",)} if other is None else training_data.corpus_keys(other)
    digests, _ = extraction.digest_files(corpus)
    recordings = {u.id: digests[u.file] for u in corpus.utterances}
    unseen: dict[str, set[str]] = {}
    for fold in folds:
        seen = training_data.of_models(workdir, protocol, [fold])
        rest, _ = training_data.unseen(corpus, recordings, seen, keys)
        for utterance in rest.utterances:
            unseen.setdefault(utterance.id, set()).add(fold)
    return _plan(predictor, corpus, unseen)


def _plan(predictor: Predictor, corpus: Corpus, unseen: Mapping[str, Collection[str]]) -> Plan:
    """Plans a corpus, given utterance id → folds whose models never saw the recording."""
    folds = [description["fold"] for description in predictor.descriptions]
    voters = {
        u.id: tuple(n for n, fold in enumerate(folds) if fold in unseen.get(u.id, ()))
        for u in corpus.utterances
    }
    training = not any(voters.values())
    if training:
        voters = dict.fromkeys(voters, tuple(range(len(folds))))
    kept = tuple(u for u in corpus.utterances if voters[u.id])
    left_out = len(corpus.utterances) - len(kept)
    return Plan(dataclasses.replace(corpus, utterances=kept), voters, training, left_out)


def stress(predictor: Predictor, plan: Plan) -> dict[str, Any]:
    """Changes every recording in every way, and compares the answers; returns `stress.json`.

    Raises:
      UserError: If no recording can be used, or worker processes die.
    """
    begin = time.monotonic()
    count = len(plan.corpus.utterances)
    if plan.left_out:
        what = counted(plan.left_out, "recording")
        log.warning("note: %s left out: they or their speakers were in the training", what)
    log.info(
        "%s: %s, each changed in every way", predictor.description, counted(count, "recording")
    )
    answers, bad = _answers(predictor, plan)
    kept = [utterance for utterance in plan.corpus.utterances if utterance.id in answers]
    reasons = [f"{row.file}: {row.reason} ({row.detail})" for row in plan.corpus.rejected]
    reasons += [f"{name}: {error}" for name, error in bad.items()]
    if reasons:
        what = f"{counted(len(reasons), 'recording')} cannot be used, for example {reasons[0]}"
        if not kept:
            raise UserError(f"{what}, and there is no other: mend them or name others")
        log.warning("note: %s", what)
    if not kept:
        raise UserError(f"{plan.corpus.name} holds no recording to change: name another corpus")
    # Without others there is no babble.
    every = changes.changes((np.ones(1),))
    names = [name for name in every if all(name in answers[u.id] for u in kept)]
    by_change = {name: [answers[utterance.id][name] for utterance in kept] for name in names}
    recordings = [stress_table.Recording(u.id, u.speaker, u.label) for u in kept]
    rows, facts = stress_table.table(recordings, by_change, predictor.classes)
    return {
        "schema": SCHEMA,
        "system": predictor.config.system,
        "classes": list(predictor.classes),
        "models": len(predictor.descriptions),
        "models_sha256": stress_table.models_sha256(predictor.descriptions),
        "corpus": plan.corpus.name,
        "recordings": len(kept),
        "rejected": len(reasons),
        "left_out": plan.left_out,
        "training": plan.training,
        **facts,
        "changes": [row._asdict() for row in rows],
        "seconds": round(time.monotonic() - begin, 3),
    }


def _answers(
    predictor: Predictor, plan: Plan
) -> tuple[dict[str, dict[str, str]], dict[str, BadAudio]]:
    """Returns utterance id → change → answer, and utterance id → why it cannot be used."""
    config, utterances = predictor.config, plan.corpus.utterances
    kinds = sorted(predictor.reads)
    work = functools.partial(
        stressed.compute,
        kinds=kinds,
        settings=setup.logmel_settings(config),
        feature_set=config.features.functionals,
        mix=predictor.mix,
        max_seconds=config.features.max_seconds,
        seed=SEED,
    )
    answers: dict[str, dict[str, str]] = {u.id: {} for u in utterances}
    bad: dict[str, BadAudio] = {}
    waiting: list[_Waiting] = []
    size = 0
    # openSMILE is not safe in threads.
    jobs = _jobs(plan.corpus, predictor.mix, config.features.max_seconds)
    results = run(work, jobs, available_cores(), processes="hsf" in kinds)
    try:
        with (
            progress("changing", len(utterances), "recordings") as advance,
            contextlib.closing(results),
        ):
            for job, found in results:
                advance()
                error = found if isinstance(found, BadAudio) else found[changes.UNCHANGED]
                if isinstance(error, BadAudio):
                    bad[job.id] = error
                    del answers[job.id]
                    continue
                assert isinstance(found, dict)
                for change, one in found.items():
                    if isinstance(one, BadAudio):
                        answers[job.id][change] = stress_table.NO_ANSWER
                    else:
                        waiting.append((job.id, change, one))
                        size += sum(array.nbytes for array in one.features.values())
                if size > PORTION:
                    _score(predictor, plan, waiting, answers)
                    waiting, size = [], 0
        _score(predictor, plan, waiting, answers)
    except WorkerDied:
        raise UserError(
            "a worker process died while it changed recordings, usually for want of memory: close"
            " other programs and run the command again"
        ) from None
    return answers, bad


def _score(
    predictor: Predictor,
    plan: Plan,
    waiting: Sequence[_Waiting],
    answers: dict[str, dict[str, str]],
) -> None:
    """Adds the answers to what waits; what the same models answer for is scored together."""
    decision = predictor.decision()
    groups: dict[tuple[int, ...], list[_Waiting]] = {}
    for one in waiting:
        groups.setdefault(plan.voters[one[0]], []).append(one)
    for models, members in groups.items():
        changed = [one for _, _, one in members]
        kinds = changed[0].features
        arrays = {kind: [one.features[kind] for one in changed] for kind in kinds}
        values = Values(
            log_mel=arrays.get("logmel", ()),
            hsf=np.stack(arrays["hsf"]) if "hsf" in arrays else None,
            waves=arrays.get("wave", ()),
        )
        probabilities = predictor.probabilities(values, models)
        found = decision.answers(probabilities, [one.flags for one in changed])
        for (name, change, _), answer in zip(members, found, strict=True):
            label = answer.label if answer.probabilities else None
            answers[name][change] = label or stress_table.NO_ANSWER


def _jobs(corpus: Corpus, mix: audio.Mix, max_seconds: float) -> Iterator[stressed.Job]:
    """Yields the recordings, each with voices for babble: other speakers, where there are any."""
    utterances = corpus.utterances
    pool = []
    for n in np.linspace(0, len(utterances) - 1, min(POOL, len(utterances))).round().astype(int):
        one = utterances[n]
        with contextlib.suppress(BadAudio):
            span = corpus.path(one), one.start, one.end
            pool.append((one, changes.decode(*span, mix, max_seconds)))
    for utterance in utterances:
        others = [(one.speaker, wave) for one, wave in pool if one.id != utterance.id]
        strangers = [row for row in others if not utterance.speaker or row[0] != utterance.speaker]
        voices = [wave for _, wave in strangers or others]
        rng = np.random.default_rng([SEED, *os.fsencode(utterance.id)])
        chosen = rng.permutation(len(voices))[: changes.VOICES]
        path, span = corpus.path(utterance), (utterance.start, utterance.end)
        yield stressed.Job(utterance.id, path, *span, tuple(voices[n] for n in chosen))
