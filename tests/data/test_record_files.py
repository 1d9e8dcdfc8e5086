"""Record files: bit-exact round trips, interrupted writing, and damage refused at start."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.data import dataset, record_files
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

REMEDY = "delete that folder, and the same command writes it again from the feature store"
BANDS, FUNCTIONALS = 3, 5
LENGTHS = [12, 3, 30, 3, 7, 9, 1, 20]  # of the features that the fixture `written` has


def arrays_of(values) -> record_files.Arrays:
    return record_files.Arrays(values, np.array([len(array) for array in values]))


def features(lengths, seed=0) -> dict[str, record_files.Arrays]:
    rng = np.random.default_rng(seed)
    log_mel = [rng.normal(-8, 3, (length, BANDS)).astype(np.float32) for length in lengths]
    scale = 10.0 ** np.arange(FUNCTIONALS)
    hsf = (rng.normal(size=(len(lengths), FUNCTIONALS)) * scale).astype(np.float32)
    hsf[0, 1], hsf[:, 2] = np.nan, np.nan
    return {"logmel": arrays_of(log_mel), "hsf": arrays_of(hsf)}


def assert_the_same(found: dataset.Source, kinds: dict[str, record_files.Arrays]) -> None:
    """Compares with the same features in memory, to the bit."""
    values = kinds["logmel"].values
    expected = dataset.frames_source(values, np.stack(list(kinds["hsf"].values)))
    assert len(found.arrays) == len(values)
    for number, frames in enumerate(values):
        assert found.arrays[number].shape == frames.shape
        assert found.arrays[number].tobytes() == frames.tobytes()
        assert found.hsf is not None
        assert found.hsf[number].tobytes() == kinds["hsf"].values[number].tobytes()
    assert found.lengths.dtype == expected.lengths.dtype
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.sums is not None and expected.sums is not None
    for stored, summed in zip(found.sums, expected.sums, strict=True):
        np.testing.assert_array_equal(stored[:], summed)
    assert found.hsf_centre is not None and expected.hsf_centre is not None
    assert found.hsf_centre.tobytes() == expected.hsf_centre.tobytes()


@pytest.fixture
def small(monkeypatch):
    """Record files of a few records, and functionals two columns at a time."""
    monkeypatch.setattr(record_files, "FILE_BYTES", 400)
    monkeypatch.setattr(record_files, "COLUMN_BYTES", 64)


@pytest.fixture
def written(small, tmp_path) -> Path:
    """A shard set of eight utterances in several files."""
    record_files.write(tmp_path / "set", "abc", features(LENGTHS))
    return tmp_path / "set"


def refusal(folder: Path, sha256: str = "abc") -> str:
    with pytest.raises(UserError) as refused:
        record_files.open_source(folder, sha256)
    return str(refused.value)


def test_records_lie_by_length_in_files_of_some_size(written):
    """12 bytes a frame, files of 400: lengths 1 3 3 7 9 | 12 20 | 30 end at 276, 420, 660, 1020."""
    like = np.zeros(BANDS, np.float32)
    paths = sorted(written.glob("logmel-*"))
    records = [list(record_files.read_records(path, like)) for path in paths]
    lengths = [[len(array) for array in arrays] for arrays in records]
    assert lengths == [[1, 3, 3, 7, 9], [12, 20], [30]]
    expected = features(LENGTHS)["logmel"].values
    np.testing.assert_array_equal(records[0][1], expected[1], "of equal lengths by number")
    np.testing.assert_array_equal(records[0][2], expected[3])
    index = json.loads((written / "index.json").read_text())
    assert index["schema"] == 1 and index["features_sha256"] == "abc"
    assert [index["files"][path.name]["records"] for path in paths] == [5, 2, 1]
    assert not (written / record_files.UNFINISHED).exists()
    assert_the_same(record_files.open_source(written, "abc"), features(LENGTHS))


@settings(deadline=None, max_examples=10)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20), seed=st.integers(0, 2**31))
def test_what_is_written_comes_back_to_the_bit(lengths, seed, tmp_path_factory):
    kinds = features(lengths, seed)
    folder = tmp_path_factory.mktemp("set")
    record_files.write(folder, "abc", kinds)
    assert_the_same(record_files.open_source(folder, "abc"), kinds)


def test_waves(tmp_path):
    waves = [np.arange(length, dtype=np.int16) - 5 for length in (9, 4, 6)]
    record_files.write(tmp_path, "abc", {"wave": arrays_of(waves)})
    found = record_files.open_source(tmp_path, "abc")
    assert found.sums is None and found.hsf is None and found.lengths.tolist() == [9, 4, 6]
    for stored, wave in zip(found.arrays, waves, strict=True):
        assert stored.dtype == np.int16 and stored.tolist() == wave.tolist()


class Failing(list):
    """Arrays of which only so many can be read."""

    left = 10**9

    def __getitem__(self, number):
        Failing.left -= 1
        if Failing.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(number)


@pytest.mark.parametrize("reads", [1, 4, 6, 8, 9])
def test_interrupted_writing_goes_on(reads, small, tmp_path, monkeypatch):
    """Finished files are kept; the result is that of an uninterrupted command, byte by byte."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    record_files.write(whole, "abc", features(LENGTHS))
    kinds = features(LENGTHS)
    kinds["logmel"] = kinds["logmel"]._replace(values=Failing(kinds["logmel"].values))
    monkeypatch.setattr(Failing, "left", reads + 2)  # two look at type and shape
    with pytest.raises(KeyboardInterrupt):
        record_files.write(part, "abc", kinds)
    monkeypatch.undo()
    monkeypatch.setattr(record_files, "FILE_BYTES", 400)
    assert not (part / record_files.INDEX).exists() and not list(part.glob(".*")), "half a file"
    finished = {path: path.stat().st_mtime_ns for path in part.glob("*.array_record")}
    record_files.write(part, "abc", features(LENGTHS))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    resumed, expected = ({p.name: p.read_bytes() for p in f.iterdir()} for f in (part, whole))
    assert resumed == expected


def test_another_process_may_write_the_same_and_be_first(small, tmp_path, monkeypatch):
    kinds, write = features([12, 3, 30, 3]), record_files._write_summaries

    def after_the_other(folder, *arguments):
        monkeypatch.setattr(record_files, "_write_summaries", write)
        record_files.write(folder, "abc", kinds)
        return write(folder, *arguments)

    monkeypatch.setattr(record_files, "_write_summaries", after_the_other)
    record_files.write(tmp_path / "set", "abc", kinds)
    assert_the_same(record_files.open_source(tmp_path / "set", "abc"), kinds)
    assert not (tmp_path / "set" / record_files.UNFINISHED).exists()


def test_a_file_cut_short_is_written_again_when_writing_goes_on(written):
    """It opens as a file without records, and without an error."""
    index = (written / record_files.INDEX).read_bytes()
    (written / record_files.INDEX).rename(written / record_files.UNFINISHED)
    path = written / "logmel-00000.array_record"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert record_files.count_records(path) == 0
    record_files.write(written, "abc", features(LENGTHS))
    assert (written / record_files.INDEX).read_bytes() == index


def test_a_set_without_its_index_is_refused(written):
    (written / record_files.INDEX).unlink()
    files = len(list(written.glob("*.array_record")))
    what = f"{counted(files, 'record file')} but no index.json, which describes them"
    assert refusal(written) == f"{written} holds {what}: {REMEDY}"
    with pytest.raises(UserError, match="no index.json"):
        record_files.write(written, "abc", features([3]))
    assert len(list(written.glob("*.array_record"))) == files, "nothing is overwritten"


def test_other_features_are_refused(written):
    message = "is about the features abc…, this corpus has def…: name another folder"
    assert message in refusal(written, "def")


def test_a_cut_file_is_named_with_both_sizes_and_a_missing_one(written):
    path = written / "hsf-00000.array_record"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(written) == f"{path} has {size - 100} bytes, the index says {size}: {REMEDY}"
    path.unlink()
    assert refusal(written) == f"{path} is missing: {REMEDY}"


@pytest.mark.parametrize("name", ["logmel-00000.array_record", "sums.npy", "hsf_centre.npy"])
def test_a_wrong_digest_is_named_with_both_values(name, written):
    path = written / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    expected = record_files.describe_file(path)["sha256"]
    path.write_bytes(content)
    found = record_files.describe_file(path)["sha256"]
    assert refusal(written) == f"{path}: sha256 {found}, the index says {expected}: {REMEDY}"


def test_a_wrong_count_is_named(written):
    """A digest that was made of a damaged file is right; the count says it all the same."""
    path, index = written / "logmel-00002.array_record", written / record_files.INDEX
    path.write_bytes(path.read_bytes()[:-60])
    described = json.loads(index.read_text())
    described["files"][path.name] |= record_files.describe_file(path) | {"records": 1}
    index.write_text(json.dumps(described))
    assert refusal(written) == f"{path}: records 0, the index says 1: {REMEDY}"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is no index of this version (schema None, expected 1)"),
        ('{"schema": 2, "files": {}}', "(schema 2, expected 1)"),
        ('{"schema": 1, "files": {"../../x": {}}}', "is no index of this version"),
    ],
)
def test_an_index_that_is_none(content, sentence, written):
    (written / record_files.INDEX).write_text(content)
    assert sentence in refusal(written) and refusal(written).endswith(REMEDY)


def test_a_record_that_goes_bad_after_the_start_is_named(written):
    """Every record has a checksum of its own."""
    found = record_files.open_source(written, "abc")
    path = written / "logmel-00000.array_record"
    content = bytearray(path.read_bytes())
    place = content.index(features(LENGTHS)["logmel"].values[1].tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"set: record 1 cannot be read \(.*\): delete that folder"):
        found.arrays[1]


def test_too_little_room_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(record_files.shutil, "disk_usage", lambda folder: usage)
    message = r"take 0\.0 GB, .* has room for 0\.0 GB: name another folder by features\.sh"
    with pytest.raises(UserError, match=message):
        record_files.write(tmp_path, "abc", features([90]))
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / "file").touch()
    message = r"file/set cannot be written \(.*Not a directory.*\): free space, mend"
    with pytest.raises(UserError, match=message):
        record_files.write(tmp_path / "file/set", "abc", features([3]))


@pytest.mark.parametrize("package", record_files.PACKAGES)
def test_a_missing_package_is_named_with_the_remedy(package, monkeypatch):
    util = record_files.importlib.util
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == package else find(name))
    message = rf"record files, which needs {package}: pip install 'ser_jax\[scale\]', or set train"
    with pytest.raises(UserError, match=message):
        record_files.require_packages()
