"""The seal of a JSON record: it fits the record as it was read, and no other."""

import hashlib
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from ser_jax.training import seal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(st.text(), VALUES, max_size=4)


def test_by_hand():
    digest = hashlib.sha256(b'{"a": 1, "b": [2]}').hexdigest()
    assert seal.sealed({"b": (2,), "a": 1}) == {"b": [2], "a": 1, "seal": digest}


@hypothesis.given(RECORDS, RECORDS)
def test_it_fits_what_was_sealed_and_nothing_else(record, other):
    made = seal.sealed(record)
    assert seal.intact(json.loads(json.dumps(made)))
    assert seal.sealed(made) == made
    plain, changed = ({name: value for name, value in each.items() if name != seal.KEY} for each in (record, other))
    assert seal.intact({**changed, seal.KEY: made[seal.KEY]}) == (
        json.dumps(changed, sort_keys=True) == json.dumps(plain, sort_keys=True)
    )


@pytest.mark.parametrize("record", [None, [], "x", 1, {}, {"a": 1}, {"a": 1, "seal": None}, {"a": 1, "seal": ""}])
def test_what_has_no_seal_is_not_intact(record):
    assert not seal.intact(record)
