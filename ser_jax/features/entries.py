"""What the feature store holds of many recordings, looked up and read in threads."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ser_jax.errors import UserError
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.item import Item
from ser_jax.features.store import FeatureStore

Task = TypeVar("Task")
Result = TypeVar("Result")


def sizes(feature_store: FeatureStore, items: Iterable[Item], cores: int) -> dict[str, dict[str, int]]:
    """Returns the name of each item → kind → bytes, for what the store has; nothing is read."""

    def look(item: Item) -> tuple[str, dict[str, int]]:
        found = {kind: feature_store.size(key) for kind, key in item.keys.items()}
        return item.name, {kind: size for kind, size in found.items() if size is not None}

    return dict(in_threads(look, items, cores))


def read(
    feature_store: FeatureStore,
    items: Mapping[str, Item],
    outcomes: Mapping[str, BadAudio | None],
    compute: Callable[[list[Item]], None],
    cores: int,
    *,
    only: Sequence[str] | None,
) -> dict[str, dict[str, np.ndarray]]:
    """Reads entries that are there; damaged ones are computed again.

    Args:
      feature_store: The store.
      items: Name → item.
      outcomes: Name of an item → why it is bad, and then not read; `compute` adds to it.
      compute: Computes and stores the kinds of items.
      cores: Threads.
      only: The kinds to read; None: all.

    Returns:
      Name of each item → kind → array.

    Raises:
      UserError: If entries vanish meanwhile.
    """

    def load(item: Item) -> tuple[str, dict[str, np.ndarray]]:
        keys = {kind: key for kind, key in item.keys.items() if only is None or kind in only}
        arrays = {kind: feature_store.get(key) for kind, key in keys.items()}
        return item.name, {kind: array for kind, array in arrays.items() if array is not None}

    def missing(item: Item) -> bool:
        return len(found[item.name]) < (len(item.keys) if only is None else len(only))

    found = dict(in_threads(load, [item for name, item in items.items() if outcomes.get(name) is None], cores))
    damaged = [items[name] for name in found if missing(items[name])]
    if damaged:
        compute([without(item, found[item.name]) for item in damaged])
        again = [item for item in damaged if outcomes.get(item.name) is None]
        found |= dict(in_threads(load, again, cores))
        if any(missing(item) for item in again):
            raise UserError(f"Entries of the feature store {feature_store.root} vanish: does something delete them?")
    return found


def in_threads(function: Callable[[Task], Result], tasks: Iterable[Task], cores: int) -> list[Result]:
    """Applies a function to many small tasks with so many threads; returns the results in their order."""
    listed = list(tasks)
    size = len(listed) // (8 * cores) + 1  # tasks submitted together: each alone costs as much as reading an entry
    parts = [listed[begin : begin + size] for begin in range(0, len(listed), size)]
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        return [result for part in pool.map(lambda part: [function(task) for task in part], parts) for result in part]


def without(item: Item, known: Mapping[str, object]) -> Item:
    """Returns the item without the kinds that are known."""
    return dataclasses.replace(item, keys={kind: key for kind, key in item.keys.items() if kind not in known})
