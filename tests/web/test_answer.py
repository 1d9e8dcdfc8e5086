"""What is drawn of a recording, by hand and against a loop."""

import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.web import answer


def pixels(made: answer.Picture) -> np.ndarray:
    content = base64.b64decode(made.pixels, validate=True)
    return np.frombuffer(content, np.uint8).reshape(made.columns, made.bands)


def test_an_envelope_by_hand(monkeypatch):
    monkeypatch.setattr(answer, "MOST_COLUMNS", 3)
    samples = np.array([0.1, -0.2, 0.5, 0.25, -1.0, -0.00049], np.float32)
    made = answer.envelope(samples, samples)
    assert made.low == [-0.2, 0.25, -1.0] and made.high == [0.1, 0.5, 0.0]
    assert str(made.high[2]) == "0.0"
    # Fewer samples than columns:
    made = answer.envelope(samples[2:4], samples[2:4])
    assert made.low == made.high == [0.5, 0.25]


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 600))
def test_columns_hold_everything_and_are_equally_long(count, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer, "MOST_COLUMNS", most)
        edges = np.append(answer._edges(count), count)
    widths = np.diff(edges)
    assert edges[0] == 0 and len(widths) == min(count, most)
    assert 1 <= widths.min() and widths.max() - widths.min() <= 1


def test_a_picture_by_hand(monkeypatch):
    monkeypatch.setattr(answer, "MOST_COLUMNS", 2)
    frames = np.array([[0, -16], [-8, -20], [-4, -12], [-4, -100]], np.float32)
    # Means: [-4, -18] and [-4, -56]; the loudest is -4, and 16 below it is black.
    made = answer.picture(frames)
    assert (made.columns, made.bands) == (2, 2)
    np.testing.assert_array_equal(pixels(made), [[255, round(255 * 2 / 16)], [255, 0]])


def test_a_picture_against_a_loop():
    frames = np.random.default_rng(0).normal(-8, 6, (1501, 40)).astype(np.float32)
    made = answer.picture(frames)
    edges = [*(column * 1501 // 600 for column in range(600)), 1501]
    means = np.array([frames[a:b].mean(axis=0) for a, b in zip(edges, edges[1:], strict=False)])
    expected = np.round(255 * np.clip((means - means.max() + 16) / 16, 0, 1))
    assert made.columns == 600 and np.abs(pixels(made) - expected).max() <= 1
