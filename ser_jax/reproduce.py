"""Makes a table of the paper, or that of EMO-DB: `python -m ser_jax.reproduce --table=1 --config.corpus.root=…`."""

import shlex
import sys
from pathlib import Path

from absl import flags

from ser_jax import cli
from ser_jax.errors import UserError

if __name__ == "__main__":
    CONFIG = cli.define_config()
    TABLE = flags.DEFINE_enum("table", None, ["1", "2", "emodb"], "Tables 1 and 2 of the paper, or EMO-DB.")
    SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of every fold.", lower_bound=1)
    ROWS = flags.DEFINE_list("rows", [], "Presets of the rows wanted, separated by commas; default: all.")
    WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the runs and the page; default: runs/table-<table>.")
    OUTPUT = flags.DEFINE_string("output", "", "The page; default: <workdir>/table.md.")
    FULL = flags.DEFINE_bool("full", False, "Train in full, also without an accelerator, what would be shortened.")


def main() -> int:
    """Trains every row that is not finished yet and writes the page; other --config.KEY=VALUE go to every row."""
    from ser_jax.reproduction import rows
    from ser_jax.reproduction.tables import TABLES

    if TABLE.value is None:
        raise UserError(f"--table is missing: choose one of {', '.join(TABLES)}")
    table, root = TABLES[TABLE.value], CONFIG.value.corpus.root
    if not Path(root).expanduser().is_dir() or not root:
        raise UserError(
            f"--config.corpus.root={root!r} is not a folder; set it to the folder of the {table.corpus} release"
        )
    folder = Path(WORKDIR.value or f"runs/table-{TABLE.value}")
    extra = [argument for argument in sys.argv[1:] if argument.startswith("--config.")]
    extra = [argument for argument in extra if not argument.startswith("--config.corpus.root")]
    asked = [argument for argument in sys.argv[1:] if not argument.startswith("--config.corpus.root")]
    return rows.reproduce(
        table,
        folder,
        Path(OUTPUT.value) if OUTPUT.value else folder / "table.md",
        made_by=f"python -m ser_jax.reproduce {shlex.join(asked)} --config.corpus.root=$ROOT",
        root=root,
        seeds=SEEDS.value,
        shorten=not FULL.value and rows.on_cpu(folder, table.rows),
        extra=extra,
        only=ROWS.value,
    )


if __name__ == "__main__":
    cli.run(main)
