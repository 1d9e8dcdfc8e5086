"""Assignment of trials to processes, and the folders in which processes keep unfinished ones.

Process 0 keeps checkpoints and metrics in the run directory itself, as a single process does; the
others in `hosts/<number>/`. Trials are assigned again at every start: those in a checkpoint go to
the process with that folder, or with their folder to another one. So any number of processes can
resume what another number has started.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ser_jax.cluster.hosts import Hosts
from ser_jax.runtime import files, strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted
from ser_jax.training import checkpoint, metrics_log, model_files
from ser_jax.training.trials import Trial

HOSTS = "hosts"

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """Trials that are trained one after the other."""

    folder: Path  # folder of their checkpoints and metrics
    trials: list[Trial]


def check(trials: Sequence[Trial], hosts: Hosts) -> None:
    """Raises a UserError where there are more processes than trials that are independent."""
    independent = len(_families(trials))
    if independent < hosts.count:
        raise UserError(
            f"{hosts.count} processes, but only {independent} of"
            f" {counted(len(trials), 'training')} (folds x seeds) do not wait for others: start"
            f" at most {counted(independent, 'process', 'processes')} or raise protocol.seeds"
        )


def jobs(trials: Sequence[Trial], workdir: Path, hosts: Hosts) -> list[Job]:
    """Assigns all trials of a run directory to the processes; returns the jobs of this one."""
    hosts.barrier("ready")
    plan = None
    if hosts.first:
        others = sorted(str(path.relative_to(workdir)) for path in (workdir / HOSTS).glob("*"))
        if hosts.count == 1 and not others:
            return [Job(workdir, list(trials))]
        models = workdir / "models"
        pending = [one for one in trials if not model_files.read_description(models / one.name)]
        saved = {folder: _in_checkpoint(workdir / folder) for folder in ["", *others]}
        plan = divide(pending, saved, hosts.count)
    by_name = {trial.name: trial for trial in trials}
    own = hosts.broadcast("jobs", plan)[hosts.index]
    count = sum(map(len, own.values()))
    every = counted(len(trials), "trial is", "trials are")
    log.info("%d of %s trained by this process", count, every)
    return [
        Job(workdir / folder, [by_name[name] for name in names]) for folder, names in own.items()
    ]


def divide(
    trials: Sequence[Trial], saved: Mapping[str, Sequence[str]], count: int
) -> list[dict[str, list[str]]]:
    """Divides trials evenly among `count` processes; returns for each: folder → names of trials.

    A trial that takes its number of epochs from another one goes with it. `saved`: folder → names
    of the trials in its newest checkpoint.
    """
    families = _families(trials)
    host_of = {_folder(host): host for host in range(count)}
    assigned: list[dict[str, list[str]]] = [{folder: []} for folder in host_of]

    def least_busy() -> int:
        return min(range(count), key=lambda host: sum(map(len, assigned[host].values())))

    def assign(host: int, folder: str, family: list[Trial]) -> None:
        assigned[host].setdefault(folder, []).extend(trial.name for trial in family)

    for folder, names in saved.items():
        host = host_of.get(folder)
        for key, family in list(families.items()):
            if any(trial.name in names for trial in family):
                host = least_busy() if host is None else host
                assign(host, folder, families.pop(key))
    for family in families.values():
        host = least_busy()
        assign(host, _folder(host), family)
    return assigned


def merge_metrics(workdir: Path) -> None:
    """Merges the metrics of all processes into one file, every epoch once."""
    parts = sorted((workdir / HOSTS).glob(f"*/{metrics_log.FILE}"))
    if not parts:
        return
    merged, lines = workdir / metrics_log.FILE, {}
    for path in [merged, *parts] if merged.is_file() else parts:
        for line in path.read_text("utf-8", errors="replace").splitlines():
            try:
                entry = strict_json.parse_line(line)
                key = tuple(entry.get(name) for name in ("fold", "seed", "phase", "epoch"))
                lines[key] = line + "\n"
            except ValueError:
                continue  # The last line of a process that was killed.
    files.write_text(merged, "".join(lines.values()))


def remove_host_folders(workdir: Path) -> None:
    """Removes the folders of the processes, when everything is trained and merged."""
    shutil.rmtree(workdir / HOSTS, ignore_errors=True)


def _folder(host: int) -> str:
    return f"{HOSTS}/{host}" if host else ""


def _families(trials: Sequence[Trial]) -> dict[tuple[str, int], list[Trial]]:
    """Groups trials by the fold that chooses their number of epochs, and by seed."""
    families: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        key = (trial.fold.epochs_from or trial.fold.name, trial.seed)
        families.setdefault(key, []).append(trial)
    return families


def _in_checkpoint(folder: Path) -> list[str]:
    """Returns the names of the trials in the newest checkpoint of a folder."""
    if not (folder / "checkpoints").is_dir():
        return []
    with checkpoint.open_checkpoints(folder / "checkpoints") as checkpoints:
        return checkpoints.position["runs"] if checkpoints.position else []
