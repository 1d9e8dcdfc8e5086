"""Checks before processes train together: same configuration and recordings, one work directory."""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ser_jax.cluster.hosts import Hosts
from ser_jax.config import NEUTRAL_KEYS, Config
from ser_jax.experiment import run_directory
from ser_jax.runtime.errors import UserError

_POLL = 0.2  # s between two looks at a file
_MOST_NAMED = 5  # differences in a message


def check_alike(hosts: Hosts, config: Config) -> None:
    """Checks that all processes have the same configuration and the same versions of packages.

    Keys that change no result (`config.NEUTRAL_KEYS`) may differ, such as the places of recordings
    and caches.

    Raises:
      UserError: Names the process, what differs and both values.
    """
    if hosts.count > 1:
        facts = {
            "ser_jax and packages": run_directory.versions(),
            "configuration": json.loads(config.to_json()),
        }
        check_same(hosts, "versions and configuration", facts)


def check_same(hosts: Hosts, name: str, facts: Mapping[str, Any]) -> None:
    """Checks that all processes have the same facts.

    Args:
      hosts: The processes.
      name: Key of the exchange; each can be used once.
      facts: JSON-able, may be nested.

    Raises:
      UserError: Names the process, what differs and both values.
    """
    first, *others = (_flatten(facts) for facts in hosts.all_gather(name, facts))
    for host, other in enumerate(others, start=1):
        different = [
            f"{key}: {json.dumps(first.get(key))} on process 0, {json.dumps(other.get(key))} on"
            f" process {host}"
            for key in sorted(first.keys() | other.keys())
            if first.get(key) != other.get(key)
            and key.removeprefix("configuration.") not in NEUTRAL_KEYS
        ]
        if different:
            shown, more = different[:_MOST_NAMED], len(different) - _MOST_NAMED
            raise UserError(
                f"process {host} is not like process 0 ({'; '.join(shown)}"
                f"{f' and {more} more' if more > 0 else ''}): start the same command with the same"
                " installation and the same recordings on every host"
            )


def open_shared(hosts: Hosts, workdir: Path, config: Config) -> None:
    """Lets process 0 open the run directory; checks that all processes see it and can write to it.

    Raises:
      UserError: As `run_directory.open_directory`, or if it is not the same folder everywhere.
    """
    if hosts.first:
        run_directory.open_directory(workdir, config)
    if hosts.count == 1:
        return
    hosts.barrier("opened")
    nonce = hosts.broadcast("nonce", secrets.token_hex(8))
    marks = [workdir / f".host-{host}.{nonce}.tmp" for host in range(hosts.count)]
    own = marks[hosts.index]
    try:
        if hosts.first:
            own.touch()
        seen = wait_for(hosts, marks[0].exists)
        if seen and not hosts.first:
            seen = _can_create(own)
        blind = [host for host, sees in enumerate(hosts.all_gather("workdir", seen)) if not sees]
        if hosts.first and not blind:
            # For all at once: the others wait for the broadcast below only three times as long.
            wait_for(hosts, lambda: all(mark.exists() for mark in marks))
            blind = [host for host, mark in enumerate(marks) if not mark.exists()]
        blind = hosts.broadcast("blind", blind)
    finally:
        if own.exists():
            own.unlink()
    if blind:
        raise UserError(
            f"--workdir={workdir} is not one folder on all hosts: a file of process 0 was not seen"
            f" within {hosts.heartbeat_timeout:g} s by process {', '.join(map(str, blind))} of"
            f" {hosts.count}, or they could not write one; name a folder that every host mounts and"
            " may write (NFS, Lustre, Filestore, a bucket by gcsfuse)"
        )


def wait_for(hosts: Hosts, exists: Callable[[], bool]) -> bool:
    """Waits for a file of another process, `Hosts.heartbeat_timeout` at most; returns its presence.

    NFS shows new files up to a minute late.
    """
    end = time.monotonic() + hosts.heartbeat_timeout
    while not exists():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL)
    return True


def _can_create(mark: Path) -> bool:
    try:
        mark.touch()
    except OSError:
        return False
    return True


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested facts as one dict with dotted keys."""
    flat = {}
    for key, value in facts.items():
        inner = isinstance(value, Mapping)
        flat |= _flatten(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat
