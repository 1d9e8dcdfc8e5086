"""Predictions of a stream of samples: one per segment, at a cost independent of its length.

The LSTM runs forwards only and the pooling is a maximum, a mean and a minimum, so a segment costs
one step of the network. The states of the whole stream and of the open windows are carried
(segments.py).
"""

import dataclasses
import math

import numpy as np

from ser_jax.experiment import setup
from ser_jax.features import pcm
from ser_jax.features.logmel import energy_of, frame_count, log_mel, silence
from ser_jax.features.pcm import BadAudio
from ser_jax.features.preparation import (
    ACTIVE_DBFS,
    ACTIVE_LEVELS,
    AUDIBLE,
    BLOCK,
    MARGIN,
    Running,
    RunningMean,
    audible,
    has_sound,
)
from ser_jax.features.resampler import StreamResampler
from ser_jax.prediction.predictor import Prediction, Predictor
from ser_jax.prediction.segments import Pool
from ser_jax.runtime.errors import UserError

LONGEST_WINDOW = 600.0  # s, so that the memory stays bounded
_SLICE = 65536  # samples at a time, of a piece of any length
# Segments of one call; smaller numbers are powers of two, so that few programs serve all.
_MOST = 16


@dataclasses.dataclass(frozen=True)
class Moment:
    """Predictions at the end of a segment; those without speech are empty."""

    start: float  # start of the segment, in s since the stream began
    end: float  # its end in s
    # class → probability of everything up to `end`: what `predict` of that much returns
    so_far: dict[str, float]
    # class → probability of the segments of the last seconds, as if nothing had been before them
    window: dict[str, float]


class Stream:
    """Follows one recording; for one thread at a time. Several streams may share a predictor.

    Plain CRNN has a moment every 200 ms from 315 ms on. So has Multi-CRNN, by its short segments;
    as long as no long one is whole, silence fills the first, as it does in a recording that stops
    there.
    """

    def __init__(self, predictor: Predictor, rate: int, *, window_seconds: float = 3.0):
        """Starts at silence; the first stream of a predictor waits for the compiler.

        Args:
          predictor: The models.
          rate: Sampling rate of the samples in Hz.
          window_seconds: How far back `Moment.window` looks, in s; never less than one segment.

        Raises:
          UserError: If the system needs the whole utterance, or rate or window are not possible.
        """
        if not 0 < window_seconds <= LONGEST_WINDOW:  # false for NaN, too
            raise UserError(
                f"window_seconds={window_seconds:g} is no window; choose more than 0 and up to"
                f" {LONGEST_WINDOW:g} s"
            )
        if predictor.vad:
            raise UserError("vad=True detects speech in recordings and windows, not in streams")
        self._network = predictor.segments
        try:
            self._listener = StreamResampler(rate, predictor.mix.channel)
        except BadAudio as error:
            raise UserError(f"a stream of {rate} Hz cannot be used: {error}") from error
        self._rule, self._remarks = predictor.decision(), predictor.remarks
        self._settings = setup.logmel_settings(predictor.config)
        frames = frame_count(round(window_seconds * self._settings.sample_rate), self._settings)
        trim = predictor.mix.trim == "ends"
        self._pools = [
            Pool(max(1, (frames - segmentation.window) // segmentation.hop + 1), trim)
            for segmentation in self._network.segmentations
        ]
        mix, normalisation = predictor.mix, self._settings.normalisation
        prepared = mix.remove_dc or mix.level != "none" or normalisation == "utterance"
        self._running = Running(mix) if prepared else None
        self._mean = None
        if normalisation == "utterance":
            self._mean = RunningMean(energy_of(AUDIBLE**2, self._settings))
        # Root mean square of an active block: near that of speech where the level is known.
        known = mix.level in ACTIVE_LEVELS
        self._least = 10 ** (ACTIVE_DBFS / 20) * MARGIN**0.5 if known else AUDIBLE
        self._states = self._network.start()
        self._samples = np.zeros(0, np.float32)  # behind the last finished frame's hop
        # Those that later segments will read:
        self._frames = np.zeros((0, self._settings.bands), np.float32)
        self._unread = np.zeros(0, np.float32)  # behind the last whole block
        self._loud = np.zeros(0, bool)  # which blocks of these frames and later ones are active
        self._first_block = 0  # number of the first of them
        self._first = 0  # number of the first of them
        self._drained = self._ended = False

    def push(self, samples: np.ndarray) -> list[Moment]:
        """Takes the next piece of the recording.

        Args:
          samples: [S] or [S, channels], floats in [-1, 1] or int16, of any length, also 0.

        Returns:
          A moment for every segment that is complete now; often none.

        Raises:
          UserError: If the piece cannot be used (NaN, infinity, integers written as floats, other
            channels); nothing of it is taken then, and the stream may go on. If the stream has
            ended.
        """
        if self._drained:
            raise UserError("the stream has ended and takes no more samples; start another one")
        try:
            frames = pcm.as_frames(samples)
            if len(frames) > _SLICE:  # all of it is checked before any of it is used
                pcm.check_block(pcm.to_float(frames))
            slices = (frames[begin : begin + _SLICE] for begin in range(0, len(frames), _SLICE))
            return [moment for part in slices for moment in self._follow(self._listener.push(part))]
        except BadAudio as error:
            raise UserError(f"the samples cannot be used: {error}") from error

    def drain(self) -> list[Moment]:
        """Ends the input; returns the moments that the resampler held back (none at 16 kHz)."""
        if self._drained:
            return []
        self._drained = True
        rest = self._listener.end()
        if self._running is None:
            return self._follow(rest)
        return self._take(np.concatenate([self._running.push(rest), self._running.end()]))

    def finish(self) -> Prediction:
        """Ends the stream.

        Returns:
          What `Predictor.predict` returns for the whole recording. With two segmentations it may
          differ a little from the last moment: a long segment may end after the last short one.

        Raises:
          UserError: If the stream is too short, its channels cancel out, or it has ended before.
        """
        if self._ended:
            raise UserError("the stream has been finished before; start another one")
        self.drain()
        self._ended = True
        try:
            self._listener.check_usable()
        except BadAudio as error:
            raise UserError(f"the stream cannot be used: {error}") from error
        total = self._first + len(self._frames)
        for segmentation, pool in enumerate(self._pools):
            for hidden in self._rest(segmentation, total):
                pool.add(hidden, self._active(segmentation, pool.count))
        pooled = [self._pooled(number, total)[:, None] for number in range(len(self._pools))]
        flags = (*self._listener.flags, *self._remarks)
        answer = self._rule.answers(self._network.probabilities(pooled), [flags])[0]
        return Prediction(answer.label, answer.probabilities, self._listener.seconds, flags)

    def _follow(self, samples: np.ndarray) -> list[Moment]:
        """Moments that samples [S] at 16 kHz complete."""
        return self._take(samples if self._running is None else self._running.push(samples))

    def _take(self, samples: np.ndarray) -> list[Moment]:
        """Moments that prepared samples [S] complete."""
        self._samples = np.concatenate([self._samples, samples])
        frames = log_mel(self._samples, self._settings)
        self._samples = self._samples[len(frames) * self._settings.hop :].copy()
        self._unread = np.concatenate([self._unread, samples])
        loud = audible(self._unread, self._least)
        self._unread = self._unread[len(loud) * BLOCK :].copy()
        self._loud = np.concatenate([self._loud, loud])
        frames = frames if self._mean is None else self._mean.push(frames)
        self._frames = np.concatenate([self._frames, frames])
        moments = []
        while count := self._whole(0, self._first + len(self._frames)):
            moments += self._moments(_power_of_two(count))
        begins = [
            pool.count * segmentation.hop
            for pool, segmentation in zip(self._pools, self._network.segmentations, strict=True)
        ]
        done = min(*begins, self._first + len(self._frames))
        block = done * self._settings.hop // BLOCK
        self._loud, self._first_block = self._loud[block - self._first_block :].copy(), block
        self._frames, self._first = self._frames[done - self._first :].copy(), done
        return moments

    def _moments(self, count: int) -> list[Moment]:
        """The next `count` segments of the first segmentation, with those complete of the other."""
        window, hop = self._network.segmentations[0]
        begins = [(self._pools[0].count + number) * hop for number in range(count)]
        hidden = [self._advance(0, count)]
        hidden += [self._rest(other, begins[-1] + window) for other in range(1, len(self._pools))]
        rows, has_speech = [[] for _ in self._pools], []
        for begin in begins:
            end = begin + window
            for segmentation, pool in enumerate(self._pools):
                for _ in range(self._whole(segmentation, end)):
                    active = self._active(segmentation, pool.count)
                    pool.add(hidden[segmentation].pop(0), active)
                rows[segmentation] += [
                    self._pooled(segmentation, end, recent) for recent in (False, True)
                ]
            has_speech += [self._pools[0].has_speech(recent) for recent in (False, True)]
        shares = self._network.probabilities([np.stack(pooled, axis=1) for pooled in rows])
        answers = [answer.probabilities for answer in self._rule.answers(shares)]
        answers = [found if one else {} for found, one in zip(answers, has_speech, strict=True)]
        s = self._settings
        ends = [((begin + window - 1) * s.hop + s.window) / s.sample_rate for begin in begins]
        return [
            Moment(begin * s.hop / s.sample_rate, end, answers[2 * place], answers[2 * place + 1])
            for place, (begin, end) in enumerate(zip(begins, ends, strict=True))
        ]

    def _rest(self, segmentation: int, end: int) -> list[np.ndarray]:
        """Hidden states of all segments of a segmentation that end by frame `end`."""
        found: list[np.ndarray] = []
        while count := self._whole(segmentation, end) - len(found):
            found += self._advance(segmentation, _power_of_two(count), ahead=len(found))
        return found

    def _advance(self, segmentation: int, count: int, ahead: int = 0) -> list[np.ndarray]:
        """Hidden states [R, ROWS, H] of the next segments, `ahead` of those that are pooled."""
        window, hop = self._network.segmentations[segmentation]
        begin = (self._pools[segmentation].count + ahead) * hop - self._first
        segments = np.stack([self._frames[begin + k * hop :][:window] for k in range(count)])
        pool = self._pools[segmentation]
        numbers = range(pool.count, pool.count + ahead + count)
        active = [self._active(segmentation, number) for number in numbers]
        restarts = pool.restarts(ahead, active)
        self._states[segmentation], hidden = self._network.advance(
            segmentation, self._states[segmentation], segments, restarts
        )
        return list(np.moveaxis(hidden, 2, 0))

    def _active(self, segmentation: int, number: int) -> bool:
        """Whether enough of a segment is."""
        window, hop = self._network.segmentations[segmentation]
        begin = number * hop * self._settings.hop
        end = begin + (window - 1) * self._settings.hop + self._settings.window
        blocks = (begin // BLOCK - self._first_block, end // BLOCK - self._first_block)
        return has_sound(int(self._loud[slice(*blocks)].sum()), blocks[1] - blocks[0])

    def _whole(self, segmentation: int, frames: int) -> int:
        """How many segments that are not pooled yet end by a frame."""
        window, hop = self._network.segmentations[segmentation]
        return max(0, (frames - window) // hop + 1 - self._pools[segmentation].count)

    def _pooled(self, segmentation: int, frames: int, recent: bool = False) -> np.ndarray:
        """Max, mean and min [R, 3 H] up to a frame; silence completes the first segment."""
        pool = self._pools[segmentation]
        if not pool.count:
            shape = 1, self._network.segmentations[segmentation].window, self._settings.bands
            segment = np.full(shape, silence(self._settings), np.float32)
            segment[0, :frames] = self._frames[:frames]
            pool, start = Pool(segments=1), self._network.start()[segmentation]
            _, hidden = self._network.advance(
                segmentation, start, segment, pool.restarts(0, [True])
            )
            pool.add(hidden[:, :, 0])
        return pool.recent() if recent else pool.all()


def _power_of_two(count: int) -> int:
    return min(_MOST, 2 ** math.floor(math.log2(count)))
