"""Shows a named protocol without training: `python -m ser_jax.protocol --config.corpus.name=emodb …`."""

from pathlib import Path

from absl import flags

from ser_jax import cli

if __name__ == "__main__":
    CONFIG = cli.define_config()
    OUTPUT = flags.DEFINE_string("output", "", "File for the protocol as JSON, as protocol.json in a run directory.")


def main() -> None:
    """Prints hash, rules, counts and folds of the protocol; rejected rows are listed beside --output or in runs/."""
    from ser_jax import protocol_page

    output = Path(OUTPUT.value)
    protocol, page = protocol_page.make_page(
        CONFIG.value, (output.parent if OUTPUT.value else Path("runs")) / "rejected.csv"
    )
    print(page)
    if OUTPUT.value:
        protocol_page.write(output, protocol)
        print(f"\n  written to {output}")


if __name__ == "__main__":
    cli.run(main)
