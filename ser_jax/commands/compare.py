"""Compares finished runs: scores, and differences between runs with the same protocol.

ser-jax compare runs/a runs/b
"""

from pathlib import Path

from ser_jax.commands.command_line import Flag, Options
from ser_jax.runtime.errors import UserError

ARGUMENTS = "RUN RUN …"
FLAGS = (Flag("output", "compare.html", "The page to write."),)


def main(options: Options) -> None:
    """Prints the comparison and writes a page."""
    from ser_jax.evaluation import comparison, finished_run
    from ser_jax.report import console

    folders = [Path(folder) for folder in options.arguments]
    if len(folders) < 2:
        raise UserError(
            f"name at least 2 run directories, not {len(folders)}: ser-jax compare runs/a runs/b"
        )
    found = comparison.group_runs(finished_run.read_runs(folders))
    print(console.comparison_lines(found))
    from ser_jax.report import comparison_page  # Loads matplotlib: the table need not wait.

    comparison_page.write_comparison(Path(options.output), found)
    print(f"\n  page    {options.output}")
