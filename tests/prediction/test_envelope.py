"""The range of the samples in bins: few of them, and nothing is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.prediction import envelope
from ser_jax.prediction.envelope import Envelope


def test_five_samples_in_at_most_four_bins(monkeypatch):
    monkeypatch.setattr(envelope, "MOST_BINS", 4)
    found = Envelope()
    found.add(np.array([1, -1, 5, 2, 3], np.float32))
    np.testing.assert_array_equal(found.ranges(), [[-1, 1], [2, 5], [3, 3]])


@settings(deadline=None)
@given(count=st.integers(0, 500), cuts=st.lists(st.integers(0, 500), max_size=6), most=st.sampled_from([2, 8, 64]))
def test_it_is_the_range_of_each_stretch_however_it_is_cut(count, cuts, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "MOST_BINS", most)
        samples = np.random.default_rng(count).normal(size=count).astype(np.float32)
        found = Envelope()
        for part in np.split(samples, sorted(cuts)):
            found.add(part)
    size = found._size
    expected = [(samples[k : k + size].min(), samples[k : k + size].max()) for k in range(0, count, size)]
    np.testing.assert_array_equal(found.ranges(), np.array(expected, np.float32).reshape(-1, 2))
    assert len(expected) <= most + 1
