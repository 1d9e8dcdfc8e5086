"""How a training is executed: the only place where CPUs and accelerators differ by choice.

`make_plan` decides from configuration, data and devices, before anything is compiled; nothing else
asks what kind of device there is. `with_own_kernels` then looks whether the package's own kernels
can be used on this machine.
"""

import dataclasses
import logging
import math
from typing import Any

import jax
import numpy as np
from jaxlib.version import __version__ as jaxlib_version

from ser_jax.config import Config
from ser_jax.data import epoch_plans
from ser_jax.data.dataset import Dataset
from ser_jax.models import build
from ser_jax.models.kernels import verify
from ser_jax.models.kernels.cpu import UnavailableError
from ser_jax.models.layers import ComputeOptions
from ser_jax.runtime import machine
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted
from ser_jax.training.augmentation import Augmentation
from ser_jax.training.execution.mesh import mesh_shape

log = logging.getLogger(__name__)

# Steps that are handed over at once. On accelerators enough to hide the host, few enough to stop
# within a second or so; on CPUs a signal waits for that many, and for those in flight.
MOST_SCANNED_STEPS, STEPS_PER_TRANSFER = 64, 16
STREAMED_IN_FLIGHT = 4  # steps that are handed over but not done: each keeps its batch in memory

# Arrays like the parameters that a trial needs: parameters, gradient, two moments, the best and the
# average parameters.
COPIES = 6
# Values that a step keeps per frame of the longest bucket and per segmentation, forward and
# backward: an estimate from the shapes (unfolded frames, both convolutions, gates and states of the
# LSTM), rounded up.
VALUES_PER_FRAME = 2000
# The same for a chunk of the wave: unfolded samples and both convolutions of End2You.
VALUES_PER_CHUNK = 300_000
UNVARIED = Augmentation()
USABLE_MEMORY = 0.9  # fraction of the memory of a device


@dataclasses.dataclass(frozen=True)
class DeviceFacts:
    """What a plan has to know of the devices."""

    platform: str  # cpu | gpu | tpu
    kind: str = "cpu"  # such as "NVIDIA H100"
    count: int = 1  # how many
    memory: int | None = None  # bytes that each offers to this process; None: unknown (CPU)


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What a plan has to know of the data."""

    steps: int  # steps of an epoch
    resident_bytes: int = 0  # bytes that every device holds of it; 0 where it is streamed
    trial_bytes: int = 0  # about how many bytes a trial needs on top
    streamed: bool = False  # whether batches are read from disk


@dataclasses.dataclass(frozen=True)
class ExecutionPlan:
    """How a training is executed."""

    per_step: bool  # whether every step is dispatched by itself (CPU) or many are one program
    trials: int  # trials R that are trained at once
    rows: int  # rows B of a batch
    mesh_shape: tuple[int, int] = (1, 1)  # devices over trials, devices over the rows of a batch
    chunk: int = STEPS_PER_TRANSFER  # steps that are handed over at once
    in_flight: int | None = None  # how many steps may be handed over but not done; None: any number
    metrics_delay: int = 0  # by how many epochs results may be fetched late: no device waits
    streamed: bool = False  # whether batches are read from disk
    # whether programs must not overlap. With jaxlib 0.10.2 the devices of a CPU share a pool of
    # threads; one that waits for another in a collective keeps its thread, and with several
    # programs in flight the process comes to a stop and is aborted
    synchronize: bool = False
    # whether every device of a CPU computes with one thread. They share a pool of as many threads
    # as there are cores, and a product that one of them divides over all of them waits for threads
    # that work for the others (jaxlib 0.10.2)
    one_thread_each: bool = False
    compute: ComputeOptions = ComputeOptions()  # of products, convolutions and recurrences
    compiler: str | None = None  # version of the compiler that made the package's own kernels

    @property
    def compiler_options(self) -> dict[str, Any]:
        """XLA's options for programs of one step."""
        return {"xla_cpu_multi_thread_eigen": False} if self.one_thread_each else {}

    def record(self, device: DeviceFacts) -> dict[str, Any]:
        """Returns what fixes the bits of a training, apart from what is trained.

        The keys of the configuration have the values that plan the same again.
        """
        return {
            "training.devices": math.prod(self.mesh_shape),
            "training.group": self.trials,
            "training.dispatch": "step" if self.per_step else "chunk",
            "training.kernels": "native" if self.compute.native else "xla",
            "training.recurrence": "pallas" if self.compute.pallas else "scan",
            "compiler": self.compiler,
            "processor": machine.processor_name() if device.platform == "cpu" else device.kind,
            "jaxlib": jaxlib_version,
        }

    def __str__(self) -> str:
        """Returns a line for the log."""
        run, data = self.mesh_shape
        own = self.compute.native
        return (
            f"{counted(self.trials, 'trial')} at once on {run} x {data} devices (trials x rows),"
            f" {'step by step' if self.per_step else f'{self.chunk} steps a program'},"
            f" {'streamed' if self.streamed else 'resident'} data,"
            f" {'own' if own else 'XLA'} kernels,"
            f" recurrence by {'Pallas' if self.compute.pallas else 'own' if own else 'scan'}"
        )


def make_plan(config: Config, trials: int, data: DataFacts, devices: DeviceFacts) -> ExecutionPlan:
    """Decides how a training is executed.

    There are `trials` to train or score. Own kernels are planned wherever they may be used, see
    `with_own_kernels`.

    Raises:
      UserError: If the data and one trial are more than a device holds.
    """
    t = config.training
    cpu, wave = devices.platform == "cpu", build.uses_wave(config)
    per_step = t.dispatch == "step" or (t.dispatch == "auto" and cpu) or data.streamed
    own_kernels = build.spec(config).own_kernels
    if t.group:
        at_once = t.group
    elif cpu:
        at_once = min(trials, devices.count)
    else:
        at_once = largest_group(trials, data, devices)
    # Measured: on a CPU one device with all threads is as fast as two that share the rows.
    splits_rows = not cpu or t.devices > 0
    shape = mesh_shape(devices.count, at_once, t.batch_size if splits_rows else 1)
    if per_step:
        chunk = 1 if wave else STEPS_PER_TRANSFER
    else:
        chunk = epoch_plans.even_chunk(data.steps, MOST_SCANNED_STEPS)
    in_flight = STREAMED_IN_FLIGHT if data.streamed else None
    return ExecutionPlan(
        per_step=per_step,
        trials=at_once,
        rows=t.batch_size,
        mesh_shape=shape,
        chunk=chunk,
        in_flight=0 if per_step and wave else in_flight,  # A step of End2You takes seconds.
        metrics_delay=0 if per_step else 1,
        streamed=data.streamed,
        synchronize=cpu and shape[1] > 1,
        one_thread_each=cpu and shape[0] * shape[1] > 1,
        compute=ComputeOptions(
            build.operands(config),
            unfold=not per_step,
            native=cpu
            and per_step
            and own_kernels
            and t.kernels != "xla"
            and t.precision != "bf16",
            # "auto" would take it where it has been timed and was faster: nowhere yet.
            pallas=t.recurrence == "pallas",
        ),
    )


def largest_group(trials: int, data: DataFacts, devices: DeviceFacts) -> int:
    """Returns how many trials an accelerator trains at once.

    Returns:
      A multiple of the devices if there are more trials than devices (so that each holds the same
      number; places without a trial stay idle), else the number of trials.

    Raises:
      UserError: If the data and one trial are more than a device holds.
    """
    per_device = -(-trials // devices.count)
    if devices.memory is not None:
        room = int((USABLE_MEMORY * devices.memory - data.resident_bytes) // data.trial_bytes)
        if room < 1:
            raise UserError(
                f"the data take {data.resident_bytes / 1e9:.1f} GB and one trial about"
                f" {data.trial_bytes / 1e9:.1f} GB, but a device offers"
                f" {devices.memory / 1e9:.1f} GB: set a smaller training.batch_size or"
                " features.max_seconds, allow more training.shapes (less padding), or train on the"
                " CPU (JAX_PLATFORMS=cpu)"
            )
        groups = -(-per_device // room)
        per_device = -(-per_device // groups)
    return trials if trials <= devices.count else per_device * devices.count


def with_own_kernels(plan: ExecutionPlan, config: Config, devices: DeviceFacts) -> ExecutionPlan:
    """Compiles the kernels that the plan asks for and compares them with XLA's results.

    Returns:
      The plan, with XLA's programs where own kernels cannot be used and training.kernels=auto.

    Raises:
      UserError: If the configuration asks for kernels that cannot be used.
    """
    if plan.compute.pallas:
        _check_pallas(config, devices)
    if config.training.kernels == "xla" or not build.spec(config).own_kernels:
        return plan
    try:
        if not plan.compute.native:
            raise UnavailableError("they are for training step by step on a CPU, in float32")
        compiler = verify.prepare()
        log.info("convolution and recurrence: kernels compiled by %s", compiler)
        return dataclasses.replace(plan, compiler=compiler)
    except UnavailableError as error:
        if config.training.kernels == "native":
            raise UserError(
                f"training.kernels=native cannot be: {error}; training.kernels=auto takes what"
                " there is"
            ) from error
        log.info("convolution and recurrence: XLA's (%s)", error)
        return dataclasses.replace(plan, compute=plan.compute._replace(native=False))


def _check_pallas(config: Config, devices: DeviceFacts) -> None:
    """Compares the GPU's recurrence with XLA's loop."""
    from ser_jax.models.kernels import gpu_lstm  # Pallas takes long to import; few need it.

    units = config.model.lstm_units
    try:
        if not build.spec(config).own_kernels:
            systems = ", ".join(name for name, spec in build.REGISTRY.items() if spec.own_kernels)
            raise UnavailableError(f"it is for {systems}, not for {config.system}")
        if "NVIDIA" not in devices.kind:
            raise UnavailableError(f"it is for GPUs of NVIDIA, not for {devices.kind}")
        if not gpu_lstm.fits(units):
            raise UnavailableError(
                f"the LSTM has {units} units, and it takes powers of two from {gpu_lstm.ROWS}"
            )
        verify.compare_recurrence(gpu_lstm.recur, units)
    except UnavailableError as error:
        raise UserError(
            f"training.recurrence=pallas cannot be: {error}; use training.recurrence=auto"
        ) from error
    log.info("recurrence: one GPU program, which gives the results of XLA's loop")


def device_facts(devices: list[Any]) -> DeviceFacts:
    """Returns what a plan has to know of the devices."""
    device = devices[0]
    return DeviceFacts(device.platform, device.device_kind, len(devices), device_memory(device))


def device_memory(device: Any) -> int | None:
    """Returns the bytes that a device offers to this process, None where it does not say (CPU)."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    return stats.get("bytes_limit") if stats else None


def data_facts(
    dataset: Dataset,
    parts: list[list[np.ndarray]],
    parameters: int,
    batch_size: int,
    augmentation: Augmentation = UNVARIED,
) -> DataFacts:
    """Returns what a plan has to know of the data.

    `parts` are, per fold, the rows of the part that is trained on (or scored), by bucket;
    `augmentation` may lengthen batches.
    """
    return DataFacts(
        steps=int(epoch_plans.steps_per_bucket(parts, batch_size).sum()),
        resident_bytes=0 if dataset.streamed else data_bytes(dataset),
        trial_bytes=trial_bytes(dataset, parameters, batch_size, augmentation),
        streamed=dataset.streamed,
    )


def data_bytes(dataset: Dataset) -> int:
    """Returns the bytes of all buckets, which every device holds once."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves((dataset.buckets, dataset.targets)))


def trial_bytes(
    dataset: Dataset, parameters: int, batch_size: int, augmentation: Augmentation = UNVARIED
) -> int:
    """Returns about how many bytes one trial needs on top of the data."""
    steps = max(
        sum(np.prod(leaf.shape[1:-1]) for leaf in bucket.time_arrays) for bucket in dataset.buckets
    )
    values = VALUES_PER_FRAME if dataset.buckets[0].wave is None else VALUES_PER_CHUNK
    steps = augmentation.room_for(int(steps))
    return 4 * (COPIES * parameters + values * batch_size * steps)
