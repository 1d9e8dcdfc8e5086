"""Evaluates the models of a run on another corpus, with an explicit label map."""

import hashlib
import json
import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.config import Config
from ser_jax.corpora import from_config
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.evaluation import finished_run
from ser_jax.evaluation import predictions as prediction_table
from ser_jax.evaluation.results import summarise
from ser_jax.experiment import (
    config_checks,
    ensembles,
    pipeline,
    run_directory,
    systems,
    training_data,
)
from ser_jax.features import audio, embeddings, extraction
from ser_jax.models import build
from ser_jax.protocols import speaker_rule
from ser_jax.protocols.protocol import TEST, Fold, Protocol
from ser_jax.runtime import files, strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted
from ser_jax.training import model_files, scoring

ENSEMBLE = "ensemble"

log = logging.getLogger(__name__)


def check_labels(corpus: Corpus, classes: list[str]) -> None:
    """Raises a UserError if a label of the corpus is none of the model's classes."""
    theirs = {utterance.label for utterance in corpus.utterances} - {""}
    unknown = sorted(theirs - {*classes})
    if unknown:
        raise UserError(
            f"the corpus has the labels {', '.join(unknown)}, the model knows {', '.join(classes)}:"
            f" map them, for example --labels={unknown[0]}={classes[0]} (or {unknown[0]}=- to leave"
            " it out)"
        )


def check_output(output: Path, evaluation_sha256: str, corpus_sha256: str) -> None:
    """Raises a UserError if a folder holds anything but an earlier evaluation like this one.

    That of an earlier version has no `evaluation_sha256`; it is known by its recordings.
    """
    another = "name another folder with --output, or delete this one"
    path = output / "results.json"
    if path.is_file():
        found = strict_json.read(path, remedy=another)
        same = found.get("evaluation_sha256", evaluation_sha256) == evaluation_sha256
        if not same or found.get("corpus_sha256") != corpus_sha256:
            raise UserError(
                f"{output} holds the scores of {found.get('system')} on other recordings"
                f" ({found.get('corpus')}), with other models or with other labels: {another}"
            )
    elif output.is_dir():
        others = {entry.name for entry in output.iterdir() if not files.is_leftover(entry)}
        if others - {"predictions.csv", "rejected.csv", run_directory.MEMBERS}:
            raise UserError(f"{output} is not empty and holds no evaluation: {another}")


def evaluate(own: Config, other: Config, workdir: Path, output: Path) -> dict[str, Any]:
    """Evaluates the ensemble of a run's models on another corpus; writes predictions and results.

    Recordings and speakers that a model was trained on are left out and counted.

    Args:
      own: Configuration of the run, for features and system.
      other: Configuration that names the other corpus, and its labels as classes of the model.
      workdir: The run directory.
      output: Folder for `predictions.csv`, `results.json` and `rejected.csv`.

    Returns:
      The content of `results.json`; its one trial is the ensemble (mean of the probabilities).

    Raises:
      UserError: If the run is not finished or a model is missing, the labels do not fit, all of the
        corpus took part in training, or the folder holds something else.
    """
    return score(own, other, workdir, output)[0]


def score(
    own: Config, other: Config, workdir: Path, output: Path
) -> tuple[dict[str, Any], tuple[Utterance, ...]]:
    """Does what `evaluate` does; returns the utterances that are left out, too."""
    begin = time.monotonic()
    if build.uses_embeddings(own):
        if not other.features.embeddings:
            raise UserError(
                f"{workdir} reads embeddings of another model: name those of the other corpus by"
                " --config.features.embeddings"
            )
        with own.unlocked():
            own.features.embeddings = other.features.embeddings
    config_checks.check(own)
    make_system = systems.start(own, training=False)
    trials = run_directory.read_trials(workdir)
    trained, diverged = run_directory.split_diverged(workdir, trials)
    classes = next(iter(trained.values()))["classes"]
    corpus = from_config.read(other, from_config.rejected_list(output), audio.length)
    from_config.log_warnings(corpus)
    check_labels(corpus, classes)
    folds = {found["fold"] for found in trained.values()}
    corpus, digest, seen = _without_seen(other, corpus, workdir, folds)
    table = [(u.id, u.label, u.speaker) for u in corpus.utterances]
    models = [found["sha256"] for found in trained.values()]
    evaluation = json.dumps([models, digest, table]).encode()
    evaluation_sha256 = hashlib.sha256(evaluation).hexdigest()
    check_output(output, evaluation_sha256, digest)
    features = pipeline.extract_features(own, corpus, output)
    if features.embeddings:
        facts = next(iter(trained.values()))["embeddings"]
        embeddings.check_alike(own.features.embeddings, features.embeddings, facts)
    seconds = {"features": time.monotonic() - begin}
    protocol = _protocol(corpus, features.utterances, classes)
    if rule := speaker_rule.rule(own):
        protocol = speaker_rule.renamed(protocol, rule)
    size, count = len(trained), len(protocol.ids)
    of = f" of {len(trials)}" if diverged else ""
    log.info(
        "the ensemble of %s%s of %s scores %s",
        *(counted(size, "model"), of, workdir, counted(count, "utterance")),
    )
    system = make_system(protocol, features, size)
    scores = system.scores(
        [workdir / "models" / name for name in trained], [np.arange(count)] * size
    )
    temperatures = [found["temperature"] for found in trained.values()]
    probabilities = scoring.mean_probabilities(scores, temperatures)
    kind = ensembles.calibrated(system.probabilities, temperatures)
    rows = prediction_table.from_probabilities(
        features.utterances, probabilities, classes=classes, fold=ENSEMBLE, seed=0
    )
    prediction_table.write_predictions(output / "predictions.csv", rows, classes)
    seconds["total"] = time.monotonic() - begin
    members = [
        {key: found[key] for key in ("fold", *ensembles.MEMBER)}
        for found in trials.values()
        if found
    ]
    trial = {"fold": ENSEMBLE, "seed": 0, "best_epoch": None, "status": model_files.DONE}
    results = summarise(
        rows,
        system=own.system,
        parameters=system.parameters * size,
        ensemble=size,
        corpus=corpus.name,
        corpus_sha256=digest,
        protocol=protocol.name,
        protocol_sha256=protocol.sha256,
        classes=classes,
        probabilities=f"{kind}; mean over {size}{of} models",
        runs=[{**trial, "members": members}],
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )
    results |= {"evaluation_sha256": evaluation_sha256, "left_out": left_out(seen)}
    if features.embeddings:
        results["embeddings"] = features.embeddings
    run_directory.write_results(output, results)
    return results, seen


def left_out(seen: Collection[Utterance]) -> dict[str, Any]:
    """Returns how many utterances were left out, and of which speakers, as in `results.json`."""
    return {"utterances": len(seen), "speakers": sorted({row.speaker for row in seen} - {""})}


def _without_seen(
    other: Config, corpus: Corpus, workdir: Path, folds: Collection[str]
) -> tuple[Corpus, str, tuple[Utterance, ...]]:
    """Returns what no model has seen of a corpus, the digest of all of it, and what was seen.

    Raises:
      UserError: If nothing is left.
    """
    digests, digest = extraction.digest_files(corpus)
    protocol = run_directory.read_protocol(workdir)
    training_data.warn_without_digests(workdir, protocol)
    seen = training_data.of_models(workdir, protocol, folds)
    recordings = {u.id: digests[u.file] for u in corpus.utterances}
    keys = training_data.corpus_keys(other)
    rest, gone = training_data.unseen(corpus, recordings, seen, keys)
    whole = digest == finished_run.read_results(workdir)["corpus_sha256"]
    if whole or not rest.utterances:
        raise UserError(
            f"all {counted(len(corpus.utterances), 'utterance')} of the corpus, or their speakers,"
            f" were in the training of {workdir}: name another corpus, or score the run on its"
            " test parts with"
            f" ser-jax evaluate --model={workdir} alone"
        )
    if gone:
        log.warning(
            "note: %d of %s are left out: they or their speakers (%d) were in the training",
            *(len(gone), counted(len(corpus.utterances), "utterance")),
            len(left_out(gone)["speakers"]),
        )
    return rest, digest, gone


def _protocol(corpus: Corpus, usable: tuple, classes: list[str]) -> Protocol:
    return Protocol(
        name=f"{corpus.name}-cross-corpus",
        corpus=corpus.name,
        classes=tuple(classes),
        label_mapping=dict(corpus.label_mapping),
        ids=tuple(utterance.id for utterance in usable),
        labels=tuple(utterance.label for utterance in usable),
        speakers=tuple(utterance.speaker for utterance in usable),
        folds=(Fold(ENSEMBLE, TEST * len(usable)),),
        validation_rule="none: the models are trained on another corpus",
    )
