"""Numbers of `results.json` as pages and terminals show them."""

from ser_jax.report import formats


def test_p_values():
    shown = {0.0009: "<0.001", 0.001: "0.001", 0.04951: "0.050", 1.0: "1.000"}
    assert {p: formats.p_value(p) for p in shown} == shown


def test_durations():
    shown = {None: "–", 0.04: "0.0 s", 59.9: "59.9 s", 60: "1 min 00 s"}
    shown |= {3599.6: "1 h 00 min", 7260: "2 h 01 min"}  # rounded to minutes before hours are taken
    assert {seconds: formats.duration(seconds) for seconds in shown} == shown


def test_scores_are_shown_in_percent():
    assert formats.percent(0.5) == "50.0\u00a0%"  # a no-break space
    assert formats.points(0.125) == "12.5" and formats.decimals(0.1) == "0.100"
    assert [formats.signed(x) for x in (0.02, -0.02, -1e-9)] == ["+2.0", "−2.0", "0.0"]
    for function in (formats.percent, formats.points, formats.decimals, formats.value):
        assert function(None) == "–"
    assert formats.spread({"mean": 0.5, "std": None}) == "50.0"
    assert formats.spread({"mean": 0.5, "std": 0.02}) == "50.0 ± 2.0"
    assert formats.interval([0.25, 0.5]) == "[25.0, 50.0]" and formats.interval(None) == ""
    assert formats.difference(-0.021, [-0.05, 0.011]) == "−2.1 [−5.0, +1.1]"


def test_how_intervals_were_made():
    new = {"ci95_unit": "session", "ci95_units": 5, "ci95_method": "jackknife"}
    assert formats.interval_method(new) == "jackknife over 5 sessions"
    early = {"ci95_unit": "speaker"}  # Early runs have neither method nor number.
    text = "percentile bootstrap over speakers, too narrow for few speakers"
    assert formats.interval_method(early) == text
    without = {"ci95_unit": None}
    assert formats.interval_method(without) == ""
