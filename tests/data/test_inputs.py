"""How many segments an utterance has, and how many frames they cover."""

import numpy as np
import pytest

from ser_jax.data import inputs

SHORT, LONG = inputs.Segmentation(30, 20), inputs.Segmentation(50, 25)


@pytest.mark.parametrize(("frames", "count"), [(12, 1), (30, 1), (49, 1), (50, 2), (455, 22)])
def test_segment_count(frames, count):
    assert inputs.segment_count(np.array([frames]), 30, 20)[0] == count


@pytest.mark.parametrize(
    ("frames", "segmentations", "covered"),
    [
        (12, (SHORT,), 30),
        (69, (SHORT,), 50),
        (70, (SHORT,), 70),
        (12, (SHORT, LONG), 50),
        (80, (SHORT, LONG), 75),
        (90, (SHORT, LONG), 90),
    ],
)
def test_covered_frames(frames, segmentations, covered):
    assert inputs.covered_frames(np.array([frames]), segmentations)[0] == covered
