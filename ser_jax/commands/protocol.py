"""Shows a named protocol without training: its hash, rules, counts and folds.

ser-jax protocol --config.corpus.name=emodb --config.corpus.root=/data/emodb
"""

from pathlib import Path

from ser_jax.commands.command_line import CONFIG, Flag, Options

FLAGS = (
    CONFIG,
    Flag("output", "", "File for the protocol as JSON, as protocol.json in a run directory."),
)


def main(options: Options) -> None:
    """Prints the protocol; rejected rows are listed beside --output or in runs/."""
    from ser_jax.report import protocol_page

    output = Path(options.output)
    folder = output.parent if options.output else Path("runs")
    protocol, page = protocol_page.make_page(options.config, folder / "rejected.csv")
    print(page)
    if options.output:
        protocol_page.write(output, protocol)
        print(f"\n  written to {output}")
