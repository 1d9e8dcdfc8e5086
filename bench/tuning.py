"""Tries recipes on EMO-DB and prints what the validation speakers say: the table of docs/tuning.md.

Scores of test speakers are neither read nor printed. The figure is the mean, over the folds and the
last fifth of the epochs, of the UA on the fold's validation speaker: the best epoch of 34
utterances says more of luck than of a recipe.

    python bench/tuning.py --root=/data/emodb p7 h3
    python bench/tuning.py --runs runs/a runs/b

The second form prints the figure of finished runs, seed by seed.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from ser_jax.tuning.search import validation_ua

RELU = ("model.activation=relu", "training.ema=0.98")
MASKS = (
    "augment.time_masks=2",
    "augment.time_mask_frames=30",
    "augment.band_masks=2",
    "augment.band_mask_bands=6",
)
NARROW_MASKS = (
    *(
        "augment.time_masks=1",
        "augment.time_mask_frames=20",
        "augment.band_masks=1",
        "augment.band_mask_bands=6",
    ),
)
DECAY = ("training.label_smoothing=0.1", "training.weight_decay=0.05")
STRONG_DECAY = ("training.label_smoothing=0.1", "training.weight_decay=0.1")

# Name → preset and overrides.
RECIPES = {
    "p0": ("plain_crnn",),
    "p1": ("plain_crnn", *RELU, "model.dropout=0.3"),
    "p2": (
        "plain_crnn",
        *RELU,
        "model.dropout=0.3",
        "augment.speed=0.1",
        "augment.gain_db=6",
        *MASKS,
    ),
    "p3": (
        "plain_crnn",
        *RELU,
        "model.dropout=0.3",
        "augment.speed=0.15",
        "augment.gain_db=10",
        *DECAY,
    ),
    "p4": (
        *(
            "plain_crnn",
            *RELU,
            "training.epochs=60",
            "model.dropout=0.3",
            "features.bands=80",
            "model.filters=48",
        ),
    ),
    "p5": ("plain_crnn", *RELU, "training.epochs=60", "model.dropout=0.3", "augment.speed=0.1"),
    "p6": ("plain_crnn", *RELU, "training.epochs=60", "model.dropout=0.3", *MASKS),
    "p7": (
        *("plain_crnn", *RELU, "training.epochs=60", "model.dropout=0.3", "training.batch_size=16"),
        *("augment.speed=0.1", "training.weight_decay=0.1"),
    ),
    "p8": (
        *(
            "plain_crnn",
            *RELU,
            *DECAY,
            "model.dropout=0.3",
            "augment.speed=0.2",
            "augment.gain_db=10",
        ),
        *(*NARROW_MASKS, "training.epochs=120"),
    ),
    "p10": (
        *("plain_crnn", *RELU, *STRONG_DECAY, "model.dropout=0.3", "augment.speed=0.15"),
        *("training.batch_size=16", "training.epochs=60"),
    ),
    "p11": (
        *(
            "plain_crnn",
            *RELU,
            *STRONG_DECAY,
            "model.dropout=0.3",
            "augment.speed=0.1",
            "augment.gain_db=6",
        ),
        *("training.batch_size=8", "training.epochs=60"),
    ),
    "h1": (
        *(
            "hsf_crnn",
            *RELU,
            *DECAY,
            "model.dropout=0.3",
            "model.hsf_dropout=0.5",
            "augment.speed=0.15",
        ),
        *("augment.gain_db=10", "training.epochs=40"),
    ),
    "h2": (
        *(
            "hsf_crnn",
            *RELU,
            *DECAY,
            "model.dropout=0.5",
            "model.hsf_dropout=0.5",
            "augment.hsf_noise=0.3",
        ),
        *(
            "augment.speed=0.15",
            "augment.gain_db=10",
            "training.epochs=40",
            "training.learning_rate=3e-4",
        ),
    ),
    "h3": (
        *(
            "hsf_crnn",
            *RELU,
            *STRONG_DECAY,
            "model.dropout=0.3",
            "model.hsf_dropout=0.5",
            "augment.speed=0.1",
        ),
        *("training.batch_size=16", "model.hsf_dense=(256,128)", "training.epochs=40"),
    ),
    "h4": (
        *(
            "hsf_crnn",
            *RELU,
            *STRONG_DECAY,
            "model.dropout=0.3",
            "model.hsf_dropout=0.7",
            "augment.speed=0.1",
        ),
        *(
            "augment.hsf_noise=0.3",
            "training.batch_size=16",
            "model.hsf_dense=(256,)",
            "model.hsf_head=(64,)",
        ),
        "training.epochs=40",
    ),
}


def main() -> None:
    """Trains the recipes, or takes what is trained, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *RECIPES], help="recipes; none: all")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--root", help="EMO-DB")
    where.add_argument("--runs", nargs="+", type=Path, default=[], help="finished run directories")
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/tuning"), help="folder for the run directories"
    )
    arguments = parser.parse_args()
    for run in arguments.runs:
        print(run, *(f"{100 * ua:.1f}" for ua in validation_ua(run)))
    if arguments.runs:
        return
    print("| name | preset | what is set | validation UA in % |\n|---|---|---|---|")
    for name in arguments.names or RECIPES:
        preset, *overrides = RECIPES[name]
        workdir = arguments.workdir / name
        subprocess.run(
            [
                *(
                    sys.executable,
                    "-m",
                    "ser_jax",
                    "train",
                    f"--config=configs/{preset}.py",
                    f"--workdir={workdir}",
                ),
                *("--config.corpus.name=emodb", f"--config.corpus.root={arguments.root}"),
                *(
                    "--config.training.class_weights=balanced",
                    *(f"--config.{override}" for override in overrides),
                ),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        said = f"`{'`, `'.join(overrides)}`" if overrides else "as the paper has it"
        print(
            f"| {name} | {preset} | {said} | {100 * np.mean(validation_ua(workdir)):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
