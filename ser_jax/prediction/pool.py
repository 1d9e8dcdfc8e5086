"""Pooling that goes on: max, mean and min of hidden states over everything so far, and over a window that forgets.

A window is heard as if nothing had been before it: by an LSTM that begins where the window begins. As windows overlap,
several run side by side on the same segments, as rows of one batch; each in its turn begins anew.
"""

import math

import numpy as np

ROWS = 17  # of the recurrence: the first hears everything, the others are windows


class Pool:
    """What `models/pooling.py` computes of a whole sequence, updated state by state, for every row of a recurrence.

    Attributes:
      count: How many segments it has seen.
    """

    def __init__(self, segments: int):
        """Starts empty.

        Args:
          segments: Length of a window. Up to 16, a window of exactly so many ends with every segment. Longer ones begin
            at every second segment, or third and so on, and `recent` is over up to a fifteenth more.
        """
        self.count = 0
        self._segments = segments
        self._every = max(1, math.ceil((segments - 1) / (ROWS - 2)))
        self._seen = np.zeros(ROWS, np.int64)
        self._maximum: np.ndarray = np.zeros(0)
        self._minimum: np.ndarray = self._maximum
        self._total: np.ndarray = self._maximum

    def restarts(self, ahead: int, count: int) -> np.ndarray:
        """Returns [count, ROWS] bool: which rows begin anew with the next segments, `ahead` of those it has seen."""
        return np.stack([self._restart(self.count + ahead + number) for number in range(count)])

    def add(self, hidden: np.ndarray) -> None:
        """Adds the hidden states [R, ROWS, H] f32 after a segment."""
        anew = self._restart(self.count)
        if not self.count:
            anew[:] = True
            self._maximum = self._minimum = hidden
            self._total = np.zeros(hidden.shape, np.float64)  # in float32 a day of steps would lose its digits
        fresh = anew[:, None]
        self._maximum = np.where(fresh, hidden, np.maximum(self._maximum, hidden))
        self._minimum = np.where(fresh, hidden, np.minimum(self._minimum, hidden))
        self._total = np.where(fresh, 0, self._total) + hidden
        self._seen = np.where(anew, 0, self._seen) + 1
        self.count += 1

    def all(self) -> np.ndarray:
        """Returns max, mean and min [R, 3 H] f32 over all states; at least one must have been added."""
        return self._of(0)

    def recent(self) -> np.ndarray:
        """Returns max, mean and min [R, 3 H] f32 over the states of the last window, or of all while it is not full."""
        return self._of(self._row(max(0, self.count - self._segments) // self._every))

    def _restart(self, number: int) -> np.ndarray:
        rows = np.zeros(ROWS, bool)
        rows[self._row(number // self._every)] = number % self._every == 0
        return rows

    def _row(self, window: int) -> int:
        return 1 + window % (ROWS - 1)

    def _of(self, row: int) -> np.ndarray:
        mean = (self._total[:, row] / self._seen[row]).astype(np.float32)
        return np.concatenate([self._maximum[:, row], mean, self._minimum[:, row]], axis=-1)
