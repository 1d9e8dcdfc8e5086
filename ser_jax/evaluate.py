"""Scores a trained run again, or on another corpus: `python -m ser_jax.evaluate --model=runs/x`."""

from pathlib import Path

from absl import flags

from ser_jax import cli
from ser_jax.errors import UserError

if __name__ == "__main__":
    CONFIG = cli.define_config()
    MODEL = flags.DEFINE_string("model", "", "Run directory that main has written.")
    LABELS = flags.DEFINE_string(
        "labels",
        "",
        "Label map for another corpus: theirs=ours,theirs=ours; theirs=- leaves a label out.",
    )
    OUTPUT = flags.DEFINE_string("output", "", "Folder for scores on another corpus; default: <model>/<corpus name>.")


def main() -> int:
    """Scores and prints the result; without --config.corpus.name of another corpus it remakes the run's own results."""
    from ser_jax import cross_corpus, experiment, reading, run_directory
    from ser_jax.evaluation.console import summary_lines

    if not MODEL.value:
        raise UserError("--model is missing: name the run directory that python -m ser_jax.main has written")
    workdir = Path(MODEL.value)
    own = run_directory.read_config(workdir)
    asked = CONFIG.value
    if "config.corpus.name" not in flags.FLAGS or not flags.FLAGS["config.corpus.name"].present:
        with own.unlocked():
            own.corpus.root = asked.corpus.root or own.corpus.root
        results = experiment.evaluate_again(own, reading.read(own, workdir / "rejected.csv"), workdir)
        print(summary_lines(results, workdir / "report.html"))
        return 0
    output = Path(OUTPUT.value) if OUTPUT.value else workdir / asked.corpus.name
    results = cross_corpus.evaluate(own, asked, workdir, output, cross_corpus.parse_labels(LABELS.value))
    print(summary_lines(results))
    print(f"  table   {output / 'predictions.csv'}")
    return 0


if __name__ == "__main__":
    cli.run(main)
