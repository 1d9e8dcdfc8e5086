"""Emotion over time for every system: windows, each scored as a recording of its own."""

import numpy as np

from ser_jax.features import vad
from ser_jax.features.audio import MIN_SECONDS, SAMPLE_RATE, Recording
from ser_jax.features.pcm import BadAudio
from ser_jax.features.preparation import audible, has_sound, prepare
from ser_jax.features.resampler import StreamResampler
from ser_jax.prediction.ensemble import NO_SPEECH
from ser_jax.prediction.predictor import Prediction, Predictor
from ser_jax.prediction.streaming import Moment
from ser_jax.runtime.errors import UserError


class Windows:
    """Follows one recording as `Stream` does, with a moment per window; keeps one window.

    `Moment.window` is what `predict` returns for the window; empty where it holds no speech.
    `Moment.so_far` is the mean over the windows by then. The last window ends with the recording; a
    shorter recording is one window.
    """

    def __init__(
        self, predictor: Predictor, rate: int, *, window_seconds: float, hop_seconds: float
    ):
        """Starts a stream.

        Args:
          predictor: The models, of any system.
          rate: Sampling rate of the samples in Hz.
          window_seconds: Length of a window in s.
          hop_seconds: From the start of a window to that of the next, in s.

        Raises:
          UserError: If rate, window or hop are not possible.
        """
        longest = predictor.config.features.max_seconds
        if not MIN_SECONDS <= window_seconds <= longest:  # false for NaN, too
            raise UserError(
                f"a window of {window_seconds:g} s cannot be scored; choose {MIN_SECONDS:g} to"
                f" {longest:g} s"
            )
        if not 0.01 <= hop_seconds <= window_seconds:
            raise UserError(
                f"hop={hop_seconds:g} s is none for windows of {window_seconds:g} s; "
                f"choose 0.01 to {window_seconds:g} s, so that nothing is left out"
            )
        try:
            self._listener = StreamResampler(rate, predictor.mix.channel)
        except BadAudio as error:
            raise UserError(f"a stream of {rate} Hz cannot be used: {error}") from error
        self._predictor, self._rule = predictor, predictor.decision()
        self._window = round(window_seconds * SAMPLE_RATE)
        self._hop = round(hop_seconds * SAMPLE_RATE)
        self._samples = np.zeros(0, np.float32)
        self._first = 0  # number of the first of them
        self._next = 0  # where the next window starts
        self._total, self._count = np.zeros(len(predictor.classes)), 0
        self._drained = False

    def push(self, samples: np.ndarray) -> list[Moment]:
        """Takes the next piece; returns a moment for every window that is complete now."""
        try:
            self._samples = np.concatenate([self._samples, self._listener.push(samples)])
        except BadAudio as error:
            raise UserError(f"the samples cannot be used: {error}") from error
        return self._score(self._complete())

    def drain(self) -> list[Moment]:
        """Ends the input; returns the moments of the windows that were not complete before."""
        if self._drained:
            return []
        self._drained = True
        self._samples = np.concatenate([self._samples, self._listener.end()])
        starts = self._complete()
        total = self._first + len(self._samples)
        covered = self._next - self._hop + self._window if self._next else 0
        if total > covered:
            starts.append(max(0, total - self._window))
        return self._score(starts)

    def finish(self) -> Prediction:
        """Ends the stream; the mean over all windows that hold speech.

        Raises:
          UserError: If the stream is too short, or its channels cancel out.
        """
        self.drain()
        try:
            self._listener.check_usable()
        except BadAudio as error:
            raise UserError(f"the stream cannot be used: {error}") from error
        flags = (*self._listener.flags, *self._predictor.remarks)
        silent = () if self._count else (NO_SPEECH,)
        [answer] = self._rule.answers(self._total[None] / max(1, self._count), [silent])
        return Prediction(answer.label, answer.probabilities, self._listener.seconds, flags)

    def _complete(self) -> list[int]:
        """Where the windows start that have become complete."""
        starts = []
        while self._next + self._window <= self._first + len(self._samples):
            starts.append(self._next)
            self._next += self._hop
        return starts

    def _score(self, starts: list[int]) -> list[Moment]:
        """Moments of windows; afterwards only the samples that later ones may need are kept."""
        parts = [self._samples[begin - self._first :][: self._window] for begin in starts]
        long_enough = self._listener.seconds >= MIN_SECONDS
        sounds = [long_enough and self._holds_speech(part) for part in parts]
        audible = [part for part, scored in zip(parts, sounds, strict=True) if scored]
        rows = iter(self._probabilities(audible))
        moments = []
        for begin, part, scored in zip(starts, parts, sounds, strict=True):
            window: dict[str, float] = {}
            if scored:
                row = next(rows)
                self._total, self._count = self._total + row, self._count + 1
                window = self._rule.answers(row[None])[0].probabilities
            so_far: dict[str, float] = {}
            if self._count:
                so_far = self._rule.answers(self._total[None] / self._count)[0].probabilities
            end = (begin + len(part)) / SAMPLE_RATE
            moments.append(Moment(begin / SAMPLE_RATE, end, so_far, window))
        keep = min(self._next, max(self._first, self._first + len(self._samples) - self._window))
        self._samples, self._first = self._samples[keep - self._first :].copy(), keep
        return moments

    def _holds_speech(self, samples: np.ndarray) -> bool:
        found = audible(samples)
        if not has_sound(int(found.sum()), len(found)):
            return False
        return not self._predictor.vad or vad.has_speech(samples)

    def _probabilities(self, parts: list[np.ndarray]) -> np.ndarray:
        if not parts:
            return self._total[:0]
        recordings = []
        for part in parts:
            samples = prepare(part, self._predictor.mix)
            form = SAMPLE_RATE, 1, str(part.dtype), ()
            recordings.append(Recording(samples, len(part) / SAMPLE_RATE, *form))
        try:
            return self._predictor.probabilities(self._predictor.features(recordings))
        except BadAudio as error:
            raise UserError(f"a window cannot be scored: {error}; choose longer windows") from error
