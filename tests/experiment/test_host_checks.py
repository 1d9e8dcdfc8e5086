"""Checks before processes train together; threads stand for the processes."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ser_jax import config as configuration
from ser_jax.cluster.hosts import ALONE, Hosts
from ser_jax.experiment import host_checks, run_directory
from ser_jax.runtime.errors import UserError


class Store:
    """A key-value store for the threads of this process."""

    def __init__(self):
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key: str, text: str) -> None:
        with self.changed:
            self.values[key] = text
            self.changed.notify_all()

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.values, timeout=60)
            return self.values[key]


def together(count: int, act: Callable[[Hosts], None], timeout: float = 60) -> list[Any]:
    """Lets processes, here threads, act at once; returns the error message of each, or None."""
    store, found = Store(), list[Any]([None] * count)

    def perform(index: int) -> None:
        try:
            act(Hosts(index, count, timeout, store))
        except UserError as error:
            found[index] = str(error)

    threads = [threading.Thread(target=perform, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def changed(**changes: Any) -> Any:
    c = configuration.get_config()
    for name, value in changes.items():
        section, _, key = name.partition("__")
        c[section][key] = value
    return c


def check_alike(*configs: Any) -> list[Any]:
    return together(
        len(configs), lambda hosts: host_checks.check_alike(hosts, configs[hosts.index])
    )


def test_keys_that_change_no_result_may_differ():
    assert check_alike(changed(), *(changed(corpus__root=name) for name in "ab")) == [None] * 3
    host_checks.check_alike(ALONE, changed())


def test_another_configuration_is_refused_by_all_with_both_values():
    assert set(check_alike(*(changed(training__epochs=number) for number in (3, 3, 4)))) == {
        "process 2 is not like process 0 (configuration.training.epochs: 3 on process 0, 4 on"
        " process 2): start the same command with the same installation and the same recordings on"
        " every host"
    }


def test_another_version_is_refused(monkeypatch):
    versions = run_directory.versions()
    numbers = iter(["0.1", "0.2"])
    monkeypatch.setattr(
        host_checks.run_directory, "versions", lambda: versions | {"jax": next(numbers)}
    )
    (sentence,) = set(check_alike(changed(), changed()))
    assert 'ser_jax and packages.jax: "0.' in sentence and 'on process 0, "0.' in sentence


def test_many_differences_are_counted():
    facts = [{"group": {str(n): value for n in range(9)}} for value in (1, 2)]
    (sentence,) = set(
        together(2, lambda hosts: host_checks.check_same(hosts, "x", facts[hosts.index]))
    )
    assert sentence.count("on process 0") == 5 and "and 4 more" in sentence


def open_shared(*workdirs: Path) -> list[Any]:
    def act(hosts: Hosts) -> None:
        host_checks.open_shared(hosts, workdirs[hosts.index], changed())

    return together(len(workdirs), act, timeout=0.9)


def test_a_shared_folder(tmp_path):
    assert open_shared(*[tmp_path / "run"] * 3) == [None] * 3
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
    host_checks.open_shared(ALONE, tmp_path / "run", changed())


@pytest.mark.parametrize("there", [True, False], ids=["another folder", "no folder"])
def test_a_folder_that_is_not_shared(there, tmp_path):
    workdirs = [tmp_path / name for name in ("a", "a", "b")]
    if there:
        workdirs[2].mkdir()
    for sentence, workdir in zip(open_shared(*workdirs), workdirs, strict=True):
        assert sentence.startswith(f"--workdir={workdir} is not one folder on all hosts")
        assert "within 0.3 s by process 2 of 3" in sentence
    assert not there or not list(workdirs[2].iterdir())


def test_a_folder_that_one_host_cannot_write(tmp_path, monkeypatch):
    touch = Path.touch

    def refuse(path: Path, *arguments: Any) -> None:
        if path.name.startswith(".host-1."):
            raise PermissionError(13, "Permission denied", str(path))
        touch(path, *arguments)

    monkeypatch.setattr(Path, "touch", refuse)
    found = open_shared(*[tmp_path / "run"] * 2)
    assert all("by process 1 of 2" in sentence for sentence in found)


def test_hosts_that_are_not_seen_are_waited_for_together(tmp_path, monkeypatch):
    """One by one would take process 0 longer than the others wait for its broadcast."""
    touch, wait_for, waits = Path.touch, host_checks.wait_for, []

    def hide(path: Path, *arguments: Any) -> None:
        if path.name.startswith(".host-0."):
            touch(path, *arguments)

    def count(hosts: Hosts, there: Callable[[], bool]) -> bool:
        waits.append(hosts.index)
        return wait_for(hosts, there)

    monkeypatch.setattr(Path, "touch", hide)
    monkeypatch.setattr(host_checks, "wait_for", count)
    found = open_shared(*[tmp_path / "run"] * 4)
    assert all("by process 1, 2, 3 of 4" in sentence for sentence in found)
    assert sorted(waits) == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("bucket", ["gs://mine/runs", "s3://mine/runs"])
def test_a_bucket_is_no_folder(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="a bucket is no folder; mount it on every host"):
        host_checks.open_shared(ALONE, Path(bucket), changed())
    assert not list(tmp_path.iterdir())
