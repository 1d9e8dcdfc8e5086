"""Extraction on a Ray cluster: workers compute entries of the feature store, this process writes.

So nodes need to read the corpus, under the same path, and nothing else; and what is in the store
does not depend on how many workers there were, or which of them died. This module must not import
jax: worker processes load it.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import socket
from collections.abc import Callable, Generator, Mapping, Sequence

import ser_jax
from ser_jax.features import store
from ser_jax.features.extraction import Item, compute_one
from ser_jax.features.functionals import require_opensmile, store_settings
from ser_jax.features.header import Changed, content_sha256
from ser_jax.features.logmel import LogMelSettings
from ser_jax.features.pcm import BadAudio
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.ray_workers import Cluster, Pool
from ser_jax.runtime.workers import WorkerDied

_PACKAGES = ("numpy", "scipy", "soundfile", "soxr")  # whose versions the values depend on
# Bytes of audio in a portion: about half a second of work, beside which a call costs little.
_MOST_BYTES, _MOST_BYTES_WITH_HSF = 4e6, 5e5
# Portions per worker into which what is left is cut: they get smaller, so that all end together.
_PORTIONS_LEFT = 4

Entries = dict[str, bytes]  # kind → entry as the store keeps it


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """The answer of a node that does not read the recording that this process has read."""

    node: str  # name of the node
    detail: str  # what it found


@dataclasses.dataclass(frozen=True)
class RayEngine:
    """Computes items on a cluster; an `extraction.Engine`."""

    cluster: Cluster  # the cluster that has been joined
    workers: int = 0  # number of workers; 0 for one per core, which is also the most

    def __call__(
        self,
        items: Sequence[Item],
        feature_store: store.FeatureStore,
        settings: LogMelSettings,
        max_seconds: float,
    ) -> Generator[tuple[Item, BadAudio | None], None, None]:
        """Computes and stores the kinds of every item.

        Yields:
          Each item with why it is bad, or None once it is stored. One that kills its worker twice,
          the second time alone, is bad.

        Raises:
          UserError: If a node is not like this machine or does not read the same recordings, worker
            after worker dies, or the store cannot be written.
        """
        workers = min(self.workers or self.cluster.cores, self.cluster.cores)
        hsf = any("hsf" in item.keys for item in items)
        given = {item.name: item for item in items}
        # Workers have another working directory.
        absolute = (dataclasses.replace(item, path=item.path.absolute()) for item in items)
        ordered = sorted(absolute, key=lambda item: (-item.cost, item.name))
        pool: Pool[tuple[Item, ...], list[Entries | BadAudio] | Elsewhere] = Pool(
            prepare, (settings, max_seconds, hsf), facts(hsf), workers
        )
        died: list[Item] = []
        with contextlib.closing(pool):
            most = _MOST_BYTES_WITH_HSF if hsf else _MOST_BYTES
            for portion, found in pool.run(portions(ordered, workers, most)):
                if isinstance(found, WorkerDied):
                    died += portion
                else:
                    yield from _stored(portion, found, given, feature_store)
            for portion, found in pool.run([(item,) for item in died], alone=True):
                if isinstance(found, WorkerDied):
                    detail = "two worker processes died of it: a hostile file, or too little memory"
                    yield given[portion[0].name], BadAudio("unreadable", detail)
                else:
                    yield from _stored(portion, found, given, feature_store)


def portions(items: Sequence[Item], workers: int, most: float) -> list[tuple[Item, ...]]:
    """Cuts items, in their order, into portions of a cost up to `most`, smaller ones at the end."""
    left, cost = sum(item.cost for item in items), 0.0
    found, portion = [], []
    for item in items:
        portion.append(item)
        cost += item.cost
        if cost >= min(most, left / (_PORTIONS_LEFT * workers)):
            found.append(tuple(portion))
            left, cost, portion = left - cost, 0.0, []
    return [*found, tuple(portion)] if portion else found


def facts(hsf: bool) -> dict[str, str]:
    """Returns what must be the same on all nodes: the versions that features depend on."""
    found = {"ser_jax": ser_jax.__version__, "the version of features": str(store.VERSIONS)}
    found |= {package: importlib.metadata.version(package) for package in _PACKAGES}
    return found | store_settings() if hsf else found


def prepare(
    settings: LogMelSettings, max_seconds: float, hsf: bool
) -> tuple[Callable[[Sequence[Item]], list[Entries | BadAudio] | Elsewhere], Mapping[str, str]]:
    """In a worker: returns the function that computes a portion, and the facts of its node."""
    if hsf:
        require_opensmile()
    compute = functools.partial(compute_portion, settings=settings, max_seconds=max_seconds)
    return compute, facts(hsf)


def compute_portion(
    items: Sequence[Item], settings: LogMelSettings, max_seconds: float
) -> list[Entries | BadAudio] | Elsewhere:
    """In a worker: returns for every item its entries, or why it is bad.

    A file with other bytes than the driver has read under this path is not computed: its features
    would be stored as those of another recording.
    """
    computed: list[Entries | BadAudio] = []
    for item in items:
        try:
            digest, _ = content_sha256(item.path)
        except BadAudio as error:
            return Elsewhere(socket.gethostname(), f"{item.path} ({error})")
        if item.name_of(digest) != item.name:
            return Elsewhere(socket.gethostname(), f"{item.path} (it holds other bytes)")
        try:
            found = compute_one(item, settings, max_seconds)
        except Changed as error:
            return Elsewhere(socket.gethostname(), f"{error.args[0]} (it has been changed)")
        if not isinstance(found, BadAudio):
            found = {kind: store.encode(key, found[kind]) for kind, key in item.keys.items()}
        computed.append(found)
    return computed


def _stored(
    portion: Sequence[Item],
    found: list[Entries | BadAudio] | Elsewhere,
    given: Mapping[str, Item],
    feature_store: store.FeatureStore,
) -> Generator[tuple[Item, BadAudio | None], None, None]:
    if isinstance(found, Elsewhere):
        raise UserError(
            f"the node {found.node} does not read what this machine reads: {found.detail}; mount"
            " the recordings under the same path on every node, and do not change them meanwhile"
        )
    for item, entries in zip(portion, found, strict=True):
        if isinstance(entries, BadAudio):
            yield given[item.name], entries
            continue
        for kind, blob in entries.items():
            feature_store.put_encoded(item.keys[kind], blob)
        yield given[item.name], None
