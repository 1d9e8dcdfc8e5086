"""Writes a trained run as one file, a program for jax and flatbuffers, or weights with a card.

ser-jax export --model=runs/x --output=model.stablehlo
"""

from pathlib import Path

from ser_jax.commands.command_line import MODEL, Flag, Options
from ser_jax.runtime.errors import UserError

FLAGS = (
    MODEL,
    Flag("output", "", "File to write, such as model.stablehlo."),
    Flag("run", "", "final, ensemble or FOLD-SEED; default: what predict takes."),
    Flag("format", "stablehlo", "stablehlo: a program; safetensors: weights and a model card."),
    Flag(
        "licence",
        "",
        "Licence of the weights, for the model card: an SPDX name such as cc-by-4.0; default: none"
        " chosen yet.",
    ),
    Flag(
        "about",
        "",
        "Markdown file for the model card: who speaks, how it was recorded and labelled, licence of"
        " the corpus, what the model must not be used for.",
    ),
)


def main(options: Options) -> None:
    """Writes the file and prints what is in it."""
    from ser_jax.exporting import outputs

    model = options.model_folder
    if not options.output:
        raise UserError("--output is missing: name the file to write, such as model.stablehlo")
    output, licence = Path(options.output), options.licence
    outputs.check_output(output, options.format, licence, options.about)
    print(outputs.export(model, options.run, options.format, output, licence, options.about))
