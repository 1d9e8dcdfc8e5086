"""Scores the models of a run on another corpus, with an explicit label map."""

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax import checks, experiment, reading, run_directory, systems
from ser_jax.config import Config
from ser_jax.corpora.table import Corpus
from ser_jax.errors import UserError
from ser_jax.evaluation import predictions as prediction_table
from ser_jax.evaluation.results import summarise
from ser_jax.protocols.protocol import TEST, Fold, Protocol
from ser_jax.training import model_files, scoring

LEFT_OUT = "-"
ENSEMBLE = "ensemble"

log = logging.getLogger(__name__)


def parse_labels(text: str) -> dict[str, str]:
    """Reads a label map `theirs=ours,…`; `theirs=-` leaves a label out.

    Raises:
      UserError: If it is written otherwise.
    """
    pairs = [item.split("=") for item in text.split(",") if item.strip()]
    if any(len(pair) != 2 or not all(part.strip() for part in pair) for pair in pairs):
        raise UserError(f"--labels={text!r}: write it as theirs=ours,theirs=ours (theirs=- leaves a label out)")
    return {theirs.strip(): ours.strip() for theirs, ours in pairs}


def relabel(corpus: Corpus, labels: dict[str, str], classes: list[str]) -> Corpus:
    """Returns the corpus in the model's classes.

    Args:
      corpus: The other corpus.
      labels: Label there → class of the model, or "-" to leave it out; a label that is a class needs no entry.
      classes: Classes of the model.

    Raises:
      UserError: If a label is mapped to no class.
    """
    found = {utterance.label for utterance in corpus.utterances} - {""}
    unknown = sorted(label for label in found if labels.get(label, label) not in (*classes, LEFT_OUT))
    if unknown:
        raise UserError(
            f"the corpus has the labels {', '.join(unknown)}, the model knows {', '.join(classes)}: map them, "
            f"for example --labels={unknown[0]}={classes[0]} (or {unknown[0]}=- to leave it out)"
        )
    kept = tuple(
        dataclasses.replace(utterance, label=labels.get(utterance.label, utterance.label))
        for utterance in corpus.utterances
        if labels.get(utterance.label, utterance.label) != LEFT_OUT
    )
    if not kept:
        raise UserError(f"--labels leaves out all {len(corpus.utterances)} utterances of the corpus")
    mapping = {old: labels.get(new, new) for old, new in corpus.label_mapping.items()}
    return dataclasses.replace(corpus, utterances=kept, label_mapping=mapping)


def evaluate(own: Config, asked: Config, workdir: Path, output: Path, labels: dict[str, str]) -> dict[str, Any]:
    """Scores the ensemble of a run's models on another corpus; writes predictions and results.

    Args:
      own: Configuration of the run: features, system.
      asked: Configuration that names the other corpus.
      workdir: The run directory.
      output: Folder for `predictions.csv`, `results.json` and `rejected.csv`.
      labels: Label map, see `relabel`.

    Returns:
      The content of `results.json`; the one run in it is the ensemble (mean of the probabilities).
    """
    begin = time.monotonic()
    checks.check(own)
    make_system = systems.start(own, training=False)
    trained = model_files.list_trained(workdir)
    classes = next(iter(trained.values()))["classes"]
    corpus = relabel(reading.read(asked, output / "rejected.csv"), labels, classes)
    features = experiment.extract_features(own, corpus, output)
    seconds = {"features": time.monotonic() - begin}
    protocol = _protocol(corpus, features.utterances, classes)
    log.info("the ensemble of %d models of %s scores %d utterances", len(trained), workdir, len(protocol.ids))
    system = make_system(protocol, features, len(trained))
    everything = [np.arange(len(protocol.ids))] * len(trained)
    temperatures = [found["temperature"] for found in trained.values()]
    scores = system.scores(list(trained), everything)
    probabilities = scoring.mean_probabilities(scores, temperatures)
    rows = prediction_table.from_probabilities(
        features.utterances, probabilities, classes=classes, fold=ENSEMBLE, seed=0
    )
    prediction_table.write_predictions(output / "predictions.csv", rows, classes)
    seconds["total"] = time.monotonic() - begin
    results = summarise(
        rows,
        system=own.system,
        parameters=system.parameters,
        corpus=corpus.name,
        corpus_sha256=features.corpus_sha256,
        protocol=protocol.name,
        protocol_sha256=protocol.sha256,
        classes=classes,
        probabilities=f"{system.probabilities}; mean over {len(trained)} models",
        runs=[{"fold": ENSEMBLE, "seed": 0, "best_epoch": None, "status": "done"}],
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )
    run_directory.write_results(output, results)
    return results


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
