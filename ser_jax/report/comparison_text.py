"""Sentences about a comparison of runs, as the terminal, the page and the Markdown tables show."""

from collections.abc import Sequence

import numpy as np

from ser_jax.evaluation import groups, intervals
from ser_jax.evaluation.comparison import Group
from ser_jax.evaluation.finished_run import FinishedRun
from ser_jax.report import formats
from ser_jax.runtime.progress import counted

SHOWN_DIGITS = 12  # of a SHA-256


def title(group: Group) -> str:
    """Returns the protocol and the beginning of its hash."""
    return _with_hash(group.runs[0], "protocol")


def scope(group: Group) -> str:
    """Returns how many utterances and, if known, speakers were tested."""
    speakers = {row.speaker for run in group.tested for row in run.rows}
    known = f" of {counted(len(speakers), 'speaker')}" if speakers and "" not in speakers else ""
    return f"{group.runs[0].results['utterances']:,} test utterances{known}"


def method(group: Group) -> str:
    """Returns how the pairs were tested, in one line."""
    test = group.test
    if not test:
        return "a single run is compared with none"
    if test.exact:  # Flipping all signs gives the same difference, so two swaps always reach it.
        least = formats.p_value(2 / test.flips)
        swaps = f"all {test.flips:,} swaps of {test.units} {test.kind}s (p ≥ {least})"
    else:
        swaps = f"{test.flips:,} random swaps of {test.units:,} {test.kind}s"
    return f"permutation test, {swaps}; intervals by {intervals.METHOD} over {test.kind}s"


def remarks(group: Group) -> list[str]:
    """Returns what a reader of the group's figures must know."""
    found = []
    for run in group.runs:
        if run.results["seeds_left_out"]:
            seeds = ", ".join(map(str, run.results["seeds_left_out"]))
            found.append(f"{run.name}: seeds left out because a fold is missing: {seeds}")
        if run not in group.tested:
            found.append(f"{run.name} has no scored seed, so it is not compared")
        if "uncalibrated" in run.results["probabilities"]:
            found.append(f"{run.name}: its probabilities are the {run.results['probabilities']}")
        if unlike := formats.unlike_trainings(run.results):
            found.append(f"{run.name}: {unlike}")
    if len({run.results["ensemble"] for run in group.runs}) > 1:
        found.append(
            "×N marks ensembles, the mean of N models: their differences to single models are not"
            " those of the systems alone"
        )
    notes = dict.fromkeys(run.results["ci95_note"] for run in group.tested)
    found += [f"intervals of runs: {note}" for note in notes if note]
    if group.test and group.test.kind == intervals.UTTERANCE:
        found.append("differences: by utterance, too optimistic")
    return found


def group_tables(group: Group) -> list[tuple[str, list[str], list[list[str]]]]:
    """Returns for every attribute its name, a header, and a row per run: UA by group, largest gap.

    Runs whose predictions have no attributes (older ones) are left out.
    """
    found = {run.name: groups.by_attribute(run.rows, run.results) for run in group.tested}
    tables = []
    for attribute in sorted({name for one in found.values() for name in one}):
        rows, names = [], []
        for name, one in found.items():
            if attribute in one:
                parts, gap = one[attribute].parts, one[attribute].gap
                names = [part.name for part in parts]
                cells = [f"{formats.points(p.ua)} {_limits(p.ua_interval)}".strip() for p in parts]
                which = "–"
                if gap:
                    points = f"{formats.points(gap.difference)} {_limits(gap.interval)}".strip()
                    which = f"{points} {gap.better} − {gap.worse}"
                rows.append([name, *cells, which])
        tables.append((attribute, ["run", *names, "largest gap of UA"], rows))
    return tables


def _limits(interval: np.ndarray) -> str:
    return "" if np.isnan(interval).any() else formats.interval(interval.tolist())


def not_comparable(groups: Sequence[Group]) -> str | None:
    """Returns the warning that several groups need, or None for a single one."""
    if len(groups) < 2:
        return None
    if len({group.runs[0].results["protocol_sha256"] for group in groups}) > 1:
        return (
            f"not comparable: different protocols ({' / '.join(dict.fromkeys(map(title, groups)))})"
        )
    corpora = " / ".join(_with_hash(group.runs[0], "corpus") for group in groups)
    return f"not comparable: different recordings under {title(groups[0])} ({corpora})"


def _with_hash(run: FinishedRun, key: str) -> str:
    return f"{run.results[key]} {run.results[f'{key}_sha256'][:SHOWN_DIGITS]}…"
