"""Emotion while somebody speaks: samples in, a moment per segment out, at a cost that does not grow with the length.

The LSTM runs forwards only and the pooling is a maximum, a mean and a minimum, so a segment costs one step of the
network: the states are carried, of the whole stream and of the windows that have begun and not ended (pool.py).
"""

import dataclasses
import math

import numpy as np

from ser_jax import machinery
from ser_jax.errors import UserError
from ser_jax.features import pcm
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.live import Listener
from ser_jax.features.logmel import frame_count, log_mel, silence
from ser_jax.prediction.pool import Pool
from ser_jax.prediction.predictor import Prediction, Predictor

LONGEST_WINDOW = 600.0  # s, so that the memory stays bounded
_SLICE = 65536  # samples at a time, of a piece of any length
_MOST = 16  # segments of one call; smaller numbers are powers of two, so that few programs serve all


@dataclasses.dataclass(frozen=True)
class Moment:
    """What is said at the end of a segment.

    Attributes:
      start: Start of the segment, in s since the stream began.
      end: Its end in s.
      so_far: Class → probability, given everything up to `end`: what `predict` says of a recording that stops there.
      window: Class → probability, given the segments of the last seconds only, as if nothing had been before them.
    """

    start: float
    end: float
    so_far: dict[str, float]
    window: dict[str, float]


class Stream:
    """Follows one recording; for one thread at a time. Several streams may share a predictor.

    Plain CRNN has a moment every 200 ms from 315 ms on. So has Multi-CRNN, by its short segments; as long as no long
    one is whole, silence fills the first, as it does in a recording that stops there.
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
                f"window_seconds={window_seconds:g} is no window; choose more than 0 and up to {LONGEST_WINDOW:g} s"
            )
        self._network = predictor.segments
        try:
            self._listener = Listener(rate)
        except BadAudio as error:
            raise UserError(f"a stream of {rate} Hz cannot be used: {error}") from error
        self._rule = predictor.rule()
        self._settings = machinery.logmel_settings(predictor.config)
        frames = frame_count(round(window_seconds * self._settings.sample_rate), self._settings)
        self._pools = [
            Pool(segments=max(1, (frames - channel.window) // channel.hop + 1)) for channel in self._network.channels
        ]
        self._states = self._network.start()
        self._samples = np.zeros(0, np.float32)  # behind the last finished frame's hop
        self._frames = np.zeros((0, self._settings.bands), np.float32)  # those that segments to come will read
        self._first = 0  # number of the first of them
        self._drained = self._ended = False

    def push(self, samples: np.ndarray) -> list[Moment]:
        """Takes the next piece of the recording.

        Args:
          samples: [S] or [S, channels], floats in [-1, 1] or int16, of any length, also 0.

        Returns:
          A moment for every segment that is complete now; often none.

        Raises:
          UserError: If the piece cannot be used (NaN, infinity, integers written as floats, other channels); nothing
            of it is taken then, and the stream may go on. If the stream has ended.
        """
        if self._drained:
            raise UserError("the stream has ended and takes no more samples; start another one")
        try:
            frames = pcm.as_frames(samples)
            if len(frames) > _SLICE:  # all of it is looked at before any of it is taken
                pcm.check_block(pcm.to_float(frames))
            slices = (frames[begin : begin + _SLICE] for begin in range(0, len(frames), _SLICE))
            return [moment for part in slices for moment in self._follow(self._listener.push(part))]
        except BadAudio as error:
            raise UserError(f"the samples cannot be used: {error}") from error

    def drain(self) -> list[Moment]:
        """Ends the input and returns the moments that the resampler's delay has held back: none at 16 kHz."""
        if self._drained:
            return []
        self._drained = True
        return self._follow(self._listener.end())

    def finish(self) -> Prediction:
        """Ends the stream.

        Returns:
          What `Predictor.predict` says of the whole recording. With two segmentations it may differ a little from the
          last moment: a long segment may end after the last short one.

        Raises:
          UserError: If what was heard is too short or silent, or the stream has ended before.
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
        for channel, pool in enumerate(self._pools):
            for hidden in self._rest(channel, total):
                pool.add(hidden)
        pooled = [self._pooled(channel, total)[:, None] for channel in range(len(self._pools))]
        answer = self._rule.answers(self._network.probabilities(pooled))[0]
        return Prediction(answer.label, answer.probabilities, self._listener.seconds, self._listener.flags)

    def _follow(self, samples: np.ndarray) -> list[Moment]:
        """Moments that samples [S] at 16 kHz complete."""
        self._samples = np.concatenate([self._samples, samples])
        frames = log_mel(self._samples, self._settings)
        self._samples = self._samples[len(frames) * self._settings.hop :].copy()
        self._frames = np.concatenate([self._frames, frames])
        moments = []
        while count := self._whole(0, self._first + len(self._frames)):
            moments += self._moments(_power_of_two(count))
        begins = [pool.count * channel.hop for pool, channel in zip(self._pools, self._network.channels, strict=True)]
        done = min(*begins, self._first + len(self._frames))
        self._frames, self._first = self._frames[done - self._first :].copy(), done
        return moments

    def _moments(self, count: int) -> list[Moment]:
        """Runs the next `count` segments of the first channel, and whatever is complete of the other."""
        window, hop = self._network.channels[0]
        begins = [(self._pools[0].count + number) * hop for number in range(count)]
        hidden = [self._advance(0, count)]
        hidden += [self._rest(other, begins[-1] + window) for other in range(1, len(self._pools))]
        rows = [[] for _ in self._pools]
        for begin in begins:
            for channel, pool in enumerate(self._pools):
                for _ in range(self._whole(channel, begin + window)):
                    pool.add(hidden[channel].pop(0))
                rows[channel] += [self._pooled(channel, begin + window), self._pooled(channel, begin + window, True)]
        shares = self._network.probabilities([np.stack(pooled, axis=1) for pooled in rows])
        answers = [answer.probabilities for answer in self._rule.answers(shares)]
        s = self._settings
        ends = [((begin + window - 1) * s.hop + s.window) / s.sample_rate for begin in begins]
        return [
            Moment(begin * s.hop / s.sample_rate, end, answers[2 * place], answers[2 * place + 1])
            for place, (begin, end) in enumerate(zip(begins, ends, strict=True))
        ]

    def _rest(self, channel: int, end: int) -> list[np.ndarray]:
        """Hidden states of all segments of a channel that end by frame `end`."""
        found: list[np.ndarray] = []
        while count := self._whole(channel, end) - len(found):
            found += self._advance(channel, _power_of_two(count), ahead=len(found))
        return found

    def _advance(self, channel: int, count: int, ahead: int = 0) -> list[np.ndarray]:
        """Hidden states [R, ROWS, H] of the next segments, `ahead` of those that are pooled."""
        window, hop = self._network.channels[channel]
        begin = (self._pools[channel].count + ahead) * hop - self._first
        segments = np.stack([self._frames[begin + k * hop :][:window] for k in range(count)])
        restarts = self._pools[channel].restarts(ahead, count)
        self._states[channel], hidden = self._network.advance(channel, self._states[channel], segments, restarts)
        return list(np.moveaxis(hidden, 2, 0))

    def _whole(self, channel: int, frames: int) -> int:
        """How many segments that are not pooled yet end by a frame."""
        window, hop = self._network.channels[channel]
        return max(0, (frames - window) // hop + 1 - self._pools[channel].count)

    def _pooled(self, channel: int, frames: int, recent: bool = False) -> np.ndarray:
        """Max, mean and min [R, 3 H] up to a frame; silence fills the first segment until it is whole."""
        pool = self._pools[channel]
        if not pool.count:
            segment = np.full(
                (1, self._network.channels[channel].window, self._settings.bands), silence(self._settings)
            )
            segment[0, :frames] = self._frames[:frames]
            pool = Pool(segments=1)
            start = self._network.start()[channel]
            _, hidden = self._network.advance(channel, start, segment.astype(np.float32), pool.restarts(0, 1))
            pool.add(hidden[:, :, 0])
        return pool.recent() if recent else pool.all()


def _power_of_two(count: int) -> int:
    return min(_MOST, 2 ** math.floor(math.log2(count)))
