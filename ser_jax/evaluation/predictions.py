"""`predictions.csv`: what every run said about every utterance of its test part."""

import csv
import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ser_jax import atomic, errors
from ser_jax.corpora import table

HEADER = ("id", "speaker", "fold", "seed", "label", "prediction")


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """One run's answer for one test utterance: a row of `predictions.csv`.

    Attributes:
      id: Utterance id.
      speaker: Speaker name; empty if unknown.
      fold: Name of the fold whose test part holds the utterance.
      seed: Seed of the run.
      label: True class; empty where the corpus withholds it.
      prediction: Class with the highest probability.
      probabilities: One share in [0, 1] per class of the protocol, in its order.
    """

    id: str
    speaker: str
    fold: str
    seed: int
    label: str
    prediction: str
    probabilities: tuple[float, ...]


def from_probabilities(
    utterances: Sequence[table.Utterance], probabilities: np.ndarray, *, classes: Sequence[str], fold: str, seed: int
) -> list[Prediction]:
    """Makes the rows of one run.

    Args:
      utterances: The test part of the fold, N rows.
      probabilities: [N, K], one row per utterance in the same order; the first of equal maxima wins.
      classes: The K classes of the protocol, in the order of the columns.
      fold: Name of the fold.
      seed: Seed of the run.

    Returns:
      N rows in the same order.

    Raises:
      ValueError: If the shapes disagree or a value is not finite.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.shape != (len(utterances), len(classes)):
        raise ValueError(f"probabilities of shape {probabilities.shape} for {len(utterances)} x {len(classes)} values")
    if not np.isfinite(probabilities).all():
        raise ValueError(f"fold {fold}, seed {seed}: probabilities hold non-finite values")
    best = [classes[int(index)] for index in probabilities.argmax(axis=1)]
    return [
        Prediction(row.id, row.speaker, fold, seed, row.label, name, tuple(values))
        for row, name, values in zip(utterances, best, probabilities.tolist(), strict=True)
    ]


def write_predictions(path: Path, predictions: Iterable[Prediction], classes: Sequence[str]) -> None:
    """Writes the table; probabilities keep all their digits, so that reading returns the very same numbers.

    Args:
      path: The file to create or replace.
      predictions: Rows, in any order.
      classes: The classes of the protocol: one column `p_<class>` each.
    """
    atomic.write_csv(path, *_table(predictions, classes))


def digest(predictions: Iterable[Prediction], classes: Sequence[str]) -> str:
    """Returns the SHA-256 of the file that `write_predictions` writes for these rows in this order."""
    return hashlib.sha256(atomic.csv_bytes(*_table(predictions, classes))).hexdigest()


def read_predictions(path: Path) -> tuple[list[Prediction], tuple[str, ...]]:
    """Reads the table that `write_predictions` wrote.

    Args:
      path: The file.

    Returns:
      The rows in the order of the file, and the classes.

    Raises:
      UserError: If the file is not such a table; names the line.
    """
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        try:
            header = tuple(next(lines, ()))
            if header[: len(HEADER)] != HEADER or not all(name.startswith("p_") for name in header[len(HEADER) :]):
                raise errors.UserError(f"{path} does not begin with the columns {','.join(HEADER)},p_<class>…")
            classes = tuple(name.removeprefix("p_") for name in header[len(HEADER) :])
            rows += (_row(fields, classes) for fields in lines)
        except (ValueError, csv.Error) as error:
            raise errors.UserError(f"{path}, line {lines.line_num}: {error}; write the file anew") from error
    return rows, classes


def _table(predictions: Iterable[Prediction], classes: Sequence[str]) -> tuple[tuple[str, ...], Iterable[tuple]]:
    """Returns the header and the lines."""
    header = (*HEADER, *(f"p_{name}" for name in classes))
    return header, ((r.id, r.speaker, r.fold, r.seed, r.label, r.prediction, *r.probabilities) for r in predictions)


def _row(fields: list[str], classes: tuple[str, ...]) -> Prediction:
    """Returns one line as a row; raises ValueError with a sentence."""
    if len(fields) != len(HEADER) + len(classes):
        raise ValueError(f"{len(fields)} columns, not {len(HEADER) + len(classes)}")
    name, speaker, fold, seed, label, prediction = fields[: len(HEADER)]
    if prediction not in classes or label not in (*classes, ""):
        raise ValueError(f"label {label!r} or prediction {prediction!r} is none of the classes {', '.join(classes)}")
    probabilities = tuple(float(value) for value in fields[len(HEADER) :])
    if not all(0 <= value <= 1 for value in probabilities):
        raise ValueError(f"a probability is no share in [0, 1]: {', '.join(fields[len(HEADER) :])}")
    return Prediction(name, speaker, fold, int(seed), label, prediction, probabilities)
