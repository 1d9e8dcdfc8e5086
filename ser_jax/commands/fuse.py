"""Fuses finished runs: one model that predicts by the mean of their probabilities.

ser-jax fuse runs/svm runs/plain runs/hsf --workdir=runs/fusion
"""

from pathlib import Path

from ser_jax.commands.command_line import Flag, Options
from ser_jax.runtime.errors import UserError

ARGUMENTS = "RUN RUN …"
FLAGS = (
    Flag("workdir", "", "Run directory of the fusion; the runs are copied into it."),
    Flag(
        "weights",
        "equal",
        "Weights of the runs in the mean; validation: fitted on the validation part of each trial.",
        choices=("equal", "validation"),
    ),
)


def main(options: Options) -> None:
    """Fuses the runs, writes results and report, and prints the result."""
    from ser_jax.experiment import pipeline, run

    if not options.workdir:
        raise UserError("--workdir is missing: name the run directory of the fusion to write")
    runs = [Path(folder) for folder in options.arguments]
    results = run.fuse(runs, Path(options.workdir), options.weights)
    print(results)
    pipeline.check_diverged(results)
