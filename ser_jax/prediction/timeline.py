"""Emotion over time of recordings of any length: decoded in blocks, a row per segment or window."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from ser_jax.corpora.table import Utterance
from ser_jax.errors import UserError
from ser_jax.features import audio, pcm
from ser_jax.prediction.envelope import Envelope
from ser_jax.prediction.predictor import Predictor
from ser_jax.prediction.rule import Answer, Rule
from ser_jax.prediction.segments import CRNNS, check_streams
from ser_jax.prediction.stream import Moment, Stream
from ser_jax.prediction.windows import Windows

WINDOW_SECONDS = 3.0  # of the systems that follow a stream


@dataclasses.dataclass(frozen=True)
class Plan:
    """How recordings are followed.

    Attributes:
      window_seconds: How far back the answer of a row looks.
      hop_seconds: None: the system follows the recording segment by segment. Otherwise windows are scored one by one,
        and this is the time from the start of one to that of the next.
    """

    window_seconds: float
    hop_seconds: float | None


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Emotion over time of one recording or span.

    Attributes:
      file: Its path.
      start: Where it begins in the file, in s.
      seconds: Its length.
      flags: What is odd about it; see `audio.flags`.
      answer: What is said about all of it.
      times: [T, 2], start and end of each segment or window, in s of the file.
      so_far: [T, K] probabilities of the rule's classes, given everything up to the end of a row.
      window: [T, K] the same, given the window only. NaN in either where there is no answer: a silent window.
      answers: T labels, by the window; None below the threshold or without an answer.
      envelope: Its waveform, drawn by the plots.
    """

    file: str
    start: float
    seconds: float
    flags: tuple[str, ...]
    answer: Answer
    times: np.ndarray
    so_far: np.ndarray
    window: np.ndarray
    answers: tuple[str | None, ...]
    envelope: Envelope

    def edges(self) -> np.ndarray:
        """Returns [T + 1] (two without rows), where rows begin and end, in s: where they overlap, in the middle."""
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


def make_plan(predictor: Predictor, window_seconds: float | None, hop_seconds: float | None) -> Plan:
    """Chooses between following the stream and scoring windows one by one.

    Args:
      predictor: The models.
      window_seconds: As asked for; None: the default.
      hop_seconds: As asked for; with it, windows are scored one by one for any system.

    Returns:
      The plan. Systems that need the whole utterance get windows, half overlapping unless a hop is given.

    Raises:
      UserError: If such a system has no window, or window or hop are not possible.
    """
    if window_seconds is None:
        if hop_seconds is not None:
            raise UserError(
                f"--hop={hop_seconds:g} is the distance of windows; name their length, too: --window=SECONDS"
            )
        check_streams(predictor.config)
        plan = Plan(WINDOW_SECONDS, None)
    elif hop_seconds is None and predictor.config.system not in CRNNS:
        plan = Plan(window_seconds, window_seconds / 2)
    else:
        plan = Plan(window_seconds, hop_seconds)
    _follower(predictor, audio.SAMPLE_RATE, plan)  # refuses what is not possible before any work is done
    return plan


def follow(
    predictor: Predictor,
    recording: Utterance,
    plan: Plan,
    rule: Rule,
    advance: Callable[[float, float], None] = lambda done, total: None,
) -> Timeline:
    """Follows one recording from its beginning to its end.

    Args:
      predictor: The models.
      recording: File and, where it is one, span.
      plan: How to follow it.
      rule: How probabilities become answers.
      advance: Called after each block with the seconds it holds and those of the whole.

    Returns:
      The timeline.

    Raises:
      BadAudio: If the file or span cannot be used.
      UserError: If its samples cannot.
    """
    envelope, rows = Envelope(), []
    with audio.opened(recording.file, recording.start, recording.end) as stretch:
        follower = _follower(predictor, stretch.rate, plan)
        for block in stretch.blocks():
            rows.append(_arrays(follower.push(block), rule))
            envelope.add(pcm.mix_down(block))
            advance(len(block) / stretch.rate, stretch.frames / stretch.rate)
    rows.append(_arrays(follower.drain(), rule))
    whole = follower.finish()
    times, so_far, window = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    start = recording.start or 0.0
    heard = np.asarray(np.isfinite(window).all(axis=1))
    chosen = dataclasses.replace(rule, known=rule.classes)  # the rows hold the chosen classes only
    labels = iter([answer.label for answer in chosen.answers(window[heard])])
    return Timeline(
        recording.file,
        start,
        whole.seconds,
        whole.flags,
        rule.answers(np.array([list(whole.probabilities.values())]))[0],
        times + start,
        so_far,
        window,
        tuple(next(labels) if one else None for one in heard.tolist()),
        envelope,
    )


def _follower(predictor: Predictor, rate: int, plan: Plan) -> Stream | Windows:
    if plan.hop_seconds is None:
        return Stream(predictor, rate, window_seconds=plan.window_seconds)
    return Windows(predictor, rate, window_seconds=plan.window_seconds, hop_seconds=plan.hop_seconds)


def _arrays(moments: list[Moment], rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times [n, 2] and the probabilities [n, K] of moments: far smaller than their dictionaries."""
    times = np.array([(moment.start, moment.end) for moment in moments]).reshape(-1, 2)
    return times, _shares([m.so_far for m in moments], rule), _shares([m.window for m in moments], rule)


def _shares(said: list[dict[str, float]], rule: Rule) -> np.ndarray:
    rows = np.full((len(said), len(rule.classes)), np.nan)
    for row, shares in zip(rows, said, strict=True):
        if shares:
            row[:] = list(rule.answers(np.array([list(shares.values())]))[0].probabilities.values())
    return rows
