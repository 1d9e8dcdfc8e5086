"""Units of times; lists with them are in tests/diagnosis/test_own_lists.py."""

from pathlib import Path

import pytest

from ser_jax.corpora.span_times import convert
from ser_jax.corpora.table import Utterance

LENGTHS = {f"{seconds}.wav": (float(seconds), 8000) for seconds in (2, 4, 60, 3600)}


def converted(*spans: tuple[str, float | None, float | None]):
    rows = [Utterance(f"{n}", file, start, end) for n, (file, start, end) in enumerate(spans)]
    found, sentence = convert(Path(), rows, lambda path: LENGTHS.get(path.name))
    return [(row.start, row.end) for row in found], sentence


@pytest.mark.parametrize(
    ("spans", "unit"),
    [
        ([("2.wav", 0.5, 2.0), ("4.wav", None, 3.0)], ""),
        ([("2.wav", 500, 2000), ("4.wav", None, 3000)], "milliseconds"),
        ([("2.wav", 500, 2000), ("gone.wav", None, 3000)], "milliseconds"),
        ([("2.wav", 4000, 16000), ("4.wav", 8000, 30000)], "samples"),
        # Nothing fits, or one end is wrong: nothing is assumed, and each row is judged by itself.
        ([("2.wav", 0, 9e6), ("4.wav", 0, 9e6)], ""),
        ([("2.wav", 0.5, 2000), ("4.wav", 0.5, 3.0)], ""),
        ([("60.wav", 0.5, 100.0), ("60.wav", 0.5, 3.0), ("4.wav", 0.0, 1.0)], ""),
        ([("2.wav", 0, 40), ("4.wav", 0, 40)], ""),  # 40 ms would be no utterance
        # Where the file, which is cut out already, was in a longer one.
        ([("2.wav", 310.2, 312.2), ("4.wav", 400.0, 404.0)], ""),
        ([("3600.wav", 0, 1500), ("3600.wav", 1500, 3599)], ""),
        ([("2.wav", None, None)], ""),
        ([("gone.wav", 0, 9)], ""),
        ([], ""),
    ],
)
def test_the_unit_is_the_first_that_fits(spans, unit):
    per_second = {"": 1, "milliseconds": 1000, "samples": 8000}[unit]
    expected = [
        tuple(None if time is None else time / per_second for time in times) for _, *times in spans
    ]
    found, sentence = converted(*spans)
    assert found == expected
    assert sentence.startswith(f"start and end are taken as {unit}: ") if unit else not sentence
