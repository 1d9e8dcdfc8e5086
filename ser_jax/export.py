"""Writes a trained run as one file that needs jax alone: `python -m ser_jax.export --model=runs/x --output=FILE`."""

from pathlib import Path

from absl import flags

from ser_jax import cli
from ser_jax.errors import UserError

if __name__ == "__main__":
    MODEL = flags.DEFINE_string("model", "", "Run directory that main has written.")
    OUTPUT = flags.DEFINE_string("output", "", "File to write, such as model.stablehlo.")
    RUN = flags.DEFINE_string("run", "", "final, ensemble or FOLD-SEED; default: what predict takes.")
    FORMAT = flags.DEFINE_string("format", "stablehlo", "stablehlo: a program; safetensors: weights and a model card.")


def main() -> int:
    """Writes the file and says what is in it."""
    from ser_jax.exporting import files

    if not MODEL.value:
        raise UserError("--model is missing: name the run directory that python -m ser_jax.main has written")
    if not OUTPUT.value:
        raise UserError("--output is missing: name the file to write, such as model.stablehlo")
    output = Path(OUTPUT.value)
    files.check_output(output, FORMAT.value)
    print(files.export(Path(MODEL.value), RUN.value, FORMAT.value, output))
    return 0


if __name__ == "__main__":
    cli.run(main)
