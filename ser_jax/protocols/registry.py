"""How a corpus becomes a named protocol."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.errors import UserError
from ser_jax.protocols import folds as rules
from ser_jax.protocols.protocol import Protocol
from ser_jax.protocols.specs import K_FOLD_CORPORA, Spec, k_fold_spec, specs_of


def find_spec(name: str, corpus: Corpus) -> tuple[str, Spec]:
    """Looks a protocol up.

    Args:
      name: Name of the protocol, or "auto" for the corpus's default.
      corpus: The corpus it is for.

    Returns:
      Its full name and specification.

    Raises:
      UserError: If the name is unknown or belongs to another corpus.
    """
    if name == "auto":
        name = corpus.protocol
    known = specs_of(corpus)
    spec = known.get(name) or k_fold_spec(name)
    if spec is None or spec.corpus != corpus.name:
        fitting = sorted(known)
        if corpus.name in K_FOLD_CORPORA:
            fitting += [f"{corpus.name}-{group}-<k>fold" for group in ("speaker", "session")]
        raise UserError(
            f"protocol.name={name!r} is not a protocol of corpus.name={corpus.name!r}; "
            f"choose one of {', '.join(fitting)}"
        )
    return name, spec


def select(spec: Spec, corpus: Corpus) -> Corpus:
    """Returns the corpus with only the utterances that belong to the protocol.

    Raises:
      UserError: If none does, or a class of the protocol has none.
    """
    kept = tuple(
        utterance
        for utterance in corpus.utterances
        if (spec.classes is None or utterance.label in (*spec.classes, "")) and spec.keep(utterance)
    )
    if not kept:
        raise UserError(
            f"corpus.root={corpus.root} holds no utterance of the protocol: {len(corpus.utterances)} utterances with "
            f"the labels {sorted({utterance.label for utterance in corpus.utterances})}"
        )
    found = collections.Counter(utterance.label for utterance in kept if utterance.label)
    absent = [label for label in spec.classes or () if not found[label]]
    if absent:
        raise UserError(_absent_classes(absent, found, corpus))
    return dataclasses.replace(corpus, utterances=kept)


def build_protocol(
    name: str, spec: Spec, corpus: Corpus, usable: Sequence[Utterance], *, refit: str = rules.NO_REFIT
) -> tuple[Protocol, tuple[str, ...]]:
    """Makes the protocol of a corpus whose unusable recordings are known.

    Args:
      name: Name of the protocol.
      spec: Its specification.
      corpus: The corpus after `select`.
      usable: Its utterances less those whose recordings were rejected, sorted by id.
      refit: none | train+validation: what happens once the validation part has chosen the epoch.

    Returns:
      The protocol, and sentences about what the user should know.

    Raises:
      UserError: If the folds cannot be made or a training part lacks a class.
    """
    warnings = []
    differences = [
        f"{key}: {found} instead of {expected}"
        for key, (found, expected) in compare_counts(spec.counts, usable).items()
        if found != expected
    ]
    if differences:
        warnings.append(f"counts differ from {name}: {'; '.join(differences)}")
    lost = len(corpus.utterances) - len(usable)
    if lost:
        warnings.append(
            f"{lost} of {len(corpus.utterances)} listed utterances cannot be used and are left out of {name}"
        )
    if (differences and spec.counts_are_certain) or lost or corpus.modified:
        name += "+modified"
    classes = spec.classes or tuple(sorted({utterance.label for utterance in usable if utterance.label}))
    if len(classes) < 2:
        raise UserError(
            f"corpus.root={corpus.root} has the one label {', '.join(classes)}; a classifier needs at least 2"
        )
    folds, validation = spec.rule(usable)
    mapping = {old: new for old, new in corpus.label_mapping.items() if new in classes}
    protocol = Protocol(
        name=name,
        corpus=corpus.name,
        classes=classes,
        label_mapping=mapping,
        ids=tuple(utterance.id for utterance in usable),
        labels=tuple(utterance.label for utterance in usable),
        speakers=tuple(utterance.speaker for utterance in usable),
        folds=folds,
        validation_rule=validation,
        refit_rule=rules.refit_rule(folds, refit),
    )
    return protocol, (*warnings, *_check_folds(protocol))


def compare_counts(expected: Mapping[str, int], utterances: Sequence[Utterance]) -> dict[str, tuple[int, int]]:
    """Counts what a release is expected to hold.

    Args:
      expected: Utterances per class, session, partition, or partition and class (`Spec.counts`).
      utterances: The usable utterances.

    Returns:
      What is counted → (found, expected).
    """
    found = collections.Counter()
    for utterance in utterances:
        keys = (utterance.label, utterance.session, utterance.split, f"{utterance.split} {utterance.label}")
        found.update(set(keys))
    return {key: (found[key], count) for key, count in expected.items()}


def _absent_classes(absent: Sequence[str], found: Mapping[str, int], corpus: Corpus) -> str:
    """Returns the sentence about classes that no recording has, with the protocols that do without them."""
    there = ", ".join(f"{label} {count}" for label, count in sorted(found.items()))
    fitting = sorted(name for name, spec in specs_of(corpus).items() if set(spec.classes or ()) <= set(found))
    remedy = f" or choose one of {', '.join(fitting)}" if fitting else ""
    return (
        f"corpus.root={corpus.root} has no recording of {', '.join(absent)}, which the protocol needs; found: {there}; "
        f"complete the release{remedy}"
    )


def _check_folds(protocol: Protocol) -> list[str]:
    """Refuses a training part that lacks a class; warns of such a validation part and of speakers on both sides."""
    warnings = []
    for fold in protocol.folds:
        for part, rows in (("training", fold.train), ("validation", fold.validation)):
            if part == "validation" and fold.epochs_from:
                continue  # Another fold chooses its epoch.
            present = {protocol.labels[row] for row in rows}
            missing = [name for name in protocol.classes if name not in present]
            if missing and part == "training":
                raise UserError(
                    f"fold {fold.name} of {protocol.name}: the training part has no example of {', '.join(missing)} "
                    f"({len(rows)} utterances); add recordings or choose another protocol"
                )
            if missing:
                warnings.append(f"fold {fold.name}: the validation part has no example of {', '.join(missing)}")
        tested = {protocol.speakers[row] for row in fold.test} - {""}
        both = sorted(tested & {protocol.speakers[row] for row in (*fold.train, *fold.validation)})
        if both:
            warnings.append(
                f"fold {fold.name}: {len(both)} speakers are in the test part and elsewhere ({', '.join(both[:5])}"
                f"{', …' if len(both) > 5 else ''}): scores are optimistic"
            )
    return warnings
