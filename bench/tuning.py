"""Compares recipes on two corpora by their validation parts: the table of docs/tuning.md.

    python bench/tuning.py --emodb=/data/emodb --ravdess=/data/ravdess --seeds=3 hsf hsf-skip

Every recipe is a preset with a change; without names, all of them. A training is a run directory
of one seed, in which it goes on if it was stopped; finished ones are only read, so more seeds or
recipes add to what is there. So do recipes of an earlier `--json` file that are not named now, if
they have as many seeds. Test parts are neither predicted nor read. The score is that of
`ser-jax tune`: validation UA, mean over folds and the last fifth of the epochs.

A change counts if the mean over the corpora, seed by seed, is better than that of its preset by
Dunnett's test (two-sided, at 5 %, over all changes of the preset); one seed decides nothing.
"""

import argparse
import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import measure
import numpy as np
from scipy import stats

from ser_jax import config as configuration
from ser_jax.experiment import run
from ser_jax.report import formats
from ser_jax.tuning import space
from ser_jax.tuning.search import validation_ua

PROTOCOLS = {"emodb": "emodb4-speaker10", "ravdess": "ravdess4-speaker"}
# The paper's presets, as docs/emodb.md trains them.
PAPER = {"training.class_weights": "balanced", "training.epochs": 40}
# Name → preset and what is set. What is behind the dash is a change of the recipe in front of it.
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {}
CHANGES: dict[str, dict[str, Any]] = {
    "residual": {"model.lstm_residual": True},
    "attention": {"model.attention_units": 64},
    # What delta channels would see: the first convolution over them is one of 9 frames.
    "wide": {"model.widths": (9, 3)},
    "no-speed": {"augment.speed": 0.0},
    "masks": {
        "augment.time_masks": 2,
        "augment.time_mask_frames": 30,
        "augment.band_masks": 2,
        "augment.band_mask_bands": 6,
    },
}
for base in ("plain", "hsf"):
    tuned = f"tuned/{base}_crnn"
    RECIPES |= {base: (tuned, {}), f"{base}-paper": (f"{base}_crnn", PAPER)}
    RECIPES |= {f"{base}-{name}": (tuned, values) for name, values in CHANGES.items()}
RECIPES["hsf-skip"] = ("tuned/hsf_crnn", {"model.hsf_skip": True})

Scores = dict[str, dict[str, list[float]]]  # recipe → corpus → validation UA seed by seed


def train(name: str, corpus: str, root: str, seed: int, folder: Path, store: str) -> float:
    """Returns the validation UA of a recipe on a corpus, in [0, 1]; trains it where needed."""
    preset, changes = RECIPES[name]
    values = {
        "corpus.name": corpus,
        "corpus.root": root,
        "protocol.name": PROTOCOLS[corpus],
        "protocol.seed": seed,
        "features.store": store,
    }
    config = space.apply(configuration.load_preset(preset), values | changes)
    run.train_only(config, folder)
    return validation_ua(folder)[0]


def earlier(path: str, seeds: int, corpora: Collection[str]) -> Scores:
    """Returns the scores of a result file that have these seeds and corpora, by recipe."""
    if not path or not Path(path).is_file():
        return {}
    found = json.loads(Path(path).read_text())
    return {
        name: scores
        for name, scores in found["validation_ua"].items()
        if name in RECIPES
        and found["recipes"][name] == json.loads(json.dumps(RECIPES[name]))
        and scores.keys() == set(corpora)
        and all(len(values) == seeds for values in scores.values())
    }


def differences(scores: Scores) -> dict[str, dict[str, float]]:
    """Returns, for every change with its preset beside it, the difference by Dunnett's test.

    That is `ua`, the difference of the means over corpora and seeds, the simultaneous 95 % interval
    from `low` to `high`, and `p`, two-sided and corrected for all changes of that preset.
    """
    means = {name: np.mean(list(found.values()), axis=0) for name, found in scores.items()}
    found = {}
    for base in ("plain", "hsf"):
        names = [name for name in means if name.startswith(f"{base}-")]
        if names and base in means and len(means[base]) > 1:
            test = stats.dunnett(*(means[name] for name in names), control=means[base], rng=0)
            interval = test.confidence_interval()
            for name, *values in zip(names, interval.low, interval.high, test.pvalue, strict=True):
                values = [means[name].mean() - means[base].mean(), *values]
                found[name] = dict(zip(("ua", "low", "high", "p"), map(float, values), strict=True))
    return found


def rows(scores: Scores) -> list[list[str]]:
    """Returns the cells of the table."""
    means = {name: np.mean(list(found.values())) for name, found in scores.items()}
    compared = differences(scores)
    table = []
    for name, found in scores.items():
        base, _, change = name.partition("-")
        preset, changes = RECIPES[name]
        words = [f"{key}={value}".replace(" ", "") for key, value in changes.items()]
        if not change or preset != RECIPES[base][0]:
            words.insert(0, preset)
        gain = decided = ""
        if name in compared:
            test = compared[name]
            gain = formats.difference(test["ua"], [test["low"], test["high"]])
            decided = formats.p_value(test["p"])
        elif change and base in means:
            gain, decided = formats.signed(means[name] - means[base]), "not decided"
        each = [" ".join(f"{100 * ua:.1f}" for ua in values) for values in found.values()]
        table.append([name, ", ".join(f"`{word}`" for word in words), *each])
        table[-1] += [f"{100 * means[name]:.1f}", gain, decided]
    return table


def main() -> None:
    """Trains what is not trained yet, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[[], *RECIPES], help="recipes; none: all")
    for corpus in PROTOCOLS:
        parser.add_argument(f"--{corpus}", help="folder of the release", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", default="", help="feature store; empty: the cache folder")
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/tuning"), help="folder of run directories"
    )
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    roots = {corpus: root for corpus in PROTOCOLS if (root := getattr(options, corpus))}
    if not roots:
        parser.error("name a corpus, such as --emodb=/data/emodb")
    scores = earlier(options.json, options.seeds, roots)
    for name in options.names or RECIPES:
        scores[name] = {
            corpus: [
                train(
                    *(name, corpus, root, seed),
                    *(options.workdir / name / f"{corpus}-{seed}", options.store),
                )
                for seed in range(options.seeds)
            ]
            for corpus, root in roots.items()
        }
        print(name, json.dumps(scores[name]), flush=True)
    scores = {name: scores[name] for name in RECIPES if name in scores}
    columns = ["recipe", "what is set", *roots, "mean", "difference", "p"]
    measure.print_table("Validation UA in %, seed by seed", columns, rows(scores))
    result = {
        "environment": measure.environment("jax", "flax", "numpy", "scipy"),
        "seeds": options.seeds,
        "recipes": {name: RECIPES[name] for name in scores},
        "validation_ua": scores,
        "differences": differences(scores),
    }
    measure.write_json(options.json, result)


if __name__ == "__main__":
    main()
