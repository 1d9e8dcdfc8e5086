"""A padded array whose rows are made when they are asked for."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing


class Rows:
    """Rows [n, …] of a bucket that are not in memory; looks like the array, as far as it is looked at.

    Attributes:
      shape: Shape of the whole array.
      dtype: Type of its values.
    """

    def __init__(
        self,
        members: np.ndarray,
        shape: tuple[int, ...],
        dtype: np.typing.DTypeLike,
        read: Callable[[np.ndarray], np.ndarray],
    ):
        """Takes what is needed to read; nothing is read yet.

        Args:
          members: [n], the utterance of every row (number in the protocol).
          shape: Shape of one row.
          dtype: Type of the values.
          read: Utterances [k] → their rows [k, …].
        """
        self._members, self._read = members, read
        self.shape, self.dtype = (len(members), *shape), np.dtype(dtype)

    def __getitem__(self, rows) -> np.ndarray:
        """Returns rows [k, …], asked for by their numbers or a slice."""
        part = self._members[rows]
        return self._read(part) if len(part) else np.zeros((0, *self.shape[1:]), self.dtype)

    def __len__(self) -> int:
        """Returns n."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values of the whole array."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return self.size * self.dtype.itemsize
