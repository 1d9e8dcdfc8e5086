"""Joining a Ray cluster, and workers on it: every job once, few at once, the dead replaced."""

import contextlib
import importlib.util
import os
import select
import signal
import socket

import pytest

pytest.importorskip("ray")

import ray_jobs
import ray_nodes

from ser_jax.runtime import ray_workers
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.workers import WorkerDied


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray_workers.joined(ray_nodes.shared().address) as found:
        yield found


def test_the_cluster_is_found(cluster):
    assert cluster == ray_workers.Cluster(cores=2, nodes=2)


def test_ray_cannot_install_its_handler_of_sigterm():
    """Ray's raises SystemExit wherever it is called, which Python drops in callbacks of a fork."""
    before = signal.getsignal(signal.SIGTERM)
    with ray_workers._own_sigterm():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGTERM) is before


def run(jobs, prepare=ray_jobs.prepare, facts=ray_jobs.FACTS):
    """Has one worker do jobs."""
    with contextlib.closing(ray_workers.Pool(prepare, (), facts, 1)) as pool:
        return list(pool.run(jobs))


def test_one_worker_has_few_jobs_at_once_in_their_order_and_ends_when_it_is_closed():
    with contextlib.closing(ray_workers.Pool(ray_jobs.prepare, (), ray_jobs.FACTS, 1)) as pool:
        results = pool.run(["pid", *range(100, 0, -1)])
        _, pid = next(results)
        assert isinstance(pid, int)
        for expected in range(100, 90, -1):
            assert next(results)[0] == expected
            assert sum(len(member.jobs) for member in pool._members) <= 2
        handle = os.pidfd_open(pid)
        results.close()
    assert select.select([handle], [], [], 60)[0], "it goes on"
    os.close(handle)


def test_worker_after_worker_dies(monkeypatch):
    monkeypatch.setattr(ray_workers, "_MOST_DEATHS", 2)
    sentence = r"Ray: 2 worker processes died one after the other.*more memory"
    with pytest.raises(UserError, match=sentence):
        run(["die"] * 3)


def test_an_error_of_a_job_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        run([0])


def test_a_node_with_other_versions_is_refused():
    sentence = "is not like this machine: a version is 2 here and 1 there; give all nodes"
    with pytest.raises(UserError, match=sentence):
        run([1], facts={"a version": "2"})


def test_a_node_that_cannot_work_says_why():
    with pytest.raises(UserError, match=r"on the node .*: a package is missing"):
        run([1], prepare=ray_jobs.prepare_complaining)


def test_workers_that_die_before_they_are_ready(monkeypatch):
    monkeypatch.setattr(ray_workers, "_MOST_STARTS", 1)
    sentence = "end before they are ready .*install this version of ser_jax on every node"
    with pytest.raises(UserError, match=sentence):
        run([1], prepare=ray_jobs.prepare_dying)


# Its workers have both cores to the end.
@pytest.fixture(scope="module")
def pool(cluster):
    with contextlib.closing(ray_workers.Pool(ray_jobs.prepare, (), ray_jobs.FACTS, 2)) as made:
        yield made


def test_every_job_gives_its_result(pool):
    jobs = [1, 2, 3, 4, 6, 12]
    assert sorted(pool.run(jobs)) == [(job, 12 // job) for job in jobs]
    assert list(pool.run([])) == []


def test_what_a_worker_died_of_alone_is_given_back_and_the_rest_is_done(pool):
    found = dict(pool.run([1, 2, "die", 3, 4, 6, 12], alone=True))
    death = found.pop("die")
    assert isinstance(death, WorkerDied) and death.jobs == ("die",)
    assert found == {job: 12 // job for job in (1, 2, 3, 4, 6, 12)}


def test_jobs_that_waited_for_a_dead_worker_go_elsewhere(pool):
    """The one before may be given back, too: its result had not left the worker."""
    jobs = [1, 2, "die", 3, 4, 6, 12]
    found = list(pool.run(jobs))
    assert sorted(str(job) for job, _ in found) == sorted(map(str, jobs))
    died = [job for job, result in found if isinstance(result, WorkerDied)]
    assert "die" in died and len(died) <= 2
    assert all(result == 12 // job for job, result in found if job not in died)


# --- Clusters that cannot be joined


def refusal(address: str) -> str:
    with pytest.raises(UserError) as info, ray_workers.joined(address):
        pass
    return str(info.value)


def test_without_ray(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert 'pip install "ser_jax[ray]", on every node' in refusal("")


@pytest.mark.parametrize("address", ["head", "ray://head:1", "head:port", "a b:1", "head:6379/x"])
def test_addresses_that_are_none(address, monkeypatch):
    monkeypatch.setattr(ray_workers, "require_ray", lambda: None)
    assert f"--address={address}: name the cluster's head as HOST:PORT, or auto" in refusal(address)


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(ray_workers, "require_ray", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    sentence = refusal(f"127.0.0.1:{port}")
    assert f"--address=127.0.0.1:{port}: no Ray cluster can be joined there" in sentence
    assert "--head" in sentence
