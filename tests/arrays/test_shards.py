"""Shards: what is written comes back to the bit, interrupted writing goes on, and what is wrong is refused at start."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.arrays import sharding, shards, source
from ser_jax.errors import UserError

REMEDY = "delete that folder, and the same command writes it again from the feature store"
BANDS, FUNCTIONALS = 3, 5


def arrays_of(values) -> sharding.Arrays:
    return sharding.Arrays(values, np.array([len(array) for array in values]))


def features(lengths, seed=0) -> dict[str, sharding.Arrays]:
    rng = np.random.default_rng(seed)
    log_mel = [rng.normal(-8, 3, (length, BANDS)).astype(np.float32) for length in lengths]
    hsf = (rng.normal(size=(len(lengths), FUNCTIONALS)) * 10.0 ** np.arange(FUNCTIONALS)).astype(np.float32)
    hsf[0, 1], hsf[:, 2] = np.nan, np.nan
    return {"logmel": arrays_of(log_mel), "hsf": arrays_of(hsf)}


def assert_the_same(found: source.Source, kinds: dict[str, sharding.Arrays]) -> None:
    """Against the same features in memory: every bit that a training could see."""
    values = kinds["logmel"].values
    expected = source.of_frames(values, np.stack(list(kinds["hsf"].values)))
    assert len(found.arrays) == len(values)
    for number, frames in enumerate(values):
        assert found.arrays[number].tobytes() == frames.tobytes() and found.arrays[number].shape == frames.shape
        assert found.hsf is not None and found.hsf[number].tobytes() == kinds["hsf"].values[number].tobytes()
    assert found.lengths.dtype == expected.lengths.dtype and found.lengths.tolist() == expected.lengths.tolist()
    assert found.sums is not None and expected.sums is not None
    for stored, summed in zip(found.sums, expected.sums, strict=True):
        np.testing.assert_array_equal(stored[:], summed)
    assert found.hsf_centre is not None and expected.hsf_centre is not None
    assert found.hsf_centre.tobytes() == expected.hsf_centre.tobytes()


@pytest.fixture
def small(monkeypatch):
    """Record files of a few records, and functionals two columns at a time."""
    monkeypatch.setattr(sharding, "SHARD_BYTES", 400)
    monkeypatch.setattr(sharding, "COLUMN_BYTES", 64)


@pytest.fixture
def written(small, tmp_path) -> Path:
    """A shard set of eight utterances in several files."""
    sharding.write_shards(tmp_path / "set", "abc", features([12, 3, 30, 3, 7, 9, 1, 20]))
    return tmp_path / "set"


def refusal(folder: Path, sha256: str = "abc") -> str:
    with pytest.raises(UserError) as refused:
        shards.open_shards(folder, sha256)
    return str(refused.value)


def test_records_lie_by_length_in_files_of_some_size(written):
    """12 bytes a frame: lengths 1, 3, 3, 7, 9 | 12 | 20 | 30 end at 276, 420, 660 and 1020 bytes: a cut every 400."""
    like = np.zeros(BANDS, np.float32)
    paths = sorted(written.glob("logmel-*"))
    assert [[len(a) for a in shards.read_records(path, like)] for path in paths] == [[1, 3, 3, 7, 9], [12, 20], [30]]
    first = list(shards.read_records(paths[0], like))
    expected = features([12, 3, 30, 3, 7, 9, 1, 20])["logmel"].values
    np.testing.assert_array_equal(first[1], expected[1], err_msg="of equal lengths the first utterance first")
    np.testing.assert_array_equal(first[2], expected[3])
    index = json.loads((written / "index.json").read_text())
    assert index["schema"] == 1 and index["features_sha256"] == "abc"
    assert {name: file.get("records") for name, file in index["files"].items() if "logmel" in name} == {
        "logmel-00000.array_record": 5,
        "logmel-00001.array_record": 2,
        "logmel-00002.array_record": 1,
    }
    assert not (written / shards.BEGUN).exists()


@settings(deadline=None, max_examples=10)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20), seed=st.integers(0, 2**31))
def test_what_is_written_comes_back_to_the_bit(lengths, seed, tmp_path_factory):
    kinds = features(lengths, seed)
    folder = tmp_path_factory.mktemp("set")
    sharding.write_shards(folder, "abc", kinds)
    assert_the_same(shards.open_shards(folder, "abc"), kinds)


def test_columns_and_files_in_pieces_change_nothing(written):
    assert_the_same(shards.open_shards(written, "abc"), features([12, 3, 30, 3, 7, 9, 1, 20]))


def test_waves(tmp_path):
    waves = [np.arange(length, dtype=np.int16) - 5 for length in (9, 4, 6)]
    sharding.write_shards(tmp_path, "abc", {"wave": arrays_of(waves)})
    found = shards.open_shards(tmp_path, "abc")
    assert found.sums is None and found.hsf is None and found.lengths.tolist() == [9, 4, 6]
    for stored, wave in zip(found.arrays, waves, strict=True):
        assert stored.dtype == np.int16 and stored.tolist() == wave.tolist()


class Failing(list):
    """Arrays that cannot be read from some point on."""

    left = 10**9

    def __getitem__(self, number):
        Failing.left -= 1
        if Failing.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(number)


@pytest.mark.parametrize("reads", [1, 4, 6, 8, 9])
def test_interrupted_writing_goes_on(reads, small, tmp_path, monkeypatch):
    """What is finished is not written again, and the result is that of an uninterrupted command, byte by byte."""
    lengths = [12, 3, 30, 3, 7, 9, 1, 20]
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    sharding.write_shards(whole, "abc", features(lengths))
    kinds = features(lengths)
    kinds["logmel"] = kinds["logmel"]._replace(values=Failing(kinds["logmel"].values))
    monkeypatch.setattr(Failing, "left", reads + 2)  # two look at type and shape
    with pytest.raises(KeyboardInterrupt):
        sharding.write_shards(begun, "abc", kinds)
    monkeypatch.undo()
    monkeypatch.setattr(sharding, "SHARD_BYTES", 400)
    assert not (begun / shards.INDEX).exists() and not list(begun.glob(".*")), "nothing that is half written"
    finished = {path: path.stat().st_mtime_ns for path in begun.glob("*.array_record")}
    sharding.write_shards(begun, "abc", features(lengths))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert {path.name: path.read_bytes() for path in begun.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_another_process_may_write_the_same_and_be_first(small, tmp_path, monkeypatch):
    kinds, write = features([12, 3, 30, 3]), sharding._write_known

    def after_the_other(folder, *arguments):
        monkeypatch.setattr(sharding, "_write_known", write)
        sharding.write_shards(folder, "abc", kinds)
        return write(folder, *arguments)

    monkeypatch.setattr(sharding, "_write_known", after_the_other)
    sharding.write_shards(tmp_path / "set", "abc", kinds)
    assert_the_same(shards.open_shards(tmp_path / "set", "abc"), kinds)
    assert not (tmp_path / "set" / shards.BEGUN).exists()


def test_a_file_cut_short_is_written_again_when_writing_goes_on(written):
    """It opens as a file without records, and without an error."""
    index = (written / shards.INDEX).read_bytes()
    (written / shards.INDEX).rename(written / shards.BEGUN)
    path = written / "logmel-00000.array_record"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert shards.count_records(path) == 0
    sharding.write_shards(written, "abc", features([12, 3, 30, 3, 7, 9, 1, 20]))
    assert (written / shards.INDEX).read_bytes() == index


def test_a_set_without_its_index_is_refused(written):
    (written / shards.INDEX).unlink()
    files = len(list(written.glob("*.array_record")))
    expected = f"{written} holds {files} record files but no index.json, which says what they are: {REMEDY}"
    assert refusal(written) == expected
    with pytest.raises(UserError, match="no index.json"):
        sharding.write_shards(written, "abc", features([3]))
    assert len(list(written.glob("*.array_record"))) == files, "nothing is overwritten"


def test_shards_of_other_features_are_refused(written):
    assert "is about the features abc…, this corpus has def…: name another folder" in refusal(written, "def")


def test_a_missing_file_is_named(written):
    (written / "logmel-00001.array_record").unlink()
    assert refusal(written) == f"{written / 'logmel-00001.array_record'} is missing: {REMEDY}"


def test_a_cut_file_is_named_with_both_sizes(written):
    path = written / "hsf-00000.array_record"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(written) == f"{path} has {size - 100} bytes, the index says {size}: {REMEDY}"


@pytest.mark.parametrize("name", ["logmel-00000.array_record", "sums.npy", "lengths.npy", "hsf_centre.npy"])
def test_a_wrong_digest_is_named_with_both_values(name, written):
    path = written / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    expected = shards.describe_file(path)["sha256"]
    path.write_bytes(content)
    found = shards.describe_file(path)["sha256"]
    assert refusal(written) == f"{path}: sha256 {found}, the index says {expected}: {REMEDY}"


def test_a_wrong_count_is_named(written):
    """A digest that was made of a damaged file is right; the count says it all the same."""
    path, index = written / "logmel-00002.array_record", written / shards.INDEX
    path.write_bytes(path.read_bytes()[:-60])
    described = json.loads(index.read_text())
    described["files"][path.name] |= shards.describe_file(path) | {"records": 1}
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
    (written / shards.INDEX).write_text(content)
    assert sentence in refusal(written) and refusal(written).endswith(REMEDY)


def test_a_record_that_goes_bad_after_the_start_is_named(written):
    """Every record has a checksum of its own."""
    found = shards.open_shards(written, "abc")
    path = written / "logmel-00000.array_record"
    content = bytearray(path.read_bytes())
    place = content.index(features([12, 3, 30, 3, 7, 9, 1, 20])["logmel"].values[1].tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"set: record 1 cannot be read \(.*\): delete that folder"):
        found.arrays[1]


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(sharding.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"take 0\.0 GB, .* has room for 0\.0 GB: name another folder by features\.sh"):
        sharding.write_shards(tmp_path, "abc", features([90]))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/set cannot be written \(.*Not a directory.*\): free space, mend"):
        sharding.write_shards(tmp_path / "file/set", "abc", features([3]))


@pytest.mark.parametrize("package", shards.PACKAGES)
def test_a_missing_package_is_named_with_the_remedy(package, monkeypatch):
    find = shards.importlib.util.find_spec
    monkeypatch.setattr(shards.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UserError) as refused:
        shards.require_packages()
    assert str(refused.value) == (
        f"features that are larger than memory are read from record files, which needs {package}: pip install "
        f"'ser_jax[scale]', or set training.residence=resident to keep them in memory all the same"
    )
