"""Runs sorted by what they were tested on: only those of one group may be compared."""

import dataclasses
from collections.abc import Sequence

from ser_jax.errors import UserError
from ser_jax.evaluation import comparison, formats, units
from ser_jax.evaluation.finished import FinishedRun

SHOWN = 12  # digits of a SHA-256


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs with the same protocol and the same recordings.

    Attributes:
      runs: At least one run.
      tested: Those with at least one complete seed and one labelled utterance; `test` speaks of their places.
      test: All pairs of them; None with fewer than two.
    """

    runs: tuple[FinishedRun, ...]
    tested: tuple[FinishedRun, ...]
    test: comparison.Comparison | None

    @property
    def title(self) -> str:
        """The protocol and the beginning of its hash."""
        return _protocol(self.runs[0])

    @property
    def scope(self) -> str:
        """How much was tested."""
        speakers = {row.speaker for run in self.tested for row in run.rows}
        known = f" of {len(speakers)} speakers" if speakers and "" not in speakers else ""
        return f"{self.runs[0].results['utterances']:,} test utterances{known}"

    @property
    def method(self) -> str:
        """How the pairs were tested, in one line."""
        if not self.test:
            return "a single run is compared with none"
        test = self.test
        if test.exact:  # Turning every sign gives the same difference, so two swaps always reach it.
            swaps = f"all {test.flips:,} swaps of {test.units} {test.kind}s (p ≥ {formats.p_value(2 / test.flips)})"
        else:
            swaps = f"{test.flips:,} random swaps of {test.units:,} {test.kind}s"
        return f"permutation test, {swaps}; intervals by bootstrap over {test.kind}s"

    @property
    def remarks(self) -> list[str]:
        """What a reader of the group's figures must know."""
        found = []
        for run in self.runs:
            if run.results["seeds_left_out"]:
                seeds = ", ".join(map(str, run.results["seeds_left_out"]))
                found.append(f"{run.name}: seeds left out because a fold is missing: {seeds}")
            if run not in self.tested:
                found.append(f"{run.name} has no scored seed, so it is not compared")
            if "uncalibrated" in run.results["probabilities"]:
                found.append(f"{run.name}: its probabilities are the {run.results['probabilities']}")
        notes = dict.fromkeys(run.results["ci95_note"] for run in self.tested)
        found += [f"intervals of runs: {note}" for note in notes if note]
        if self.test and self.test.note:
            found.append(f"differences: {self.test.note}")
        return found


def group_runs(runs: Sequence[FinishedRun]) -> list[Group]:
    """Groups runs by protocol and recordings, in the order of their first runs, and compares within each group.

    Raises:
      UserError: If two runs of a group were tested on other utterances.
    """
    found: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        found.setdefault((run.results["protocol_sha256"], run.results["corpus_sha256"]), []).append(run)
    return [_group(members) for members in found.values()]


def not_comparable(groups: Sequence[Group]) -> str | None:
    """Returns the warning that several groups need, or None for a single one."""
    if len(groups) < 2:
        return None
    if len({group.runs[0].results["protocol_sha256"] for group in groups}) > 1:
        return f"not comparable: different protocols ({' / '.join(dict.fromkeys(group.title for group in groups))})"
    audio = " / ".join(_audio(group.runs[0]) for group in groups)
    return f"not comparable: different recordings under {groups[0].title} ({audio})"


def _group(runs: list[FinishedRun]) -> Group:
    tested = [run for run in runs if run.rows]
    for run in tested[1:]:
        _check_same(tested[0], run)
    counted = [units.count_units(r.rows, seeds=r.results["seeds"], classes=r.results["classes"]) for r in tested]
    test = comparison.compare(counted) if len(counted) > 1 else None
    return Group(tuple(runs), tuple(tested), test)


def _check_same(first: FinishedRun, second: FinishedRun) -> None:
    ours, theirs = ({(row.fold, row.id, row.label, row.speaker) for row in run.rows} for run in (first, second))
    if ours != theirs:
        raise UserError(
            f"{first.name} was tested on {len(ours)} utterances, {second.name} on {len(theirs)} ({len(ours - theirs)} "
            f"only in the first, {len(theirs - ours)} only in the second), although protocol and recordings are the "
            f"same: train both with the same --config.protocol.folds"
        )


def _protocol(run: FinishedRun) -> str:
    return f"{run.results['protocol']} {run.results['protocol_sha256'][:SHOWN]}…"


def _audio(run: FinishedRun) -> str:
    return f"{run.results['corpus']} {run.results['corpus_sha256'][:SHOWN]}…"
