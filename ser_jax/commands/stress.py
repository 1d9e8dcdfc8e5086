"""Says how the answers change when recordings are quieter, noisier, from a telephone or a room.

ser-jax stress --model=runs/x
ser-jax stress --model=runs/x --config.corpus.name=emodb --config.corpus.root=/data/emodb
ser-jax stress --model=runs/x FILE|FOLDER|CSV …
"""

from pathlib import Path

from ser_jax.commands.command_line import CONFIG, EMBEDDER, MODEL, Flag, Options
from ser_jax.runtime.errors import UserError

ARGUMENTS = "[FILE|FOLDER|CSV …]"
FLAGS = (
    MODEL,
    EMBEDDER,
    CONFIG,
    Flag(
        "output",
        "",
        "Folder for stress.html, .json and .csv; default: <model>/stress for the run's own corpus,"
        " <model>/stress-<corpus name> for another, <model>/stress-recordings for files.",
    ),
)


def main(options: Options) -> None:
    """Prints the table of changes and writes it as a page, JSON and CSV."""
    config, model = options.config, options.model_folder
    other = config if options.sets("corpus.name") else None
    if other and options.arguments:
        raise UserError(
            f"{options.arguments[0]} and --config.corpus.name={config.corpus.name}: name recordings"
            " or a corpus, not both"
        )
    name = "stress"
    if other or options.arguments:
        name = f"stress-{'recordings' if options.arguments else config.corpus.name}"
    if model.is_file() and not options.output:
        raise UserError(f"--output is missing: {model} is no folder that the table could go to")
    output = Path(options.output) if options.output else model / name
    from ser_jax.prediction import robustness
    from ser_jax.prediction.predictor import Predictor

    predictor = Predictor(model, embedder=options.embedder)
    if options.arguments:
        corpus = robustness.listed(options.arguments, config.corpus.follow_links)
        plan = robustness.other_recordings(predictor, model, corpus, None)
    elif other:
        plan = robustness.other_recordings(predictor, model, robustness.read(other, output), other)
    else:
        plan = robustness.own_recordings(predictor, model, config.corpus.root)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror}") from None
    found = robustness.stress(predictor, plan)
    from ser_jax.report import console, stress_page  # Loads matplotlib.

    print(console.stress_lines(found))
    print(f"\n  page    {stress_page.write(output, found)}")
