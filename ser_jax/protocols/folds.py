"""Rules that divide utterances into training, validation and test parts; validation and test share no speaker."""

from collections.abc import Sequence

import numpy as np

from ser_jax.corpora.table import Utterance
from ser_jax.errors import UserError
from ser_jax.protocols.protocol import TEST, TRAIN, UNUSED, VALIDATION, Fold

VALIDATION_SHARE = 0.15

NEXT_GROUP = "the {group} after the test {group} in sorted order, cyclic"
HELD_OUT_GROUPS = "every {step}th {group} in sorted order, starting with the first"
OFFICIAL = "the official devel partition"
STRATIFIED = "a stratified 15 % of the training partition, fixed seed"


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
    rows = np.flatnonzero(split == "train")
    held_out, rule = _held_out([utterances[row] for row in rows.tolist()])
    parts[rows[held_out]] = VALIDATION
    return (Fold(tested, "".join(parts)),), rule


def final(utterances: Sequence[Utterance]) -> tuple[tuple[Fold, ...], str]:
    """Trains on everything but a validation part: the model to ship. Nothing is tested.

    Args:
      utterances: Rows of the protocol.

    Returns:
      One fold named "final", and the validation rule in words.

    Raises:
      UserError: If no utterance has a label.
    """
    labelled = np.array([bool(utterance.label) for utterance in utterances])
    rows = np.flatnonzero(labelled)
    if not len(rows):
        raise UserError(f"none of the {len(utterances)} utterances has a label: there is nothing to train on")
    held_out, rule = _held_out([utterances[row] for row in rows.tolist()])
    parts = np.full(len(utterances), UNUSED)
    parts[rows] = TRAIN
    parts[rows[held_out]] = VALIDATION
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
