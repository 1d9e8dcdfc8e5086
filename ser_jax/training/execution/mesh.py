"""Devices as a mesh ("run", "data"), and functions of one trial spread over it.

Devices are first given trials, which need no communication; what is left over splits the rows of
every batch. On a CPU every core is one virtual device and trains one trial at a time: two trials
side by side are faster than one trial on two cores. On an accelerator a device holds many trials
under `vmap`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ser_jax.runtime.errors import UserError
from ser_jax.runtime.machine import available_cores

RUN, DATA = "run", "data"  # axes of the mesh: trials, rows of a batch

# Where the axes of an array lie.
REPLICATED = P()  # every device has all of it
PER_TRIAL = P(RUN)  # [R, …], each trial has its own
ROWS = P(RUN, DATA)  # [R, B, …], and its rows are spread
STEP_ROWS = P(None, RUN, DATA)  # [S, R, B, …], the same for S steps
STEPS_PER_TRIAL = P(RUN, None, DATA)  # [R, S, B, …]


def start_devices(count: int) -> list[Any]:
    """Starts the backend and returns `count` devices; 0: all (on a CPU one per available core).

    Raises:
      UserError: If there are fewer devices than that.
    """
    try:
        jax.config.update("jax_num_cpu_devices", count or available_cores())
    except RuntimeError:
        pass  # The backend runs already, with the devices it has.
    devices = jax.local_devices()
    if count > len(devices):
        raise UserError(
            f"training.devices={count}, but there are {len(devices)} {devices[0].platform} devices"
        )
    return devices[: count or len(devices)]


def mesh_shape(devices: int, trials: int, rows: int) -> tuple[int, int]:
    """Divides devices over the trials of a group, then over the rows of a batch.

    Returns:
      Sizes of the axes "run" and "data"; devices that divide neither stay unused.
    """
    run = max(count for count in range(1, devices + 1) if trials % count == 0)
    return run, max(count for count in range(1, devices // run + 1) if rows % count == 0)


def make_mesh(devices: Sequence[Any], shape: tuple[int, int]) -> Mesh:
    """Returns a mesh with the axes "run" and "data" of as many of the devices as it takes."""
    grid = np.array(devices[: shape[0] * shape[1]]).reshape(shape)
    return Mesh(grid, (RUN, DATA), axis_types=(AxisType.Auto,) * 2)


def sharding(mesh: Mesh, spec: P) -> NamedSharding:
    """Returns the sharding of arrays whose axes lie as `spec` says."""
    return NamedSharding(mesh, spec)


def over_trials(
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: Sequence[P],
    out_spec: P = PER_TRIAL,
    *,
    squeeze: bool = True,
) -> Callable[..., Any]:
    """Turns a function of one trial into one of a group.

    Args:
      function: Takes and returns arrays of one trial; with a mesh axis "data" of more than one
        device, it sees its part of the rows.
      mesh: Mesh with the axes "run" and "data".
      in_specs: Where the axes of every argument of the new function lie.
      out_spec: The same of all results.
      squeeze: Whether a trial that is alone on its device is computed without the trial axis:
        necessary for convolutions, which become slow with one; without it XLA updates large
        arrays in place.

    Returns:
      The function with a trial axis in the arguments that have one, and in the results.
    """
    axes = tuple(spec.index(RUN) if RUN in spec else None for spec in in_specs)
    out_axis = out_spec.index(RUN)

    def local(*arguments):
        trials = next(
            jax.tree.leaves(argument)[0].shape[axis]
            for argument, axis in zip(arguments, axes, strict=True)
            if axis is not None
        )
        if trials > 1 or not squeeze:
            return jax.vmap(function, axes, out_axis)(*arguments)
        alone = [
            argument
            if axis is None
            else jax.tree.map(lambda leaf, axis=axis: leaf.squeeze(axis), argument)
            for argument, axis in zip(arguments, axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: jax.numpy.expand_dims(leaf, out_axis), function(*alone))

    if mesh.size == 1:
        return local  # The same, traced sooner.
    return jax.shard_map(
        local, mesh=mesh, in_specs=tuple(in_specs), out_specs=out_spec, check_vma=False
    )
