"""Emotion over time of recordings of any length: decoded in blocks, a row per segment or window."""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ser_jax.corpora.table import Utterance
from ser_jax.features import audio, pcm
from ser_jax.prediction.ensemble import NO_SPEECH, Answer, Decision
from ser_jax.prediction.predictor import Predictor
from ser_jax.prediction.segments import can_stream
from ser_jax.prediction.streaming import Moment, Stream
from ser_jax.prediction.windows import Windows
from ser_jax.runtime.progress import counted

MOST_BINS = 4096  # when there are more, neighbours become one: between 2048 and 4096 are drawn


class Envelope:
    """Lowest and highest sample of equally long stretches; the last may be shorter."""

    def __init__(self):
        """Starts with a bin per sample."""
        self._size = 1  # samples of a bin
        self._rest = np.zeros(0, np.float32)
        self._low = self._high = np.zeros(0, np.float32)

    def add(self, samples: np.ndarray) -> None:
        """Adds the next samples [S] f32."""
        samples = np.concatenate([self._rest, samples])
        while whole := min(len(samples) // self._size, MOST_BINS - len(self._low)):
            bins = samples[: whole * self._size].reshape(whole, self._size)
            samples = samples[whole * self._size :]
            self._low = np.concatenate([self._low, bins.min(axis=1)])
            self._high = np.concatenate([self._high, bins.max(axis=1)])
            if len(self._low) == MOST_BINS:
                self._low = self._low.reshape(-1, 2).min(axis=1)
                self._high = self._high.reshape(-1, 2).max(axis=1)
                self._size *= 2
        self._rest = samples

    def ranges(self) -> np.ndarray:
        """Returns [bins, 2] f32, the lowest and the highest sample of each bin."""
        rest = [(self._rest.min(), self._rest.max())] if len(self._rest) else []
        return np.concatenate(
            [np.stack([self._low, self._high], axis=1), np.array(rest, np.float32).reshape(-1, 2)]
        )


WINDOW_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """How recordings are followed."""

    window_seconds: float  # how far back the answer of a row looks
    # time from the start of a window to that of the next; None: followed segment by segment
    hop_seconds: float | None


@dataclasses.dataclass(frozen=True, repr=False)
class Timeline:
    """Emotion over time of one recording or span; a notebook shows it as a drawing."""

    file: str  # its path; empty for samples
    start: float  # where it begins in the file, in s
    seconds: float  # its length
    flags: tuple[str, ...]  # what is odd about it; of `pcm.FLAGS`
    answer: Answer  # the prediction for all of it
    times: np.ndarray  # [T, 2], start and end of each segment or window, in s of the file
    # [T, K] probabilities of the decision's classes, given everything up to a row's end; NaN where
    # there is no speech
    so_far: np.ndarray
    window: np.ndarray  # [T, K] the same, given the window only
    # T labels, by the window, "no speech" where there is none; None: below the threshold
    answers: tuple[str | None, ...]
    envelope: Envelope  # its waveform, drawn by the plots
    decision: Decision  # how probabilities became answers; `decision.classes` are the K classes
    plan: Plan  # how it was followed
    model: str  # which models predict, in words

    def __repr__(self) -> str:
        """Returns what it is of, and how many of its rows have which answer."""
        counts = collections.Counter(name or "no answer" for name in self.answers)
        listed = ", ".join(f"{name} {count}" for name, count in counts.most_common())
        of = f"{os.path.basename(self.file) or 'samples'}, {self.seconds:.1f} s"
        rows = counted(len(self.answers), "row")
        return f"<Timeline of {of}: {rows}{f' ({listed})' if listed else ''}>"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes it as .csv, .json, .TextGrid (Praat), .txt (Audacity labels), .png or .svg.

        Raises:
          UserError: If the file has another end or cannot be written.
        """
        from ser_jax.prediction import timeline_files

        timeline_files.write(Path(path), timeline_files.known_format(Path(path)), self)

    def _repr_png_(self) -> bytes:
        from ser_jax.prediction import timeline_files

        return timeline_files.draw(self, "png")

    def edges(self) -> np.ndarray:
        """Returns [T + 1] borders of rows in s (two without rows); of overlaps, their middle."""
        borders = (self.times[1:, 0] + self.times[:-1, 1]) / 2
        return np.concatenate([[self.start], borders, [self.start + self.seconds]])

    def intervals(self) -> Iterator[tuple[float, float, str | None]]:
        """Yields (start, end, label) between `edges`; neighbours with the same label are one."""
        begin, *ends = self.edges().tolist()
        for number, (end, label) in enumerate(zip(ends, self.answers or (None,), strict=True)):
            if number + 1 < len(ends) and self.answers[number + 1] == label:
                continue
            yield begin, end, label
            begin = end


def make_plan(
    predictor: Predictor, window_seconds: float | None, hop_seconds: float | None
) -> Plan:
    """Chooses between following the stream and scoring windows one by one.

    Args:
      predictor: The models.
      window_seconds: As requested; None: `WINDOW_SECONDS`.
      hop_seconds: As requested; with it, windows are scored one by one for any system. Without it,
        windows of systems that need the whole utterance, and with a detector of speech, overlap by
        half.

    Raises:
      UserError: If window or hop are not possible.
    """
    window = WINDOW_SECONDS if window_seconds is None else window_seconds
    if hop_seconds is None and (predictor.vad or not can_stream(predictor.config)):
        hop_seconds = window / 2
    plan = Plan(window, hop_seconds)
    _follower(predictor, audio.SAMPLE_RATE, plan)  # refuses impossible values before any work
    return plan


def follow(
    predictor: Predictor,
    recording: Utterance | audio.Samples,
    plan: Plan,
    decision: Decision,
    advance: Callable[[float, float], None] = lambda done, total: None,
) -> Timeline:
    """Follows one recording from its beginning to its end.

    Args:
      predictor: The models.
      recording: File and, where it is one, span; or samples.
      plan: How to follow it.
      decision: How probabilities become answers.
      advance: Called after each block with the seconds it holds and those of the whole.

    Raises:
      BadAudio: If the file or span cannot be used.
      UserError: If its samples cannot.
    """
    if isinstance(recording, Utterance):
        source = audio.opened(recording.file, recording.start, recording.end)
    else:
        source = contextlib.nullcontext(recording)
    with source as stretch:
        follower = _follower(predictor, stretch.rate, plan)
        following = Following(follower, decision, plan, predictor.description)
        for block in stretch.blocks():
            following.push(block)
            if stretch.frames is not None:
                advance(len(block) / stretch.rate, stretch.frames / stretch.rate)
    file = "" if isinstance(recording, audio.Samples) else recording.file
    return following.finish(file, recording.start or 0.0)


class Following:
    """Makes a timeline of blocks that come one after the other."""

    def __init__(self, follower: Stream | Windows, decision: Decision, plan: Plan, model: str):
        """Starts with a fresh follower, which was made for the plan; see `Timeline`."""
        self._follower, self._decision = follower, decision
        self._plan, self._model = plan, model
        self._rows, self._envelope = [], Envelope()

    def push(self, block: np.ndarray) -> None:
        """Takes the next block [S, channels] f32; raises `UserError` if it cannot be used."""
        self._rows.append(_arrays(self._follower.push(block), self._decision))
        self._envelope.add(pcm.mix_down(block))

    def finish(self, file: str, start: float) -> Timeline:
        """Returns the timeline of all blocks.

        Args:
          file: Its path.
          start: Where it begins in the file, in s.

        Raises:
          UserError: If the samples cannot be used.
        """
        decision = self._decision
        self._rows.append(_arrays(self._follower.drain(), decision))
        whole = self._follower.finish()
        times, so_far, window = (np.concatenate(parts) for parts in zip(*self._rows, strict=True))
        scored = np.asarray(np.isfinite(window).all(axis=1))
        # The rows hold the chosen classes only.
        chosen = dataclasses.replace(decision, known=decision.classes)
        labels = iter([answer.label for answer in chosen.answers(window[scored])])
        return Timeline(
            file,
            start,
            whole.seconds,
            whole.flags,
            whole if whole.label == NO_SPEECH else _answer(whole.probabilities, decision),
            times + start,
            so_far,
            window,
            tuple(next(labels) if one else NO_SPEECH for one in scored.tolist()),
            *(self._envelope, decision, self._plan, self._model),
        )


def _follower(predictor: Predictor, rate: int, plan: Plan) -> Stream | Windows:
    if plan.hop_seconds is None:
        return Stream(predictor, rate, window_seconds=plan.window_seconds)
    return Windows(
        predictor, rate, window_seconds=plan.window_seconds, hop_seconds=plan.hop_seconds
    )


def _arrays(moments: list[Moment], decision: Decision) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times [n, 2] and the probabilities [n, K] of moments: far smaller than their dictionaries."""
    times = np.array([(moment.start, moment.end) for moment in moments]).reshape(-1, 2)
    so_far, window = [m.so_far for m in moments], [m.window for m in moments]
    return times, _shares(so_far, decision), _shares(window, decision)


def _shares(moments: list[dict[str, float]], decision: Decision) -> np.ndarray:
    rows = np.full((len(moments), len(decision.classes)), np.nan)
    for row, shares in zip(rows, moments, strict=True):
        if shares:
            row[:] = list(_answer(shares, decision).probabilities.values())
    return rows


def _answer(probabilities: dict[str, float], decision: Decision) -> Answer:
    """The decision from the probabilities of all classes."""
    return decision.answers(np.array([list(probabilities.values())]))[0]
