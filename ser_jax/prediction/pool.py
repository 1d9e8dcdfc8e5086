"""Pooling that goes on: max, mean and min over all hidden states so far, and over the last few."""

import collections

import numpy as np


class Pool:
    """What `models/pooling.py` computes of a whole sequence, updated state by state.

    Attributes:
      count: How many states it has seen.
    """

    def __init__(self, segments: int):
        """Starts empty.

        Args:
          segments: How many of the last states `recent` looks at.
        """
        self.count = 0
        self._last: collections.deque[np.ndarray] = collections.deque(maxlen=segments)
        self._maximum: np.ndarray = np.zeros(0)
        self._minimum: np.ndarray = self._maximum
        self._total: np.ndarray = self._maximum

    def add(self, hidden: np.ndarray) -> None:
        """Adds the hidden states [R, H] f32 after a segment."""
        if not self.count:
            self._maximum = self._minimum = hidden
            self._total = np.zeros(hidden.shape, np.float64)  # in float32 a day of steps would lose its digits
        self._maximum, self._minimum = np.maximum(self._maximum, hidden), np.minimum(self._minimum, hidden)
        self._total += hidden
        self.count += 1
        self._last.append(hidden)

    def all(self) -> np.ndarray:
        """Returns max, mean and min [R, 3 H] f32 over all states; at least one must have been added."""
        mean = (self._total / self.count).astype(np.float32)
        return np.concatenate([self._maximum, mean, self._minimum], axis=-1)

    def recent(self) -> np.ndarray:
        """Returns max, mean and min [R, 3 H] f32 over the last states."""
        states = np.stack(self._last)
        return np.concatenate([states.max(axis=0), states.mean(axis=0), states.min(axis=0)], axis=-1)
