"""How many runs a device holds at once, decided before anything is compiled."""

from typing import Any

import jax
import numpy as np

from ser_jax.arrays.dataset import Dataset
from ser_jax.errors import UserError

# Arrays like the parameters that a run needs: parameters, gradient, two moments, the best and the average parameters.
COPIES = 6
# Values that a step keeps per frame of the longest bucket and per segmentation, forward and backward: an estimate from
# the shapes (unfolded frames, both convolutions, gates and states of the LSTM), rounded up.
VALUES_PER_FRAME = 2000
VALUES_PER_CHUNK = 300_000  # the same for a chunk of the wave: unfolded samples and both convolutions of End2You
USABLE = 0.9


def memory_limit(device: Any) -> int | None:
    """Returns the bytes that a device offers to this process, or None where it does not say (CPU)."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    return stats.get("bytes_limit") if stats else None


def data_bytes(dataset: Dataset) -> int:
    """Returns the bytes of all buckets, which every device holds once."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves((dataset.buckets, dataset.targets)))


def run_bytes(dataset: Dataset, parameters: int, batch_size: int) -> int:
    """Returns about how many bytes one run needs on top of the data."""
    steps = max(sum(np.prod(leaf.shape[1:-1]) for leaf in bucket.time_arrays) for bucket in dataset.buckets)
    values = VALUES_PER_FRAME if dataset.buckets[0].wave is None else VALUES_PER_CHUNK
    return 4 * (COPIES * parameters + values * batch_size * int(steps))


def largest_group(runs: int, *, devices: int, limit: int | None, data: int, run: int) -> int:
    """Returns how many runs to train at once.

    Args:
      runs: Runs there are.
      devices: Devices that share them.
      limit: Bytes of one device; None: unknown, taken as enough.
      data: Bytes of the data.
      run: Bytes of one run.

    Returns:
      A multiple of the devices if there are more runs than devices (so that each holds its share; places without a run
      stay idle), else the number of runs.

    Raises:
      UserError: If the data and one run are more than a device holds.
    """
    per_device = -(-runs // devices)
    if limit is not None:
        room = int((USABLE * limit - data) // run)
        if room < 1:
            raise UserError(
                f"the data take {data / 1e9:.1f} GB and one run about {run / 1e9:.1f} GB, but a device offers "
                f"{limit / 1e9:.1f} GB: set a smaller training.batch_size or features.max_seconds, allow more "
                f"training.shapes (less padding), or train on the CPU (JAX_PLATFORMS=cpu)"
            )
        groups = -(-per_device // room)
        per_device = -(-per_device // groups)
    return runs if runs <= devices else per_device * devices
