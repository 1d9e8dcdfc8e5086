"""Scores a trained run again, or on another corpus.

ser-jax evaluate --model=runs/x
ser-jax evaluate --model=runs/x --config.corpus.name=emodb --config.corpus.root=/data/emodb
"""

from ser_jax.commands.command_line import CONFIG, MODEL, Flag, Options
from ser_jax.runtime.errors import UserError

FLAGS = (
    MODEL,
    CONFIG,
    Flag(
        "labels",
        "",
        "Label map for another corpus: theirs=ours,theirs=ours; theirs=- leaves a label out. It is"
        " another name of --config.corpus.labels.",
    ),
    Flag(
        "output",
        "",
        "Folder for scores on another corpus; default: <model>/<corpus name>. Scores of something"
        " else are not replaced.",
    ),
)


def main(options: Options) -> None:
    """Scores and prints the result; without another corpus it remakes the run's own results."""
    from ser_jax.corpora import labels
    from ser_jax.experiment import run

    config, other = options.config, options.sets("corpus.name")
    for name in ("labels", "output"):
        if (value := getattr(options, name)) and not other:
            raise UserError(
                f"--{name}={value} is for another corpus: name that by --config.corpus.name, or"
                " leave it out"
            )
    if options.labels and options.sets("corpus.labels"):
        raise UserError(
            f"--labels={options.labels} and --config.corpus.labels={config.corpus.labels} are two"
            " names of one map: write all of it in one of them"
        )
    if options.labels:
        labels.parse(options.labels, "--labels")
        config.corpus.labels = options.labels
    results = run.evaluate(
        options.model_folder,
        config if other else None,
        root=config.corpus.root,
        embeddings=config.features.embeddings,
        output=options.output,
    )
    print(results)
    if other:
        print(f"  table   {results.folder / 'predictions.csv'}")
