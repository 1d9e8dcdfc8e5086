"""How figures are written."""

import pytest

from ser_jax.evaluation import formats


@pytest.mark.parametrize(
    ("p", "text"), [(0.0009, "<0.001"), (0.001, "0.001"), (0.04951, "0.050"), (1.0, "1.000")], ids=str
)
def test_p_values(p, text):
    assert formats.p_value(p) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 00 s"), (3599.6, "1 h 00 min"), (7260, "2 h 01 min")],
)
def test_durations(seconds, text):
    assert formats.duration(seconds) == text


def test_shares():
    assert (
        formats.percent(0.5) == "50.0\u00a0%" and formats.points(0.125) == "12.5" and formats.decimals(0.1) == "0.100"
    )
    assert formats.percent(None) == formats.points(None) == formats.decimals(None) == formats.value(None) == "–"
    assert formats.spread({"mean": 0.5, "std": None}) == "50.0"
    assert formats.spread({"mean": 0.5, "std": 0.02}) == "50.0 ± 2.0"
    assert formats.interval([0.25, 0.5]) == "[25.0, 50.0]" and formats.interval(None) == ""


def test_differences_have_a_sign():
    assert formats.difference(-0.021, [-0.05, 0.011]) == "−2.1 [−5.0, +1.1]"
