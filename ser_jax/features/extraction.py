"""Extracts the features of a corpus, reading from the feature store what is there already.

Recordings are decoded once, in threads or (for the functionals) in processes. This module must not
import jax: worker processes load it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ser_jax.corpora.release_files import check_bad_share
from ser_jax.corpora.table import Corpus, Rejection, Utterance
from ser_jax.features import audio, changes, store
from ser_jax.features.domain import FACTS
from ser_jax.features.functionals import COMPARE, functionals, require_opensmile, store_settings
from ser_jax.features.header import Changed, State, content_sha256, digest_of_state, reading, state
from ser_jax.features.logmel import LogMelSettings, log_mel
from ser_jax.features.pcm import FLAGS, BadAudio, to_int16
from ser_jax.features.preparation import loudness_facts, normalise
from ser_jax.features.store import FeatureStore
from ser_jax.features.variants import Recipe
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.machine import available_cores
from ser_jax.runtime.progress import progress
from ser_jax.runtime.workers import WorkerDied, run, worth_starting

log = logging.getLogger(__name__)

_BYTES_PER_SECOND = 2 * audio.SAMPLE_RATE  # to compare the length of a span with the size of a file
# A minute of speech: its functionals take about as long as a process takes to start with openSMILE.
_BYTES_PER_PROCESS = 60 * _BYTES_PER_SECOND
_EXAMPLES = 3  # recordings that a message names
CUT = "listed to end behind the end of the file"


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """A recording or span and the features to store of it. Utterances of equal bytes share one."""

    name: str  # key of its "audio" entry
    path: Path  # one of the files with these bytes
    start: float | None  # start of the span in seconds, or None
    end: float | None  # end of the span in seconds, or None
    cost: float  # approximate size of the samples in bytes
    keys: Mapping[str, str]  # kind of entry → key in the store
    mix: audio.Mix = audio.USUAL  # channel and preparation
    feature_set: str = COMPARE  # of the functionals
    recipe: Recipe | None = None  # how its wave is changed before it is prepared; None: not at all

    def name_of(self, digest: str) -> str:
        """Returns what the name would be if the file had this SHA-256."""
        return store.key("audio", digest, self.start, self.end, _samples(self.mix, self.recipe))


Result = Generator[tuple[Item, BadAudio | None], None, None]
# Computes and stores items on other machines; see `ray_extraction.RayEngine`.
Engine = Callable[[Sequence[Item], FeatureStore, LogMelSettings, float], Result]
FileHash = tuple[str, int] | BadAudio  # SHA-256 and size of a file, or why it cannot be read


# --- One recording


def extract_one(
    item: Item, store_root: Path, settings: LogMelSettings, max_seconds: float
) -> BadAudio | None:
    """Decodes a recording once and stores its features; runs in a thread or in a worker process.

    Returns why the recording is bad, or None if everything is stored. No array: those would cross a
    pipe. Raises `UserError` if the store cannot be written.
    """
    found = compute_one(item, settings, max_seconds)
    if isinstance(found, BadAudio):
        return found
    feature_store = FeatureStore(store_root)
    for kind, key in item.keys.items():
        feature_store.put(key, found[kind])
    return None


def compute_one(
    item: Item, settings: LogMelSettings, max_seconds: float
) -> dict[str, np.ndarray] | BadAudio:
    """Decodes a recording once; returns kind → array, or why the recording is bad.

    Raises `Changed` if that was another recording than the one which was hashed.
    """
    try:
        with reading(item.path) as file:
            before = state(file)
            try:
                recording = _decoded(item, file, max_seconds)
            finally:  # What was decoded may also be no audio because it has changed.
                _check_unchanged(item, file, before)
        return {
            kind: compute_kind(kind, recording, settings, item.feature_set) for kind in item.keys
        }
    except BadAudio as error:
        return error


def _decoded(item: Item, file: io.FileIO, max_seconds: float) -> audio.Recording:
    if item.recipe is None:
        return audio.decode(file, item.start, item.end, max_seconds=max_seconds, mix=item.mix)
    wave = changes.decode(file, item.start, item.end, item.mix, max_seconds)
    return changes.as_recorded(item.recipe.apply(wave), item.mix)


def _samples(mix: audio.Mix, recipe: Recipe | None) -> dict[str, Any]:
    """Returns what the samples of a recording depend on: names features in the store."""
    return mix.settings() | (recipe.settings() if recipe else {})


def _check_unchanged(item: Item, file: io.FileIO, before: State) -> None:
    file.seek(0)
    if item.start is item.end is None:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    else:  # Each span would read the whole file.
        digest = digest_of_state(before, file)
    if item.name_of(digest) != item.name or state(file) != before:
        raise Changed(item.path)


def compute_kind(
    kind: str, recording: audio.Recording, settings: LogMelSettings, feature_set: str = COMPARE
) -> np.ndarray:
    """Computes one kind of features of a recording; raises `BadAudio` if openSMILE gives NaN.

    Kinds: "logmel" (frames [F, M] f32), "hsf" (functionals [D] f32 of a set), "wave" (samples [S]
    i16), "level" ([3] f64, see `preparation.speaker_gain`) and "audio" ([7] f64: seconds, original
    rate in Hz, channels, flags: bit n for number n of `pcm.FLAGS`; and `domain.FACTS`).
    """
    if kind == "logmel":
        return normalise(log_mel(recording.samples, settings), settings.normalisation)
    if kind == "hsf":
        values = functionals(recording.samples, feature_set)
        if n := np.isnan(values).sum():
            raise BadAudio("non-finite", f"openSMILE gives NaN for {n} of {len(values)} values")
        return values
    if kind == "level":
        return loudness_facts(recording.samples)
    if kind == "wave":
        return to_int16(recording.samples)
    bits = sum(1 << bit for bit, name in enumerate(FLAGS) if name in recording.flags)
    known = recording.seconds, recording.rate, recording.channels, bits
    return np.array([*known, *recording.facts], np.float64)


# --- A corpus


class Deferred(Sequence[np.ndarray]):
    """One kind of features of N utterances, read from the store one by one on access.

    For corpora that are larger than memory. An entry that was damaged meanwhile is computed again.
    """

    def __init__(
        self,
        kind: str,
        items: Sequence[Item],
        feature_store: FeatureStore,
        compute: Callable[[Item], BadAudio | None],
    ):
        """Reads nothing yet; `compute` decodes a recording and stores an item's features."""
        self._kind, self._items, self._store, self._compute = kind, items, feature_store, compute

    def __len__(self) -> int:
        """Returns N."""
        return len(self._items)

    def __getitem__(self, number):
        """Reads the array of an utterance; raises `UserError` if entry and recording are gone."""
        item = self._items[number]
        key = item.keys[self._kind]
        found = self._store.get(key)
        if found is None:
            error = self._compute(dataclasses.replace(item, keys={self._kind: key}))
            found = None if error else self._store.get(key)
        if found is None:
            raise UserError(
                f"{item.path}: its features have vanished from the store {self._store.root} and"
                " cannot be computed again: bring the recording back and run the same command"
            )
        return found

    def lengths(self) -> np.ndarray:
        """Returns [N] i64, the length of every array's first axis, from the entries' headers."""
        shapes = (self._store.shape(item.keys[self._kind]) for item in self._items)
        lengths = [len(self[n]) if shape is None else shape[0] for n, shape in enumerate(shapes)]
        return np.array(lengths, np.int64)


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of the usable utterances of a corpus."""

    utterances: tuple[Utterance, ...]  # the usable utterances, in the corpus's order; N of them
    # for each its log-mel frames, [F, M] f32, or frames of embeddings, [F, L, D] f32; empty if not
    # requested
    log_mel: list[np.ndarray]
    # [N, D] f32 functionals, embeddings of whole utterances or both; None if not requested
    hsf: np.ndarray | None
    seconds: np.ndarray  # [N] f64, the length of each
    # every listed row that cannot be used: those of the corpus, then bad recordings in the corpus's
    # order
    rejected: tuple[Rejection, ...]
    flagged: dict[str, int]  # peculiarity of used recordings, of `pcm.FLAGS`, or `CUT` → how many
    # SHA-256 over id, bytes of the file, start and end of every utterance, usable or not
    corpus_sha256: str
    extracted: int  # how many recordings or spans were computed now instead of read from the store
    # for each its samples, [S] i16, 16 kHz; empty if not requested
    waves: list[np.ndarray] = dataclasses.field(default_factory=list)
    # sampling rate in Hz of a recording as it is in its file → how many have it
    rates: Mapping[int, int] = dataclasses.field(default_factory=dict)
    # [N, 3] f64, see `preparation.speaker_gain`, or None if not requested
    levels: np.ndarray | None = None
    digests: tuple[str, ...] = ()  # for each the SHA-256 of the bytes of its file
    flags: tuple[tuple[str, ...], ...] = ()  # for each its peculiarities
    # [N, 3] f64, see `domain.measure`
    facts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, len(FACTS))))
    sha256: str = ""  # SHA-256 over the keys of all their entries in the store: names the features
    # features that are too large for memory and stay in the store: kind of entry → arrays.
    # `log_mel` and `waves` are then empty and `hsf` is None
    deferred: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # what identifies embeddings of other models among them, see `embeddings.Embeddings.facts`
    embeddings: dict[str, Any] | None = None
    gains: Mapping[str, float] = dataclasses.field(default_factory=dict)  # as given to `extract`
    variants: "Variants | None" = None  # of those that are trained on; None: there are none


class Variants(NamedTuple):
    """Degraded versions of the utterances that are trained on (docs/robustness.md)."""

    features: Features  # of the variants, n of them
    # [1 + V, N] numbers of the versions of N utterances: of each as it is, from 0 on, then of its
    # V variants, from N on. Where there is no variant stands the utterance
    versions: np.ndarray
    facts: dict[str, Any]  # what identifies them, for `protocol.json` and `model.json`


def extract(
    corpus: Corpus,
    settings: LogMelSettings,
    *,
    log_mel: bool = True,
    hsf: bool,
    feature_set: str = COMPARE,
    waves: bool = False,
    levels: bool = False,
    gains: Mapping[str, float] | None = None,
    recipes: Mapping[str, Recipe] | None = None,
    store_root: Path,
    max_seconds: float,
    max_bad_share: float,
    workers: int,
    most_bytes: float = math.inf,
    mix: audio.Mix = audio.USUAL,
    engine: Engine | None = None,
    on_rejected: Callable[[tuple[Rejection, ...]], None] | None = None,
) -> Features:
    """Computes the features of a corpus, or reads them from the store.

    An interrupted extraction loses nothing: the features of each recording are stored as soon as
    they are computed. The values do not depend on the number of workers.

    Args:
      corpus: The utterances.
      settings: The log-mel front end, at 16 kHz.
      log_mel: Whether to compute log-mel frames.
      hsf: Whether to compute functionals: in processes, because openSMILE is not safe in threads.
      feature_set: Which, of `functionals.WIDTHS`.
      waves: Whether to keep the samples.
      levels: Whether to measure how loud recordings are.
      gains: Utterance id → `Mix.gain`; those that are not in it have that of `mix`.
      recipes: Utterance id → how its wave is changed; those that are not in it stay as they are.
      store_root: Folder of the feature store.
      max_seconds: Longer recordings or spans are rejected.
      max_bad_share: Largest fraction of the listed rows that may be unusable, in [0, 1].
      workers: The most threads or processes; 0 for one per available core.
      most_bytes: Features that take more stay in the store until they are accessed.
      mix: Channel and preparation of the samples.
      engine: Where to compute; None: in threads or processes of this machine.
      on_rejected: Called once with all rejections known, before this function returns and before it
        raises because of the recordings, a full disk, dead workers or Ctrl-C.

    Raises:
      UserError: If openSMILE is missing, the settings do not fit, the store cannot be used, worker
        processes die twice, too many recordings are bad, or none is usable.
    """
    _check_settings(settings)
    if hsf:
        require_opensmile()
    feature_store = FeatureStore(store_root)
    cores = workers or available_cores()
    kinds: dict[str, Mapping[str, str | int | float]] = {}  # kind → what values depend on
    if log_mel:
        kinds["logmel"] = settings.named()
    if hsf:
        kinds["hsf"] = store_settings(feature_set)
    if waves:
        kinds["wave"] = {}
    if levels:
        kinds["level"] = {}
    work = functools.partial(
        extract_one, store_root=feature_store.root, settings=settings, max_seconds=max_seconds
    )
    hashes: dict[str, FileHash] = {}  # by file
    items: dict[str, Item] = {}  # by utterance id
    outcomes: dict[str, BadAudio | None] = {}  # item → why it is bad, or None once it is computed

    def error_of(utterance: Utterance) -> BadAudio | None:
        found = hashes.get(utterance.file)
        if isinstance(found, BadAudio):
            return found
        return outcomes.get(items[utterance.id].name) if utterance.id in items else None

    def compute(todo: list[Item]) -> None:
        if not todo:
            return
        if engine is None:
            results = _compute_locally(work, todo, cores)
        else:
            results = engine(todo, feature_store, settings, max_seconds)
        with progress("extracting", len(todo), "files") as advance, contextlib.closing(results):
            for item, error in results:
                outcomes[item.name] = error
                advance()

    try:
        check_bad_share(corpus.rejected, len(corpus.utterances), max_bad_share)
        hashes.update(_hash_files(corpus, cores))
        named = {"audio": {}, **kinds}
        items.update(_items(corpus, hashes, named, mix, gains or {}, recipes or {}, feature_set))
        unique = {item.name: item for item in items.values()}
        sizes = _stored_sizes(feature_store, unique.values(), cores)
        incomplete = (item for item in unique.values() if len(sizes[item.name]) < len(item.keys))
        compute([_without(item, sizes[item.name]) for item in incomplete])
        computed = [unique[name] for name, error in outcomes.items() if error is None]
        sizes |= _stored_sizes(feature_store, computed, cores)
        defer = sum(sum(entry.values()) for entry in sizes.values()) > most_bytes
        requested = ("audio",) if defer else ("audio", *kinds)
        arrays = _read(feature_store, unique, outcomes, compute, cores, requested)
        extracted = sum(error is None for error in outcomes.values())
        outcomes |= _wrong_lengths(arrays, max_seconds, outcomes)
    finally:
        new = tuple(rejection(u, error) for u in corpus.utterances if (error := error_of(u)))
        rejected = corpus.rejected + new
        if on_rejected is not None:
            on_rejected(rejected)
    kept = tuple(u for u in corpus.utterances if error_of(u) is None)
    check_bad_share(rejected, len(kept), max_bad_share)
    kept_items = [items[u.id] for u in kept]
    found = [arrays[item.name] for item in kept_items]
    spans = (
        (u.start, u.end, float(entry["audio"][0])) for u, entry in zip(kept, found, strict=True)
    )
    cut = sum(audio.is_cut(*span) for span in spans)
    flags = tuple(_flags(entry["audio"]) for entry in found)
    deferred = {kind: Deferred(kind, kept_items, feature_store, work) for kind in kinds}
    return Features(
        utterances=kept,
        log_mel=[entry["logmel"] for entry in found] if log_mel and not defer else [],
        hsf=np.stack([entry["hsf"] for entry in found]) if hsf and not defer else None,
        seconds=np.array([entry["audio"][0] for entry in found], np.float64),
        rejected=rejected,
        flagged=dict(sorted(Counter(itertools.chain(*flags)).items()))
        | ({CUT: cut} if cut else {}),
        flags=flags,
        rates=Counter(int(entry["audio"][1]) for entry in found),
        facts=np.array([entry["audio"][4:] for entry in found]).reshape(-1, len(FACTS)),
        corpus_sha256=_corpus_sha256(corpus, hashes),
        extracted=extracted,
        waves=[entry["wave"] for entry in found] if waves and not defer else [],
        levels=np.stack([entry["level"] for entry in found]) if levels and not defer else None,
        digests=tuple(_digest(hashes[u.file]) for u in kept),
        sha256=_features_sha256(kept_items, list(kinds)),
        deferred=deferred if defer else {},
        gains=gains or {},
    )


def _check_settings(settings: LogMelSettings) -> None:
    if settings.sample_rate != audio.SAMPLE_RATE:
        found = f"features.sample_rate={settings.sample_rate}"
        raise UserError(f"{found}: recordings are decoded to {audio.SAMPLE_RATE} Hz")
    if settings.window_seconds > audio.MIN_SECONDS:
        found = f"features.window_seconds={settings.window_seconds:g}"
        raise UserError(f"{found}: recordings of {audio.MIN_SECONDS} s would have no frame")


def digest_files(corpus: Corpus) -> tuple[dict[str, str], str]:
    """Returns file → SHA-256 ("" if it cannot be read), and what `corpus_sha256` would be."""
    hashes = _hash_files(corpus, available_cores())
    return {file: _digest(found) for file, found in hashes.items()}, _corpus_sha256(corpus, hashes)


def _hash_files(corpus: Corpus, cores: int) -> dict[str, FileHash]:
    def hash_file(path: Path) -> FileHash:
        try:
            return content_sha256(path)
        except BadAudio as error:
            return error

    paths = {utterance.file: corpus.path(utterance) for utterance in corpus.utterances}
    return dict(zip(paths, _in_threads(hash_file, paths.values(), cores), strict=True))


def _items(
    corpus: Corpus,
    hashes: Mapping[str, FileHash],
    kinds: Mapping[str, Mapping[str, str | int | float]],
    mix: audio.Mix,
    gains: Mapping[str, float],
    recipes: Mapping[str, Recipe],
    feature_set: str,
) -> dict[str, Item]:
    """Returns utterance id → item, for every utterance whose file could be read."""
    items = {}
    for utterance in corpus.utterances:
        found = hashes[utterance.file]
        if isinstance(found, BadAudio):
            continue
        digest, size = found
        start, end = utterance.start, utterance.end
        own = dataclasses.replace(mix, gain=gains.get(utterance.id, mix.gain))
        recipe = recipes.get(utterance.id)
        keys = {
            kind: store.key(kind, digest, start, end, {**settings, **_samples(own, recipe)})
            for kind, settings in kinds.items()
        }
        cost = size if end is None else (end - (start or 0.0)) * _BYTES_PER_SECOND
        path = corpus.path(utterance)
        name = keys["audio"]
        items[utterance.id] = Item(name, path, start, end, cost, keys, own, feature_set, recipe)
    return items


def _compute_locally(
    work: Callable[[Item], BadAudio | None], items: Iterable[Item], cores: int
) -> Result:
    """Computes the longest items first so that all workers end together; retries a death once."""
    ordered = sorted(items, key=lambda item: (-item.cost, item.name))
    remaining = {item.name: item for item in ordered}
    total, deaths = len(remaining), 0
    processes = any("hsf" in item.keys for item in ordered)
    while remaining:
        jobs = tuple(remaining.values())
        count = min(cores, len(jobs))
        if processes:
            cost = sum(job.cost for job in jobs)
            count = worth_starting(cores, len(jobs), cost, _BYTES_PER_PROCESS)
        results = run(work, jobs, count, processes=processes)
        try:
            with contextlib.closing(results):
                for item, error in results:
                    del remaining[item.name]
                    yield item, error
        except WorkerDied as death:
            deaths += 1
            names = ", ".join(str(item.path) for item in death.jobs[:_EXAMPLES])
            if deaths > 1:
                raise UserError(
                    f"A worker process died twice during extraction; {total - len(remaining)}"
                    f" of {total} recordings are done and stored. It was at one of"
                    f" {len(death.jobs)}: {names}. Usual causes: memory (use fewer workers:"
                    " features.workers) or a file that crashes a decoder (remove it)."
                ) from None
            log.warning("A worker process died at one of %s; trying the rest once more.", names)


def _stored_sizes(
    feature_store: FeatureStore, items: Iterable[Item], cores: int
) -> dict[str, dict[str, int]]:
    """Returns the name of each item → kind → bytes of the entries in the store; reads none."""

    def sizes(item: Item) -> tuple[str, dict[str, int]]:
        found = {kind: feature_store.size(key) for kind, key in item.keys.items()}
        return item.name, {kind: size for kind, size in found.items() if size is not None}

    return dict(_in_threads(sizes, items, cores))


def _read(
    feature_store: FeatureStore,
    items: Mapping[str, Item],
    outcomes: Mapping[str, BadAudio | None],
    compute: Callable[[list[Item]], None],
    cores: int,
    kinds: Sequence[str],
) -> dict[str, dict[str, np.ndarray]]:
    """Returns name of each good item → kind → array; damaged entries are computed again."""

    def load(item: Item) -> tuple[str, dict[str, np.ndarray]]:
        arrays = {kind: feature_store.get(item.keys[kind]) for kind in kinds}
        return item.name, {kind: array for kind, array in arrays.items() if array is not None}

    good = [item for name, item in items.items() if outcomes.get(name) is None]
    found = dict(_in_threads(load, good, cores))
    damaged = [items[name] for name, arrays in found.items() if len(arrays) < len(kinds)]
    if damaged:
        compute([_without(item, found[item.name]) for item in damaged])
        again = [item for item in damaged if outcomes.get(item.name) is None]
        found |= dict(_in_threads(load, again, cores))
        if any(len(found[item.name]) < len(kinds) for item in again):
            what = f"Entries of the feature store {feature_store.root}"
            raise UserError(f"{what} vanish: does something delete them?")
    return found


_Task = TypeVar("_Task")
_Value = TypeVar("_Value")


def _in_threads(
    function: Callable[[_Task], _Value], tasks: Iterable[_Task], cores: int
) -> list[_Value]:
    """Applies a function to many small tasks; returns the results in their order."""
    listed = list(tasks)
    # Tasks are submitted in groups: to submit one costs as much as reading an entry.
    size = len(listed) // (8 * cores) + 1
    groups = [listed[begin : begin + size] for begin in range(0, len(listed), size)]
    with ThreadPoolExecutor(cores) as pool:
        results = pool.map(lambda group: [function(task) for task in group], groups)
        return [result for group in results for result in group]


def _without(item: Item, known: Mapping[str, object]) -> Item:
    """Returns the item without the kinds of entries that are known."""
    keys = {kind: key for kind, key in item.keys.items() if kind not in known}
    return dataclasses.replace(item, keys=keys)


def _wrong_lengths(
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    max_seconds: float,
    outcomes: Mapping[str, BadAudio | None],
) -> dict[str, BadAudio]:
    """Checks recordings that were stored under another limit of length."""
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


def _flags(entry: np.ndarray) -> tuple[str, ...]:
    """Returns the flags of an "audio" entry."""
    return tuple(name for bit, name in enumerate(FLAGS) if int(entry[3]) >> bit & 1)


def _features_sha256(items: Iterable[Item], kinds: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(kinds).encode())
    for item in items:
        digest.update("".join(item.keys[kind] for kind in kinds).encode())
    return digest.hexdigest()


def _digest(found: FileHash) -> str:
    return "" if isinstance(found, BadAudio) else found[0]


def _corpus_sha256(corpus: Corpus, hashes: Mapping[str, FileHash]) -> str:
    rows = []
    for utterance in sorted(corpus.utterances, key=lambda utterance: utterance.id):
        digest = _digest(hashes[utterance.file])
        rows.append((utterance.id, digest, utterance.start, utterance.end))
    text = json.dumps(rows, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
