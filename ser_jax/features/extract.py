"""Features of a whole corpus: what the store has is read, the rest is computed once and stored.

This module must not import jax: with HSF it is loaded by worker processes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ser_jax.cores import available_cores
from ser_jax.corpora.table import Corpus, Rejection, Utterance
from ser_jax.errors import UserError
from ser_jax.features import audio, entries, store
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.deferred import Deferred
from ser_jax.features.header import content_sha256
from ser_jax.features.hsf import require_opensmile, store_settings
from ser_jax.features.item import Item, extract_one
from ser_jax.features.logmel import LogMelSettings
from ser_jax.features.workers import WorkerDied, run
from ser_jax.progress import progress

log = logging.getLogger(__name__)

_SHOWN = 3  # examples in a message
# Computes and stores items elsewhere than in this process; see `ray_extract.RayEngine`.
Engine = Callable[
    [Sequence[Item], store.FeatureStore, LogMelSettings, float], Generator[tuple[Item, BadAudio | None], None, None]
]

_BYTES_PER_SECOND = 2 * audio.SAMPLE_RATE  # to compare the length of a span with the size of a file


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of the usable utterances of a corpus.

    Attributes:
      utterances: The usable utterances, in the corpus's order; N of them.
      log_mel: For each its log-mel frames, [F, M] f32; empty if they were not asked for.
      hsf: [N, 6373] f32 ComParE functionals, or None if they were not asked for.
      seconds: [N] f64, the length of each.
      rejected: Every listed row that cannot be used: those of the corpus, then bad recordings in the corpus's order.
      flagged: What is odd about used recordings ("clipped", "odd rate", "several channels") → how many.
      corpus_sha256: SHA-256 over id, bytes of the file, start and end of every utterance, usable or not.
      extracted: How many recordings or spans were computed now instead of read from the store.
      waves: For each its samples, [S] i16, 16 kHz; empty if they were not asked for.
      sha256: SHA-256 over the keys of all entries of the store that these are: names the features.
      deferred: Features that are too large for memory and stay in the store: kind of entry → arrays. `log_mel` and
        `waves` are then empty and `hsf` is None.
    """

    utterances: tuple[Utterance, ...]
    log_mel: list[np.ndarray]
    hsf: np.ndarray | None
    seconds: np.ndarray
    rejected: tuple[Rejection, ...]
    flagged: dict[str, int]
    corpus_sha256: str
    extracted: int
    waves: list[np.ndarray] = dataclasses.field(default_factory=list)
    sha256: str = ""
    deferred: Mapping[str, Deferred] = dataclasses.field(default_factory=dict)


def extract(
    corpus: Corpus,
    settings: LogMelSettings,
    *,
    log_mel: bool = True,
    hsf: bool,
    waves: bool = False,
    store_root: Path,
    max_seconds: float,
    max_bad_share: float,
    workers: int,
    most_bytes: float = math.inf,
    engine: Engine | None = None,
    on_rejected: Callable[[tuple[Rejection, ...]], None] | None = None,
) -> Features:
    """Computes the features of a corpus, or reads them from the store.

    An interrupted extraction loses nothing: the features of each recording are stored as soon as they are computed. The
    values do not depend on the number of workers.

    Args:
      corpus: The utterances.
      settings: The log-mel front end, at 16 kHz.
      log_mel: Whether to compute log-mel frames.
      hsf: Whether to compute the ComParE functionals: in processes, because openSMILE is not safe in threads.
      waves: Whether to keep the samples.
      store_root: Folder of the feature store.
      max_seconds: Longer recordings or spans are rejected.
      max_bad_share: Largest share of the listed rows that may be unusable, in [0, 1].
      workers: Threads or processes; 0 for one per available core.
      most_bytes: Features that take more stay in the store until they are asked for.
      engine: What computes; None: threads or processes of this machine.
      on_rejected: Called once with all rejections known, before this function returns and before it raises because of
        the recordings, a full disk, dead workers or Ctrl-C.

    Returns:
      The features.

    Raises:
      UserError: If openSMILE is missing, the settings do not fit, the store cannot be used, worker processes die twice,
        too many recordings are bad, or none is usable.
    """
    _check_settings(settings)
    if hsf:
        require_opensmile()
    feature_store = store.FeatureStore(store_root)
    cores = workers or available_cores()
    hashes: dict[str, tuple[str, int] | BadAudio] = {}  # file → SHA-256 and size, or why it cannot be read
    items: dict[str, Item] = {}  # utterance id → item
    outcomes: dict[str, BadAudio | None] = {}  # name of an item → why it is bad, or None once computed

    def bad(utterance: Utterance) -> BadAudio | None:
        found = hashes.get(utterance.file)
        if isinstance(found, BadAudio):
            return found
        return outcomes.get(items[utterance.id].name) if utterance.id in items else None

    try:
        hashes.update(_hash_files(corpus, cores))
        items.update(_items(corpus, hashes, _store_settings(settings, log_mel, hsf, waves)))
        unique = {item.name: item for item in items.values()}
        sizes = entries.sizes(feature_store, unique.values(), cores)
        work = functools.partial(extract_one, store_root=store_root, settings=settings, max_seconds=max_seconds)

        def compute(todo: list[Item]) -> None:
            if engine is not None:
                _follow(engine(todo, feature_store, settings, max_seconds), len(todo), outcomes)
                return
            processes = any("hsf" in item.keys for item in todo)
            _compute(work, todo, cores, processes=processes, outcomes=outcomes)

        incomplete = [item for item in unique.values() if len(sizes[item.name]) < len(item.keys)]
        compute([entries.without(item, sizes[item.name]) for item in incomplete])
        sizes |= entries.sizes(
            feature_store, [unique[name] for name, error in outcomes.items() if error is None], cores
        )
        defer = sum(sum(entry.values()) for entry in sizes.values()) > most_bytes
        arrays = entries.read(feature_store, unique, outcomes, compute, cores, only=("audio",) if defer else None)
        done = [name for name, error in outcomes.items() if error is None]
        outcomes |= _wrong_length(arrays, max_seconds, outcomes)
    finally:
        new = tuple(rejection(u, error) for u in corpus.utterances if (error := bad(u)) is not None)
        rejected = corpus.rejected + new
        if on_rejected is not None:
            on_rejected(rejected)
    kept = tuple(u for u in corpus.utterances if bad(u) is None)
    _check_share(rejected, len(kept), max_bad_share)
    kept_items = [items[u.id] for u in kept]
    found = [arrays[item.name] for item in kept_items]
    kinds = [kind for kind, wanted in (("logmel", log_mel), ("hsf", hsf), ("wave", waves)) if wanted]
    return Features(
        utterances=kept,
        log_mel=[entry["logmel"] for entry in found] if log_mel and not defer else [],
        hsf=np.stack([entry["hsf"] for entry in found]) if hsf and not defer else None,
        seconds=np.array([entry["audio"][0] for entry in found], np.float64),
        rejected=rejected,
        flagged=_count_flags(entry["audio"] for entry in found),
        corpus_sha256=_corpus_sha256(corpus, hashes),
        extracted=len(done),
        waves=[entry["wave"] for entry in found] if waves and not defer else [],
        sha256=_features_sha256(kept_items, kinds),
        deferred={kind: Deferred(kind, kept_items, feature_store, work) for kind in kinds} if defer else {},
    )


def _check_settings(settings: LogMelSettings) -> None:
    if settings.sample_rate != audio.SAMPLE_RATE:
        raise UserError(
            f"features.sample_rate={settings.sample_rate}: recordings are decoded to {audio.SAMPLE_RATE} Hz"
        )
    if settings.window_seconds > audio.MIN_SECONDS:
        raise UserError(
            f"features.window_seconds={settings.window_seconds:g}: recordings of {audio.MIN_SECONDS} s "
            "would have no frame"
        )


def _store_settings(
    settings: LogMelSettings, log_mel: bool, hsf: bool, waves: bool
) -> dict[str, Mapping[str, str | int | float]]:
    """Kind of entry → what its values depend on besides the recording."""
    kinds: dict[str, Mapping[str, str | int | float]] = {"audio": {}}
    if log_mel:
        kinds["logmel"] = dataclasses.asdict(settings)
    if hsf:
        kinds["hsf"] = store_settings()
    if waves:
        kinds["wave"] = {}
    return kinds


def _hash_files(corpus: Corpus, cores: int) -> dict[str, tuple[str, int] | BadAudio]:
    def hash_file(path: Path) -> tuple[str, int] | BadAudio:
        try:
            return content_sha256(path)
        except BadAudio as error:
            return error

    paths = {utterance.file: corpus.path(utterance) for utterance in corpus.utterances}
    return dict(zip(paths, entries.in_threads(hash_file, paths.values(), cores), strict=True))


def _items(
    corpus: Corpus,
    hashes: Mapping[str, tuple[str, int] | BadAudio],
    kinds: Mapping[str, Mapping[str, str | int | float]],
) -> dict[str, Item]:
    """Utterance id → item, for every utterance whose file could be read."""
    items = {}
    for utterance in corpus.utterances:
        found = hashes[utterance.file]
        if isinstance(found, BadAudio):
            continue
        digest, size = found
        start, end = utterance.start, utterance.end
        keys = {kind: store.key(kind, digest, start, end, settings) for kind, settings in kinds.items()}
        cost = size if end is None else (end - (start or 0.0)) * _BYTES_PER_SECOND
        items[utterance.id] = Item(keys["audio"], corpus.path(utterance), start, end, cost, keys)
    return items


def _follow(
    results: Generator[tuple[Item, BadAudio | None], None, None], total: int, outcomes: dict[str, BadAudio | None]
) -> None:
    """Fills `outcomes` as an engine finishes items."""
    if total:
        with progress("extracting", total, "files") as advance, contextlib.closing(results):
            for item, error in results:
                outcomes[item.name] = error
                advance()


def _compute(
    work: Callable[[Item], BadAudio | None],
    items: Iterable[Item],
    cores: int,
    *,
    processes: bool,
    outcomes: dict[str, BadAudio | None],
) -> None:
    """Works on all items, the longest first so that all workers end together; `outcomes` is filled as they finish."""
    remaining = {item.name: item for item in sorted(items, key=lambda item: (-item.cost, item.name))}
    if not remaining:
        return
    total, deaths = len(remaining), 0
    with progress("extracting", total, "files") as advance:
        while remaining:
            jobs = tuple(remaining.values())
            try:
                with contextlib.closing(run(work, jobs, min(cores, len(jobs)), processes=processes)) as results:
                    for item, error in results:
                        outcomes[item.name] = error
                        del remaining[item.name]
                        advance()
            except WorkerDied as death:
                deaths += 1
                names = ", ".join(str(item.path) for item in death.jobs[:_SHOWN])
                if deaths > 1:
                    raise UserError(
                        f"A worker process died twice during extraction; {total - len(remaining)} of {total} "
                        f"recordings are done and stored. It was at one of {len(death.jobs)}: {names}. Usual causes: "
                        "memory (use fewer workers: features.workers) or a file that crashes a decoder (remove it)."
                    ) from None
                log.warning("A worker process died at one of %s; trying the rest once more.", names)


def _wrong_length(
    arrays: Mapping[str, Mapping[str, np.ndarray]], max_seconds: float, outcomes: Mapping[str, BadAudio | None]
) -> dict[str, BadAudio]:
    """Judges stored recordings by the present limit."""
    wrong = {}
    for name, entry in arrays.items():
        if outcomes.get(name) is None:
            try:
                audio.check_length(float(entry["audio"][0]), max_seconds)
            except BadAudio as error:
                wrong[name] = error
    return wrong


def rejection(utterance: Utterance, error: BadAudio) -> Rejection:
    """Returns the row of `rejected.csv` for a bad recording or span."""
    span = utterance.start is not None or utterance.end is not None
    detail = f"{utterance.id}: {error.detail}" if span else error.detail
    return Rejection(utterance.file, None, error.reason, detail)


def _check_share(rejected: tuple[Rejection, ...], kept: int, max_bad_share: float) -> None:
    listed = len(rejected) + kept
    examples = "; ".join(f"{r.file}: {r.reason} ({r.detail})" for r in rejected[:_SHOWN])
    if not kept:
        raise UserError(f"None of {listed} listed recordings is usable. {examples or 'The corpus is empty'}.")
    if len(rejected) > max_bad_share * listed:
        raise UserError(
            f"{len(rejected)} of {listed} listed recordings are unusable ({len(rejected) / listed:.2%}; limit "
            f"{max_bad_share:.2%}), for example {examples}. Mend or remove them, or raise features.max_bad_share."
        )


def _count_flags(entries: Iterable[np.ndarray]) -> dict[str, int]:
    counts = Counter(
        flag
        for _, rate, channels, clipped in entries
        for flag in audio.flags(int(rate), int(channels), clipped=bool(clipped))
    )
    return dict(sorted(counts.items()))


def _features_sha256(items: Iterable[Item], kinds: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(kinds).encode())
    for item in items:
        digest.update("".join(item.keys[kind] for kind in kinds).encode())
    return digest.hexdigest()


def _corpus_sha256(corpus: Corpus, hashes: Mapping[str, tuple[str, int] | BadAudio]) -> str:
    rows = []
    for utterance in corpus.utterances:
        found = hashes[utterance.file]
        digest = "" if isinstance(found, BadAudio) else found[0]
        rows.append((utterance.id, digest, utterance.start, utterance.end))
    rows.sort(key=lambda row: row[0])
    return hashlib.sha256(json.dumps(rows, separators=(",", ":"), ensure_ascii=True).encode()).hexdigest()
