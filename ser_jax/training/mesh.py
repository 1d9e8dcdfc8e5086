"""Devices, and functions of one run spread over many.

On a CPU every core is one virtual device and trains one run at a time: two runs side by side are faster than one run
on two cores, and XLA's convolution is ten times slower inside a loop. On an accelerator a device holds many runs under
`vmap`. Devices are first given runs, which need no communication; what is left over splits the rows of every batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ser_jax.cores import available_cores
from ser_jax.errors import UserError

RUN, DATA = "run", "data"

# Where the axes of an array lie.
SHARED = P()  # every device has all of it
OWN = P(RUN)  # [R, …], each run has its own
ROWS = P(RUN, DATA)  # [R, B, …], and its rows are spread
STEP_ROWS = P(None, RUN, DATA)  # [S, R, B, …], the same for many steps
STEPS_OF_RUN = P(RUN, None, DATA)  # [R, S, B, …]


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
        jax.config.update("jax_num_cpu_devices", count or available_cores())
    except RuntimeError:
        pass  # The backend runs already, with the devices it has.
    devices = jax.local_devices()
    if count > len(devices):
        raise UserError(f"training.devices={count}, but there are {len(devices)} {devices[0].platform} devices")
    return devices[: count or len(devices)]


def make_mesh(devices: Sequence[Any], runs: int, rows: int) -> Mesh:
    """Divides devices over the runs of a group, then over the rows of a batch.

    Args:
      devices: The devices; those that neither the runs nor the rows can be divided over stay unused.
      runs: Runs in a group.
      rows: Rows of a batch.

    Returns:
      A mesh with the axes "run" and "data".
    """
    run = max(count for count in range(1, len(devices) + 1) if runs % count == 0)
    data = max(count for count in range(1, len(devices) // run + 1) if rows % count == 0)
    grid = np.array(devices[: run * data]).reshape(run, data)
    return Mesh(grid, (RUN, DATA), axis_types=(AxisType.Auto,) * 2)


def place(mesh: Mesh, spec: P) -> NamedSharding:
    """Returns the sharding of arrays whose axes lie as `spec` says."""
    return NamedSharding(mesh, spec)


def compiler_options(mesh: Mesh) -> dict[str, Any]:
    """Returns XLA's options: the devices of a CPU compute with one thread each.

    They share a pool of as many threads as there are cores, and a product that one of them divides over all of them
    waits for threads that work for the others (jaxlib 0.10.2).
    """
    alone = mesh.size == 1 or mesh.devices.flat[0].platform != "cpu"
    return {} if alone else {"xla_cpu_multi_thread_eigen": False}


def settle(mesh: Mesh, tree: Any) -> Any:
    """Waits for arrays where programs must not overlap: on CPUs, as soon as devices communicate.

    Measured with jaxlib 0.10.2: the devices of a CPU share a pool of threads, a device that waits for another one in a
    collective keeps its thread, and with several programs in flight the process comes to a stop and is aborted.
    """
    if mesh.shape[DATA] > 1 and mesh.devices.flat[0].platform == "cpu":
        jax.block_until_ready(tree)
    return tree


def over_runs(
    function: Callable[..., Any], mesh: Mesh, in_specs: Sequence[P], out_spec: P = OWN, *, drop: bool = True
) -> Callable[..., Any]:
    """Turns a function of one run into one of a group.

    Args:
      function: Takes and returns arrays of one run; with a mesh axis "data" of more than one device, it sees its share
        of the rows.
      mesh: Mesh with the axes "run" and "data".
      in_specs: Where the axes of every argument of the new function lie.
      out_spec: The same of all results.
      drop: Whether a run that is alone on its device is computed without the run axis: necessary for convolutions,
        which become slow with one; without it XLA updates large arrays where they lie.

    Returns:
      The function with a run axis in the arguments that have one, and in the results.
    """
    axes = tuple(spec.index(RUN) if RUN in spec else None for spec in in_specs)
    out_axis = out_spec.index(RUN)

    def local(*arguments):
        runs = next(
            jax.tree.leaves(argument)[0].shape[axis]
            for argument, axis in zip(arguments, axes, strict=True)
            if axis is not None
        )
        if runs > 1 or not drop:
            return jax.vmap(function, axes, out_axis)(*arguments)
        alone = [
            argument if axis is None else jax.tree.map(lambda leaf, axis=axis: leaf.squeeze(axis), argument)
            for argument, axis in zip(arguments, axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: jax.numpy.expand_dims(leaf, out_axis), function(*alone))

    if mesh.size == 1:
        return local  # The same, traced sooner.
    return jax.shard_map(local, mesh=mesh, in_specs=tuple(in_specs), out_specs=out_spec, check_vma=False)
