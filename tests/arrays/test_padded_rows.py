"""Rows that are made when they are asked for: what they look like, and that only those asked for are made."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_jax.arrays.rows import Rows

MEMBERS = np.array([7, 3, 9, 4])  # utterances of the rows


def rows_of(asked: list) -> Rows:
    def read(part: np.ndarray) -> np.ndarray:
        asked.append(part.tolist())
        return np.repeat(part, 2).reshape(-1, 2).astype(np.float32)

    return Rows(MEMBERS, (2,), np.float32, read)


def test_it_looks_like_the_array_that_it_stands_for():
    rows = rows_of([])
    like = np.zeros((4, 2), np.float32)
    for name in ("shape", "dtype", "ndim", "size", "nbytes"):
        assert getattr(rows, name) == getattr(like, name)
    assert len(rows) == len(like)


@given(asked=st.lists(st.integers(0, 3), max_size=9))
def test_rows_come_as_asked_for_and_no_others_are_made(asked):
    made = []
    numbers = np.array(asked, np.int64)
    np.testing.assert_array_equal(rows_of(made)[numbers], np.repeat(MEMBERS[numbers], 2).reshape(-1, 2))
    assert made == ([MEMBERS[numbers].tolist()] if asked else []), "what is empty is not read"


@pytest.mark.parametrize("part", [slice(None), slice(1), slice(1, 3), slice(4, 9)])
def test_slices(part):
    found = rows_of([])[part]
    np.testing.assert_array_equal(found, np.repeat(MEMBERS[part], 2).reshape(-1, 2))
    assert found.dtype == np.float32
