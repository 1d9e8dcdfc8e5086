"""The probe on layers of embeddings: seconds to read them, to the first step, and per epoch.

    python bench/probe.py --json bench/results/probe.json

Simulated: --utterances arrays [L, D] of noise as .npy files, which is what model.probe_pooling=mean
makes of [L, T, D]. Three trials train at once.
"""

import argparse
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
import ours

from ser_jax.config import get_config
from ser_jax.corpora.table import Utterance
from ser_jax.experiment import setup
from ser_jax.features import embeddings
from ser_jax.features.extraction import Features


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=5531)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    config = get_config()
    config.system, config.model.probe_pooling = "probe", "mean"
    devices = setup.start(config)
    rng = np.random.default_rng(0)
    rows = [Utterance(f"{n:06d}", f"{n:06d}.wav") for n in range(options.utterances)]
    targets = np.arange(len(rows)) % 4
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for row in rows:
            values = rng.standard_normal((options.layers, options.width), np.float32)
            np.save(folder / f"{row.id}.npy", values)
        begin = time.perf_counter()
        matched, _ = embeddings.match(folder, rows, folder, level="layers")
        found = embeddings.read(folder, matched, level="layers", mean=True)
        read = time.perf_counter() - begin
        features = Features(tuple(rows), [], None, np.zeros(0), (), {}, "", 0)
        features = embeddings.join(features, found, frames=True)
    protocol = ours.make_protocol(targets)
    dataset = setup.make_dataset(config, protocol, features)
    group = ours.Group(config, dataset, protocol, devices, 3)
    group.begin_epoch(1)
    first = time.perf_counter() - begin
    seconds = []
    for _ in range(options.epochs):
        begin = time.perf_counter()
        group.epoch()
        seconds.append(time.perf_counter() - begin)
    result = {
        "environment": measure.environment("jax", "numpy"),
        **{key: value for key, value in vars(options).items() if key != "json"},
        "read_seconds": read,
        "first_step_seconds": first,
        "trials_at_once": group.size,
        "epoch_seconds": seconds,
    }
    print(
        f"{read:.1f} s to read, first step after {first:.1f} s, {group.size} trials at once:"
        f" {np.median(seconds):.2f} s per epoch"
    )
    if options.json:
        measure.write_json(options.json, result)


if __name__ == "__main__":
    main()
