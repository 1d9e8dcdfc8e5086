"""Devices, and functions of one run spread over many.

On a CPU every core is one virtual device and trains one run at a time: two runs side by side are faster than one run
on two cores, and XLA's convolution is ten times slower inside a loop. On an accelerator a device holds many runs under
`vmap`.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ser_jax.errors import UserError

RUN = "run"


def start_devices(count: int) -> list[Any]:
    """Starts the backend and returns the devices to train on.

    Args:
      count: How many; 0: all (on a CPU: one per core this process may use).

    Returns:
      The devices.

    Raises:
      UserError: If there are fewer devices than asked for.
    """
    try:
        jax.config.update("jax_num_cpu_devices", count or len(os.sched_getaffinity(0)))
    except RuntimeError:
        pass  # The backend runs already, with the devices it has.
    devices = jax.local_devices()
    if count > len(devices):
        raise UserError(f"training.devices={count}, but there are {len(devices)} {devices[0].platform} devices")
    return devices[: count or len(devices)]


def run_mesh(devices: list[Any]) -> Mesh:
    """Returns a mesh with the one axis "run"."""
    return Mesh(np.array(devices), (RUN,), axis_types=(AxisType.Auto,))


def per_run(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose leading axis is the run."""
    return NamedSharding(mesh, P(RUN))


def shared(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every run reads."""
    return NamedSharding(mesh, P())


def over_runs(function: Callable[..., Any], mesh: Mesh, shared_arguments: int) -> Callable[..., Any]:
    """Turns a function of one run into one of a group.

    Args:
      function: Takes `shared_arguments` arguments that all runs share, then arguments of one run; returns arrays of
        one run.
      mesh: Mesh with the axis "run".
      shared_arguments: How many leading arguments are shared.

    Returns:
      The same function with a leading run axis on the other arguments and on the results.
    """

    def local(*arguments):
        common, own = arguments[:shared_arguments], arguments[shared_arguments:]
        if jax.tree.leaves(own)[0].shape[0] == 1:
            result = function(*common, *jax.tree.map(lambda leaf: leaf[0], own))
            return jax.tree.map(lambda leaf: leaf[None], result)
        return jax.vmap(lambda *run: function(*common, *run))(*own)

    def group(*arguments):
        specs = tuple(P() if n < shared_arguments else P(RUN) for n in range(len(arguments)))
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(RUN), check_vma=False)(*arguments)

    return group
