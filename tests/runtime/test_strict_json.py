"""JSON read strictly: good files come back, all others end with a sentence."""

import hashlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@settings(deadline=None)
@given(VALUES)
def test_what_python_writes_comes_back(value):
    found = strict_json.parse(json.dumps(value))
    assert json.dumps(found) == json.dumps(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' stands twice"),
        ('{"inner": [{"a": 1, "a": 2}]}', "the key 'a' stands twice"),
        ('{"a": NaN}', "NaN is not a finite number"),
        ('{"a": -Infinity}', "-Infinity is not a finite number"),
        ('{"a": 1e400}', "1e400 is not a finite number"),
        ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
        ('{"a": ' + "[" * 32 + "]" * 32 + "}", "nested more than 32 levels deep"),
        ('{"a": ' * 32 + "[]" + "}" * 32, "nested more than 32 levels deep"),
        ("[" * 10**6, "nested more than 32 levels deep"),
        ('{"a":' * 10**6, "nested more than 32 levels deep"),
        ("", "Expecting value"),
        ('{"a": 1} {}', "Extra data"),
        ("\ufeff{}", "BOM"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_strict_json_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        strict_json.parse(text)


def test_ordinary_depth_and_numbers_are_read():
    deep = "[" * 32 + "1e300" + "]" * 32
    assert strict_json.parse(deep) == json.loads(deep)
    numbers = strict_json.parse("[-0.0, 1e-400, 12345678901234567890]")
    assert numbers == [0.0, 0.0, 12345678901234567890]


def test_a_file_is_read_as_an_object(tmp_path):
    (tmp_path / "a.json").write_text('{"ä": [1, 2]}', "utf-8")
    assert strict_json.read(tmp_path / "a.json", remedy="") == {"ä": [1, 2]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[1]", "it holds list, not an object"),
        (b'"text"', "it holds str, not an object"),
        (b"null", "it holds NoneType, not an object"),
        (b"\xff\xfe{}", "can't decode byte 0xff"),
        (b'{"a": NaN}', "NaN is not a finite number"),
    ],
)
def test_what_is_no_object_is_refused_with_file_and_remedy(tmp_path, content, reason):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path} is damaged \(.*{reason}.*\): delete it"):
        strict_json.read(path, remedy="delete it")


def test_a_huge_file_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.touch()
    os.truncate(path, 1 << 40)  # a file without blocks; no memory would do to read all of it
    with pytest.raises(UserError, match=r"a\.json is damaged \(larger than 1 MB\): delete it"):
        monkeypatch.setattr(strict_json, "LARGEST", 1 << 20)
        strict_json.read(path, remedy="delete it")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    sentence = rf"{tmp_path} cannot be read \(Is a directory\): delete it"
    with pytest.raises(UserError, match=sentence):
        strict_json.read(tmp_path, remedy="delete it")


# --- Checksums

RECORDS = st.dictionaries(st.text(), VALUES, max_size=4)


def test_a_checksum_by_hand():
    digest = hashlib.sha256(b'{"a": 1, "b": [2]}').hexdigest()
    assert strict_json.with_checksum({"b": (2,), "a": 1}) == {"b": [2], "a": 1, "seal": digest}


@given(RECORDS, RECORDS)
def test_a_checksum_fits_its_record_and_no_other(record, other):
    made = strict_json.with_checksum(record)
    assert strict_json.checksum_matches(json.loads(json.dumps(made)))
    assert strict_json.with_checksum(made) == made
    plain, changed = (
        {name: value for name, value in each.items() if name != strict_json.CHECKSUM}
        for each in (record, other)
    )
    same = json.dumps(changed, sort_keys=True) == json.dumps(plain, sort_keys=True)
    forged = {**changed, strict_json.CHECKSUM: made[strict_json.CHECKSUM]}
    assert strict_json.checksum_matches(forged) == same


@pytest.mark.parametrize(
    "record", [None, [], "x", 1, {}, {"a": 1}, {"a": 1, "seal": None}, {"a": 1, "seal": ""}]
)
def test_what_has_no_checksum_is_not_intact(record):
    assert not strict_json.checksum_matches(record)
