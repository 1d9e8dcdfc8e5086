"""What processes make sure of before they train together; the processes themselves are in test_hosts.py."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ser_jax import agreement, run_directory
from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.training.hosts import ALONE, Hosts


class Store:
    """A key-value store within this process; nobody waits for what does not come."""

    def __init__(self):
        self.words: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key: str, word: str) -> None:
        with self.changed:
            self.words[key] = word
            self.changed.notify_all()

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.words, timeout=60)
            return self.words[key]


def together(count: int, act: Callable[[Hosts], None], seconds: float = 60) -> list[Any]:
    """Lets processes, here threads, act at once; returns what each was refused for, None if it was not."""
    store, found = Store(), list[Any]([None] * count)

    def perform(index: int) -> None:
        try:
            act(Hosts(index, count, seconds, store))
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


def test_alike():
    assert together(3, lambda hosts: agreement.check_alike(hosts, changed())) == [None] * 3
    agreement.check_alike(ALONE, changed())


def test_keys_that_change_no_result_may_differ():
    roots = [changed(corpus__root=name) for name in "ab"]
    assert together(2, lambda hosts: agreement.check_alike(hosts, roots[hosts.index])) == [None] * 2


def test_another_configuration_is_refused_by_all_with_both_values():
    configs = [changed(training__epochs=number) for number in (3, 3, 4)]
    found = together(3, lambda hosts: agreement.check_alike(hosts, configs[hosts.index]))
    assert set(found) == {
        "process 2 is not like process 0 (configuration.training.epochs: 3 on process 0, 4 on process 2): start the "
        "same command with the same installation and the same recordings on every host"
    }


def test_another_version_is_refused(monkeypatch):
    versions = run_directory.versions()
    numbers = iter(["0.1", "0.2"])
    monkeypatch.setattr(agreement.run_directory, "versions", lambda: versions | {"jax": next(numbers)})
    (sentence,) = set(together(2, lambda hosts: agreement.check_alike(hosts, changed())))
    assert 'ser_jax and packages.jax: "0.' in sentence and 'on process 0, "0.' in sentence


def test_many_differences_are_counted():
    facts = [{"group": {str(n): value for n in range(9)}} for value in (1, 2)]
    (sentence,) = set(together(2, lambda hosts: agreement.check_same(hosts, "x", facts[hosts.index])))
    assert sentence.count("on process 0") == 5 and "and 4 more" in sentence


def test_a_shared_folder(tmp_path):
    def act(hosts: Hosts) -> None:
        agreement.open_shared(hosts, tmp_path / "run", changed())

    assert together(3, act) == [None] * 3
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
    agreement.open_shared(ALONE, tmp_path / "run", changed())


@pytest.mark.parametrize("there", [True, False], ids=["another folder", "no folder"])
def test_a_folder_that_is_not_shared(there, tmp_path):
    workdirs = [tmp_path / name for name in ("a", "a", "b")]
    if there:
        workdirs[2].mkdir()
    found = together(3, lambda hosts: agreement.open_shared(hosts, workdirs[hosts.index], changed()), seconds=0.9)
    for sentence, workdir in zip(found, workdirs, strict=True):
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
    found = together(2, lambda hosts: agreement.open_shared(hosts, tmp_path / "run", changed()), seconds=0.9)
    assert all("by process 1 of 2" in sentence for sentence in found)


def test_hosts_that_are_not_seen_are_waited_for_together(tmp_path, monkeypatch):
    """One by one would take process 0 longer than the others wait for its word."""
    touch, wait_for, waits = Path.touch, agreement.wait_for, []

    def hide(path: Path, *arguments: Any) -> None:
        if path.name.startswith(".host-0."):
            touch(path, *arguments)

    def count(hosts: Hosts, there: Callable[[], bool]) -> bool:
        waits.append(hosts.index)
        return wait_for(hosts, there)

    monkeypatch.setattr(Path, "touch", hide)
    monkeypatch.setattr(agreement, "wait_for", count)
    found = together(4, lambda hosts: agreement.open_shared(hosts, tmp_path / "run", changed()), seconds=0.9)
    assert all("by process 1, 2, 3 of 4" in sentence for sentence in found)
    assert sorted(waits) == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("bucket", ["gs://mine/runs", "s3://mine/runs"])
def test_a_bucket_is_no_folder(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="a bucket is no folder; mount it on every host"):
        agreement.open_shared(ALONE, Path(bucket), changed())
    assert not list(tmp_path.iterdir())
