"""Predictions at random and the run directories that they make, for tests of what is done with finished runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax import atomic
from ser_jax.evaluation import predictions, results
from ser_jax.evaluation.predictions import Prediction

CLASSES = ("angry", "happy", "sad")


def make_rows(
    seed: int, *, speakers=6, per_speaker=9, seeds: Sequence[int] = (0, 1), skill=0.5, classes=CLASSES
) -> list[Prediction]:
    """Returns the rows of one system: a fold per speaker, every class alike, better for later speakers."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in seeds:
        for speaker in range(speakers):
            for place in range(per_speaker):
                truth = place % len(classes)
                shares = generator.dirichlet(np.ones(len(classes)))
                if generator.random() < skill + 0.05 * speaker:
                    best = shares.argmax()
                    shares[[best, truth]] = shares[[truth, best]]
                name = classes[int(shares.argmax())]
                where = (f"s{speaker}/{place}", f"s{speaker}", f"f{speaker}", number)
                rows.append(Prediction(*where, classes[truth], name, tuple(shares.tolist())))
    return rows


def summarise(rows: Sequence[Prediction], classes=CLASSES, **changes: Any) -> dict[str, Any]:
    """Returns the results of rows whose runs are all done."""
    runs = sorted({(row.fold, row.seed) for row in rows})
    values = {
        "system": "plain_crnn",
        "parameters": 189_788,
        "corpus": "demo",
        "corpus_sha256": "c0ffee" * 10,
        "protocol": "demo-speaker",
        "protocol_sha256": "decade" * 10,
        "runs": [{"fold": fold, "seed": seed, "status": "done", "best_epoch": 3} for fold, seed in runs],
        "seconds": {"features": 1.0, "compile": 2.0, "train": 100.0, "evaluate": 4.0, "total": 107.0},
    }
    return results.summarise(rows, classes=classes, **(values | changes))


def write_run(folder: Path, rows: Sequence[Prediction], classes=CLASSES, **changes: Any) -> Path:
    """Writes what a comparison reads of a run directory, and returns the folder."""
    folder.mkdir(parents=True)
    predictions.write_predictions(folder / "predictions.csv", rows, classes)
    atomic.write_json(folder / "results.json", summarise(rows, classes, **changes))
    return folder
