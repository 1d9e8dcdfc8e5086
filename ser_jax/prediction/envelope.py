"""The waveform of a recording of any length as a drawing needs it: ranges of samples in a bounded number of bins."""

import numpy as np

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
                self._low, self._high = self._low.reshape(-1, 2).min(axis=1), self._high.reshape(-1, 2).max(axis=1)
                self._size *= 2
        self._rest = samples

    def ranges(self) -> np.ndarray:
        """Returns [bins, 2] f32, the lowest and the highest sample of each bin; the last one may hold fewer."""
        rest = [(self._rest.min(), self._rest.max())] if len(self._rest) else []
        return np.concatenate([np.stack([self._low, self._high], axis=1), np.array(rest, np.float32).reshape(-1, 2)])
