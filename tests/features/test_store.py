"""The feature store: round trips, keys, damaged entries, failed writes."""

import ast
import concurrent.futures
import errno
import hashlib
import logging
import os
import pickle
import shutil
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ser_jax.features import store
from ser_jax.features.store import FeatureStore, key
from ser_jax.runtime.errors import UserError

NAME = key("logmel", "ab" * 32, None, None, {"bands": 40})
ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def filled(tmp_path):
    feature_store = FeatureStore(tmp_path / "a" / "store")
    feature_store.put(NAME, ARRAY)
    return feature_store


def test_round_trip(filled):
    assert stat.S_IMODE(filled.root.stat().st_mode) == 0o700
    found = filled.get(NAME)
    assert found is not None and found.dtype == np.float32
    np.testing.assert_array_equal(found, ARRAY)
    np.testing.assert_array_equal(np.load(filled.path(NAME)), ARRAY)  # an ordinary .npy file
    assert filled.path(NAME).parent.name == NAME[:2]
    assert FeatureStore(filled.root).get("0" * 64) is None


FLOATS = st.sampled_from([np.float32, np.float64])


@settings(deadline=None)
@given(array=arrays.arrays(FLOATS, arrays.array_shapes(min_side=0, max_side=5)))
def test_any_array_comes_back(tmp_path_factory, array):
    feature_store = FeatureStore(tmp_path_factory.getbasetemp() / "any")
    feature_store.put(NAME, array)
    np.testing.assert_array_equal(feature_store.get(NAME), array)


@pytest.mark.parametrize(
    "array", [np.float64(3), np.asfortranarray(ARRAY), ARRAY[:, ::2], ARRAY.astype(">i2")]
)
def test_reading_gives_what_numpy_saves(filled, array, monkeypatch):
    filled.put(NAME, array)
    expected = np.load(filled.path(NAME))
    monkeypatch.setattr(ast, "literal_eval", None)  # fails now and then in threads of Python 3.11
    found = filled.get(NAME)
    assert found.dtype == expected.dtype and found.flags.f_contiguous == expected.flags.f_contiguous
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="read-only"):
        found[...] = 0


@pytest.mark.parametrize("kind", [object, [("a", "f4")], "U1", "M8[Y]", "V8"])
def test_only_plain_numbers_are_written(filled, kind):
    with pytest.raises(ValueError, match="the store keeps plain numbers"):
        filled.put(NAME, np.zeros(1, kind))
    np.testing.assert_array_equal(filled.get(NAME), ARRAY)


def npy(descr: str, shape: str, content: bytes) -> bytes:
    """Returns a .npy file with this header, whatever follows."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def forge(feature_store: FeatureStore, content: bytes) -> None:
    """Writes an entry whose digest fits."""
    feature_store.path(NAME).write_bytes(content + hashlib.sha256(NAME.encode() + content).digest())


@pytest.mark.parametrize(
    "content",
    [
        npy("'|O'", "(1,)", bytes(8)),  # eight bytes that would be the address of an object
        npy("'|O'", "(1,)", pickle.dumps([print])),
        npy("[('a', '<f4')]", "(1,)", bytes(4)),
        npy("'<U1'", "(1,)", bytes(4)),
        npy("'<f3'", "(1,)", bytes(3)),
        npy("'<f4'", "(3,)", bytes(8)),
        npy("'<f4'", "(1,)", bytes(8)),
        npy("'<f4'", "(-1,)", bytes(8)),
        npy("'<f4'", f"(0, {10**30})", b""),
        npy("'<f4'", f"({'9' * 5000},)", b""),
        npy("'<f4'", f"({'1, ' * 100})", bytes(4)),
        npy("'<f4'", "(1 2,)", bytes(8)),
        pickle.dumps([print]),
        b"",
    ],
    ids=lambda content: repr(content[10:70]),
)
def test_what_is_no_array_of_numbers_is_damaged(filled, content, caplog):
    """Even if the digest fits: the reader makes no objects and does not read beyond the bytes."""
    forge(filled, npy("'<f4'", "(2,)", bytes(8)))
    np.testing.assert_array_equal(filled.get(NAME), np.zeros(2, np.float32))
    forge(filled, content)
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert filled.get(NAME) is None
    assert f"{filled.path(NAME)} is damaged; it will be computed again" in caplog.text


def test_keys_name_everything(monkeypatch):
    arguments = ("logmel", "ab" * 32, None, None, {"bands": 40, "fft": 1024})
    others = [
        ("audio", *arguments[1:]),
        ("logmel", "ac" * 32, *arguments[2:]),
        (*arguments[:2], 0.0, None, arguments[4]),
        (*arguments[:2], None, 0.0, arguments[4]),
        (*arguments[:4], {"bands": 41, "fft": 1024}),
    ]
    names = {key(*arguments), *(key(*other) for other in others)}
    assert len(names) == 6 and all(len(name) == 64 for name in names)
    assert key(*arguments[:4], {"fft": 1024, "bands": 40}) == key(*arguments)
    monkeypatch.setitem(store.VERSIONS, "logmel", 2)
    assert key(*arguments) not in names


def test_every_flipped_bit_is_found(filled):
    path = filled.path(NAME)
    blob = path.read_bytes()
    for bit in range(8 * len(blob)):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert filled.get(NAME) is None, bit
    path.write_bytes(blob)
    np.testing.assert_array_equal(filled.get(NAME), ARRAY)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 100, -1])
def test_a_cut_entry_stays_until_it_is_replaced(filled, length, caplog):
    """Removing it could hit the sound entry by which another process has replaced it meanwhile."""
    path = filled.path(NAME)
    cut = path.read_bytes()[:length]
    path.write_bytes(cut)
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert filled.get(NAME) is None and path.read_bytes() == cut
    assert "damaged" in caplog.text
    filled.put(NAME, ARRAY)
    np.testing.assert_array_equal(filled.get(NAME), ARRAY)


def test_a_foreign_entry_is_absent(filled):
    other = key("hsf", "ab" * 32, None, None, {})
    filled.path(other).parent.mkdir(exist_ok=True)
    shutil.copy(filled.path(NAME), filled.path(other))
    assert filled.get(other) is None
    np.save(filled.path(NAME), ARRAY)
    assert filled.get(NAME) is None


def test_a_failed_write_leaves_the_old_entry(filled, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    message = rf"{filled.path(NAME)}.*No space left on device \(errno {errno.ENOSPC}\)"
    with pytest.raises(UserError, match=message):
        filled.put(NAME, ARRAY + 1)
    assert [path.name for path in filled.path(NAME).parent.iterdir()] == [f"{NAME}.npy"]
    np.testing.assert_array_equal(filled.get(NAME), ARRAY)


def test_unusable_folders(tmp_path, filled):
    (tmp_path / "file").write_text("")
    filled.path(NAME).unlink()
    filled.path(NAME).mkdir()
    with pytest.raises(UserError, match="cannot read"):
        filled.get(NAME)
    with pytest.raises(UserError, match="cannot write"):
        filled.put(NAME, ARRAY)


@pytest.mark.parametrize("how", ["a file", "below a file", "not writable", "of another user"])
def test_a_folder_that_cannot_be_written_costs_time_only(
    tmp_path, filled, caplog, monkeypatch, how
):
    """Its entries are read, new ones are kept elsewhere; the superuser may write everywhere."""
    (tmp_path / "file").write_text("")
    places = {"a file": tmp_path / "file", "below a file": tmp_path / "file/store"}
    root, denied = places.get(how, filled.root), filled.root
    if how == "of another user":  # who has made this part of it
        denied = filled.path(NAME).parent

    def access(path, mode):
        return os.fspath(path) != os.fspath(denied)

    monkeypatch.setattr(os, "access", access)
    found = FeatureStore(root)
    assert f"the feature store {root} cannot be" in caplog.text and found.root != root
    found.put(OTHER, ARRAY + 1)
    np.testing.assert_array_equal(found.get(OTHER), ARRAY + 1)
    np.testing.assert_array_equal(FeatureStore(found.root).get(OTHER), ARRAY + 1)
    there = found.get(NAME)
    assert (there is None) == (how in places) == (found.shape(NAME) is None)
    assert (found.size(NAME) is None) == (how in places)


OTHER = key("logmel", "cd" * 32, None, None, {"bands": 40})


@pytest.mark.parametrize(
    ("above", "store", "entry"),
    [
        (0o700, 0o700, 0o600),
        (0o755, 0o755, 0o644),
        (0o2770, 0o2770, 0o660),  # of a group that shares it
        (0o1777, 0o700, 0o600),  # such as /tmp
    ],
)
def test_a_store_is_open_to_whom_its_folder_is_open(tmp_path, above, store, entry):
    (tmp_path / "above").mkdir()
    (tmp_path / "above").chmod(above)
    found = FeatureStore(tmp_path / "above/deep/store")
    found.put(NAME, ARRAY)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (found.root, found.path(NAME).parent)]
    assert [mode & 0o777 for mode in modes] == [store & 0o777] * 2
    assert stat.S_IMODE(found.path(NAME).stat().st_mode) == entry


def test_many_writers_of_one_entry(filled):
    large = np.arange(100_000, dtype=np.float32)
    filled.put(NAME, large)

    def work(turn):
        FeatureStore(filled.root).put(NAME, large)
        found = FeatureStore(filled.root).get(NAME)
        return found is not None and np.array_equal(found, large)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))
