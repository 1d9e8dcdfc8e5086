"""A protocol as a value: which utterances, which part each plays in every fold, and its SHA-256."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Collection
from typing import Any

import numpy as np

TRAIN, VALIDATION, TEST, UNUSED = "t", "v", "e", "-"


@dataclasses.dataclass(frozen=True)
class Fold:
    """One training: its name and the part of every utterance.

    Attributes:
      name: The speaker, session or partition that is tested.
      parts: One letter per utterance of the protocol: t(rain), v(alidation), (t)e(st) or - (unused).
      epochs_from: Name of the fold whose best epoch, with the same seed, is the number of epochs to train; empty: the
        fold's own validation part chooses.
    """

    name: str
    parts: str
    epochs_from: str = ""

    def rows(self, part: str) -> np.ndarray:
        """Returns the numbers of the utterances of one part, ascending."""
        return np.flatnonzero(np.frombuffer(self.parts.encode(), "S1") == part.encode())

    @property
    def train(self) -> np.ndarray:
        """Utterances whose labels the parameters are fitted to."""
        return self.rows(TRAIN)

    @property
    def validation(self) -> np.ndarray:
        """Utterances that choose the epoch."""
        return self.rows(VALIDATION)

    @property
    def test(self) -> np.ndarray:
        """Utterances that are scored, once, at the end."""
        return self.rows(TEST)

    def value(self) -> dict[str, str]:
        """Returns what the hash is taken over; an empty `epochs_from` is left out."""
        value = {"name": self.name, "parts": self.parts}
        return value | {"epochs_from": self.epochs_from} if self.epochs_from else value


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained and tested on what.

    Attributes:
      name: Its name; "+modified" is appended where the release or the usable recordings differ from the named protocol.
      corpus: Name of the corpus.
      classes: Class names; the position is the class number.
      label_mapping: Label in the release → class.
      ids: Utterance ids, sorted.
      labels: Class name of every utterance; "" where withheld.
      speakers: Speaker of every utterance; "" where unknown.
      folds: The folds.
      validation_rule: How the validation part is chosen, in words.
      refit_rule: What happens after the choice of the epoch.
    """

    name: str
    corpus: str
    classes: tuple[str, ...]
    label_mapping: dict[str, str]
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    speakers: tuple[str, ...]
    folds: tuple[Fold, ...]
    validation_rule: str
    refit_rule: str = "none"

    def __post_init__(self):
        """Checks that whoever takes the epochs of a fold can have them.

        Raises:
          ValueError: If `epochs_from` names no fold, the fold itself or one that chooses no epoch either.
        """
        choosing = {fold.name for fold in self.folds if not fold.epochs_from}
        for fold in self.folds:
            if fold.epochs_from and fold.epochs_from not in choosing:
                raise ValueError(
                    f"fold {fold.name}: epochs_from={fold.epochs_from!r} is no fold that chooses its own epoch "
                    f"({', '.join(sorted(choosing))})"
                )
            if fold.epochs_from and len(fold.validation):
                raise ValueError(f"fold {fold.name}: epochs_from={fold.epochs_from!r} beside a validation part")

    def value(self) -> dict[str, Any]:
        """Returns exactly what the hash is taken over."""
        return {
            "classes": list(self.classes),
            "label_mapping": self.label_mapping,
            "metrics": ["wa", "ua"],
            "validation": self.validation_rule,
            "refit": self.refit_rule,
            "utterances": [list(row) for row in zip(self.ids, self.labels, self.speakers, strict=True)],
            "folds": [fold.value() for fold in self.folds],
        }

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON of `value()`."""
        text = json.dumps(self.value(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @functools.cached_property
    def targets(self) -> np.ndarray:
        """[N] i32, class number of every utterance; −1 where the label is withheld."""
        number = {name: k for k, name in enumerate(self.classes)}
        return np.array([number[label] if label else -1 for label in self.labels], np.int32)

    def pooled_folds(self, trained: Collection[str]) -> tuple[str, ...]:
        """Returns the folds whose test predictions make the scores of a protocol.

        They are all folds, as in cross-validation, where every utterance is tested once. But where one fold chooses the
        epochs of another, both are answers to the same question, and the later one counts if its labels are known.

        Args:
          trained: Names of the folds that were trained.
        """
        chosen_by = {
            fold.epochs_from
            for fold in self.folds
            if fold.name in trained and any(self.labels[row] for row in fold.test.tolist())
        }
        return tuple(fold.name for fold in self.folds if fold.name in trained and fold.name not in chosen_by)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `protocol.json`."""
        folds = [
            {
                "name": fold.name,
                "train": len(fold.train),
                "validation": len(fold.validation),
                "test": len(fold.test),
                **fold.value(),
            }
            for fold in self.folds
        ]
        return {
            "name": self.name,
            "sha256": self.sha256,
            "corpus": self.corpus,
            **self.value(),
            "folds": folds,
        }
