"""`ser-jax extract`: what training would extract, by this machine or by Ray, and only once."""

import contextlib
import os
import select
import signal
from pathlib import Path

import numpy as np
import pytest
import releases
from commands import SPEAKERS, Started, command, feature_store, read_table

EXTRACT = "extract"
DONE = "24 recordings in the feature store, {} of them new; {} cannot be used"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[str, ...]:
    names = releases.emodb_names(SPEAKERS[:3], per_emotion=2)
    root = releases.write_emodb(tmp_path_factory.mktemp("emodb"), names, seconds=1.0)
    return "--config.corpus.name=emodb", f"--config.corpus.root={root}"


def entries(store: Path) -> dict[str, np.ndarray]:
    return {path.name: np.load(path) for path in store.rglob("*.npy")}


def test_main_finds_what_was_extracted(corpus, tmp_path):
    ended = command(*corpus, f"--output={tmp_path}", name=EXTRACT)
    assert ended.code == 0 and DONE.format(24, 0) in ended.out, ended
    before = feature_store()
    assert before and read_table(tmp_path / "rejected.csv") == []
    again = command(*corpus, f"--output={tmp_path}", name=EXTRACT)
    assert DONE.format(0, 0) in again.out and feature_store() == before


def test_what_cannot_be_used_is_listed(corpus, tmp_path):
    names = releases.emodb_names(SPEAKERS[:3], per_emotion=3)
    root = releases.write_emodb(tmp_path / "emodb", names, seconds=1.0)
    (root / "wav" / names[0]).write_bytes(b"")
    most = "--config.features.max_bad_share=0.1"
    where = (f"--config.corpus.root={root}", f"--output={tmp_path}/lists")
    ended = command(corpus[0], *where, most, name=EXTRACT)
    assert ended.code == 0 and "1 cannot be used" in ended.out, ended
    assert [row["reason"] for row in read_table(tmp_path / "lists/rejected.csv")] == ["unreadable"]


def test_ray_on_this_machine_makes_the_same_store(corpus, tmp_path):
    pytest.importorskip("ray")
    for engine in ("local", "ray"):
        store = f"--config.features.store={tmp_path}/{engine}"
        options = (store, f"--engine={engine}", f"--output={tmp_path}")
        ended = command(*corpus, *options, name=EXTRACT)
        assert ended.code == 0 and DONE.format(24, 0) in ended.out, ended
    ray, local = entries(tmp_path / "ray"), entries(tmp_path / "local")
    assert ray.keys() == local.keys() and len(local) == 48
    for name, values in local.items():  # BLAS sums in another order with another number of threads.
        np.testing.assert_allclose(ray[name], values, atol=1e-5)


def test_it_leaves_after_sigterm_and_so_does_ray(corpus, tmp_path):
    pytest.importorskip("ray")
    store = f"--config.features.store={tmp_path}/store"
    started = Started(*corpus, store, "--engine=ray", f"--output={tmp_path}", name=EXTRACT)
    pid = started._process.pid
    assert pid is not None
    while not (children := descendants(pid)) and not started.ends_within(0.2):
        pass
    started.send(signal.SIGTERM)
    ended = started.wait()
    assert ended.code == 42 and "Traceback" not in ended.err, ended
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(child)
            ended_by_itself = select.select([handle], [], [], 60)[0]
            os.close(handle)
            assert ended_by_itself, "a process of Ray goes on"


def descendants(pid: int) -> list[int]:
    """Ray's processes that a command has started so far."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def test_an_address_without_ray_is_refused(corpus):
    said = command(*corpus, "--address=auto", name=EXTRACT).refusal
    assert said == "--address=auto is for --engine=ray; add that, or leave it out"


def test_ray_and_timelines_are_refused_together(tmp_path):
    said = command("--model=x", "--engine=ray", "--timeline", "a.wav", name="predict").refusal
    assert "--engine=ray is for tables" in said
