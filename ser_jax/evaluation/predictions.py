"""`predictions.csv`: the class probabilities of every trial for the utterances of its test part."""

import csv
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ser_jax.corpora import table
from ser_jax.runtime import errors, files

HEADER = ("id", "speaker", "fold", "seed", "label", "prediction")


CLASS = "p_"  # beginning of the columns of classes; attributes have the columns behind these


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction of one trial for one test utterance: a row of `predictions.csv`."""

    id: str  # utterance id
    speaker: str  # speaker name; empty if unknown
    fold: str  # name of the fold whose test part holds the utterance
    seed: int  # seed of the trial
    label: str  # true class; empty where the corpus withholds it
    prediction: str  # class with the highest probability
    probabilities: tuple[float, ...]  # one number in [0, 1] per class of the protocol, in its order
    attributes: tuple[tuple[str, str], ...] = ()  # of the utterance


def from_probabilities(
    utterances: Sequence[table.Utterance],
    probabilities: np.ndarray,
    *,
    classes: Sequence[str],
    fold: str,
    seed: int,
) -> list[Prediction]:
    """Makes the rows of one trial.

    Args:
      utterances: The N utterances of the fold's test part.
      probabilities: [N, K], in the same order; the first of equal maxima is predicted.
      classes: The K classes of the protocol, in the order of the columns.
      fold: Name of the fold.
      seed: Seed of the trial.

    Returns:
      N rows in the same order.

    Raises:
      ValueError: If the shapes disagree or a value is not finite.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.shape != (len(utterances), len(classes)):
        raise ValueError(
            f"probabilities of shape {probabilities.shape} for {len(utterances)} x {len(classes)}"
            " values"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError(f"fold {fold}, seed {seed}: probabilities hold non-finite values")
    best = [classes[int(index)] for index in probabilities.argmax(axis=1)]
    return [
        Prediction(row.id, row.speaker, fold, seed, row.label, name, tuple(values), row.attributes)
        for row, name, values in zip(utterances, best, probabilities.tolist(), strict=True)
    ]


def write_predictions(
    path: Path, predictions: Iterable[Prediction], classes: Sequence[str]
) -> None:
    """Creates or replaces the table; probabilities keep all their digits."""
    files.write_csv(path, *_table(predictions, classes))


def digest(predictions: Iterable[Prediction], classes: Sequence[str]) -> str:
    """Returns the SHA-256 of the file that `write_predictions` writes for these rows."""
    return hashlib.sha256(files.csv_bytes(*_table(predictions, classes))).hexdigest()


def read_predictions(path: Path) -> tuple[list[Prediction], tuple[str, ...]]:
    """Returns the rows in the order of the file, and the classes.

    Raises:
      UserError: If the file is no such table; names the line.
    """
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        try:
            header = tuple(next(lines, ()))
            columns = header[len(HEADER) :]
            classes = tuple(itertools.takewhile(lambda name: name.startswith(CLASS), columns))
            attributes = columns[len(classes) :]
            if header[: len(HEADER)] != HEADER or attributes and not classes:
                raise errors.UserError(
                    f"{path} does not begin with the columns {','.join(HEADER)},p_<class>…"
                )
            classes = tuple(name.removeprefix(CLASS) for name in classes)
            rows += (_row(fields, classes, attributes) for fields in lines)
        except (ValueError, csv.Error) as error:
            raise errors.UserError(
                f"{path}, line {lines.line_num}: {error}; write the file again"
            ) from error
    return rows, classes


def _table(
    predictions: Iterable[Prediction], classes: Sequence[str]
) -> tuple[tuple[str, ...], Iterable[tuple]]:
    rows = list(predictions)
    # A column of the table keeps its meaning.
    names = sorted(
        name
        for name in {name for row in rows for name, _ in row.attributes}
        if name not in HEADER and not name.startswith(CLASS)
    )
    header = (*HEADER, *(f"{CLASS}{name}" for name in classes), *names)
    cells = (
        (r.id, r.speaker, r.fold, r.seed, r.label, r.prediction, *r.probabilities) for r in rows
    )
    if names:
        others = (dict(row.attributes) for row in rows)
        cells = (
            (*row, *(known.get(name, "") for name in names))
            for row, known in zip(cells, others, strict=True)
        )
    return header, cells


def _row(fields: list[str], classes: tuple[str, ...], attributes: tuple[str, ...]) -> Prediction:
    probabilities_end = len(HEADER) + len(classes)
    if len(fields) != probabilities_end + len(attributes):
        raise ValueError(f"{len(fields)} columns, not {probabilities_end + len(attributes)}")
    names = map(files.cell_text, fields[: len(HEADER)])
    name, speaker, fold, seed, label, prediction = names
    if prediction not in classes or label not in (*classes, ""):
        raise ValueError(
            f"label {label!r} or prediction {prediction!r} is none of the classes"
            f" {', '.join(classes)}"
        )
    shares = fields[len(HEADER) : probabilities_end]
    probabilities = tuple(float(value) for value in shares)
    if not all(0 <= value <= 1 for value in probabilities):
        raise ValueError(f"a probability is not in [0, 1]: {', '.join(shares)}")
    others = zip(attributes, map(files.cell_text, fields[probabilities_end:]), strict=True)
    known = tuple((attribute, value) for attribute, value in others if value)
    return Prediction(name, speaker, fold, int(seed), label, prediction, probabilities, known)
