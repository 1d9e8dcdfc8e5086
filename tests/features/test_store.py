"""The feature store: what goes in comes out, or nothing does."""

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

from ser_jax.errors import UserError
from ser_jax.features import store
from ser_jax.features.store import FeatureStore, key

NAME = key("logmel", "ab" * 32, None, None, {"bands": 40})
ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def filled(tmp_path):
    feature_store = FeatureStore(tmp_path / "store")
    feature_store.put(NAME, ARRAY)
    return feature_store


def test_round_trip(filled):
    found = filled.get(NAME)
    assert found is not None and found.dtype == np.float32
    np.testing.assert_array_equal(found, ARRAY)
    np.testing.assert_array_equal(np.load(filled.path(NAME)), ARRAY)  # an ordinary .npy with 32 bytes behind it
    assert filled.path(NAME).parent.name == NAME[:2]
    assert FeatureStore(filled.root).get("0" * 64) is None


@settings(deadline=None)
@given(array=arrays.arrays(st.sampled_from([np.float32, np.float64]), arrays.array_shapes(min_side=0, max_side=5)))
def test_any_array_comes_back(tmp_path_factory, array):
    feature_store = FeatureStore(tmp_path_factory.getbasetemp() / "any")
    feature_store.put(NAME, array)
    np.testing.assert_array_equal(feature_store.get(NAME), array)


@pytest.mark.parametrize("array", [np.float64(3), np.asfortranarray(ARRAY), ARRAY[:, ::2], ARRAY.astype(">i2")])
def test_reading_gives_what_numpy_saves(filled, array, monkeypatch):
    filled.put(NAME, array)
    expected = np.load(filled.path(NAME))
    monkeypatch.setattr(ast, "literal_eval", None)  # fails now and then in threads of Python 3.11
    found = filled.get(NAME)
    assert found.dtype == expected.dtype and found.flags.f_contiguous == expected.flags.f_contiguous
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="read-only"):
        found[...] = 0


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}], object),
        np.zeros(2, [("a", "f4")]),
        np.array(["a"]),
        np.array(["2026"], "M8[Y]"),
        np.zeros(1, "V8"),
    ],
    ids=lambda array: array.dtype.kind,
)
def test_only_plain_numbers_are_written(filled, array):
    with pytest.raises(ValueError, match="the store keeps plain numbers"):
        filled.put(NAME, array)
    np.testing.assert_array_equal(filled.get(NAME), ARRAY)


def npy(descr: str, shape: str, content: bytes) -> bytes:
    """Returns a .npy file with this header, whatever follows."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def forge(feature_store: FeatureStore, content: bytes) -> None:
    """Writes an entry whose digest fits."""
    feature_store.path(NAME).write_bytes(content + hashlib.sha256(NAME.encode() + content).digest())


def test_a_forged_entry_of_numbers_is_read(filled):
    """The forgery below is refused for its content, not for its digest."""
    forge(filled, npy("'<f4'", "(2,)", bytes(8)))
    np.testing.assert_array_equal(filled.get(NAME), np.zeros(2, np.float32))


@pytest.mark.parametrize(
    "content",
    [
        npy("'|O'", "(1,)", bytes(8)),  # eight bytes that would be the address of an object
        npy("'|O'", "(1,)", pickle.dumps([print])),
        npy("[('a', '<f4')]", "(1,)", bytes(4)),
        npy("'<U1'", "(1,)", bytes(4)),
        npy("'<f3'", "(1,)", bytes(3)),
        npy("'<f4,<f4'", "(1,)", bytes(8)),
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
    """Even where the digest fits: the reader makes no objects and reads no byte that is not there."""
    forge(filled, content)
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert filled.get(NAME) is None
    assert f"{filled.path(NAME)} is damaged; it will be computed again" in caplog.text


def test_the_folder_is_private(tmp_path):
    root = FeatureStore(tmp_path / "a" / "store").root
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


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


def test_a_damaged_entry_stays_until_it_is_replaced(filled):
    """Removing it could hit the sound entry by which another process has replaced it meanwhile."""
    path = filled.path(NAME)
    path.write_bytes(b"damaged")
    assert filled.get(NAME) is None and path.read_bytes() == b"damaged"
    filled.put(NAME, ARRAY)
    np.testing.assert_array_equal(filled.get(NAME), ARRAY)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 100, -1])
def test_a_cut_entry_is_absent(filled, length, caplog):
    path = filled.path(NAME)
    path.write_bytes(path.read_bytes()[:length])
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert filled.get(NAME) is None
    assert "damaged" in caplog.text


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
    with pytest.raises(UserError, match=rf"{filled.path(NAME)}.*No space left on device \(errno {errno.ENOSPC}\)"):
        filled.put(NAME, ARRAY + 1)
    assert [path.name for path in filled.path(NAME).parent.iterdir()] == [f"{NAME}.npy"]
    np.testing.assert_array_equal(filled.get(NAME), ARRAY)


def test_unusable_folders(tmp_path, filled):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"cannot create {tmp_path / 'file'}.*errno"):
        FeatureStore(tmp_path / "file")
    filled.path(NAME).unlink()
    filled.path(NAME).mkdir()
    with pytest.raises(UserError, match="cannot read"):
        filled.get(NAME)
    with pytest.raises(UserError, match="cannot write"):
        filled.put(NAME, ARRAY)


def test_leftovers_of_killed_writers_are_ignored(filled):
    (filled.path(NAME).parent / ".tmp-x").write_bytes(b"half")
    np.testing.assert_array_equal(filled.get(NAME), ARRAY)


def test_many_writers_of_one_entry(filled):
    large = np.arange(100_000, dtype=np.float32)
    filled.put(NAME, large)

    def work(turn):
        FeatureStore(filled.root).put(NAME, large)
        found = FeatureStore(filled.root).get(NAME)
        return found is not None and np.array_equal(found, large)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))
