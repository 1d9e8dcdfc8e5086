"""Trains the systems of a table, of the paper, EMO-DB or RAVDESS, and writes the table.

ser-jax reproduce --table=1 --config.corpus.root=/data/IEMOCAP_full_release
"""

import shlex
from pathlib import Path

from ser_jax.commands.command_line import CONFIG, Flag, Options
from ser_jax.reproduction.tables import TABLES
from ser_jax.runtime.errors import UserError

FLAGS = (
    CONFIG,
    Flag("table", None, "Tables 1 and 2 of the paper, EMO-DB or RAVDESS.", choices=tuple(TABLES)),
    Flag("seeds", 3, "Trainings of every fold.", least=1),
    Flag("rows", [], "Run directories of the rows requested, separated by commas; default: all."),
    Flag("workdir", "", "Folder of the runs and the page; default: runs/table-<table>."),
    Flag("output", "", "The page; default: <workdir>/table.md."),
    Flag("full", False, "Train in full, also without an accelerator, what would be shortened."),
)


def main(options: Options) -> int:
    """Trains every row that is not finished yet; --config.KEY=VALUE go to every row."""
    from ser_jax.reproduction import table_rows

    if not options.table:
        raise UserError(f"--table is missing: choose one of {', '.join(TABLES)}")
    table, root = TABLES[options.table], options.config.corpus.root
    if not root or not Path(root).expanduser().is_dir():
        raise UserError(
            f"--config.corpus.root={root!r} is not a folder; set it to the folder of the"
            f" {table.corpus} release"
        )
    folder = Path(options.workdir or f"runs/table-{options.table}")
    typed = [word for word in options.typed if not word.startswith("--config.corpus.root")]
    return table_rows.reproduce(
        table,
        folder,
        Path(options.output) if options.output else folder / "table.md",
        made_by=f"ser-jax reproduce {shlex.join(typed)} --config.corpus.root=$ROOT",
        root=root,
        seeds=options.seeds,
        cpu=table_rows.on_cpu(folder, table.rows),
        full=options.full,
        extra=[word for word in typed if word.startswith("--config.")],
        only=options.rows,
    )
