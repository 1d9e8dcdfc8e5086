"""Lists the models that come with the package, or shows the card of one.

ser-jax models emodb-plain
"""

from ser_jax.commands.command_line import Options
from ser_jax.runtime.errors import UserError

ARGUMENTS = "[NAME]"
FLAGS = ()


def main(options: Options) -> None:
    """Prints a line for each model; with a name, its card."""
    from ser_jax import pretrained

    unknown = [name for name in options.arguments if name not in pretrained.names()]
    if unknown:
        raise UserError(
            f"no model {unknown[0]!r} comes with the package; there are"
            f" {', '.join(pretrained.names())}"
        )
    for name in options.arguments:
        print(pretrained.card(name).read_text("utf-8"))
    if not options.arguments:
        for name in pretrained.names():
            title = next(
                line.removeprefix("# ")
                for line in pretrained.card(name).read_text("utf-8").splitlines()
                if line.startswith("# ")
            )
            mark = " (what predict, stream and serve take)" if name == pretrained.DEFAULT else ""
            print(f"{name}  {title}{mark}\n  card: {pretrained.card(name)}")
