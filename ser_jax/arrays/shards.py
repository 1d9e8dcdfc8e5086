"""Features in record files ("shards"): what stands in them, checked before it is used, and read record by record.

A shard set is a folder of ArrayRecord files, a record per utterance with nothing but its numbers, sorted by length so
that the rows of a length bucket lie together; of `lengths.npy`, `sums.npy` and `hsf_centre.npy`, which statistics and
plans need; and of `index.json`, which is written last and says how many records and bytes every file has and its
SHA-256. All of that is compared before training starts. Behind that, every record has a checksum of its own, so what
goes bad later is not trained on either.
"""

import concurrent.futures
import contextlib
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax import strict_json
from ser_jax.arrays.rows import Rows
from ser_jax.arrays.source import Source
from ser_jax.arrays.standardise import BandSums
from ser_jax.cores import available_cores
from ser_jax.errors import UserError
from ser_jax.progress import progress

SCHEMA = 1
INDEX = "index.json"
BEGUN = "unfinished.json"  # stands in a folder from the first shard until the index is there
PACKAGES = ("grain", "array_record")
RECORDS, SUMS, LENGTHS, CENTRE = ".array_record", "sums.npy", "lengths.npy", "hsf_centre.npy"

_NAME = re.compile(r"[a-z]+-\d{5}\.array_record|(sums|lengths|hsf_centre)\.npy")
_AT_ONCE = 64  # records
_REMEDY = "delete that folder, and the same command writes it again from the feature store"


def require_packages() -> None:
    """Raises `UserError` with the remedy if what reads and writes shards is not installed; does not import it."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"features that are larger than memory are read from record files, which needs {' and '.join(missing)}: "
            f"pip install 'ser_jax[scale]', or set training.residence=resident to keep them in memory all the same"
        )


class Stored(Sequence[np.ndarray]):
    """One kind of features of N utterances, each read when it is asked for; any number of threads may ask.

    Attributes:
      lengths: [N] i32, the length of every array's first axis.
    """

    def __init__(self, paths: Sequence[Path], lengths: np.ndarray, dtype: str, shape: Sequence[int]):
        """Opens record files.

        Args:
          paths: The files, in order.
          lengths: [N] i32.
          dtype: Type of the values.
          shape: What follows the first axis.
        """
        import grain  # It loads jax.

        self.lengths = lengths
        self._source = grain.sources.ArrayRecordDataSource([str(path) for path in paths])
        self._folder, self._dtype, self._shape = paths[0].parent, np.dtype(dtype), tuple(shape)
        self._place = np.empty(len(lengths), np.int64)
        self._place[order(lengths)] = np.arange(len(lengths))

    def __len__(self) -> int:
        """Returns N."""
        return len(self._place)

    def __getitem__(self, number):
        """Reads the array of an utterance.

        Raises:
          UserError: If its record is damaged.
        """
        place = int(self._place[number])
        try:
            return np.frombuffer(self._source[place], self._dtype).reshape(int(self.lengths[number]), *self._shape)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{self._folder}: record {place} cannot be read ({error}): {_REMEDY}") from None


def order(lengths: np.ndarray) -> np.ndarray:
    """Returns the utterances in the order of their records: by length, equal ones by number."""
    return np.argsort(lengths, kind="stable")


def open_shards(folder: Path, sha256: str) -> Source:
    """Opens a shard set, after everything that its index says has been compared.

    Args:
      folder: The folder.
      sha256: The digest that names the features; see `Features.sha256`.

    Returns:
      The features.

    Raises:
      UserError: If the index is missing or is of other features, or if a file is missing, cut short or changed.
    """
    index = read_index(folder)
    if index["features_sha256"] != sha256:
        raise UserError(
            f"{folder / INDEX} is about the features {index['features_sha256'][:12]}…, this corpus has {sha256[:12]}…: "
            f"name another folder by features.shards, or {_REMEDY}"
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
        sums = BandSums(lengths.astype(np.int64), *_sums(folder / SUMS))
    hsf = kinds.pop("hsf", None)
    (arrays,) = kinds.values()
    return Source(arrays, lengths, sums, hsf, None if hsf is None else np.load(folder / CENTRE))


def _sums(path: Path) -> tuple[Rows, Rows]:
    """Returns sums and sums of squares [N, M] f64, of which only what is asked for is read."""
    count, _, bands = np.load(path, mmap_mode="r").shape

    def rows(which: int) -> Rows:
        # Mapped for a moment only: pages that stay mapped count as memory of this process.
        return Rows(
            np.arange(count), (bands,), np.float64, lambda part: np.array(np.load(path, mmap_mode="r")[part, which])
        )

    return rows(0), rows(1)


def read_index(folder: Path) -> dict[str, Any]:
    """Reads the index of a shard set.

    Raises:
      UserError: If there is none, or it is no index of this version.
    """
    path = folder / INDEX
    if not path.is_file():
        shards = len(list(folder.glob(f"*{RECORDS}")))
        raise UserError(f"{folder} holds {shards} record files but no {INDEX}, which says what they are: {_REMEDY}")
    index = strict_json.read(path, remedy=_REMEDY)
    schema, files = index.get("schema"), index.get("files")
    known = schema == SCHEMA and {"features_sha256", "kinds"} <= index.keys()
    if not known or not isinstance(files, dict) or not all(map(_NAME.fullmatch, files)):
        raise UserError(f"{path} is no index of this version (schema {schema!r:.40}, expected {SCHEMA}): {_REMEDY}")
    return index


def describe_file(path: Path) -> dict[str, Any]:
    """Returns what an index says of a file: bytes, SHA-256 and, of a record file, how many records it has."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        described = {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest}
    return described | ({"records": count_records(path)} if path.name.endswith(RECORDS) else {})


def count_records(path: Path) -> int:
    """Returns how many records a file has; 0 if it is cut short, damaged at its end or something else."""
    try:
        with _reading(path) as reader:
            return reader.num_records() if reader.ok() else 0
    except RuntimeError:  # What was found in opening is raised by closing.
        return 0


def read_records(path: Path, like: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the arrays of a record file, a few at a time in memory; `like` is a row of them."""
    with _reading(path) as reader:
        count = reader.num_records()
        for start in range(0, count, _AT_ONCE):
            for record in reader.read(start, min(start + _AT_ONCE, count)):
                yield np.frombuffer(record, like.dtype).reshape(-1, *like.shape)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    # Without threads and read-ahead of its own.
    reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
    try:
        yield reader
    finally:
        reader.close()


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares sizes first, which costs nothing, then counts and digests, several files at a time."""
    for name, expected in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["bytes"]:
            what = "is missing" if size is None else f"has {size} bytes, the index says {expected['bytes']}"
            raise UserError(f"{path} {what}: {_REMEDY}")

    def check(name: str) -> int:
        found = describe_file(folder / name)
        for what, value in found.items():
            if value != files[name].get(what):
                raise UserError(f"{folder / name}: {what} {value}, the index says {files[name].get(what)}: {_REMEDY}")
        return found["bytes"]

    with (
        progress("checking shards", sum(file["bytes"] for file in files.values()) / 1e6, "MB") as advance,
        concurrent.futures.ThreadPoolExecutor(available_cores()) as pool,
    ):
        jobs = [pool.submit(check, name) for name in files]
        try:
            for job in concurrent.futures.as_completed(jobs):
                advance(job.result() / 1e6)
        finally:
            pool.shutdown(cancel_futures=True)
