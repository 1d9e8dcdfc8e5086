"""What the processes of one training make sure of before it begins: that all are alike and share a work directory."""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ser_jax import run_directory
from ser_jax.config import NEUTRAL_KEYS, Config
from ser_jax.errors import UserError
from ser_jax.training.hosts import Hosts

_POLL = 0.2  # s


def check_alike(hosts: Hosts, config: Config) -> None:
    """Checks that all processes have the same configuration and the same versions.

    Keys that change no result (`config.NEUTRAL_KEYS`) may differ: recordings and caches lie elsewhere on other hosts.

    Raises:
      UserError: Names the process, what differs and both values.
    """
    if hosts.count > 1:
        same = {"ser_jax and packages": run_directory.versions(), "configuration": json.loads(config.to_json())}
        check_same(hosts, "versions and configuration", same)


def check_same(hosts: Hosts, name: str, facts: Mapping[str, Any]) -> None:
    """Checks that all processes have found the same.

    Args:
      hosts: The processes.
      name: What it is about; each name serves once.
      facts: JSON-able, may be nested.

    Raises:
      UserError: Names the process, what differs and both values.
    """
    first, *others = (_flat(facts) for facts in hosts.share(name, facts))
    for host, other in enumerate(others, start=1):
        different = [
            f"{key}: {json.dumps(first.get(key))} on process 0, {json.dumps(other.get(key))} on process {host}"
            for key in sorted(first.keys() | other.keys())
            if first.get(key) != other.get(key) and key.removeprefix("configuration.") not in NEUTRAL_KEYS
        ]
        if different:
            more = f" and {len(different) - 5} more" if len(different) > 5 else ""
            raise UserError(
                f"process {host} is not like process 0 ({'; '.join(different[:5])}{more}): start the same command with "
                f"the same installation and the same recordings on every host"
            )


def open_shared(hosts: Hosts, workdir: Path, config: Config) -> None:
    """Has process 0 open the run directory, and checks that all see and can write it.

    Raises:
      UserError: As `run_directory.open_directory`, or if it is not the same folder everywhere.
    """
    if hosts.first:
        run_directory.open_directory(workdir, config)
    if hosts.count == 1:
        return
    hosts.wait("opened")
    nonce = hosts.from_first("nonce", secrets.token_hex(8))
    marks = [workdir / f".host-{host}.{nonce}.tmp" for host in range(hosts.count)]
    try:
        if hosts.first:
            marks[0].touch()
        seen = wait_for(hosts, marks[0].exists)
        if seen and not hosts.first:
            seen = _written(marks[hosts.index])
        blind = [host for host, sees in enumerate(hosts.share("workdir", seen)) if not sees]
        if hosts.first and not blind:
            # For all together: the others wait no longer than three times that.
            wait_for(hosts, lambda: all(mark.exists() for mark in marks))
            blind = [host for host, mark in enumerate(marks) if not mark.exists()]
        blind = hosts.from_first("blind", blind)
    finally:
        if marks[hosts.index].exists():
            marks[hosts.index].unlink()
    if blind:
        raise UserError(
            f"--workdir={workdir} is not one folder on all hosts: what process 0 wrote there was not seen within "
            f"{hosts.silence:g} s by process {', '.join(map(str, blind))} of {hosts.count}, or could not be answered; "
            f"name a folder that every host mounts and may write (NFS, Lustre, Filestore, a bucket by gcsfuse)"
        )


def wait_for(hosts: Hosts, there: Callable[[], bool]) -> bool:
    """Returns whether it is there within `Hosts.silence`; NFS shows new files up to a minute late."""
    end = time.monotonic() + hosts.silence
    while not there():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL)
    return True


def _written(mark: Path) -> bool:
    try:
        mark.touch()
    except OSError:
        return False
    return True


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in facts.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
