"""The first command of a new user, as the README has it."""

import csv
import re

from commands import read_json, real_command


def test_the_demo_is_trained_well_beyond_chance(tmp_path):
    workdir = tmp_path / "run"
    ended = real_command(
        "--config=configs/multi_crnn.py",
        f"--workdir={workdir}",
        JAX_DISABLE_MOST_OPTIMIZATIONS="0",  # see conftest.py
    )
    assert ended.code == 0, ended.err
    results = read_json(workdir / "results.json")
    assert (results["system"], results["protocol"]) == ("multi_crnn", "demo-speaker")
    assert 0.60 <= results["ua"]["mean"] <= 0.95, (
        "chance is 0.25; a demo that is always right shows nothing"
    )
    with (workdir / "predictions.csv").open(newline="") as file:
        assert len({row["id"] for row in csv.DictReader(file)}) == results["utterances"] == 240
    report = (workdir / "report.html").read_text()
    to_recording = r'<(a href|audio controls preload="none" src)="(?!\w+:)[^"]*\.wav"'
    report, links = re.subn(to_recording, "", report)
    assert links, "links and players, which load nothing before they are used"
    assert f"{100 * results['ua']['mean']:.1f}" in report
    references = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)|url\(["']?([^"')]+)""", report)
    outside = [
        name for pair in references for name in pair if name and not name.startswith(("#", "data:"))
    ]
    assert not outside, "the report is one file: it loads nothing from elsewhere"
