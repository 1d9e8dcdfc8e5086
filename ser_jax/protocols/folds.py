"""Rules that divide utterances into training, validation and test parts.

Rules of this project keep every speaker on one side where speakers are known, and every recording
on one side where they are not; partitions and folds that a corpus is published with are kept. Every
rule returns its folds and the validation rule in words, which is part of the protocol's hash.
"""

import collections
import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

from ser_jax.corpora.table import GivenFold, Utterance
from ser_jax.protocols.protocol import TEST, TRAIN, UNUSED, VALIDATION, Fold
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

# Fractions of a class are counted in integer steps of a millionth: the rounding of floats could
# differ between machines, and with it the hash of a protocol.
STEPS = 1 << 20

VALIDATION_FRACTION = 0.15
MOST_LEFT_OUT = 12  # speakers or texts: of more, folds are made

# Validation and refit rules in words. They are hashed: a change makes another protocol.
NEXT_GROUP = "the {group} after the test {group} in sorted order, cyclic"
HELD_OUT_GROUPS = "every {step}th {group} in sorted order, starting with the first"
OFFICIAL = "the official devel partition"
STRATIFIED = "a stratified 15 % of the training partition, fixed seed"
STRATIFIED_RECORDINGS = f"{STRATIFIED}; all utterances of a recording are on one side"
NEXT_SESSION = (
    "the session after the test session in sorted order, cyclic; other speakers of the test session"
    " are in no part"
)
NEXT_FOLD = "the fold after the test fold, cyclic; all utterances of a {group} are in one fold"
TWO_HALVES = "{rule}; the texts are in two halves, and the test half is nowhere else"
PUBLISHED = "the published validation list"
PARTNERS = "; speakers of a session count as one"
NO_REFIT = "none"
REFIT = "train+validation"
AGAIN = (
    "every fold with a validation part is trained again on training and validation part for as many"
    " epochs as it had at its best"
)
EPOCHS_FROM = (
    "fold {fold} trains for as many epochs as fold {source} with the same seed had at its best"
)

GROUPED_FOLDS = 5  # folds of more

Folds = tuple[tuple[Fold, ...], str]  # the folds, and the validation rule in words


def spread(groups: Sequence[str], labels: Sequence[str], folds: int) -> dict[str, int]:
    """Assigns speakers or sessions to folds so that all have about as much of every class.

    Groups are taken from the largest to the smallest, each to the fold where the sum over classes
    of (fraction of the class in the fold) x (fraction of the class in the group) is smallest. Among
    equals the fold with the smallest sum of fractions wins, then the first. Nothing is random.

    Args:
      groups: The group of every utterance.
      labels: The class of every utterance.
      folds: How many folds; at most as many as there are groups.

    Returns:
      Group → number of its fold from 0; every fold gets at least one group.
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    classes, class_of = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (group_of, class_of), 1)
    fractions = counts * STEPS // counts.sum(axis=0)
    # Stable, so that equally large groups keep their sorted order.
    order = np.argsort(-fractions.sum(axis=1), kind="stable")
    loads = np.zeros((folds, len(classes)), np.int64)
    chosen = {}
    for number in order.tolist():
        overlap = loads @ fractions[number]
        best = min(range(folds), key=lambda fold: (overlap[fold], loads[fold].sum()))
        loads[best] += fractions[number]
        chosen[str(names[number])] = best
    return chosen


def leave_one_out(utterances: Sequence[Utterance], group: str) -> Folds:
    """Tests every speaker (or session) once, validates on the next one and trains on the others.

    Folds are named by their groups, in sorted order. Raises a `UserError` if there are fewer than
    three groups, or an utterance has none.
    """
    names = np.array([getattr(utterance, group) for utterance in utterances])
    _require(names.tolist(), group)
    groups = np.unique(names)
    if len(groups) < 3:
        raise UserError(
            f"the corpus has {len(groups)} {group}{'s' if len(groups) != 1 else ''}"
            f" ({', '.join(groups)}); leaving one out needs at least 3: one to test, one to"
            " validate, one to train on"
        )
    folds = []
    for number, test in enumerate(groups):
        validation = groups[(number + 1) % len(groups)]
        parts = np.where(names == test, TEST, np.where(names == validation, VALIDATION, TRAIN))
        folds.append(Fold(str(test), "".join(parts)))
    return tuple(folds), NEXT_GROUP.format(group=group)


def leave_one_out_alone(utterances: Sequence[Utterance]) -> Folds:
    """Tests every speaker once and leaves the others of the same session out of all parts.

    Partners in a dialogue share room, text and cross-talk. The next session validates as a whole,
    so its speakers have no partner in training either. Every speaker must have one session only.

    Raises:
      UserError: As `leave_one_out` does.
    """
    speakers = np.array([utterance.speaker for utterance in utterances])
    _require(speakers.tolist(), "speaker")
    folds = []
    for session in leave_one_out(utterances, "session")[0]:
        parts = np.array(list(session.parts))
        for test in np.unique(speakers[session.test]):
            partners = (parts == TEST) & (speakers != test)
            folds.append(Fold(str(test), "".join(np.where(partners, UNUSED, parts))))
    return tuple(sorted(folds, key=lambda fold: fold.name)), NEXT_SESSION


def grouped(utterances: Sequence[Utterance], group: str, folds: int) -> Folds:
    """Tests every one of k folds of speakers (or sessions) once and validates on the next one.

    Folds are named "1of5"…. Raises a `UserError` if there are fewer than three folds, fewer groups
    than folds, or an utterance has no group.
    """
    names = [getattr(utterance, group) for utterance in utterances]
    _require(names, group)
    groups = len(set(names))
    if folds < 3:
        raise UserError(
            f"{folds} folds leave nothing to train on: choose at least 3 (test, validate, train)"
        )
    if groups < folds:
        raise UserError(
            f"the corpus has {groups} {group}s for {folds} folds, and every fold needs one; choose"
            f" a protocol of at most {groups} folds"
        )
    fold_of = spread(names, [f"{row.corpus} {row.label}" for row in utterances], folds)
    place = np.array([fold_of[name] for name in names])
    made = []
    for test in range(folds):
        rest = np.where(place == (test + 1) % folds, VALIDATION, TRAIN)
        parts = np.where(place == test, TEST, rest)
        made.append(Fold(f"{test + 1}of{folds}", "".join(parts)))
    return tuple(made), NEXT_FOLD.format(group=group)


def speakers_apart(utterances: Sequence[Utterance]) -> Folds:
    """Leaves one speaker out if there are at most 12, else makes 5 folds of speakers.

    Where every speaker of a corpus has one session, the speakers of a session stay together: they
    talk to each other. Raises a `UserError` as `leave_one_out` and `grouped` do.
    """
    rows, note = _with_partners(utterances)
    few = len({row.speaker for row in rows}) <= MOST_LEFT_OUT
    made, rule = leave_one_out(rows, "speaker") if few else grouped(rows, "speaker", GROUPED_FOLDS)
    return made, rule + note


def leave_one_corpus_out(utterances: Sequence[Utterance]) -> Folds:
    """Tests every one of several joined corpora once, with models of all others.

    Whole speakers of the others validate, every seventh.
    """
    rows, note = _with_partners(utterances)
    names = np.array([row.corpus for row in rows])
    folds, rules = [], []
    for test in np.unique(names):
        parts = np.where(names == test, TEST, TRAIN)
        rules.append(_hold_out(rows, parts))
        folds.append(Fold(str(test), "".join(parts)))
    return tuple(folds), "; ".join(dict.fromkeys(rules)) + note


def train_on(utterances: Sequence[Utterance], corpus: str) -> Folds:
    """Trains on one of several joined corpora and tests on each, every utterance once.

    The corpus itself is tested by the folds of `speakers_apart`, unless it has fewer than three
    speakers or unknown ones; the others by one more fold, of its name, which trains on all of it
    but a validation part.
    """
    rows, note = _with_partners(utterances)
    own = np.array([row.corpus == corpus for row in rows])
    inside = [row for row, mine in zip(utterances, own, strict=True) if mine]
    speakers = {rows[number].speaker for number in np.flatnonzero(own).tolist()}
    folds, rule = [], "none within it: fewer than three speakers, or unknown ones"
    if "" not in speakers and len(speakers) >= 3:
        within, rule = speakers_apart(inside)
        for fold in within:
            parts = np.full(len(rows), UNUSED)
            parts[own] = list(fold.parts)
            folds.append(Fold(fold.name, "".join(parts)))
    parts = np.where(own, TRAIN, TEST)
    others = _hold_out(rows, parts)
    folds.append(Fold(corpus, "".join(parts)))
    return tuple(folds), f"fold {corpus}: {others}{note}; other folds: {rule}"


def _with_partners(utterances: Sequence[Utterance]) -> tuple[list[Utterance], str]:
    """Names speakers by their session, in corpora where each has one; returns a note if any has."""
    pairs: dict[str, set[tuple[str, str]]] = {}
    for row in utterances:
        pairs.setdefault(row.corpus, set()).add((row.speaker, row.session))
    together = set()
    for corpus, found in pairs.items():
        sessions = {session for _, session in found}
        whole = len(found) == len({speaker for speaker, _ in found}) > len(sessions)
        if "" not in sessions and len(sessions) >= 3 and whole:
            together.add(corpus)
    rows = [
        dataclasses.replace(row, speaker=row.session) if row.corpus in together else row
        for row in utterances
    ]
    return rows, PARTNERS if together else ""


def by_group(utterances: Sequence[Utterance], group: str) -> Folds:
    """Leaves out one speaker (session, text) at a time; more than 12 are in five folds.

    Of two, each is tested once, and the validation part is taken out of the other, as `given_split`
    does. Errors as of `leave_one_out`.
    """
    names = np.array([getattr(utterance, group) for utterance in utterances])
    _require(names.tolist(), group)
    groups = np.unique(names)
    if len(groups) > MOST_LEFT_OUT:
        return grouped(utterances, group, GROUPED_FOLDS)
    if len(groups) != 2:
        return leave_one_out(utterances, group)
    folds, rule = [], ""
    for test in groups:
        parts = np.where(names == test, TEST, TRAIN)
        rule = _hold_out(utterances, parts)
        folds.append(Fold(str(test), "".join(parts)))
    return tuple(folds), rule


def by_speaker_and_text(utterances: Sequence[Utterance]) -> Folds:
    """Tests on speakers and texts that are nowhere else.

    The folds of speakers are those of `by_group`. Texts are in two halves; every fold of speakers
    is tested on one and trains and validates on the other, so half of the utterances of its other
    speakers are in no part. Folds are named "03-text1of2"….

    Raises:
      UserError: As `by_group` does, or there are fewer than two texts.
    """
    texts = [utterance.text for utterance in utterances]
    _require(texts, "text")
    if len(set(texts)) < 2:
        raise UserError(
            "the corpus has 1 text, so none is left to train on; choose a protocol by speaker"
        )
    half_of = spread(texts, [utterance.label for utterance in utterances], 2)
    half = np.array([half_of[text] for text in texts])
    by_speaker, rule = by_group(utterances, "speaker")
    folds = []
    for fold in by_speaker:
        parts = np.array(list(fold.parts))
        for number in (0, 1):
            chosen = (parts == TEST) == (half == number)
            name = f"{fold.name}-text{number + 1}of2"
            folds.append(Fold(name, "".join(np.where(chosen, parts, UNUSED))))
    return tuple(folds), TWO_HALVES.format(rule=rule)


def given_split(utterances: Sequence[Utterance], tested: str = "") -> Folds:
    """Trains and tests on the corpus's own partitions.

    Test (or another one on request) is tested and devel validates. If devel is tested (on request,
    or because test is absent or its labels are withheld) or absent, the validation part is taken
    out of train: whole speakers where they are known, else a stratified sample.

    Rows without a label are never trained on. `tested` is "devel", "test" or another partition;
    empty: test if it has labels, else devel. The fold has its name. Raises a `UserError` if there
    is no train partition or nothing to test, or an utterance is in no partition.
    """
    _require([utterance.split for utterance in utterances], "split")
    split = np.array(
        [utterance.split if utterance.label else "unlabelled" for utterance in utterances]
    )
    names = dict.fromkeys(("train", "devel", "test", *filter(None, [tested])))
    present = [name for name in names if np.any(split == name)]
    tested = tested or ("test" if "test" in present else "devel")
    if "train" not in present or tested not in present:
        raise UserError(
            f"the corpus has labels for the partitions {present}; a protocol by split needs train,"
            " and devel or test"
        )
    parts = np.where(split == "train", TRAIN, np.where(split == tested, TEST, UNUSED))
    if tested != "devel" and "devel" in present:
        parts[split == "devel"] = VALIDATION
        return (Fold(tested, "".join(parts)),), OFFICIAL
    rule = _hold_out(utterances, parts)
    return (Fold(tested, "".join(parts)),), rule


def official(utterances: Sequence[Utterance]) -> Folds:
    """Chooses the epoch on train → devel, then trains on train and devel and tests on test.

    The test fold has no validation part: it trains for the number of epochs that the devel fold of
    the same seed chose. Test labels may be withheld. The folds are named "devel" and "test".

    Raises:
      UserError: If a partition is absent or an utterance is in none.
    """
    (devel,), rule = given_split(utterances, tested="devel")
    split = np.array([utterance.split for utterance in utterances])
    if not np.any(split == "test"):
        raise UserError(
            "the corpus has no test partition, which the official protocol tests on; choose one by"
            " devel"
        )
    labelled = np.array([bool(utterance.label) for utterance in utterances])
    parts = np.where(split == "test", TEST, np.where(labelled, TRAIN, UNUSED))
    test = Fold("test", "".join(parts), epochs_from=devel.name)
    return (devel, test), f"fold devel: {rule}; fold test: none"


def published(utterances: Sequence[Utterance], given: Sequence[GivenFold]) -> Folds:
    """Trains and tests on the `given` folds that a corpus is published with.

    A fold without a validation list takes its validation part out of its training part, as
    `given_split` does.

    Raises:
      UserError: If a fold has nothing to train on or to test.
    """
    letters = {"train": TRAIN, "devel": VALIDATION, "test": TEST}
    made, rules = [], []
    for fold in given:
        splits = [fold.splits.get(utterance.id, "") for utterance in utterances]
        parts = np.array([letters.get(split, UNUSED) for split in splits])
        if not (np.any(parts == TRAIN) and np.any(parts == TEST)):
            lists = "no utterance of its train list, or none of its test list, can be used"
            raise UserError(f"{fold.name}: {lists}")
        rules.append(PUBLISHED if np.any(parts == VALIDATION) else _hold_out(utterances, parts))
        made.append(Fold(fold.name, "".join(parts)))
    return tuple(made), "; ".join(dict.fromkeys(rules))


def refit_rule(folds: Sequence[Fold], refit: str = NO_REFIT) -> str:
    """Returns in words what follows the choice of the epoch; `refit` is `NO_REFIT` or `REFIT`."""
    rules = [AGAIN] if refit == REFIT else []
    for fold in folds:
        if fold.epochs_from:
            rules.append(EPOCHS_FROM.format(fold=fold.name, source=fold.epochs_from))
    return "; ".join(rules) or NO_REFIT


def final(utterances: Sequence[Utterance]) -> Folds:
    """Trains on everything but a validation part: the model to ship, a fold without a test part."""
    parts = np.where([bool(utterance.label) for utterance in utterances], TRAIN, UNUSED)
    if not np.any(parts == TRAIN):
        absent = f"none of the {counted(len(utterances), 'utterance')} has a label"
        raise UserError(f"{absent}: there is nothing to train on")
    rule = _hold_out(utterances, parts)
    return (Fold("final", "".join(parts)),), rule


def _require(names: Sequence[str], column: str) -> None:
    absent = sum(not name for name in names)
    if absent:
        where = f"{absent} of {counted(len(names), 'utterance has', 'utterances have')} no {column}"
        raise UserError(
            f"{where}, by which the protocol makes its folds: fill that column in every row (or put"
            f" {{{column}}} into corpus.pattern), choose a protocol by another one, or one that"
            " ends in -final (protocol.name), which trains on everything and tests nothing"
        )


def _hold_out(utterances: Sequence[Utterance], parts: np.ndarray) -> str:
    """Turns training letters of `parts` into validation letters: whole speakers, or stratified."""
    rows = np.flatnonzero(parts == TRAIN)
    speakers = np.array([utterances[row].speaker for row in rows.tolist()])
    groups = np.unique(speakers)
    if len(groups) >= 3 and not np.any(speakers == ""):
        step = min(len(groups), round(1 / VALIDATION_FRACTION))
        parts[rows[np.isin(speakers, groups[::step])]] = VALIDATION
        return HELD_OUT_GROUPS.format(step=step, group="speaker")
    labels = [utterances[row].label for row in rows.tolist()]
    files = [utterances[row].file for row in rows.tolist()]
    whole = len(set(files)) < len(files) and _are_separable(files, labels)
    drawn = _stratified(files if whole else range(len(rows)), labels)
    parts[rows[drawn]] = VALIDATION
    return STRATIFIED_RECORDINGS if whole else STRATIFIED


def _are_separable(files: Sequence[str], labels: Sequence[str]) -> bool:
    """Returns whether every class is in several files: both sides can have whole files of it."""
    found = collections.Counter(label for _, label in set(zip(files, labels, strict=True)))
    return min(found.values()) > 1


def _stratified(units: Sequence[Hashable], labels: Sequence[str]) -> np.ndarray:
    """Draws whole units with 15 % of every class together, with a fixed seed.

    A unit is drawn for a class if it fits into its 15 % and leaves something of every class; if
    none does, the one with the fewest examples of the class.

    Args:
      units: The unit of each of N utterances: its recording, or itself.
      labels: Their classes.

    Returns:
      [N] bool, which of them are drawn.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(units))}
    unit_of = np.array([names[name] for name in units])
    classes, class_of = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (unit_of, class_of), 1)
    totals, left = counts.sum(axis=0), counts.sum(axis=0)
    drawn = np.zeros(len(names), bool)
    generator = np.random.Generator(np.random.Philox(key=0))
    for k, total in enumerate(totals.tolist()):
        target = max(1, round(VALIDATION_FRACTION * total))
        order = generator.permutation(np.flatnonzero(counts[:, k]))
        smallest_first = order[np.argsort(counts[order, k], kind="stable")]
        for must, candidates in enumerate((order, smallest_first)):
            for unit in candidates.tolist():
                taken, after = total - left[k], left - counts[unit]
                fits = taken + counts[unit, k] <= target or (must and not taken)
                if fits and not drawn[unit] and np.all(after >= (totals > 1)):
                    drawn[unit], left = True, after
    return drawn[unit_of]
