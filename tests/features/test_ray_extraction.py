"""Extraction on a Ray cluster: the bytes of local extraction, even if workers or nodes die."""

import dataclasses
import hashlib
import os
import signal
from pathlib import Path

import bad_recordings
import hypothesis
import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st

from ser_jax.config import get_config
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.features import extraction, ray_extraction
from ser_jax.features.extraction import Item
from ser_jax.features.logmel import LogMelSettings
from ser_jax.features.pcm import BadAudio
from ser_jax.features.store import key
from ser_jax.runtime.errors import UserError

FEATURES = get_config().features
SETTINGS = LogMelSettings(**{name: FEATURES[name] for name in LogMelSettings.__dataclass_fields__})
RECORDINGS = 12


@pytest.fixture(scope="module")
def engine():
    pytest.importorskip("ray")
    import ray_nodes

    from ser_jax.runtime import ray_workers

    with ray_workers.joined(ray_nodes.shared().address) as cluster:
        yield ray_extraction.RayEngine(cluster)


@pytest.fixture
def one(engine):
    """With one worker."""
    return dataclasses.replace(engine, workers=1)


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    """Recordings of several lengths, spans, a copy, and every kind of bad file."""
    root, rng = tmp_path / "corpus", np.random.default_rng(0)
    root.mkdir()
    for number in range(RECORDINGS):
        samples = 0.1 * rng.standard_normal(4000 + 1500 * number)
        soundfile.write(root / f"{number:02d}.wav", samples, 16000)
    (root / "copy.wav").write_bytes((root / "03.wav").read_bytes())
    for name, (content, _) in bad_recordings.bad_files().items():
        (root / name).write_bytes(content)
    names = [*sorted(path.name for path in root.iterdir()), "none.wav"]
    whole = [Utterance(name, name, label="sad") for name in names]
    span = Utterance("11.wav#0.1-0.6", "11.wav", 0.1, 0.6, label="sad")
    return Corpus("test", root, (*whole, span), "none", {})


def extracted(corpus, store, engine=None, *, hsf=False):
    options = {"waves": True, "max_seconds": bad_recordings.MAX_SECONDS, "max_bad_share": 1.0}
    places = {"store_root": store, "workers": 2, "engine": engine}
    return extraction.extract(corpus, SETTINGS, hsf=hsf, **options, **places)


def entries(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.rglob("*.npy")}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_store_is_that_of_local_extraction(corpus, engine, tmp_path, workers):
    local = extracted(corpus, tmp_path / "local")
    found = extracted(corpus, tmp_path / "ray", ray_extraction.RayEngine(engine.cluster, workers))
    assert entries(tmp_path / "ray") == entries(tmp_path / "local") != {}
    assert found.utterances == local.utterances and len(found.utterances) == RECORDINGS + 2
    assert found.rejected == local.rejected
    assert len(found.rejected) == len(bad_recordings.bad_files()) + 1
    assert found.extracted == local.extracted == RECORDINGS + 1


def test_functionals_are_the_same(corpus, one, tmp_path):
    pytest.importorskip("opensmile")
    local = extracted(corpus, tmp_path / "local", hsf=True)
    found = extracted(corpus, tmp_path / "ray", one, hsf=True)
    assert entries(tmp_path / "ray") == entries(tmp_path / "local")
    np.testing.assert_array_equal(found.hsf, local.hsf)


def test_a_killed_worker_loses_nothing(corpus, engine, tmp_path, monkeypatch):
    pools, killed = [], []

    class Watched(ray_extraction.Pool):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            pools.append(self)

    def killing(*arguments):
        for number, found in enumerate(engine(*arguments)):
            if number == 3:
                members = [member for member in pools[0]._members if member.jobs]
                killed.append(members[0].ready.pid)
                os.kill(killed[0], signal.SIGKILL)
            yield found

    monkeypatch.setattr(ray_extraction, "Pool", Watched)
    monkeypatch.setattr(ray_extraction, "_MOST_BYTES", 1.0)  # one recording at a time
    found = extracted(corpus, tmp_path / "ray", killing)
    local = extracted(corpus, tmp_path / "local")
    assert killed and found.rejected == local.rejected
    assert entries(tmp_path / "ray") == entries(tmp_path / "local")


def test_only_a_recording_that_kills_two_workers_is_bad(corpus, engine, tmp_path, monkeypatch):
    import ray_jobs

    poison = corpus.root / ray_jobs.POISON
    (corpus.root / "05.wav").rename(poison)
    clean = tuple(u for u in corpus.utterances if u.file != "05.wav")
    monkeypatch.setattr(ray_extraction, "prepare", ray_jobs.prepare_poisoned_extraction)
    utterances = (*clean, Utterance("poison", poison.name, label="sad"))
    listed = dataclasses.replace(corpus, utterances=utterances)
    found = extracted(listed, tmp_path / "ray", engine)
    row = found.rejected[-1]
    assert (row.file, row.reason) == (poison.name, "unreadable")
    assert "two worker processes died" in row.detail
    local = extracted(dataclasses.replace(corpus, utterances=clean), tmp_path / "local")
    assert found.rejected[:-1] == local.rejected and found.utterances == local.utterances
    assert entries(tmp_path / "ray") == entries(tmp_path / "local")


def test_a_restart_does_what_is_missing(corpus, one, tmp_path):
    extracted(corpus, tmp_path / "ray")
    before = entries(tmp_path / "ray")
    requested = []

    def counting(items, *arguments):
        requested.extend(items)
        return one(items, *arguments)

    assert extracted(corpus, tmp_path / "ray", counting).extracted == 0
    bad = {item.path.name for item in requested}
    for path in sorted((tmp_path / "ray").rglob("*.npy"))[:1]:
        path.unlink()
    requested.clear()
    assert extracted(corpus, tmp_path / "ray", counting).extracted == 1
    assert len({item.path.name for item in requested} - bad) == 1
    assert entries(tmp_path / "ray") == before


def test_a_node_without_the_recordings_is_refused(corpus, one, tmp_path, monkeypatch):
    import ray_jobs

    monkeypatch.setattr(ray_extraction, "prepare", ray_jobs.prepare_extraction_elsewhere)
    message = r"node .* does not read what this machine reads: .*missing.*the same path"
    with pytest.raises(UserError, match=message):
        extracted(corpus, tmp_path / "ray", one)


def computed(folder: Path, digest: str):
    """What a worker returns for a bad file that the driver read with this digest."""
    (folder / "a.wav").write_bytes(b"RIFF")
    name = key("audio", digest, None, None, {})
    item = Item(name, folder / "a.wav", None, None, 1.0, {"audio": name})
    return ray_extraction.compute_portion([item], SETTINGS, 9.0)


def test_other_bytes_under_the_same_path_are_not_computed(tmp_path):
    found = computed(tmp_path, hashlib.sha256(b"RIFF").hexdigest())
    assert isinstance(found, list) and [type(one) for one in found] == [BadAudio]
    found = computed(tmp_path, "0" * 64)
    assert isinstance(found, ray_extraction.Elsewhere)
    assert "a.wav (it holds other bytes)" in found.detail


def item(cost: float) -> Item:
    return Item(str(cost), Path("a.wav"), None, None, cost, {})


def test_portions_of_a_small_case():
    """40 in all, two workers: an eighth of what is left each time, and never more than 4."""
    items = [item(2.0) for _ in range(20)]
    sizes = [len(portion) for portion in ray_extraction.portions(items, 2, 4.0)]
    # 40, 36, … 20 are left: an eighth is more than 2, so two items; from 16 on one item is enough.
    assert sizes == [2] * 6 + [1] * 8


@hypothesis.given(st.lists(st.floats(0, 1e9)), st.integers(1, 64), st.floats(1, 1e9))
def test_portions_are_all_items_in_their_order(costs, workers, most):
    items = [item(cost) for cost in costs]
    found = ray_extraction.portions(items, workers, most)
    assert [one for portion in found for one in portion] == items and all(found)
    assert all(sum(one.cost for one in portion[:-1]) < most for portion in found)
