"""Checks the run of the demo that a new user's first command leaves: `trained_demo.py RUN`."""

import csv
import json
import re
import sys
from pathlib import Path

run = Path(sys.argv[1])
results = json.loads((run / "results.json").read_text())
assert (results["system"], results["protocol"]) == ("multi_crnn", "demo-speaker")
score = results["ua"]["mean"]
assert 0.60 <= score <= 0.95, "chance is 0.25; a demo that is always right shows nothing"
with (run / "predictions.csv").open(newline="") as file:
    assert len({row["id"] for row in csv.DictReader(file)}) == results["utterances"] == 240
report = (run / "report.html").read_text()
to_recording = r'<(a href|audio controls preload="none" src)="(?!\w+:)[^"]*\.wav"'
report, links = re.subn(to_recording, "", report)
assert links, "links and players, which load nothing before they are used"
assert f"{100 * score:.1f}" in report
found = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)|url\(["']?([^"')]+)""", report)
outside = [name for pair in found for name in pair if name and not name.startswith(("#", "data:"))]
assert not outside, f"the report is one file, but loads {outside}"
print(f"the demo is trained: UA {100 * score:.1f}")
