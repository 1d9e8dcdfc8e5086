"""A node is lost in the middle of an extraction: nothing else is, and no recording is blamed."""

import contextlib

import numpy as np
import pytest
import soundfile

pytest.importorskip("ray")

import ray_nodes

from ser_jax.config import get_config
from ser_jax.features import ray_extraction, store
from ser_jax.features.extraction import Item, extract_one
from ser_jax.features.header import content_sha256
from ser_jax.features.logmel import LogMelSettings
from ser_jax.runtime import ray_workers

FEATURES = get_config().features
SETTINGS = LogMelSettings(**{name: FEATURES[name] for name in LogMelSettings.__dataclass_fields__})


def make_item(path):
    digest, size = content_sha256(path)
    keys = {kind: store.key(kind, digest, None, None, {}) for kind in ("audio", "wave")}
    return Item(keys["audio"], path, None, None, size, keys)


def test_a_node_is_lost(tmp_path, monkeypatch):
    rng, items = np.random.default_rng(0), []
    for number in range(40):
        path = tmp_path / f"{number:02d}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(8000), 16000)
        items.append(make_item(path))
    # One recording at a time: something is left to do.
    monkeypatch.setattr(ray_extraction, "_MOST_BYTES", 1.0)
    found, lost = {}, []
    with (
        contextlib.closing(ray_nodes.start()) as nodes,
        ray_workers.joined(nodes.address) as cluster,
    ):
        engine = ray_extraction.RayEngine(cluster)
        for item, error in engine(items, store.FeatureStore(tmp_path / "ray"), SETTINGS, 9.0):
            found[item.name] = error
            if len(found) == 4:
                nodes.lose_one()
                lost.append(item)
    assert lost and found == {item.name: None for item in items}
    for item in items:
        assert extract_one(item, tmp_path / "local", SETTINGS, 9.0) is None
        for key in item.keys.values():
            paths = [store.FeatureStore(tmp_path / name).path(key) for name in ("ray", "local")]
            assert paths[0].read_bytes() == paths[1].read_bytes()
