"""Random predictions, and finished runs with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.evaluation import predictions, results
from ser_jax.evaluation.finished_run import FinishedRun
from ser_jax.evaluation.predictions import Prediction
from ser_jax.runtime import files

CLASSES = ("angry", "happy", "sad")
DIVERGED = [{"fold": "f0", "seed": 0, "status": "diverged", "best_epoch": None}]
SECONDS = {"features": 1.0, "compile": 2.0, "train": 100.0, "evaluate": 4.0, "total": 107.0}


def make_rows(
    seed: int,
    *,
    speakers=6,
    per_speaker=9,
    seeds: Sequence[int] = (0, 1),
    skill=0.5,
    classes=CLASSES,
) -> list[Prediction]:
    """Returns the rows of a system: a fold per speaker, balanced classes, later speakers easier."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in seeds:
        for speaker, place in np.ndindex(speakers, per_speaker):
            truth = place % len(classes)
            values = generator.dirichlet(np.ones(len(classes)))
            if generator.random() < skill + 0.05 * speaker:
                best = values.argmax()
                values[[best, truth]] = values[[truth, best]]
            name = classes[int(values.argmax())]
            where = (f"s{speaker}/{place}", f"s{speaker}", f"f{speaker}", number)
            rows.append(Prediction(*where, classes[truth], name, tuple(values.tolist())))
    return rows


def summarise(rows: Sequence[Prediction], classes=CLASSES, **changes: Any) -> dict[str, Any]:
    """Returns the results of rows whose trials are all done."""
    trials = sorted({(row.fold, row.seed) for row in rows})
    done = {"status": "done", "best_epoch": 3}
    values = {
        "system": "plain_crnn",
        "parameters": 189_788,
        "corpus": "demo",
        "corpus_sha256": "c0ffee" * 10,
        "protocol": "demo-speaker",
        "protocol_sha256": "decade" * 10,
        "runs": [{"fold": fold, "seed": seed, **done} for fold, seed in trials],
        "seconds": SECONDS,
    }
    return results.summarise(rows, classes=classes, **(values | changes))


def finished(name: str, seed=0, rows: Sequence[Prediction] | None = None, **changes: Any) -> Any:
    """Returns a finished run with the rows of `make_rows(seed)` or others."""
    rows = make_rows(seed) if rows is None else rows
    return FinishedRun(name, summarise(rows, **changes), tuple(rows))


def write_run(folder: Path, rows: Sequence[Prediction], classes=CLASSES, **changes: Any) -> Path:
    """Writes the files of a run directory that a comparison reads, and returns the folder."""
    folder.mkdir(parents=True)
    predictions.write_predictions(folder / "predictions.csv", rows, classes)
    files.write_json(folder / "results.json", summarise(rows, classes, **changes))
    return folder
