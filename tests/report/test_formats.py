"""Numbers formatted for people."""

from ser_jax.report import formats


def test_p_values_and_durations():
    found = [formats.p_value(p) for p in (0.0009, 0.001, 0.04951, 1.0)]
    assert found == ["<0.001", "0.001", "0.050", "1.000"]
    found = [formats.duration(seconds) for seconds in (None, 0.04, 59.9, 60, 3599.6, 7260)]
    assert found == ["–", "0.0 s", "59.9 s", "1 min 00 s", "1 h 00 min", "2 h 01 min"]


def test_fractions():
    assert formats.percent(0.5) == "50.0\u00a0%"
    assert formats.points(0.125) == "12.5" and formats.decimals(0.1) == "0.100"
    for function in (formats.percent, formats.points, formats.decimals, formats.value):
        assert function(None) == "–"
    assert formats.spread({"mean": 0.5, "std": None}) == "50.0"
    assert formats.spread({"mean": 0.5, "std": 0.02}) == "50.0 ± 2.0"
    assert formats.interval([0.25, 0.5]) == "[25.0, 50.0]" and formats.interval(None) == ""
    assert formats.difference(-0.021, [-0.05, 0.011]) == "−2.1 [−5.0, +1.1]"


def test_how_intervals_were_made():
    """Runs of November 2026 have neither method nor number."""
    new = {"ci95_unit": "session", "ci95_units": 5, "ci95_method": "jackknife"}
    assert formats.interval_method(new) == "jackknife over 5 sessions"
    old = formats.interval_method({"ci95_unit": "speaker"})
    assert old == "percentile bootstrap over speakers, too narrow for few speakers"
    assert formats.interval_method({"ci95_unit": None}) == ""
