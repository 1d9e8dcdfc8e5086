"""Trains the rows of a table, each by the command that its page shows, and writes the page."""

import contextlib
import dataclasses
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax.reproduction.tables import Row, Table
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import EXIT_USER, Diverged, UserError
from ser_jax.runtime.signals import ENDS_WITH_PARENT, Interrupted, Watch

log = logging.getLogger(__name__)

MODULE = "ser_jax.main"
_POLL = 0.1  # s between two looks at whether a signal has come


def command(
    table: Table,
    row: Row,
    workdir: Path,
    *,
    root: str,
    seeds: int,
    shorten: bool,
    extra: Sequence[str],
    fixed: Mapping[str, Any] | None = None,
) -> list[str]:
    """Returns the arguments of `python` that train a row in its run directory `workdir`.

    `shorten` applies the row's overrides for a CPU, `fixed` are keys that fix the bits, `extra`
    (`--config.KEY=VALUE`) overrides all.
    """
    overrides = [
        *(f"{key}={value}" for key, value in (fixed or {}).items()),
        f"corpus.name={table.corpus}",
        f"corpus.root={root}",
        f"protocol.seeds={seeds}",
        *(table.overrides if row.overrides is None else row.overrides),
        *(row.cpu if shorten else ()),
    ]
    values = dict(f"--config.{item}".split("=", 1) for item in overrides)
    for argument in extra:
        values.pop(argument.partition("=")[0], None)
    preset = [f"--config={row.preset}", f"--workdir={workdir}"]
    given = [f"{key}={value}" for key, value in values.items()]
    return ["-m", MODULE, *preset, *given, *extra]


def train(arguments: Sequence[str]) -> int:
    """Runs the command of a row; returns its exit code.

    The training saves and ends with this process: after a signal, which raises Interrupted, and if
    this process is killed, since that closes its standard input.
    """
    environment = os.environ | {ENDS_WITH_PARENT: "1"}
    command = [sys.executable, *arguments]
    with (
        Watch() as watch,
        subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process,
    ):
        while watch.received is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_POLL)
        process.terminate()
        process.wait()
        raise Interrupted(watch.received)


def reproduce(
    table: Table,
    folder: Path,
    output: Path,
    *,
    made_by: str,
    root: str,
    seeds: int,
    cpu: bool,
    full: bool = False,
    extra: Sequence[str],
    only: Sequence[str],
) -> int:
    """Trains the rows one after the other and rewrites the page after each.

    Every row has a run directory in `folder`, `row.place`; `output` is the page, `made_by` its
    command. On a `cpu` rows that take too long are shortened, unless in `full`; `extra` are the
    user's overrides (`--config.KEY=VALUE`), `only` the places of the rows to train (empty: all).
    A row that has started goes on with the devices, group and kernels that it began with.

    Returns:
      The exit code: 0, or that of a row that was interrupted; rows that are finished stay.

    Raises:
      UserError: If `only` names no row, or a row was refused.
      Diverged: If trials of a row diverged; the page names them.
    """
    from ser_jax.reproduction import table_page  # Only the page needs what this imports.

    known = [row.place for row in table.rows]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise UserError(f"--rows={unknown[0]}: this table has the rows {', '.join(known)}")
    done, diverged = [], []
    shorten = cpu and not full
    if cpu:
        log.info("note: %s", made_with(table, extra))
    for row in table.rows:
        if only and row.place not in only:
            continue
        workdir = folder / row.place
        fixed = _started_with(workdir) or (table.made_with if cpu else {})
        arguments = command(
            *(table, row, workdir),
            **{"root": root, "seeds": seeds, "shorten": shorten, "extra": extra, "fixed": fixed},
        )
        print(f"{row.title}: python {shlex.join(arguments)}", file=sys.stderr, flush=True)
        code = train(arguments)
        if code == EXIT_USER:
            raise UserError(
                f"{row.title} was refused, see above; correct it and run the same command again"
            )
        if code == Diverged.exit_code:
            diverged.append(row.title)
        elif code != 0:
            return code
        trained = _without_root(arguments), shorten and bool(row.cpu)
        for name, title in row.members.items():
            member = dataclasses.replace(row, title=title)
            done.append(table_page.Result(member, workdir / "members" / name, *trained))
        done.append(table_page.Result(row, workdir, *trained))
        table_page.write_page(output, table, done, made_by=made_by, overridden=extra)
    print(f"\n  page    {output}")
    if diverged:
        raise Diverged(f"runs of {', '.join(diverged)} diverged, see {output}")
    return 0


def made_with(table: Table, extra: Sequence[str]) -> str:
    """Returns in a sentence with what rows are trained that have not started, but `extra` keys."""
    typed = {argument.partition("=")[0] for argument in extra}
    kept = [f"{k}={v}" for k, v in table.made_with.items() if f"--config.{k}" not in typed]
    if not kept:
        return "what fixes the bits is set on the command line (docs/reproducibility.md)"
    return (
        f"{', '.join(kept)}, as the figures of docs/emodb.md were made, whatever this machine has;"
        " --config.training.devices=0 --config.training.group=0 use all cores and give other"
        " figures, as another seed may (docs/reproducibility.md)"
    )


def on_cpu(folder: Path, rows: Sequence[Row]) -> bool:
    """Returns whether there is no accelerator; starts jax unless a row has been started."""
    for row in rows:  # A table that was started on one device is continued as there.
        found = _versions(folder / row.place)
        if "devices" in found and (row.cpu or "training.devices" in found):  # not of the SVM
            return "cpu" in str(found["devices"]).lower()
    command = [sys.executable, "-c", "import ser_jax, jax; print(jax.default_backend())"]
    backend = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return backend.split()[-1] == "cpu"


def _started_with(workdir: Path) -> dict[str, Any]:
    """Returns the keys of the configuration that fix the bits of a row that has started."""
    return {key: value for key, value in _versions(workdir).items() if "training." in key}


def _versions(workdir: Path) -> dict[str, Any]:
    path = workdir / "versions.json"
    remedy = f"delete {workdir}, and the row is trained again"
    return strict_json.read(path, remedy=remedy) if path.is_file() else {}


def _without_root(arguments: Sequence[str]) -> str:
    key = "--config.corpus.root="
    shown = [f"{key}$ROOT" if a.startswith(key) else shlex.quote(a) for a in arguments]
    return " ".join(["python", *shown])
