"""Writes features into shards (see shards.py): once, from wherever they are, record file by record file."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ser_jax import atomic
from ser_jax.arrays import shards, standardise
from ser_jax.errors import UserError
from ser_jax.progress import progress

SHARD_BYTES = 1 << 28  # of a record file: what is lost at most when writing is interrupted
COLUMN_BYTES = 1 << 28  # of functionals that are in memory at once

_OPTIONS = "group_size:1,uncompressed"  # every record by itself, as it is: access in any order reads nothing else


class Arrays(NamedTuple):
    """One kind of features of N utterances.

    Attributes:
      values: The arrays.
      lengths: [N], the length of their first axes.
    """

    values: Sequence[np.ndarray]
    lengths: np.ndarray

    @property
    def row(self) -> np.ndarray:
        """The first row of the first array: type and shape of all rows."""
        return self.values[0][0]


def write_shards(folder: Path, sha256: str, kinds: Mapping[str, Arrays]) -> None:
    """Writes a shard set; record files that an interrupted command has finished are not written again.

    Args:
      folder: Its folder.
      sha256: The digest that names the features.
      kinds: "logmel" ([F, M] f32) or "wave" ([S] i16) first, then "hsf" ([D] f32) where the system reads them.

    Raises:
      UserError: If the folder has too little room or cannot be written, or if it holds record files but nothing that
        says where they are from.
    """
    begun = folder / shards.BEGUN
    if not begun.is_file() and any(folder.glob(f"*{shards.RECORDS}")):
        shards.read_index(folder)  # It says what is wrong.
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_room(folder, kinds)
        atomic.write_json(begun, {"features_sha256": sha256})
        names = _write_records(folder, kinds)
        names += _write_known(folder, kinds, names)
        described = {name: shards.describe_file(folder / name) for name in names}
        rows = {kind: arrays.row for kind, arrays in kinds.items()}
        about = {
            kind: {"dtype": row.dtype.str, "shape": list(row.shape), "length": int(kinds[kind].lengths[0])}
            for kind, row in rows.items()
        }
        index = {"schema": shards.SCHEMA, "features_sha256": sha256, "kinds": about, "files": described}
        atomic.write_json(folder / shards.INDEX, index)
        begun.unlink(missing_ok=True)  # Another process of this machine may have written the same meanwhile.
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{folder} cannot be written ({error}): free space, mend the permissions or name another folder by "
            f"features.shards; finished record files are kept"
        ) from None


def _check_room(folder: Path, kinds: Mapping[str, Arrays]) -> None:
    needed = sum(int(arrays.lengths.sum()) * arrays.row.nbytes for arrays in kinds.values())
    free = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in folder.glob(f"*{shards.RECORDS}"))
    if needed > free:
        raise UserError(
            f"the shards take {needed / 1e9:.1f} GB, {folder} has room for {free / 1e9:.1f} GB: name another folder "
            f"by features.shards"
        )


def _parts(arrays: Arrays) -> Iterator[np.ndarray]:
    """Yields the utterances of every record file."""
    order = shards.order(arrays.lengths)
    ends = np.cumsum(arrays.lengths[order].astype(np.int64)) * arrays.row.nbytes
    yield from np.split(order, np.flatnonzero(np.diff((ends - 1) // SHARD_BYTES)) + 1)


def _write_records(folder: Path, kinds: Mapping[str, Arrays]) -> list[str]:
    names = []
    total = sum(len(arrays.values) for arrays in kinds.values())
    with progress("writing shards", total, "records") as advance:
        for kind, arrays in kinds.items():
            for number, members in enumerate(_parts(arrays)):
                path = folder / f"{kind}-{number:05d}{shards.RECORDS}"
                if not path.is_file() or shards.count_records(path) != len(members):
                    _write_file(path, (arrays.values[n] for n in members.tolist()))
                names.append(path.name)
                advance(len(members))
    return names


def _write_file(path: Path, values: Iterator[np.ndarray]) -> None:
    """Writes a record file that appears under its name when it is complete."""
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    temporary = atomic.temporary(path)
    try:
        writer = array_record_module.ArrayRecordWriter(str(temporary), _OPTIONS)
        try:
            for array in values:
                writer.write(array.tobytes())
        finally:
            writer.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_known(folder: Path, kinds: Mapping[str, Arrays], names: Sequence[str]) -> list[str]:
    """Writes what is to be known of all utterances at once, from the records themselves; returns the files' names."""
    main, arrays = next(iter(kinds.items()))
    known: dict[str, Any] = {shards.LENGTHS: arrays.lengths.astype(np.int32)}
    if main == "logmel":
        sums = np.empty((len(arrays.values), 2, len(arrays.row)))
        for number, members in enumerate(_parts(arrays)):
            frames = shards.read_records(folder / f"{main}-{number:05d}{shards.RECORDS}", arrays.row)
            for utterance, one in zip(members.tolist(), frames, strict=True):
                _, sums[utterance, 0], sums[utterance, 1] = standardise.band_sums([one])
        known[shards.SUMS] = sums
    if "hsf" in kinds:
        paths = [folder / name for name in names if name.startswith("hsf-")]
        hsf = kinds["hsf"]
        known[shards.CENTRE] = _centre(shards.Stored(paths, hsf.lengths, hsf.row.dtype.str, hsf.row.shape))
    for name, values in known.items():
        with atomic.writing(folder / name) as file:
            np.save(file, values, allow_pickle=False)
    return list(known)


def _centre(hsf: Sequence[np.ndarray]) -> np.ndarray:
    """Returns `standardise.centre` of functionals that are not in memory, as many at once as may be."""
    count = len(hsf[0])
    width = max(1, COLUMN_BYTES // (4 * len(hsf)))
    found = []
    for start in range(0, count, width):
        found.append(standardise.centre(np.stack([hsf[n][start : start + width] for n in range(len(hsf))])))
    return np.concatenate(found)
