"""Prediction on a Ray cluster: the same table for any number of workers, whichever dies."""

import contextlib
import dataclasses
import os
import signal
from pathlib import Path

import bad_recordings
import hypothesis
import made_runs
import pytest
import soundfile
from hypothesis import strategies as st

from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.features.pcm import BadAudio
from ser_jax.prediction import batch, blocks, ray_batch
from ser_jax.prediction.predictor import Predictor
from ser_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    import ray_nodes

    from ser_jax.runtime import ray_workers

    with ray_workers.joined(ray_nodes.shared().address) as found:
        yield found


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    return made_runs.make_run(tmp_path_factory.mktemp("run"), "plain_crnn")


@pytest.fixture(scope="module")
def predictor(workdir) -> Predictor:
    return Predictor(workdir)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Recordings of several lengths, bad files, and a list with bad rows."""
    root = tmp_path / "recordings"
    root.mkdir()
    for number in range(10):
        samples = made_runs.speech(0.5 + 0.3 * number, seed=number)
        soundfile.write(root / f"{number}.wav", samples, 16000)
    for name, (content, _) in bad_recordings.bad_files().items():
        if not name.startswith("."):
            (root / name).write_bytes(content)
    (tmp_path / "list.csv").write_text(
        "file,start,end\nrecordings/9.wav,0.2,1.4\nrecordings/none.wav,,\n/etc/a.wav,,\n"
        "recordings/1.wav,0.1,99\n"
    )
    return tmp_path


@pytest.fixture
def listed(folder) -> list[batch.Source]:
    return batch.find([str(folder / "recordings"), str(folder / "list.csv")])


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of few recordings."""
    monkeypatch.setattr(blocks, "LEAST", 16)


def assert_alike(one, other):
    """Everything is equal but the shares, which agree to rounding."""
    for left, right in zip(one, other, strict=True):
        assert dataclasses.replace(left, answer=None) == dataclasses.replace(right, answer=None)
        assert (left.answer is None) == (right.answer is None)
        if left.answer is not None:
            assert left.answer.label == right.answer.label
            assert left.answer.probabilities == pytest.approx(right.answer.probabilities, abs=1e-6)


def test_one_and_two_workers_give_the_table_of_this_machine(
    cluster, workdir, predictor, listed, small_blocks
):
    decision = predictor.decision(threshold=0.4)
    one = ray_batch.predict(workdir, listed, decision, cluster, workers=1)
    assert ray_batch.predict(workdir, listed, decision, cluster, workers=2) == one
    assert_alike(one, batch.predict(predictor, listed, decision))
    usable = [row for row in one if row.answer is not None and row.answer.label != "no speech"]
    assert sum(row.answer is not None for row in one) == len(usable) + 2  # zeros in two formats
    shares = {row.answer.probabilities["sad"] for row in usable if row.answer}
    assert len(usable) == len(shares) == 12
    reasons = {row.reason for row in one}
    assert reasons >= {"missing", "truncated", "silent", "span outside the file"}


def test_a_worker_is_killed_in_the_middle_and_the_table_is_the_same(
    cluster, workdir, predictor, listed, small_blocks, monkeypatch
):
    decision, killed = predictor.decision(threshold=0.4), []

    class Killed(ray_batch.Pool):
        def run(self, jobs, **options):
            for found in super().run(jobs, **options):
                busy = [one.ready.pid for one in self._members if one.ready and one.jobs]
                if busy and not killed:
                    killed.append(busy[0])
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(busy[0], signal.SIGKILL)
                yield found

    monkeypatch.setattr(ray_batch, "Pool", Killed)
    rows = ray_batch.predict(workdir, listed, decision, cluster)
    assert killed and rows == ray_batch.predict(workdir, listed, decision, cluster, workers=1)


def test_a_recording_that_kills_workers_is_named_and_the_rest_is_as_without_it(
    cluster, workdir, predictor, folder, small_blocks, monkeypatch
):
    import ray_jobs

    poison = folder / "recordings" / ray_jobs.POISON
    soundfile.write(poison, made_runs.speech(1.0), 16000)
    monkeypatch.setattr(ray_batch, "prepare", ray_jobs.prepare_poisoned_prediction)
    decision, found = predictor.decision(), batch.find([str(folder / "recordings")])
    rows = ray_batch.predict(workdir, found, decision, cluster)
    (row,) = [row for row in rows if row.file == str(poison)]
    assert row.reason == "unreadable" and "two worker processes died" in row.detail
    rest = [source for source in found if source.file != str(poison)]
    others = [row for row in rows if row.file != str(poison)]
    assert_alike(others, batch.predict(predictor, rest, decision))


def test_other_models_on_a_node_are_refused(cluster, workdir, predictor, listed, monkeypatch):
    monkeypatch.setattr(ray_batch, "facts", lambda folder: {f"the digest of {folder}": "another"})
    with pytest.raises(UserError, match="is not like this machine: the digest of"):
        ray_batch.predict(workdir, listed, predictor.decision(), cluster)


def test_the_digest_is_that_of_the_models(workdir, tmp_path):
    name = f"the digest of {workdir}"
    before = ray_batch.facts(workdir)[name]
    path = next((workdir / "models").glob("*/model.json"))
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    after = ray_batch.facts(workdir)[name]
    path.write_bytes(content)
    assert after != before == ray_batch.facts(workdir)[name]


def test_a_file_that_a_node_does_not_see_is_no_bad_recording(tmp_path):
    (tmp_path / "a.wav").touch()
    missing = BadAudio("missing", "no such file")
    sentence = r"a\.wav is on this machine and not on the node far: mount the recordings"
    with pytest.raises(UserError, match=sentence):
        ray_batch._check_there(Utterance("a", str(tmp_path / "a.wav")), missing, "far")
    ray_batch._check_there(Utterance("b", str(tmp_path / "b.wav")), missing, "far")
    ray_batch._check_there(Utterance("a", str(tmp_path / "a.wav")), BadAudio("silent", ""), "far")


@hypothesis.given(st.integers(0, 10_000))
def test_blocks_are_all_recordings_in_their_order(count):
    utterances = [Utterance(str(number), f"/r/{number}.wav") for number in range(count)]
    blocks = ray_batch.cut(utterances)
    together = [recording for block in blocks for recording in block.recordings]
    assert together == [(u.file, None, None) for u in utterances]
    sizes = [len(block.recordings) for block in blocks]
    assert [block.first for block in blocks] == [sum(sizes[:n]) for n in range(len(sizes))]
    assert all(32 <= size <= 256 for size in sizes[:-1])
    assert len(blocks) <= max(16, -(-count // 256))


def test_what_is_left_out_keeps_its_place():
    block = ray_batch.Block(10, (("/a", None, None), ("/b", 0.5, 1.0)))
    assert ray_batch.without(block, {11, 3}) == ray_batch.Block(10, (("/a", None, None), None))
    assert ray_batch.without(block, ()) == block


def test_nothing_but_rows_that_name_no_recording(cluster, workdir, predictor):
    listed: list[batch.Source] = [Rejection("list.csv", 2, "a reason", "a detail")]
    rows = ray_batch.predict(workdir, listed, predictor.decision(), cluster)
    assert rows == [batch.Row("list.csv", line=2, reason="a reason", detail="a detail")]
