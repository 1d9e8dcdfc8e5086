"""Times of spans in milliseconds or samples: found out by comparison with the recordings."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from ser_jax.corpora.table import Corpus, Utterance, utterance_id
from ser_jax.runtime.progress import counted

# Path → length in s and sampling rate in Hz, or None for what cannot be opened. The corpora know no
# decoder: `features.audio.length` is one.
LengthOf = Callable[[Path], tuple[float, int] | None]

_MOST_FILES = 200  # that are opened to find out, spread over the list
_SHORTEST = 0.05  # s; the longest span of a recording is no shorter
_LONGEST = 1.05  # factor of the length of a recording: where its last time may lie
_FEW, _MOST = 0.1, 0.9  # fractions of recordings


def in_seconds(corpus: Corpus, length_of: LengthOf) -> Corpus:
    """Returns the corpus with the times of its spans in seconds, and says so if they were not."""
    rows, sentence = convert(corpus.root, corpus.utterances, length_of)
    if not sentence:
        return corpus
    rows = [dataclasses.replace(row, id=utterance_id(row.file, row.start, row.end)) for row in rows]
    return dataclasses.replace(
        corpus,
        utterances=tuple(sorted(rows, key=lambda row: row.id)),
        warnings=(f"{corpus.name}: {sentence}", *corpus.warnings),
    )


def convert(
    root: Path, rows: Sequence[Utterance], length_of: LengthOf
) -> tuple[list[Utterance], str]:
    """Converts start and end of rows to seconds, if hardly any fits its recording as it is.

    Milliseconds are tried before samples, of which they are a small part. What fits neither stays
    as it is.

    Returns:
      The rows (their ids unchanged), and what was assumed in words; "" if they are in seconds.
    """
    times = {row.file: 0.0 for row in rows}  # the last time of each file
    spans = dict(times)  # its longest span with an end
    for row in rows:
        start, end = row.start or 0.0, row.end or 0.0
        times[row.file] = max(times[row.file], start, end)
        spans[row.file] = max(spans[row.file], end - start)
    files = [file for file, time in times.items() if time]
    step = -(-len(files) // _MOST_FILES) or 1
    lengths = {file: length_of(root / file) for file in files[::step]}
    known = [(times[file], spans[file], *found) for file, found in lengths.items() if found]
    fits = {
        unit: sum(
            time <= _LONGEST * seconds * per_second(rate) and span >= _SHORTEST * per_second(rate)
            for time, span, seconds, rate in known
        )
        for unit, per_second in _UNITS.items()
    }
    unit = next((unit for unit, count in fits.items() if count >= _MOST * len(known)), "seconds")
    if unit == "seconds" or fits["seconds"] > _FEW * len(known):
        return list(rows), ""
    per_second = _UNITS[unit]
    if unit == "samples":
        lengths |= {file: length_of(root / file) for file in files if file not in lengths}

    def converted(row: Utterance) -> Utterance:
        if not row.start and row.end is None:
            return row
        factor = per_second((lengths.get(row.file) or (0.0, 16000))[1])
        scaled = [None if time is None else time / factor for time in (row.start, row.end)]
        return dataclasses.replace(row, start=scaled[0], end=scaled[1])

    sentence = (
        f"start and end are taken as {unit}: as seconds they fit {fits['seconds']} of"
        f" {counted(len(known), 'recording')}, as {unit} {fits[unit]}"
    )
    return [converted(row) for row in rows], sentence


_UNITS: dict[str, Callable[[int], float]] = {
    "seconds": lambda rate: 1.0,
    "milliseconds": lambda rate: 1000.0,
    "samples": lambda rate: float(rate),
}
