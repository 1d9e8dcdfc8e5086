"""Which process trains which runs, and where each keeps what is not finished.

Process 0 keeps checkpoints and lines of metrics in the run directory itself, as a process that is alone; the others in
`hosts/<number>/`. Runs are divided anew at every start: those whose training has begun go to the process that has their
folder, or take that folder along. So any number of processes goes on where another number stopped.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ser_jax import atomic, strict_json
from ser_jax.errors import UserError
from ser_jax.training import checkpoint, journal, model_files
from ser_jax.training.hosts import Hosts
from ser_jax.training.runs import Run

HOSTS = "hosts"

log = logging.getLogger(__name__)

Families = dict[tuple[str, int], list[Run]]


class Job(NamedTuple):
    """Runs that are trained one after the other.

    Attributes:
      folder: For their checkpoints and lines of metrics.
      runs: The runs.
    """

    folder: Path
    runs: list[Run]


def check(runs: Sequence[Run], hosts: Hosts) -> None:
    """Checks that every process can be given a run.

    Raises:
      UserError: If there are more processes than runs that do not wait for each other.
    """
    independent = len(_families(runs))
    if independent < hosts.count:
        raise UserError(
            f"{hosts.count} processes, but only {independent} of {len(runs)} trainings (folds x seeds) do not wait for "
            f"others: start at most {independent} processes or raise protocol.seeds"
        )


def jobs(runs: Sequence[Run], workdir: Path, hosts: Hosts) -> list[Job]:
    """Divides the runs over all processes.

    Args:
      runs: All runs of the training.
      workdir: The run directory.
      hosts: The processes.

    Returns:
      What this process has to train.
    """
    hosts.wait("ready")
    plan = None
    if hosts.first:
        folders = [""] + sorted(str(path.relative_to(workdir)) for path in (workdir / HOSTS).glob("*"))
        if hosts.count == 1 and len(folders) == 1:
            return [Job(workdir, list(runs))]
        pending = [run for run in runs if model_files.read_description(workdir / "models" / run.name) is None]
        plan = divide(pending, {folder: _saved(workdir / folder) for folder in folders}, hosts.count)
    by_name = {run.name: run for run in runs}
    own = hosts.from_first("jobs", plan)[hosts.index]
    log.info("%d of %d runs are trained by this process", sum(map(len, own.values())), len(runs))
    return [Job(workdir / folder, [by_name[name] for name in names]) for folder, names in own.items()]


def divide(runs: Sequence[Run], saved: Mapping[str, Sequence[str]], count: int) -> list[dict[str, list[str]]]:
    """Divides runs evenly; one that takes its number of epochs from another one is trained where that is.

    Args:
      runs: The runs to train.
      saved: Per folder the names of the runs that its newest checkpoint is of.
      count: Processes.

    Returns:
      Per process: folder → names of runs.
    """
    families = _families(runs)
    own = {_folder(host): host for host in range(count)}
    shares: list[dict[str, list[str]]] = [{folder: []} for folder in own]

    def give(host: int, folder: str, family: list[Run]) -> None:
        shares[host].setdefault(folder, []).extend(run.name for run in family)

    def least_busy() -> int:
        return min(range(count), key=lambda host: sum(map(len, shares[host].values())))

    for folder, names in saved.items():
        begun = [key for key, family in families.items() if any(run.name in names for run in family)]
        host = own.get(folder)
        for key in begun:
            host = least_busy() if host is None else host
            give(host, folder, families.pop(key))
    for family in families.values():
        host = least_busy()
        give(host, _folder(host), family)
    return shares


def gather(workdir: Path) -> None:
    """Puts the lines of metrics of all processes into one file, without those that are there already."""
    parts = sorted((workdir / HOSTS).glob(f"*/{journal.FILE}"))
    if not parts:
        return
    lines = {}
    for path in [workdir / journal.FILE, *parts]:
        for line in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else ():
            try:
                entry = strict_json.parse(line)
                lines[tuple(entry.get(key) for key in ("fold", "seed", "phase", "epoch"))] = line + "\n"
            except (ValueError, AttributeError):
                continue  # The last line of a process that was killed.
    atomic.write_text(workdir / journal.FILE, "".join(lines.values()))


def forget(workdir: Path) -> None:
    """Removes what processes kept while they trained; everything is finished and gathered."""
    shutil.rmtree(workdir / HOSTS, ignore_errors=True)


def _folder(host: int) -> str:
    return f"{HOSTS}/{host}" if host else ""


def _families(runs: Sequence[Run]) -> Families:
    """Returns the runs by (fold that chooses the number of epochs, seed)."""
    found: Families = {}
    for run in runs:
        found.setdefault((run.fold.epochs_from or run.fold.name, run.seed), []).append(run)
    return found


def _saved(folder: Path) -> list[str]:
    """Returns the names of the runs that the newest checkpoint of a folder is of."""
    if not (folder / "checkpoints").is_dir():
        return []
    with checkpoint.manager(folder / "checkpoints") as checkpoints:
        position = checkpoint.restore(checkpoints)
    return position["runs"] if position else []
