"""A protocol: which utterances are in which part of every fold, and the SHA-256 of that."""

import dataclasses
import functools
import hashlib
import json
import urllib.parse
from collections.abc import Collection
from typing import Any

import numpy as np

from ser_jax.corpora.joined import PLUS, corpus_of

TRAIN, VALIDATION, TEST, UNUSED = "t", "v", "e", "-"
LONGEST_NAME = 255  # bytes of a file name


def trial_name(fold: str, seed: int) -> str:
    """Returns the folder name of a trial: fold (percent-encoded where needed) and seed.

    Of a name that is longer than file systems allow, the end is replaced by a digest.
    """
    name = f"{urllib.parse.quote(fold, safe='')}-{seed}"
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[:100]}+{digest}-{seed}"


def stratum_weights(strata: np.ndarray, count: int) -> np.ndarray:
    """Returns [count] f64, weights by which every stratum has the same weight in total.

    n / (strata that occur · its utterances), so that the mean weight of the n utterances is 1.

    Args:
      strata: [n] integers below `count`.
      count: How many strata there are; those without an utterance count with nothing.
    """
    sizes = np.bincount(strata, minlength=count)
    return len(strata) / (np.count_nonzero(sizes) * np.maximum(sizes, 1))


@dataclasses.dataclass(frozen=True)
class Fold:
    """The part of every utterance in one fold."""

    name: str  # the speaker, session or partition that is tested
    # one letter per utterance of the protocol: t(rain), v(alidation), (t)e(st) or - (unused)
    parts: str
    # name of the fold whose best epoch, with the same seed, is the number of epochs to train;
    # empty: the fold's own validation part chooses
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
        """Returns the hashed content; an empty `epochs_from` is left out."""
        value = {"name": self.name, "parts": self.parts}
        return value | {"epochs_from": self.epochs_from} if self.epochs_from else value


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The utterances, classes and folds of an experiment."""

    # its name; "+modified" is appended where the release or the usable recordings differ from the
    # named protocol
    name: str
    corpus: str  # name of the corpus
    classes: tuple[str, ...]  # class names; the position is the class number
    label_mapping: dict[str, str]  # label in the release → class
    ids: tuple[str, ...]  # utterance ids, sorted
    labels: tuple[str, ...]  # class name of every utterance; "" where withheld
    speakers: tuple[str, ...]  # speaker of every utterance; "" where unknown
    folds: tuple[Fold, ...]  # the folds
    validation_rule: str  # how the validation part is chosen, in words
    refit_rule: str = "none"  # what happens after the choice of the epoch
    by_speaker: str = ""  # what is normalised by speaker, in words; hashed unless empty
    # Not hashed: session of every utterance where folds are made of sessions, else empty; and what
    # readers of its scores must know, such as speakers in two parts of a fold, in sentences.
    sessions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        """Raises a ValueError unless every `epochs_from` names a fold that chooses its epoch."""
        choosing = {fold.name for fold in self.folds if not fold.epochs_from}
        for fold in self.folds:
            if fold.epochs_from and fold.epochs_from not in choosing:
                raise ValueError(
                    f"fold {fold.name}: epochs_from={fold.epochs_from!r} is no fold that chooses"
                    f" its own epoch ({', '.join(sorted(choosing))})"
                )
            if fold.epochs_from and len(fold.validation):
                raise ValueError(
                    f"fold {fold.name}: epochs_from={fold.epochs_from!r} beside a validation part"
                )

    def value(self) -> dict[str, Any]:
        """Returns exactly the content that is hashed."""
        value = {
            "classes": list(self.classes),
            "label_mapping": self.label_mapping,
            "metrics": ["wa", "ua"],
            "validation": self.validation_rule,
            "refit": self.refit_rule,
            "utterances": list(map(list, zip(self.ids, self.labels, self.speakers, strict=True))),
            "folds": [fold.value() for fold in self.folds],
        }
        return value | {"by_speaker": self.by_speaker} if self.by_speaker else value

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

    @functools.cached_property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora, sorted: several if they are joined."""
        joined = PLUS in self.corpus
        return tuple(sorted({*map(corpus_of, self.ids)})) if joined else (self.corpus,)

    @functools.cached_property
    def strata(self) -> np.ndarray:
        """[N] i32, class number + K · number of the corpus; −1 where the label is withheld."""
        if len(self.corpora) == 1:
            return self.targets
        number = {name: k for k, name in enumerate(self.corpora)}
        corpora = np.array([number[corpus_of(id_)] for id_ in self.ids], np.int32)
        return np.where(self.targets < 0, -1, self.targets + len(self.classes) * corpora)

    def pooled_folds(self, trained: Collection[str]) -> tuple[str, ...]:
        """Returns those of the `trained` folds whose test predictions are scored together.

        In cross-validation these are all folds: every utterance is tested once. A fold that chooses
        the epochs of another is left out if the test labels of that other fold are known.
        """
        chosen_by = {
            fold.epochs_from
            for fold in self.folds
            if fold.name in trained and any(self.labels[row] for row in fold.test.tolist())
        }
        return tuple(
            fold.name for fold in self.folds if fold.name in trained and fold.name not in chosen_by
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `protocol.json`."""
        sizes = ("train", "validation", "test")
        folds = [
            {
                "name": fold.name,
                **{part: len(getattr(fold, part)) for part in sizes},
                **fold.value(),
            }
            for fold in self.folds
        ]
        head = {"name": self.name, "sha256": self.sha256, "corpus": self.corpus}
        unhashed = {"sessions": list(self.sessions), "notes": list(self.notes)}
        return {**head, **self.value(), "folds": folds, **unhashed}
