"""Scores a trained run again, or on another corpus.

ser-jax evaluate --model=runs/x
ser-jax evaluate --model=runs/x --config.corpus.name=emodb --config.corpus.root=/data/emodb
"""

from ser_jax.commands.command_line import CONFIG, MODEL, Flag, Options

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
