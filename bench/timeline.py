"""Which way to follow long recordings: how often the answer is right, live or in windows.

    python bench/timeline.py runs/plain runs/multi --json=bench/results/timeline.json

The runs are finished speaker-independent runs of Plain CRNN or Multi-CRNN. Of every fold, the test
recordings are joined, in a drawn order, into one that changes its emotion every few seconds, and
the fold's models, which have heard nothing of it, follow that. Live, an answer is for the segment
that has just been heard, with what the window holds of the time before; a window that is scored by
itself is for its middle. So live answers are late, and count as wrong then.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import measure
import numpy as np
import soundfile
import stream

from ser_jax.corpora.table import Utterance
from ser_jax.experiment import run_directory
from ser_jax.prediction import timeline
from ser_jax.prediction.predictor import Predictor

WAYS = {  # window and hop in s
    "stream, last 3 s": (3.0, None),
    "stream, last 1.5 s": (1.5, None),
    "windows of 3 s, every 0.5 s": (3.0, 0.5),
    "windows of 1.5 s, every 0.5 s": (1.5, 0.5),
}


def parts_of(run: Path) -> dict[str, dict[str, str]]:
    """Returns fold → recording of its test part → label."""
    parts: dict[str, dict[str, str]] = {}
    with (run / "predictions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            parts.setdefault(row["fold"], {})[row["id"]] = row["label"]
    return parts


def joined(root: Path, labels: dict[str, str], file: Path) -> tuple[np.ndarray, list[str]]:
    """Writes the recordings, shuffled, into one; returns where each ends, in s, and its label."""
    names = [sorted(labels)[n] for n in np.random.default_rng(0).permutation(len(labels))]
    read = [soundfile.read(next(root.glob(f"{name}.*")), dtype="float32") for name in names]
    rates = {rate for _, rate in read}
    if len(rates) != 1:
        raise SystemExit(f"{root}: the recordings have different rates: {sorted(rates)}")
    soundfile.write(file, np.concatenate([samples for samples, _ in read]), rate := rates.pop())
    return np.cumsum([len(samples) for samples, _ in read]) / rate, [labels[name] for name in names]


def right(
    predictor: Predictor, file: Path, ends: np.ndarray, labels: list[str]
) -> dict[str, np.ndarray]:
    """Returns way → which rows of a joined recording have the class of the one in their middle."""
    found = {}
    for way, (window, hop) in WAYS.items():
        plan = timeline.make_plan(predictor, window, hop)
        followed = timeline.follow(
            predictor, Utterance("joined", str(file)), plan, predictor.decision()
        )
        middle = followed.times.mean(axis=1).clip(0, ends[-1] - 1e-6)
        truth = [labels[n] for n in np.searchsorted(ends, middle, side="right")]
        found[way] = np.array(followed.answers) == np.array(truth)
    return found


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="finished runs")
    parser.add_argument("--json", default="", help="file for the result")
    flags = parser.parse_args()
    result = measure.environment("ser_jax", "jax", "numpy") | {"runs": {}}
    rows = []
    for run in flags.runs:
        config, rights = run_directory.read_config(run), {way: [] for way in WAYS}
        seconds = 0.0
        for fold, labels in parts_of(run).items():
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "joined.wav"
                ends, truth = joined(Path(config.corpus.root), labels, file)
                seconds += ends[-1]
                predictor = stream.load(
                    run,
                    lambda models, fold=fold: [m for m in models if m.description["fold"] == fold],
                )
                for way, values in right(predictor, file, ends, truth).items():
                    rights[way].append(values)
        shares = {way: float(np.concatenate(values).mean()) for way, values in rights.items()}
        result["runs"][config.system] = {"seconds": float(seconds), "right": shares}
        rows += [(config.system, way, f"{100 * share:.0f} %") for way, share in shares.items()]
    measure.print_table(
        "Rows with the class of the recording in their middle", ("system", "way", "right"), rows
    )
    measure.write_json(flags.json, result)


if __name__ == "__main__":
    main()
