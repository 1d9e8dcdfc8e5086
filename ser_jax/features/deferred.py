"""Features that stay in the store until they are asked for: of corpora that are larger than memory."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ser_jax.errors import UserError
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.item import Item
from ser_jax.features.store import FeatureStore


class Deferred(Sequence[np.ndarray]):
    """One kind of features of N utterances, read from the store one by one.

    An entry that has been damaged since it was looked for is computed again.
    """

    def __init__(
        self, kind: str, items: Sequence[Item], feature_store: FeatureStore, compute: Callable[[Item], BadAudio | None]
    ):
        """Takes what is needed to read; nothing is read yet.

        Args:
          kind: Kind of entry: "logmel", "hsf" or "wave".
          items: The utterances' items.
          feature_store: The store that holds them.
          compute: Decodes a recording and stores the kinds of an item; see `extract_one`.
        """
        self._kind, self._items, self._store, self._compute = kind, items, feature_store, compute

    def __len__(self) -> int:
        """Returns N."""
        return len(self._items)

    def __getitem__(self, number):
        """Reads the array of an utterance.

        Raises:
          UserError: If the entry is gone and its recording, too.
        """
        item = self._items[number]
        key = item.keys[self._kind]
        found = self._store.get(key)
        if found is None:
            error = self._compute(dataclasses.replace(item, keys={self._kind: key}))
            found = None if error else self._store.get(key)
        if found is None:
            raise UserError(
                f"{item.path}: its features have vanished from the store {self._store.root} and cannot be computed "
                f"again: bring the recording back and run the same command"
            )
        return found

    def lengths(self) -> np.ndarray:
        """Returns [N] i64, the length of every array's first axis, read from the entries' headers."""
        shapes = (self._store.shape(item.keys[self._kind]) for item in self._items)
        return np.array([len(self[n]) if shape is None else shape[0] for n, shape in enumerate(shapes)], np.int64)
