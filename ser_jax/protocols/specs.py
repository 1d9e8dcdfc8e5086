"""The named protocols: which utterances, which classes, which rule for the folds, which counts to expect."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

from ser_jax.corpora.table import CANONICAL_CLASSES, Corpus, Utterance
from ser_jax.protocols import folds as rules
from ser_jax.protocols.protocol import Fold

Rule = Callable[[Sequence[Utterance]], tuple[tuple[Fold, ...], str]]


@dataclasses.dataclass(frozen=True)
class Spec:
    """A named protocol before it meets a release.

    Attributes:
      corpus: Name of the corpus it belongs to.
      rule: Divides the utterances into folds.
      classes: Class names, or None for all labels of the corpus.
      keep: Which utterances with such labels belong to it.
      counts: Expected utterances per class, per session ("Session1"), per partition ("test") or per partition and class
        ("train angry"); empty if the corpus has no fixed size.
      counts_are_certain: Whether other counts make it "+modified"; False: they only warn.
    """

    corpus: str
    rule: Rule
    classes: tuple[str, ...] | None = CANONICAL_CLASSES
    keep: Callable[[Utterance], bool] = lambda utterance: True
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    counts_are_certain: bool = True


def by_speaker(utterances: Sequence[Utterance]) -> tuple[tuple[Fold, ...], str]:
    """Leave one speaker out."""
    return rules.leave_one_out(utterances, "speaker")


def by_session(utterances: Sequence[Utterance]) -> tuple[tuple[Fold, ...], str]:
    """Leave one session out."""
    return rules.leave_one_out(utterances, "session")


def train_to_devel(utterances: Sequence[Utterance]) -> tuple[tuple[Fold, ...], str]:
    """Train on the official train partition, test on devel."""
    return rules.given_split(utterances, tested="devel")


# Corpora of the user's own: their protocols go by the columns they have, and speakers or sessions may be spread over k
# folds.
K_FOLD_CORPORA = ("manifest", "audformat")

EMODB_CLASSES = ("angry", "boredom", "disgust", "fear", "happy", "neutral", "sad")

_EMODB = {"angry": 127, "boredom": 81, "disgust": 46, "fear": 69, "happy": 71, "neutral": 79, "sad": 62}
_IEMOCAP_5531 = {
    **{"angry": 1103, "happy": 1636, "neutral": 1708, "sad": 1084},
    **{"Session1": 1085, "Session2": 1023, "Session3": 1151, "Session4": 1031, "Session5": 1241},
}
_EMOTASS = {
    **{"train angry": 126, "train happy": 718, "train neutral": 2197, "train sad": 301},
    **{"devel angry": 157, "devel happy": 581, "devel neutral": 3107, "devel sad": 341},
}

SPECS: dict[str, Spec] = {
    "demo-speaker": Spec("demo", by_speaker),
    "emodb4-speaker10": Spec("emodb", by_speaker, counts={name: _EMODB[name] for name in CANONICAL_CLASSES}),
    "emodb7-speaker10": Spec("emodb", by_speaker, EMODB_CLASSES, counts=_EMODB),
    "iemocap-5531-session5": Spec("iemocap", by_session, counts=_IEMOCAP_5531),
    "iemocap-5531-speaker10": Spec("iemocap", by_speaker, counts=_IEMOCAP_5531),
    # The paper's 5498 = 1090 / 1627 / 1704 / 1077 less nine happy turns that remain unexplained.
    "iemocap-5507-session5": Spec(
        "iemocap",
        by_session,
        keep=lambda utterance: "/Ses05M_script01_1b/" not in utterance.id,
        counts={"angry": 1090, "happy": 1636, "neutral": 1704, "sad": 1077},
    ),
    "iemocap-impro-session5": Spec(
        "iemocap",
        by_session,
        keep=lambda utterance: "impro" in utterance.id,
        counts={"angry": 289, "happy": 947, "neutral": 1099, "sad": 608},
    ),
    "emotass-devel": Spec(
        "emotass",
        train_to_devel,
        keep=lambda utterance: utterance.split != "test",
        counts=_EMOTASS,
        counts_are_certain=False,
    ),
    "emotass-official": Spec("emotass", rules.official, counts=_EMOTASS | {"test": 3099}, counts_are_certain=False),
    **{
        f"{corpus}-{name}": Spec(corpus, rule, classes=None)
        for corpus in K_FOLD_CORPORA
        for name, rule in (("speaker", by_speaker), ("session", by_session), ("split", rules.given_split))
    },
    **{
        f"{corpus}-final": Spec(corpus, rules.final, classes)
        for corpus, classes in (
            ("audformat", None),
            ("demo", CANONICAL_CLASSES),
            ("emodb", CANONICAL_CLASSES),
            ("emotass", CANONICAL_CLASSES),
            ("iemocap", CANONICAL_CLASSES),
            ("manifest", None),
        )
    },
}

_K_FOLD = re.compile(r"(\w+)-(speaker|session)-([2-9]|[1-9]\d|100)fold", re.ASCII)


def specs_of(corpus: Corpus) -> dict[str, Spec]:
    """Returns the named protocols of a corpus; those of an EmoBox dataset carry the dataset's name."""
    if corpus.folds:
        own = {
            "": functools.partial(rules.published, given=corpus.folds),
            "-speaker": by_speaker,
            "-final": rules.final,
        }
        return {corpus.protocol + name: Spec(corpus.name, rule, classes=None) for name, rule in own.items()}
    return {name: spec for name, spec in SPECS.items() if spec.corpus == corpus.name}


def k_fold_spec(name: str) -> Spec | None:
    """Returns the protocol "manifest-speaker-5fold" and its like, for k from 2 to 100; None for any other name."""
    match = _K_FOLD.fullmatch(name)
    if match is None or match[1] not in K_FOLD_CORPORA:
        return None
    return Spec(match[1], functools.partial(rules.grouped, group=match[2], folds=int(match[3])), classes=None)
