"""Rules that divide utterances into training, validation and test parts.

Those that the project makes keep every speaker on one side where speakers are known; given partitions stay as they are.
"""

from collections.abc import Sequence

import numpy as np

from ser_jax.corpora.table import GivenFold, Utterance
from ser_jax.errors import UserError
from ser_jax.protocols.grouping import spread
from ser_jax.protocols.protocol import TEST, TRAIN, UNUSED, VALIDATION, Fold

VALIDATION_SHARE = 0.15

NEXT_GROUP = "the {group} after the test {group} in sorted order, cyclic"
HELD_OUT_GROUPS = "every {step}th {group} in sorted order, starting with the first"
OFFICIAL = "the official devel partition"
STRATIFIED = "a stratified 15 % of the training partition, fixed seed"
NEXT_FOLD = "the fold after the test fold, cyclic; all utterances of a {group} are in one fold"
PUBLISHED = "the published validation list"
NO_REFIT = "none"
REFIT = "train+validation"
AGAIN = (
    "every fold with a validation part is trained again on training and validation part for as many epochs as it had "
    "at its best"
)
EPOCHS_FROM = "fold {fold} trains for as many epochs as fold {source} with the same seed had at its best"


def leave_one_out(utterances: Sequence[Utterance], group: str) -> tuple[tuple[Fold, ...], str]:
    """Tests every speaker (or session) once, validates on the next one and trains on the others.

    Args:
      utterances: Rows of the protocol.
      group: "speaker" or "session".

    Returns:
      One fold per group, named by it, in sorted order; and the validation rule in words.

    Raises:
      UserError: If there are fewer than three groups, or an utterance has none.
    """
    names = np.array([getattr(utterance, group) for utterance in utterances])
    groups = _groups(names, group)
    folds = []
    for number, test in enumerate(groups):
        validation = groups[(number + 1) % len(groups)]
        parts = np.where(names == test, TEST, np.where(names == validation, VALIDATION, TRAIN))
        folds.append(Fold(str(test), "".join(parts)))
    return tuple(folds), NEXT_GROUP.format(group=group)


def grouped(utterances: Sequence[Utterance], group: str, folds: int) -> tuple[tuple[Fold, ...], str]:
    """Spreads speakers (or sessions) over k folds; tests every fold once, validates on the next, trains on the others.

    Args:
      utterances: Rows of the protocol.
      group: "speaker" or "session".
      folds: k.

    Returns:
      k folds, named "1of5"…; and the validation rule in words.

    Raises:
      UserError: If there are fewer than three folds, fewer groups than folds, or an utterance has no group.
    """
    names = [getattr(utterance, group) for utterance in utterances]
    _require(names, group)
    groups = len(set(names))
    if folds < 3:
        raise UserError(f"{folds} folds leave nothing to train on: choose at least 3 (test, validate, train)")
    if groups < folds:
        raise UserError(
            f"the corpus has {groups} {group}s for {folds} folds, and every fold needs one; choose a protocol of at "
            f"most {groups} folds"
        )
    fold_of = spread(names, [utterance.label for utterance in utterances], folds)
    place = np.array([fold_of[name] for name in names])
    made = []
    for test in range(folds):
        parts = np.where(place == test, TEST, np.where(place == (test + 1) % folds, VALIDATION, TRAIN))
        made.append(Fold(f"{test + 1}of{folds}", "".join(parts)))
    return tuple(made), NEXT_FOLD.format(group=group)


def given_split(utterances: Sequence[Utterance], tested: str = "") -> tuple[tuple[Fold, ...], str]:
    """Trains and tests on the corpus's own partitions.

    Test is tested and devel validates. Where devel is what is tested (asked for, or because test is absent or its
    labels are withheld) or there is no devel, the validation part is taken out of train: whole speakers where they
    are known, else a stratified share.

    Args:
      utterances: Rows of the protocol; `split` is train, devel or test. Rows without a label are never trained on.
      tested: "devel" or "test"; empty: test if it has labels, else devel.

    Returns:
      One fold, named by the tested partition; and the validation rule in words.

    Raises:
      UserError: If there is no train partition or nothing to test, or an utterance is in no partition.
    """
    _require([utterance.split for utterance in utterances], "split")
    split = np.array([utterance.split if utterance.label else "unlabelled" for utterance in utterances])
    present = [name for name in ("train", "devel", "test") if np.any(split == name)]
    tested = tested or ("test" if "test" in present else "devel")
    if "train" not in present or tested not in present:
        raise UserError(
            f"the corpus has labels for the partitions {present}; a protocol by split needs train, and devel or test"
        )
    parts = np.where(split == "train", TRAIN, np.where(split == tested, TEST, UNUSED))
    if tested == "test" and "devel" in present:
        parts[split == "devel"] = VALIDATION
        return (Fold(tested, "".join(parts)),), OFFICIAL
    rule = _hold_out(utterances, parts)
    return (Fold(tested, "".join(parts)),), rule


def official(utterances: Sequence[Utterance]) -> tuple[tuple[Fold, ...], str]:
    """Chooses the epoch on train → devel, then trains on train and devel together and tests on test.

    The test fold has no validation part: it trains for the number of epochs that the devel fold of the same seed chose.
    Test labels may be withheld.

    Args:
      utterances: Rows of the protocol; `split` is train, devel or test.

    Returns:
      The folds "devel" and "test"; and the validation rule in words.

    Raises:
      UserError: If a partition is absent or an utterance is in none.
    """
    (devel,), rule = given_split(utterances, tested="devel")
    split = np.array([utterance.split for utterance in utterances])
    if not np.any(split == "test"):
        raise UserError("the corpus has no test partition, which the official protocol tests on; choose one by devel")
    labelled = np.array([bool(utterance.label) for utterance in utterances])
    parts = np.where(split == "test", TEST, np.where(labelled, TRAIN, UNUSED))
    return (devel, Fold("test", "".join(parts), epochs_from=devel.name)), f"fold devel: {rule}; fold test: none"


def published(utterances: Sequence[Utterance], given: Sequence[GivenFold]) -> tuple[tuple[Fold, ...], str]:
    """Trains and tests on the folds that a corpus is published with.

    A fold without a validation list takes its validation part out of its training part, as `given_split` does.

    Args:
      utterances: Rows of the protocol.
      given: The folds.

    Returns:
      The folds with their own names; and the validation rule in words.

    Raises:
      UserError: If a fold has nothing to train on or to test.
    """
    letters = {"train": TRAIN, "devel": VALIDATION, "test": TEST}
    made, rules = [], []
    for fold in given:
        parts = np.array([letters.get(fold.splits.get(utterance.id, ""), UNUSED) for utterance in utterances])
        if not (np.any(parts == TRAIN) and np.any(parts == TEST)):
            raise UserError(f"{fold.name}: no utterance of its train list, or none of its test list, can be used")
        rules.append(PUBLISHED if np.any(parts == VALIDATION) else _hold_out(utterances, parts))
        made.append(Fold(fold.name, "".join(parts)))
    return tuple(made), "; ".join(dict.fromkeys(rules))


def refit_rule(folds: Sequence[Fold], refit: str = NO_REFIT) -> str:
    """Says in words what happens after the choice of the epoch; `refit` is `NO_REFIT` or `REFIT`."""
    taking = [EPOCHS_FROM.format(fold=fold.name, source=fold.epochs_from) for fold in folds if fold.epochs_from]
    return "; ".join([AGAIN] * (refit == REFIT) + taking) or NO_REFIT


def final(utterances: Sequence[Utterance]) -> tuple[tuple[Fold, ...], str]:
    """Trains on everything but a validation part: the model to ship. Nothing is tested.

    Args:
      utterances: Rows of the protocol.

    Returns:
      One fold named "final", and the validation rule in words.

    Raises:
      UserError: If no utterance has a label.
    """
    parts = np.where([bool(utterance.label) for utterance in utterances], TRAIN, UNUSED)
    if not np.any(parts == TRAIN):
        raise UserError(f"none of the {len(utterances)} utterances has a label: there is nothing to train on")
    rule = _hold_out(utterances, parts)
    return (Fold("final", "".join(parts)),), rule


def _require(names: Sequence[str], column: str) -> None:
    absent = sum(not name for name in names)
    if absent:
        raise UserError(f"{absent} of {len(names)} utterances have no {column}: the protocol goes by {column}")


def _groups(names: np.ndarray, group: str) -> np.ndarray:
    _require(list(names), group)
    groups = np.unique(names)
    if len(groups) < 3:
        raise UserError(
            f"the corpus has {len(groups)} {group}{'s' if len(groups) != 1 else ''} ({', '.join(groups)}); "
            f"leaving one out needs at least 3: one to test, one to validate, one to train on"
        )
    return groups


def _hold_out(utterances: Sequence[Utterance], parts: np.ndarray) -> str:
    """Turns a share of the training letters of `parts` into validation letters; returns the rule."""
    rows = np.flatnonzero(parts == TRAIN)
    held_out, rule = _held_out([utterances[row] for row in rows.tolist()])
    parts[rows[held_out]] = VALIDATION
    return rule


def _held_out(utterances: Sequence[Utterance]) -> tuple[np.ndarray, str]:
    """Returns the numbers of the validation rows: whole speakers if there are three, else a stratified share."""
    speakers = np.array([utterance.speaker for utterance in utterances])
    groups = np.unique(speakers)
    if len(groups) >= 3 and not np.any(speakers == ""):
        step = min(len(groups), round(1 / VALIDATION_SHARE))
        return np.flatnonzero(np.isin(speakers, groups[::step])), HELD_OUT_GROUPS.format(step=step, group="speaker")
    labels = np.array([utterance.label for utterance in utterances])
    generator = np.random.Generator(np.random.Philox(key=0))
    chosen = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: max(1, round(VALIDATION_SHARE * len(rows)))])
    return np.sort(np.concatenate(chosen)), STRATIFIED
