"""Where the padded arrays of a training live: in memory, or in shards from which they are streamed."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ser_jax import cache
from ser_jax.arrays import sharding, shards
from ser_jax.arrays.source import Source
from ser_jax.config import Config
from ser_jax.features.extract import Features
from ser_jax.training import capacity, memory

AUTO, RESIDENT, STREAMED = "auto", "resident", "streamed"

# Where the limits of a container stand (cgroup v2 and v1).
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

log = logging.getLogger(__name__)


def host_bytes() -> int:
    """Returns the memory of this machine, or of the container if that may use less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # Not there, or "max".
            continue
    return min(found)


def most_feature_bytes(config: Config) -> float:
    """Returns how many bytes of features extraction may hold in memory."""
    if config.system == "svm" or config.training.residence == RESIDENT:
        return math.inf  # The SVM needs all functionals at once.
    return 0 if config.training.residence == STREAMED else config.training.memory_share * host_bytes()


def is_resident(config: Config, needed: int, *, deferred: bool) -> bool:
    """Returns whether padded arrays are to be in memory, and says so in the log.

    Args:
      config: The configuration.
      needed: Bytes that they would take.
      deferred: Whether the features that they are made of have been too large already.
    """
    devices: list[Any] = jax.local_devices()
    limits = [host_bytes(), *filter(None, map(capacity.memory_limit, devices))]
    share, residence = config.training.memory_share, config.training.residence
    resident = not deferred and (residence == RESIDENT or (residence == AUTO and needed <= share * min(limits)))
    log.info(
        "padded arrays: %.2f GB, %s (training.residence=%s, training.memory_share=%g of %.1f GB)",
        *(needed / 1e9, RESIDENT if resident else STREAMED, residence, share, min(limits) / 1e9),
    )
    return resident


def in_shards(config: Config, features: Features) -> Source:
    """Returns the features from their shards, which are written first if they are not there.

    Raises:
      UserError: If packages are missing, or the shards are damaged or cannot be written.
    """
    shards.require_packages()
    root = Path(config.features.shards).expanduser() if config.features.shards else cache.cache_folder() / "shards"
    folder = root / features.sha256[:32]
    if not (folder / shards.INDEX).is_file():
        sharding.write_shards(folder, features.sha256, _arrays(features))
        memory.return_freed_memory()
    source = shards.open_shards(folder, features.sha256)
    log.info("features are streamed from %s", folder)
    return source


def _arrays(features: Features) -> dict[str, sharding.Arrays]:
    if features.deferred:
        return {kind: sharding.Arrays(values, values.lengths()) for kind, values in features.deferred.items()}
    values = {"logmel": features.log_mel, "wave": features.waves, "hsf": features.hsf}
    return {
        kind: sharding.Arrays(found, np.array([len(array) for array in found]))
        for kind, found in values.items()
        if found is not None and len(found)
    }
