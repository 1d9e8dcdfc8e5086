"""Trains every row of a table by the command that the page shows, and writes the page."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ser_jax import strict_json
from ser_jax.errors import EXIT_USER, Diverged, UserError
from ser_jax.reproduction.tables import Row, Table
from ser_jax.training.interrupt import Interrupted, Watch

MODULE = "ser_jax.main"
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def command(
    table: Table, row: Row, workdir: Path, *, root: str, seeds: int, shorten: bool, extra: Sequence[str]
) -> list[str]:
    """Returns the arguments that train a row; later ones override earlier ones.

    Args:
      table: The table.
      row: Its row.
      workdir: The run directory of the row.
      root: `corpus.root`.
      seeds: Seeds of every row.
      shorten: Whether rows that are too much for a CPU are shortened.
      extra: The user's own overrides, `--config.KEY=VALUE`.
    """
    overrides = [f"corpus.name={table.corpus}", f"corpus.root={root}", f"protocol.seeds={seeds}", *table.overrides]
    overrides += row.cpu if shorten else ()
    keys = {argument.partition("=")[0] for argument in extra}
    kept = dict(item.split("=", 1) for item in overrides)
    return [
        "-m",
        MODULE,
        f"--config=configs/{row.preset}.py",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in kept.items() if f"--config.{key}" not in keys),
        *extra,
    ]


def train(arguments: Sequence[str]) -> int:
    """Runs a command of a row from where its preset is; returns its exit code.

    Raises:
      UserError: If there are no presets: they are not installed with the package.
    """
    if not CONFIGS.is_dir():
        raise UserError(f"{CONFIGS} is missing: run this from a checkout of the project, which holds the presets")
    preset = next(argument for argument in arguments if argument.startswith("--config="))
    found = [a if a != preset else f"--config={CONFIGS / Path(preset).name}" for a in arguments]
    process = subprocess.Popen([sys.executable, *found])
    try:
        return process.wait()
    except (Interrupted, KeyboardInterrupt) as stop:  # Ctrl-C on a terminal has reached it already.
        if isinstance(stop, Interrupted):
            process.terminate()
        with Watch():
            process.wait()  # until it has saved
        raise


def reproduce(
    table: Table,
    folder: Path,
    output: Path,
    *,
    made_by: str,
    root: str,
    seeds: int,
    shorten: bool,
    extra: Sequence[str],
    only: Sequence[str],
) -> int:
    """Trains the rows one after the other and writes the page anew after each.

    Args:
      table: The table.
      folder: Folder of the run directories, one per row, named by the preset.
      output: The page to write.
      made_by: The command that makes the page.
      root: `corpus.root`.
      seeds: Seeds of every row.
      shorten: Whether rows that are too much for a CPU are shortened.
      extra: The user's own overrides.
      only: Presets of the rows wanted; empty: all.

    Returns:
      The exit code: 0, or that of a row that was interrupted; rows that are finished stay.

    Raises:
      UserError: If `only` names no row, or a row was refused.
      Diverged: If runs of a row diverged; the page says which.
    """
    from ser_jax.reproduction import page  # Loads what only the page needs.

    known = [row.preset for row in table.rows]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise UserError(f"--rows={unknown[0]}: this table has the rows {', '.join(known)}")
    done, diverged = [], []
    for row in table.rows:
        if only and row.preset not in only:
            continue
        workdir = folder / row.preset
        arguments = command(table, row, workdir, root=root, seeds=seeds, shorten=shorten, extra=extra)
        print(f"{row.title}: python {shlex.join(arguments)}", file=sys.stderr, flush=True)
        code = train(arguments)
        if code == EXIT_USER:
            raise UserError(f"{row.title} was refused, see above; mend it and run the same command again")
        if code == Diverged.exit_code:
            diverged.append(row.title)
        elif code != 0:
            return code
        done.append(page.Result(row, workdir, _without_root(arguments), shorten and bool(row.cpu)))
        page.write_page(output, table, done, made_by=made_by, overridden=extra)
    print(f"\n  page    {output}")
    if diverged:
        raise Diverged(f"runs of {', '.join(diverged)} diverged, see {output}")
    return 0


def on_cpu(folder: Path, rows: Sequence[Row]) -> bool:
    """Returns whether there is no accelerator, without starting jax where no row depends on it."""
    shortened = [row for row in rows if row.cpu]
    if not shortened:
        return False
    for row in shortened:  # A row that was begun goes on as it was begun.
        path = folder / row.preset / "versions.json"
        if path.is_file():
            found = strict_json.read(path, remedy=f"delete {path.parent}, and the row is trained anew")
            return "cpu" in str(found.get("devices")).lower()
    script = "import ser_jax, jax; print(jax.default_backend())"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return found.stdout.split()[-1] == "cpu"


def _without_root(arguments: Sequence[str]) -> str:
    shown = ["--config.corpus.root=$ROOT" if a.startswith("--config.corpus.root=") else a for a in arguments]
    return " ".join(["python", *(a if "$ROOT" in a else shlex.quote(a) for a in shown)])
