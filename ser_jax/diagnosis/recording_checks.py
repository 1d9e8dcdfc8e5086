"""Findings about recordings: unusable ones, odd levels and formats."""

import math
from collections.abc import Iterator, Mapping

from ser_jax.corpora.findings import Finding
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.diagnosis.measure import Measured
from ser_jax.features import audio, pcm
from ser_jax.features.pcm import BadAudio
from ser_jax.runtime.progress import counted

MAX_OFFSET = 0.02  # of full scale; three times the largest mean of a recording in EMO-DB
USUAL_ENCODING = "PCM_16"
# Flag → what is so.
_OTHER_FLAGS = {
    "surround": "more than two channels are averaged",
    "out of phase": "the channels cancel each other out",
    "silent channel": "one of the channels is silent",
    "other channel": "it has one channel only, and not the one of features.channel",
    "length not in header": "all the rest of the file is read",
}


def recording_findings(
    corpus: Corpus, examined: Mapping[str, Measured | BadAudio], *, segment_samples: int
) -> list[Finding]:
    """Returns what is wrong or odd with each recording or span, once for equal spans of a file.

    Args:
      corpus: The utterances.
      examined: Utterance id → its properties, or why it cannot be used.
      segment_samples: Samples of one segment at 16 kHz; shorter recordings are padded.
    """
    merged: dict[tuple[str, str, str], list[tuple[Utterance, float]]] = {}
    for utterance in corpus.utterances:
        result = examined[utterance.id]
        if isinstance(result, BadAudio):
            odd = [(result.reason, result.detail, 0.0)]
        else:
            odd = [*_odd(result, segment_samples), *_cut(utterance, result.seconds)]
        for name, detail, rank in odd:
            merged.setdefault((utterance.file, name, detail), []).append((utterance, rank))
    found = []
    for (file, name, detail), rows in merged.items():
        more = f" (and {counted(len(rows) - 1, 'more span')} of it)" if len(rows) > 1 else ""
        found.append(Finding(name, detail + more, file, rows[0][0].id, rows[0][1]))
    return found


def _odd(sound: Measured, segment_samples: int) -> Iterator[tuple[str, str, float]]:
    """Yields name, detail and rank of the oddities of a usable recording."""
    if sound.samples < segment_samples:
        segment = segment_samples / audio.SAMPLE_RATE
        yield "short", f"{sound.seconds:.3f} s; one segment is {segment:.3f} s", -sound.seconds
    if "clipped" in sound.flags:
        full = f"{100 * sound.full_scale:.2f} % of the samples at full scale"
        yield "clipped", f"{full}, {sound.longest_run} in a row", sound.full_scale
    level = 20 * math.log10(sound.peak)
    for name, least in (("near-silent", pcm.NEAR_SILENT), ("quiet", pcm.QUIET)):
        if sound.peak < least:
            yield name, f"peak {level:.0f} dBFS; below {20 * math.log10(least):.0f}", -level
            break
    if abs(sound.offset) > MAX_OFFSET:
        detail = f"mean {sound.offset:+.3f} of full scale; beyond ±{MAX_OFFSET:g}"
        yield "offset", detail, abs(sound.offset)
    if sound.rate != audio.SAMPLE_RATE:
        more = sound.rate - audio.SAMPLE_RATE
        detail = f"{sound.rate} Hz instead of {audio.SAMPLE_RATE}"
        yield "low rate" if more < 0 else "high rate", detail, abs(more)
    if sound.channels > 1:
        yield "several channels", f"{sound.channels} channels", sound.channels
    for name, detail in _OTHER_FLAGS.items():
        if name in sound.flags:
            yield name, detail, sound.channels
    if sound.encoding != USUAL_ENCODING:
        yield "other encoding", f"{sound.encoding} instead of {USUAL_ENCODING}", 0.0


def _cut(utterance: Utterance, seconds: float) -> Iterator[tuple[str, str, float]]:
    if audio.is_cut(utterance.start, utterance.end, seconds):
        late = (utterance.end or 0.0) - (utterance.start or 0.0) - seconds
        yield "cut span", f"its end lies {late:.3f} s behind that of the recording", late
