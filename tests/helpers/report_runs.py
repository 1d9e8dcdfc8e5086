"""Run directories with every file that the report reads, and an explanation of such a run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import scored

from ser_jax.corpora import from_config
from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.evaluation import predictions, results
from ser_jax.evaluation.examples import Example, Explanation, Recording, Representations
from ser_jax.runtime import files

HOSTILE = "<script>alert('x & y')</script>"
BANDS = np.geomspace(100, 7500, 40)


def make_run(
    folder: Path,
    *,
    classes=("angry", "happy", "sad"),
    speakers=6,
    seeds=2,
    diverged: tuple[tuple[int, int], ...] = (),
    epochs=5,
    known_speakers=True,
) -> dict[str, Any]:
    """Fills a run directory, one fold per speaker, and returns its results."""
    generator = np.random.default_rng(0)
    rows, runs, lines = [], [], []
    for seed, number in np.ndindex(seeds, speakers):
        fold, bad = f"spk{number}", (number, seed) in diverged
        trial = {"fold": fold, "seed": seed}
        best = None if bad else epochs or None
        runs.append(trial | {"status": results.DIVERGED if bad else "done", "best_epoch": best})
        for epoch in range(1, epochs + 1):
            values = {"loss": None if bad else 1 / epoch, "validation_loss": 1.0}
            lines.append(json.dumps({**trial, "epoch": epoch, **values, "validation_ua": 0.5}))
        speaker = f"s{number}" if known_speakers else ""
        part = [
            Utterance(f"{number}/{i}", f"{number}/{i}.wav", label=c, speaker=speaker)
            for i, c in enumerate(classes * 3)
        ]
        if not bad:
            values = generator.dirichlet(np.ones(len(classes)), len(part))
            rows += predictions.from_probabilities(part, values, classes=classes, **trial)
    seconds = scored.SECONDS | {"total": 4000.0}
    found = scored.summarise(rows, classes, runs=runs, seconds=seconds)
    files.write_json(folder / "results.json", found)
    files.write_json(folder / "config.json", {"system": "plain_crnn", "corpus": {"root": HOSTILE}})
    files.write_json(folder / "versions.json", {"python": "3.11.7", "device": "cpu × 2"})
    sizes = {"train": 9, "validation": 9, "test": 9}
    protocol = {
        "label_mapping": {"W": classes[0]},
        "validation": "the next speaker",
        "refit": "none",
        "folds": [{"name": f"spk{number}", **sizes} for number in range(speakers)],
    }
    files.write_json(folder / "protocol.json", protocol)
    predictions.write_predictions(folder / "predictions.csv", rows, classes)
    rejection = Rejection(f"{HOSTILE}.wav", 3, "too short", "31 ms")
    from_config.write_rejected(folder / "rejected.csv", [rejection])
    if epochs:
        (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"fold": "spk']))
    return found


def rows_of(folder: Path) -> list[predictions.Prediction]:
    return predictions.read_predictions(folder / "predictions.csv")[0]


def make_explanation(folder: Path, **changes: Any) -> Explanation:
    """Returns an explanation of the run of `make_run`; its recordings are empty files."""
    rng = np.random.default_rng(0)
    first = [row for row in rows_of(folder) if row.seed == 0]
    recordings: dict[str, Recording] = {}
    folds: dict[str, tuple[str, ...]] = {}
    for row in first:
        file = folder.parent / f"corpus/{row.id}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        recordings[row.id] = Recording(file, float(rng.uniform(1, 5)))
        folds[row.fold] = (*folds.get(row.fold, ()), row.id)
    representations = tuple(
        Representations(fold, 0, len(ids), ids, *(rng.normal(size=(len(ids), d)) for d in (8, 3)))
        for fold, ids in folds.items()
    )
    examples = tuple(
        Example(row, rng.normal(size=(150, 40)), rng.random((150, 40))) for row in first[:2]
    )
    found = Explanation(recordings, representations, examples, BANDS, 0.01)
    return dataclasses.replace(found, **changes)
