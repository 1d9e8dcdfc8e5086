"""Features in record files, for corpora larger than memory: written once, checked, read by record.

A folder holds ArrayRecord files, a record per utterance with nothing but its numbers, sorted by
length so that the rows of a length bucket lie together; `lengths.npy`, `sums.npy` and
`hsf_centre.npy`, which statistics and epoch plans need; and `index.json`, which is written last and
has the number of records, bytes and SHA-256 of every file. All of that is compared before training
starts. Every record has a checksum of its own, so what is damaged later is not trained on either.
"""

import concurrent.futures
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ser_jax.data import standardise
from ser_jax.data.dataset import Rows, Source
from ser_jax.runtime import files, strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.machine import available_cores
from ser_jax.runtime.progress import counted, progress

SCHEMA = 1
INDEX = "index.json"
UNFINISHED = "unfinished.json"  # there from the first record file until the index is written
PACKAGES = ("grain", "array_record")
RECORDS, SUMS, LENGTHS, CENTRE = ".array_record", "sums.npy", "lengths.npy", "hsf_centre.npy"
FILE_BYTES = 1 << 28  # of a record file: what is lost at most when writing is interrupted
COLUMN_BYTES = 1 << 28  # of functionals that are in memory at once

_NAME = re.compile(r"[a-z]+-\d{5}\.array_record|(sums|lengths|hsf_centre)\.npy")
_WRITER_OPTIONS = "group_size:1,uncompressed"  # random access then reads one record and no more
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # no threads and no read-ahead
_RECORDS_AT_ONCE = 64
_REMEDY = "delete that folder, and the same command writes it again from the feature store"


def require_packages() -> None:
    """Raises `UserError` if a package for record files is not installed; does not import it."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            "features that are larger than memory are read from record files, which needs"
            f" {' and '.join(missing)}: pip install 'ser_jax[scale]', or set"
            " training.residence=resident to keep them in memory all the same"
        )


class Arrays(NamedTuple):
    """One kind of features of N utterances."""

    values: Sequence[np.ndarray]  # the arrays
    lengths: np.ndarray  # [N], the length of their first axes

    @property
    def row(self) -> np.ndarray:
        """The first row of the first array: type and shape of all rows."""
        return self.values[0][0]


# --- Writing


def write(folder: Path, sha256: str, kinds: Mapping[str, Arrays]) -> None:
    """Writes features; record files that an interrupted command has finished are kept.

    `sha256` names the features, see `Features.sha256`. `kinds` has "logmel" ([F, M] f32; frames of
    embeddings, [F, L, D], too) or "wave" ([S] i16) first, then "hsf" ([D] f32) where the system
    reads them.

    Raises:
      UserError: If the folder has too little room or cannot be written, or if it holds record files
        of unknown origin.
    """
    unfinished = folder / UNFINISHED
    if not unfinished.is_file() and any(folder.glob(f"*{RECORDS}")):
        read_index(folder)  # raises if there is none
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_room(folder, kinds)
        files.write_json(unfinished, {"features_sha256": sha256})
        names = _write_records(folder, kinds)
        names += _write_summaries(folder, kinds, names)
        about = {
            kind: {
                "dtype": arrays.row.dtype.str,
                "shape": list(arrays.row.shape),
                "length": int(arrays.lengths[0]),
            }
            for kind, arrays in kinds.items()
        }
        described = {name: describe_file(folder / name) for name in names}
        index = {"schema": SCHEMA, "features_sha256": sha256, "kinds": about, "files": described}
        files.write_json(folder / INDEX, index)
        unfinished.unlink(missing_ok=True)  # another process may have written the same meanwhile
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{folder} cannot be written ({error}): free space, mend the permissions or name"
            " another folder by features.shards; finished record files are kept"
        ) from None


def _check_room(folder: Path, kinds: Mapping[str, Arrays]) -> None:
    needed = sum(int(arrays.lengths.sum()) * arrays.row.nbytes for arrays in kinds.values())
    kept = sum(path.stat().st_size for path in folder.glob(f"*{RECORDS}"))
    free = shutil.disk_usage(folder).free + kept
    if needed > free:
        raise UserError(
            f"the record files take {needed / 1e9:.1f} GB, {folder} has room for"
            f" {free / 1e9:.1f} GB: name another folder by features.shards"
        )


def _parts(arrays: Arrays) -> Iterator[np.ndarray]:
    """Yields the utterances of every record file."""
    order = record_order(arrays.lengths)
    ends = np.cumsum(arrays.lengths[order].astype(np.int64)) * arrays.row.nbytes
    yield from np.split(order, np.flatnonzero(np.diff((ends - 1) // FILE_BYTES)) + 1)


def _write_records(folder: Path, kinds: Mapping[str, Arrays]) -> list[str]:
    names = []
    total = sum(len(arrays.values) for arrays in kinds.values())
    with progress("writing record files", total, "records") as advance:
        for kind, arrays in kinds.items():
            for number, part in enumerate(_parts(arrays)):
                path = folder / f"{kind}-{number:05d}{RECORDS}"
                if not path.is_file() or count_records(path) != len(part):
                    _write_file(path, (arrays.values[n] for n in part.tolist()))
                names.append(path.name)
                advance(len(part))
    return names


def _write_file(path: Path, values: Iterator[np.ndarray]) -> None:
    """Writes a record file that appears under its name when it is complete."""
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    temporary = files.temporary(path)
    try:
        writer = array_record_module.ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
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


def _write_summaries(folder: Path, kinds: Mapping[str, Arrays], names: Sequence[str]) -> list[str]:
    """Writes lengths, sums and centre, computed from the records; returns the files' names."""
    main, arrays = next(iter(kinds.items()))
    summaries: dict[str, Any] = {LENGTHS: arrays.lengths.astype(np.int32)}
    if main == "logmel":
        sums = np.empty((len(arrays.values), 2, *arrays.row.shape))
        for number, part in enumerate(_parts(arrays)):
            frames = read_records(folder / f"{main}-{number:05d}{RECORDS}", arrays.row)
            for utterance, one in zip(part.tolist(), frames, strict=True):
                _, sums[utterance, 0], sums[utterance, 1] = standardise.band_sums([one])
        summaries[SUMS] = sums
    if "hsf" in kinds:
        paths = [folder / name for name in names if name.startswith("hsf-")]
        hsf = kinds["hsf"]
        summaries[CENTRE] = _centre(Stored(paths, hsf.lengths, hsf.row.dtype.str, hsf.row.shape))
    for name, values in summaries.items():
        with files.writing(folder / name) as file:
            np.save(file, values, allow_pickle=False)
    return list(summaries)


def _centre(hsf: Sequence[np.ndarray]) -> np.ndarray:
    """Returns `standardise.centre` of functionals on disk, `COLUMN_BYTES` at once."""
    width = max(1, COLUMN_BYTES // (4 * len(hsf)))
    starts = range(0, len(hsf[0]), width)
    columns = (np.stack([hsf[n][s : s + width] for n in range(len(hsf))]) for s in starts)
    return np.concatenate([standardise.centre(part) for part in columns])


# --- Reading


class Stored(Sequence[np.ndarray]):
    """One kind of features of N utterances, read from record files on access, in any thread.

    Attributes:
      lengths: [N] i32, the length of every array's first axis.
    """

    def __init__(
        self, paths: Sequence[Path], lengths: np.ndarray, dtype: str, shape: Sequence[int]
    ):
        """Opens record files (in order); `shape` is that of a row, without the first axis."""
        import grain  # It loads jax.

        self.lengths = lengths
        self._source = grain.sources.ArrayRecordDataSource([str(path) for path in paths])
        self._folder, self._dtype, self._shape = paths[0].parent, np.dtype(dtype), tuple(shape)
        self._place = np.empty(len(lengths), np.int64)
        self._place[record_order(lengths)] = np.arange(len(lengths))

    def __len__(self) -> int:
        """Returns N."""
        return len(self._place)

    def __getitem__(self, number):
        """Reads the array of an utterance; raises `UserError` if its record is damaged."""
        place, length = int(self._place[number]), int(self.lengths[number])
        try:
            values = np.frombuffer(self._source[place], self._dtype)
            return values.reshape(length, *self._shape)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"{self._folder}: record {place} cannot be read ({error}): {_REMEDY}"
            ) from None


def record_order(lengths: np.ndarray) -> np.ndarray:
    """Returns the utterances in the order of their records: by length, equal ones by number."""
    return np.argsort(lengths, kind="stable")


def open_source(folder: Path, sha256: str) -> Source:
    """Opens the features named by `sha256`, after all files have been compared with the index.

    Raises:
      UserError: If the index is missing or is of other features, or if a file is missing, cut short
        or changed.
    """
    index = read_index(folder)
    if index["features_sha256"] != sha256:
        raise UserError(
            f"{folder / INDEX} is about the features {index['features_sha256'][:12]}…, this corpus"
            f" has {sha256[:12]}…: name another folder by features.shards, or {_REMEDY}"
        )
    _check_files(folder, index["files"])
    lengths = np.load(folder / LENGTHS)
    kinds = {}
    for kind, found in index["kinds"].items():
        paths = [folder / name for name in index["files"] if name.startswith(f"{kind}-")]
        of_kind = lengths if kind != "hsf" else np.full(len(lengths), found["length"], np.int32)
        kinds[kind] = Stored(paths, of_kind, found["dtype"], found["shape"])
    sums = None
    if (folder / SUMS).is_file():
        sums = standardise.BandSums(lengths.astype(np.int64), *_sums(folder / SUMS))
    hsf = kinds.pop("hsf", None)
    (arrays,) = kinds.values()
    return Source(arrays, lengths, sums, hsf, None if hsf is None else np.load(folder / CENTRE))


def _sums(path: Path) -> tuple[Rows, Rows]:
    """Returns sums and sums of squares [N, M] f64, whose rows are read on access."""
    count, _, *bands = np.load(path, mmap_mode="r").shape

    def rows(which: int) -> Rows:
        def read(part: np.ndarray) -> np.ndarray:
            # Mapped for a moment only: pages that stay mapped count as memory of this process.
            return np.array(np.load(path, mmap_mode="r")[part, which])

        return Rows(np.arange(count), tuple(bands), np.float64, read)

    return rows(0), rows(1)


def read_index(folder: Path) -> dict[str, Any]:
    """Reads the index; raises `UserError` if there is none, or it is no index of this version."""
    path = folder / INDEX
    if not path.is_file():
        count = len(list(folder.glob(f"*{RECORDS}")))
        raise UserError(
            f"{folder} holds {counted(count, 'record file')} but no {INDEX}, which describes"
            f" them: {_REMEDY}"
        )
    index = strict_json.read(path, remedy=_REMEDY)
    schema, listed = index.get("schema"), index.get("files")
    known = schema == SCHEMA and {"features_sha256", "kinds"} <= index.keys()
    if not known or not isinstance(listed, dict) or not all(map(_NAME.fullmatch, listed)):
        raise UserError(
            f"{path} is no index of this version (schema {schema!r:.40}, expected {SCHEMA}):"
            f" {_REMEDY}"
        )
    return index


def describe_file(path: Path) -> dict[str, Any]:
    """Returns the entry of a file in the index: bytes, SHA-256 and the number of its records."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        described = {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest}
    return described | ({"records": count_records(path)} if path.name.endswith(RECORDS) else {})


def count_records(path: Path) -> int:
    """Returns the number of records; 0 for a file that is cut short, damaged or something else."""
    try:
        with _reader(path) as reader:
            return reader.num_records() if reader.ok() else 0
    except RuntimeError:  # an error of opening is raised by closing
        return 0


def read_records(path: Path, like: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the arrays of a record file, a few at once in memory; `like` is one of their rows."""
    with _reader(path) as reader:
        count = reader.num_records()
        for start in range(0, count, _RECORDS_AT_ONCE):
            for record in reader.read(start, min(start + _RECORDS_AT_ONCE, count)):
                yield np.frombuffer(record, like.dtype).reshape(-1, *like.shape)


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[Any]:
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    reader = array_record_module.ArrayRecordReader(str(path), _READER_OPTIONS)
    try:
        yield reader
    finally:
        reader.close()


def _check_files(folder: Path, listed: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares sizes first, which costs nothing, then counts and digests, in threads."""
    for name, expected in listed.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: {_REMEDY}")
        if (size := path.stat().st_size) != expected["bytes"]:
            what = f"has {size} bytes, the index says {expected['bytes']}"
            raise UserError(f"{path} {what}: {_REMEDY}")

    def check(name: str) -> int:
        found = describe_file(folder / name)
        for key, value in found.items():
            if value != (expected := listed[name].get(key)):
                what = f"{key} {value}, the index says {expected}"
                raise UserError(f"{folder / name}: {what}: {_REMEDY}")
        return found["bytes"]

    megabytes = sum(file["bytes"] for file in listed.values()) / 1e6
    with (
        progress("checking record files", megabytes, "MB") as advance,
        concurrent.futures.ThreadPoolExecutor(available_cores()) as pool,
    ):
        jobs = [pool.submit(check, name) for name in listed]
        try:
            for job in concurrent.futures.as_completed(jobs):
                advance(job.result() / 1e6)
        finally:
            pool.shutdown(cancel_futures=True)
