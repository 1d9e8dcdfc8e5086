"""Embeddings that other models have made: matched with the utterances of a corpus and checked.

Every utterance has one array [T, L, D]: T frames, L layers of the model, D values; an embedding of
the whole utterance has one frame. This module must not import jax.
"""

import collections
import dataclasses
import hashlib
import math
import os
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ser_jax.corpora.table import Utterance, utterance_id
from ser_jax.features import media
from ser_jax.features.embedding_files import Entry, entries, made_by
from ser_jax.features.extraction import Features
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.machine import available_cores
from ser_jax.runtime.progress import counted, progress

LEVELS = ("utterance", "frame", "layers")
SHAPES = {"utterance": "[D]", "frame": "[T, D]", "layers": "[L, T, D]"}  # of the arrays of a level
REFUSE, DROP = "refuse", "drop"  # values of features.embeddings_missing
MISSING = "no embedding"  # reason in `rejected.csv`
_EXAMPLES = 3
_CLOSE = 1e-3  # s: times that differ by less are the same
_BLOCK = 256  # utterances that are read together


class Matched(NamedTuple):
    """The entries of one utterance: one, or the rows of its frames in a table, in order."""

    utterance: Utterance
    entries: tuple[Entry, ...]


# --- Which embedding belongs to which utterance


def match(
    path: Path,
    utterances: Sequence[Utterance],
    root: Path,
    *,
    level: str,
    missing: str = REFUSE,
    listed: Sequence[Entry] | None = None,
) -> tuple[list[Matched], list[Utterance]]:
    """Finds the embedding of every utterance: by its id, else its path, else its name if unique.

    Args:
      path: Files of embeddings; see `embedding_files`.
      utterances: The utterances.
      root: Folder that their files are relative to.
      level: One of `LEVELS`.
      missing: Whether utterances without an embedding are refused or dropped.
      listed: What `embedding_files.entries` returns for the path, if that is known already.

    Returns:
      Those that have one, in their order, and those that have none.

    Raises:
      UserError: If the files cannot be read, or an utterance has none (unless `missing` is "drop"),
        two, or one that may be another's.
    """
    found = _Index(entries(path) if listed is None else listed, utterances, root, level)
    faults: dict[str, list[str]] = collections.defaultdict(list)
    matched, without = [], []
    for utterance in utterances:
        rows = found.of(utterance)
        if isinstance(rows, str):
            faults[rows].append(utterance.id)
        elif rows:
            matched.append(Matched(utterance, tuple(rows)))
        else:
            without.append(utterance)
    used: dict[int, str] = {}  # entry → the recording that has it; its spans may overlap
    for utterance, rows in matched:
        for entry in rows:
            if used.setdefault(id(entry), utterance.file) != utterance.file:
                faults[f"fit the same embedding as another ({entry.place})"].append(utterance.id)
    if without and (missing == REFUSE or not matched):
        faults["have none"] = [utterance.id for utterance in without]
    _refuse(
        path,
        len(utterances),
        faults,
        "complete the files, or name them by utterance id"
        + (
            f"; features.embeddings_missing={DROP} goes on without what has none" if without else ""
        ),
    )
    return matched, without


class _Index:
    """Entries by the last component of their names."""

    def __init__(
        self, listed: Iterable[Entry], utterances: Sequence[Utterance], root: Path, level: str
    ):
        self._groups: dict[str, list[Entry]] = collections.defaultdict(list)
        roots = {f"{os.path.abspath(root)}/", f"{os.path.realpath(root)}/"}
        for entry in listed:
            self._groups[_normal(entry.name, roots)].append(entry)
        self._keys: dict[str, list[str]] = collections.defaultdict(list)
        for key in self._groups:
            self._keys[posixpath.basename(key)].append(key)
        paths = {utterance_id(utterance.file) for utterance in utterances}
        self._files = collections.Counter(map(posixpath.basename, paths))
        self._names: dict[str, list[str]] = collections.defaultdict(list)
        for name in paths | {utterance.id for utterance in utterances}:
            self._names[posixpath.basename(name)].append(name.lstrip("/"))
        self._frames = level != "utterance"

    def of(self, utterance: Utterance) -> list[Entry] | str:
        """Returns the entries of an utterance, none if it has none, or what is wrong with them."""
        file = utterance_id(utterance.file)
        span = utterance_id(utterance.file, utterance.start, utterance.end)
        for name in dict.fromkeys((utterance.id, span, file)):
            name = name.lstrip("/")
            stem = posixpath.basename(name)
            keys = self._keys.get(stem, [])
            if name in keys:
                keys = [name]
            elif related := [key for key in keys if _is_tail(key, name)]:
                keys = related
            elif keys := [k for k in keys if not any(_is_tail(k, n) for n in self._names[stem])]:
                if len(keys) > 1 or self._files[posixpath.basename(file)] > 1:
                    return "fit several by their name, and none by their path"
            if len(keys) > 1:
                return f"have several ({self._groups[keys[0]][0].place}, …)"
            if keys:
                whole = name == file and (utterance.start, utterance.end) != (None, None)
                return self._rows(self._groups[keys[0]], utterance if whole else None)
        return []

    def _rows(self, rows: list[Entry], spanned: Utterance | None) -> list[Entry] | str:
        """Chooses among the rows of a recording, by the span of the utterance if it has one."""
        if spanned is not None:
            start, end = spanned.start or 0.0, math.inf if spanned.end is None else spanned.end
            if self._frames:
                rows = [
                    row
                    for row in rows
                    if row.start is not None and start - _CLOSE < row.start < end
                ]
            else:
                rows = [row for row in rows if _is_span(row, start, end)]
        elif len(rows) > 1 and not self._frames:
            # Spans of the recording are not the recording.
            rows = [row for row in rows if row.start is None and row.end is None] or rows
        if self._frames:
            times = [row.start or 0.0 for row in rows]
            if len(set(times)) < len(times):
                return f"have two at the same time ({rows[0].place})"
            return [rows[number] for number in np.argsort(times).tolist()]
        return rows if len(rows) < 2 else f"have {len(rows)} ({rows[0].place}, {rows[1].place})"


def _normal(name: str, roots: Iterable[str]) -> str:
    """Returns a name as utterance ids are: relative to the root, `/`, no suffix of audio."""
    name = name.replace("\\", "/")
    for root in roots:
        name = name.removeprefix(root)
    name = posixpath.normpath(name).lstrip("/")
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in media.AUDIO else name


def _is_tail(key: str, name: str) -> bool:
    return f"/{name}".endswith(f"/{key}") or f"/{key}".endswith(f"/{name}")


def _is_span(row: Entry, start: float, end: float) -> bool:
    if row.start is None and row.end is None:
        return False
    stop = math.inf if row.end is None else row.end
    return abs((row.start or 0.0) - start) < _CLOSE and (stop == end or abs(stop - end) < _CLOSE)


def _refuse(path: Path, count: int, faults: Mapping[str, Sequence[str]], remedy: str) -> None:
    if faults:
        listed = "; ".join(
            f"{len(names)} {what}: {', '.join(names[:_EXAMPLES])}{', …' * (len(names) > _EXAMPLES)}"
            for what, names in faults.items()
        )
        raise UserError(
            f"features.embeddings={path}: of {counted(count, 'utterance')} {listed}; {remedy}"
        )


# --- Their values


class Embeddings(Sequence[np.ndarray]):
    """Embeddings of N utterances, [T, L, D] f32 each, checked; in memory or read on access.

    Attributes:
      shape: L and D.
      digests: SHA-256 of the values of each.
      facts: What identifies them in the files of a run: `sha256` over all of them, `level`,
        `layers`, `width`, and `embedder`, what made them, or None.
    """

    def __init__(
        self,
        rows: Sequence[Matched],
        load: Callable[[Matched], np.ndarray],
        kept: Sequence[np.ndarray] | None,
        lengths: Sequence[int],
        digests: Sequence[str],
        facts: dict[str, Any],
    ):
        """Takes what `read` has found."""
        self._rows, self._load, self._kept, self._lengths = rows, load, kept, lengths
        self.digests = digests
        self.shape: tuple[int, int] = facts["layers"], facts["width"]
        of_all = hashlib.sha256()
        for (utterance, _), digest in zip(rows, digests, strict=True):
            of_all.update(f"{utterance.id}\n{digest}\n".encode())
        self.facts = {"sha256": of_all.hexdigest(), **facts}

    def __str__(self) -> str:
        """Returns how many there are and of which shape."""
        return f"{len(self)} of {width_text(self.shape)}, {self.facts['level']} level"

    def __len__(self) -> int:
        """Returns N."""
        return len(self._rows)

    def __getitem__(self, number):
        """Returns the array of an utterance."""
        return self._load(self._rows[number]) if self._kept is None else self._kept[number]

    @property
    def in_memory(self) -> bool:
        """Whether all arrays are in memory."""
        return self._kept is not None

    def lengths(self) -> np.ndarray:
        """Returns [N] i64, the frames of each."""
        return np.array(self._lengths, np.int64)

    def vectors(self) -> np.ndarray:
        """Returns [N, D] f32, the embeddings of whole utterances."""
        return np.stack([self[number][0, 0] for number in range(len(self))])

    def of(self, utterances: Iterable[Utterance]) -> "Embeddings":
        """Returns those of some of the utterances, in that order."""
        place = {row.utterance.id: number for number, row in enumerate(self._rows)}
        numbers = [place[utterance.id] for utterance in utterances]
        facts = {key: value for key, value in self.facts.items() if key != "sha256"}
        return Embeddings(
            [self._rows[n] for n in numbers],
            self._load,
            None if self._kept is None else [self._kept[n] for n in numbers],
            [self._lengths[n] for n in numbers],
            [self.digests[n] for n in numbers],
            facts,
        )


def read(
    path: Path, matched: Sequence[Matched], *, level: str, mean: bool, most_bytes: float = math.inf
) -> Embeddings:
    """Reads every embedding once and checks it: shape, width, finite values.

    Args:
      path: The files.
      matched: From `match`.
      level: One of `LEVELS`.
      mean: Whether only their means over time are requested: T is then 1.
      most_bytes: Arrays that take more are read again on access.

    Raises:
      UserError: If one is of another shape or width than `level` and the others have, not finite or
        empty.
    """

    def load(row: Matched) -> np.ndarray:
        values = canonical(_values(row), level)
        if isinstance(values, str):  # It was checked when it was read for the first time.
            raise UserError(f"{row.entries[0].place} has been changed meanwhile: they {values}")
        return mean_over_time(values) if mean else values

    def examine(row: Matched) -> tuple[str, tuple[int, ...], str, np.ndarray]:
        values = canonical(_values(row), level)
        if isinstance(values, str):
            return values, (), "", np.zeros(0)
        digest = hashlib.sha256(f"{values.shape}".encode())
        digest.update(values.data)
        fault = "" if np.isfinite(values).all() else "hold values that are not finite"
        shape, values = values.shape, mean_over_time(values) if mean else values
        return fault, shape, digest.hexdigest(), values

    kept: list[np.ndarray] | None = []
    shapes, digests, size = [], [], 0
    faults: dict[str, list[str]] = collections.defaultdict(list)
    with (
        progress("reading embeddings", len(matched), "utterances") as advance,
        ThreadPoolExecutor(available_cores()) as pool,
    ):
        for first in range(0, len(matched), _BLOCK):
            part = matched[first : first + _BLOCK]
            for row, (fault, shape, digest, values) in zip(
                part, pool.map(examine, part), strict=True
            ):
                if fault:
                    faults[fault].append(f"{row.utterance.id} ({row.entries[0].place})")
                shapes.append(shape)
                digests.append(digest)
                size += values.nbytes
                if kept is not None:
                    kept.append(values)
            if size > most_bytes:
                kept = None
            advance(len(part))
    widths = collections.Counter(shape[1:] for shape in shapes if shape)
    (usual, _), *_ = widths.most_common(1) or [((0, 0), 0)]
    for row, shape in zip(matched, shapes, strict=True):
        if shape and shape[1:] != usual:
            what = f"are of another width than the others ({width_text(usual)})"
            faults[what].append(f"{row.utterance.id} ({width_text(shape[1:])})")
    remedy = f"features.embeddings_level={level} reads arrays {SHAPES[level]}; make them again"
    _refuse(path, len(matched), faults, remedy)
    facts = {
        "level": level,
        **{"layers": usual[0], "width": usual[1]},
        "embedder": made_by(path) if path.is_dir() else None,
    }
    lengths = [1 if mean else shape[0] for shape in shapes]
    return Embeddings(matched, load, kept, lengths, digests, facts)


def _values(row: Matched) -> np.ndarray:
    arrays = [entry.read() for entry in row.entries]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def canonical(values: np.ndarray, level: str) -> np.ndarray | str:
    """Returns an array of a level as [T, L, D] f32, or what is wrong with it.

    A leading axis of length 1 (a batch of one) may stand before [D] and [T, D]; layers may be
    pooled over time already, [L, D].
    """
    shape = values.shape
    extra = level in ("utterance", "frame") and len(shape) > 1 and shape[0] == 1
    if level == "utterance" and (len(shape) == 1 or extra and len(shape) == 2):
        values = values.reshape(1, 1, -1)
    elif level == "frame" and (len(shape) == 2 or extra and len(shape) == 3):
        values = values.reshape(*shape[-2:])[:, None, :]
    elif level == "layers" and len(shape) in (2, 3):
        values = values[None] if len(shape) == 2 else np.swapaxes(values, 0, 1)
    else:
        return f"are arrays {list(shape)}, not {SHAPES[level]}"
    if not values.size:
        return "are empty"
    try:
        with np.errstate(over="ignore"):  # What float32 cannot hold is not finite.
            return np.array(values, np.float32, order="C")  # A copy: files do not stay mapped.
    except (TypeError, ValueError):
        return "hold no numbers"


def mean_over_time(values: np.ndarray) -> np.ndarray:
    """Returns [1, L, D] f32 of [T, L, D]."""
    return values.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)


def width_text(shape: tuple[int, ...]) -> str:
    """Returns layers and width in words."""
    layers, width = shape
    return f"{width} values" if layers == 1 else f"{layers} layers of {width}"


def are_facts(value: Any) -> bool:
    """Returns whether a value from JSON has the form of `Embeddings.facts`."""
    if not isinstance(value, dict) or "embedder" not in value or value.get("level") not in LEVELS:
        return False
    sizes, made = [value.get(key) for key in ("layers", "width")], value["embedder"]
    if not all(type(size) is int and size > 0 for size in sizes):
        return False
    return made is None or (
        isinstance(made, dict)
        and isinstance(made.get("sha256"), str)
        and isinstance(made.get("normalise"), bool)
        and isinstance(made.get("outputs"), list)
        and all(isinstance(name, str) for name in made["outputs"])
    )


def check_alike(path: str | Path, found: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    """Raises `UserError` if embeddings cannot be those that models were trained with.

    `found` and `trained` are `Embeddings.facts`; who made them is compared where both say so.
    """
    shapes = [(facts["layers"], facts["width"]) for facts in (found, trained)]
    made = [facts["embedder"] for facts in (found, trained)]
    keys = ("sha256", "outputs", "normalise", "samples")
    other = all(made) and [key for key in keys if made[0][key] != made[1][key]]
    if shapes[0] != shapes[1] or other:
        what = f"of {width_text(shapes[0])}, the models read {width_text(shapes[1])}"
        if other:
            what = f"made by {made[0]['model']}, those of the training by {made[1]['model']}"
            what += f" (they differ in {', '.join(other)})"
        raise UserError(f"{path} holds embeddings {what}: make them as those of the training")


# --- Beside other features


class Vectors(Sequence[np.ndarray]):
    """Functionals that stay in the store, if any, with embeddings [N, D] behind them."""

    def __init__(self, functionals: Sequence[np.ndarray] | None, vectors: np.ndarray):
        """Reads nothing yet."""
        self._functionals, self._vectors = functionals, vectors

    def __len__(self) -> int:
        """Returns N."""
        return len(self._vectors)

    def __getitem__(self, number):
        """Returns the vector [D] of an utterance."""
        if self._functionals is None:
            return self._vectors[number]
        return np.concatenate([self._functionals[number], self._vectors[number]])

    def lengths(self) -> np.ndarray:
        """Returns [N] i64, the width of each."""
        return np.full(len(self), len(self[0]), np.int64)


def join(features: Features, found: Embeddings, *, frames: bool) -> Features:
    """Returns features of a corpus with embeddings of (at least) its utterances.

    They are the frames, or stand behind the functionals, if there are such.
    """
    found = found.of(features.utterances)
    sha256 = hashlib.sha256((features.sha256 + found.facts["sha256"]).encode()).hexdigest()
    features = dataclasses.replace(features, embeddings=found.facts, sha256=sha256)
    if frames:
        if found.in_memory:
            return dataclasses.replace(features, log_mel=list(found), deferred={})
        return dataclasses.replace(features, deferred={"logmel": found})
    vectors = found.vectors()
    if features.deferred:
        both = Vectors(features.deferred.get("hsf"), vectors)
        return dataclasses.replace(features, deferred={**features.deferred, "hsf": both})
    if features.hsf is not None:
        vectors = np.concatenate([features.hsf, vectors], axis=1)
    return dataclasses.replace(features, hsf=vectors)
