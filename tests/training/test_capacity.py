"""How many runs fit on a device: by hand, and what is said where not even one does."""

from typing import Any

import jax
import numpy as np
import pytest
import tiny

from ser_jax.arrays import dataset as datasets
from ser_jax.errors import UserError
from ser_jax.models import build
from ser_jax.training import capacity

CASES = [
    # runs, devices, limit, data, one run → group
    (50, 1, None, 10, 10, 50),  # unknown: everything at once
    (50, 1, 1000, 400, 5, 50),  # 500 / 5 = 100 fit
    (50, 1, 1000, 400, 20, 25),  # 25 fit: two groups
    (50, 1, 1000, 400, 24, 17),  # 20 fit: three groups of 17, 17, 16
    (50, 4, 1000, 400, 100, 20),  # 13 per device are wanted, 5 fit: three groups of 5 per device
    (3, 8, 1000, 400, 100, 3),  # more devices than runs
    (1, 1, 1000, 400, 500, 1),  # just so
]


@pytest.mark.parametrize(("runs", "devices", "limit", "data", "run", "expected"), CASES)
def test_largest_group(runs, devices, limit, data, run, expected):
    assert capacity.largest_group(runs, devices=devices, limit=limit, data=data, run=run) == expected


def test_not_even_one_run():
    with pytest.raises(
        UserError, match=r"the data take 20\.0 GB and one run about 1\.5 GB, but a device offers 16\.0 GB.*batch_size"
    ):
        capacity.largest_group(4, devices=2, limit=16 * 10**9, data=20 * 10**9, run=15 * 10**8)


def test_what_data_and_runs_take():
    data = tiny.dataset()
    buckets: Any = data.buckets
    arrays = [array for bucket in buckets for array in (bucket.frames, bucket.length)]
    assert capacity.data_bytes(data) == sum(array.nbytes for array in (*arrays, *data.targets))
    parameters = build.count_parameters(tiny.model(), data.buckets[0])
    assert parameters == tiny.programs(2, 2).parameters
    longest = max(bucket.frames.shape[1] for bucket in buckets)
    assert capacity.run_bytes(data, parameters, 4) == 4 * (6 * parameters + 2000 * 4 * longest)


def test_chunks_of_waves_take_more():
    waves = [np.ones(size, np.int16) for size in (30, 100)]
    data = datasets.build_wave_dataset(waves, np.zeros(2, np.int32), chunk=10, shapes=2, batch_size=1, train_share=1.0)
    assert capacity.data_bytes(data) == 2 * (30 + 100) + 2 * 4 + 2 * 4
    assert capacity.run_bytes(data, 7, 2) == 4 * (6 * 7 + 300_000 * 2 * 10)


def test_cpus_do_not_say():
    assert capacity.memory_limit(jax.local_devices(backend="cpu")[0]) is None
