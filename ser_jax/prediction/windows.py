"""Emotion over time for every system: windows of a recording, each scored as a recording of its own."""

import numpy as np

from ser_jax.errors import UserError
from ser_jax.features.audio import MIN_SECONDS, SAMPLE_RATE, Recording
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.live import Listener
from ser_jax.prediction.predictor import Prediction, Predictor
from ser_jax.prediction.stream import Moment


class Windows:
    """Follows one recording as `stream.Stream` does, with a moment per window; it keeps one window of samples.

    `Moment.window` is what `predict` says of the window; empty where that is silent. `Moment.so_far` is the mean over
    the windows by then. The last window ends with the recording; a shorter recording is one window.
    """

    def __init__(self, predictor: Predictor, rate: int, *, window_seconds: float, hop_seconds: float):
        """Starts to listen.

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
                f"a window of {window_seconds:g} s cannot be scored; choose {MIN_SECONDS:g} to {longest:g} s"
            )
        if not 0.01 <= hop_seconds <= window_seconds:
            raise UserError(
                f"hop={hop_seconds:g} s is none for windows of {window_seconds:g} s; "
                f"choose 0.01 to {window_seconds:g} s, so that nothing is left out"
            )
        try:
            self._listener = Listener(rate)
        except BadAudio as error:
            raise UserError(f"a stream of {rate} Hz cannot be used: {error}") from error
        self._predictor, self._rule = predictor, predictor.rule()
        self._window, self._hop = round(window_seconds * SAMPLE_RATE), round(hop_seconds * SAMPLE_RATE)
        self._samples = np.zeros(0, np.float32)
        self._first = 0  # number of the first of them
        self._next = 0  # where the next window starts
        self._total, self._count = np.zeros(len(predictor.classes)), 0
        self._drained = False

    def push(self, samples: np.ndarray) -> list[Moment]:
        """Takes the next piece; returns a moment for every window that is complete now. See `Stream.push`."""
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
        begins = self._complete()
        total = self._first + len(self._samples)
        covered = self._next - self._hop + self._window if self._next else 0
        if total > covered:
            begins.append(max(0, total - self._window))
        return self._score(begins)

    def finish(self) -> Prediction:
        """Ends the stream; the mean over all windows that are not silent.

        Raises:
          UserError: If what was heard is too short or silent.
        """
        self.drain()
        try:
            self._listener.check_usable()
        except BadAudio as error:
            raise UserError(f"the stream cannot be used: {error}") from error
        answer = self._rule.answers(self._total[None] / self._count)[0]
        return Prediction(answer.label, answer.probabilities, self._listener.seconds, self._listener.flags)

    def _complete(self) -> list[int]:
        """Where the windows start that have become complete."""
        begins = []
        while self._next + self._window <= self._first + len(self._samples):
            begins.append(self._next)
            self._next += self._hop
        return begins

    def _score(self, begins: list[int]) -> list[Moment]:
        """Moments of windows; afterwards only the samples that later ones may need are kept."""
        parts = [self._samples[begin - self._first :][: self._window] for begin in begins]
        long_enough = self._listener.seconds >= MIN_SECONDS
        sounds = [long_enough and bool(part.any()) for part in parts]
        shares = iter(self._shares([part for part, scored in zip(parts, sounds, strict=True) if scored]))
        moments = []
        for begin, part, scored in zip(begins, parts, sounds, strict=True):
            window: dict[str, float] = {}
            if scored:
                row = next(shares)
                self._total, self._count = self._total + row, self._count + 1
                window = self._rule.answers(row[None])[0].probabilities
            so_far = self._rule.answers(self._total[None] / self._count)[0].probabilities if self._count else {}
            moments.append(Moment(begin / SAMPLE_RATE, (begin + len(part)) / SAMPLE_RATE, so_far, window))
        keep = min(self._next, max(self._first, self._first + len(self._samples) - self._window))
        self._samples, self._first = self._samples[keep - self._first :].copy(), keep
        return moments

    def _shares(self, parts: list[np.ndarray]) -> np.ndarray:
        if not parts:
            return self._total[:0]
        heard = [Recording(part, len(part) / SAMPLE_RATE, SAMPLE_RATE, 1, str(part.dtype), ()) for part in parts]
        try:
            return self._predictor.probabilities(self._predictor.features(heard))
        except BadAudio as error:
            raise UserError(f"a window cannot be scored: {error}; choose longer windows") from error
