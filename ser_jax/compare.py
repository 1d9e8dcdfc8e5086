"""Compares finished runs: `python -m ser_jax.compare runs/a runs/b`."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from ser_jax import cli
from ser_jax.errors import UserError

if __name__ == "__main__":
    OUTPUT = flags.DEFINE_string("output", "compare.html", "The page to write.")


def main(folders: Sequence[str]) -> int:
    """Prints the scores of runs and the differences between those with the same protocol, and writes a page.

    Args:
      folders: At least two run directories.
    """
    from ser_jax.evaluation import comparison_console, finished, groups

    if len(folders) < 2:
        raise UserError(f"name at least 2 run directories, not {len(folders)}: python -m ser_jax.compare runs/a runs/b")
    found = groups.group_runs(finished.read_runs([Path(folder) for folder in folders]))
    print(comparison_console.comparison_lines(found))
    from ser_jax.evaluation import comparison_page  # Loads matplotlib, for which the table need not wait.

    comparison_page.write_comparison(Path(OUTPUT.value), found)
    print(f"\n  page    {OUTPUT.value}")
    return 0


if __name__ == "__main__":
    cli.run(main, positional=True)
