"""Compiles and loads cpu.cc, and offers its kernels as functions of JAX arrays with gradients.

The functions compute in float32, on CPUs, what convolution.py, recurrent.py and training/step.py
define, faster than XLA's programs: docs/performance.md. The kernels are compiled once per machine
with the C++ compiler that is installed there and kept in the cache folder, under a name that
follows from source, compiler, options, processor and jaxlib. A file is loaded only if its SHA-256
lies beside it, which is written once the kernels have been compared with XLA (verify.py), and only
from a folder that belongs to this user and that nobody else can write.
"""

import ctypes
import dataclasses
import functools
import hashlib
import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ser_jax.runtime import files, machine

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("cpu.cc")
NAMES = (
    *("convolve_forward", "convolve_kernel_gradient", "convolve_inputs_gradient"),
    *("lstm_forward", "lstm_backward", "adam_of_product"),
)
POOL = 3  # rows of a max-pool
COMPILERS = ("c++", "g++", "clang++")
_OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-shared", "-fPIC", "-w")
_TARGETS = ("-march=native", "-mcpu=native")  # Compilers for some processors know only the second.
_COMPILE_SECONDS = 300  # at most


class UnavailableError(Exception):
    """The kernels cannot be used; its text says why."""


# --- Compilation


@dataclasses.dataclass(frozen=True)
class Library:
    """Compiled kernels that are registered with XLA."""

    path: Path  # the shared library
    compiler: str  # first line of the compiler's `--version`
    prefix: str  # what the names of its FFI targets begin with

    @property
    def trusted(self) -> bool:
        """Whether the file is the one that was compared with XLA's results."""
        return _is_intact(self.path)

    def trust(self) -> None:
        """Records that the kernels gave XLA's results."""
        files.write_text(_digest_file(self.path), _digest(self.path))

    def remove(self) -> None:
        """Removes the file; the next start compiles it again."""
        self.path.unlink(missing_ok=True)


@functools.cache
def load() -> Library:
    """Compiles the kernels if that has not been done on this machine, and registers them with XLA.

    Raises:
      UnavailableError: If there is no compiler, it fails, or its result cannot be loaded.
    """
    program = compiler()
    if sys.platform == "win32" or program is None:
        raise UnavailableError(
            f"no C++ compiler was found ({', '.join(COMPILERS)}, or the one that CXX names)"
        )
    try:
        answer = _run(program, "--version")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"the C++ compiler {program} does not work: {error}") from error
    version = answer.stdout.partition("\n")[0].strip()
    if answer.returncode or not version:
        reason = f"{answer.stderr.strip():.200}"
        raise UnavailableError(f"the C++ compiler {program} does not work: {reason}")
    folder = machine.cache_folder() / "native"
    path = folder / f"{_key(version)}.so"
    try:
        if not machine.may_hold_code(folder, "the kernels are compiled for this process alone"):
            path = Path(_temporary_folder().name) / path.name
        if not _is_intact(path):
            _compile(program, version, path)
        library = ctypes.CDLL(os.fspath(path))
    except OSError as error:
        reason = error.strerror or error
        raise UnavailableError(f"{path} cannot be written or loaded ({reason})") from error
    prefix = f"ser_jax_{path.stem}_"
    for name in NAMES:
        function = jax.ffi.pycapsule(getattr(library, name))
        jax.ffi.register_ffi_target(prefix + name, function, platform="cpu")
    return Library(path, version, prefix)


def compiler() -> str | None:
    """Returns the path of the C++ compiler, None if there is none."""
    named = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [named] if named else COMPILERS)), None)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS)


def _key(version: str) -> str:
    """Returns the name of the library, which follows from all that its code depends on."""
    jaxlib = importlib.metadata.version("jaxlib")
    return machine.code_key(SOURCE.read_bytes(), version, *_OPTIONS, *_TARGETS, jaxlib)


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ser_jax-")  # removed when Python ends


def _compile(program: str, version: str, path: Path) -> None:
    """Writes the library; other processes may be doing the same."""
    begin = time.monotonic()
    unfinished = files.temporary(path)
    include, output = f"-I{jax.ffi.include_dir()}", ("-o", str(unfinished))
    try:
        for target in _TARGETS:
            answer = _run(program, *_OPTIONS, target, include, str(SOURCE), *output)
            if answer.returncode == 0:
                break
        else:
            lines = [line for line in answer.stderr.splitlines() if "error" in line]
            reason = lines[0] if lines else answer.stderr.strip()
            raise UnavailableError(f"{version} cannot compile {SOURCE.name}: {reason:.200}")
        os.replace(unfinished, path)
    except subprocess.TimeoutExpired as error:
        what = f"has not compiled {SOURCE.name} in {_COMPILE_SECONDS} s"
        raise UnavailableError(f"{version} {what}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    seconds = time.monotonic() - begin
    log.info("compiled the kernels for this processor in %.1f s (%s), once", seconds, version)


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_intact(path: Path) -> bool:
    expected = _digest_file(path)
    return path.is_file() and expected.is_file() and expected.read_bytes() == _digest(path).encode()


# --- Functions


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def pooled_convolution(x: Array, kernel: Array, bias: Array, stride: int) -> Any:
    """Computes relu(max-pool(conv(x)) + bias), as `convolution.pooled_convolution` does."""
    return _convolve_forward(x, kernel, bias, stride)[0]


def _convolve_forward(x: Array, kernel: Array, bias: Array, stride: int) -> Any:
    rows = x.shape[1] - kernel.shape[0] + 1
    shape = (x.shape[0], (rows - POOL) // stride + 1, kernel.shape[2])
    outputs = jax.ShapeDtypeStruct(shape, np.float32), jax.ShapeDtypeStruct(shape, np.uint8)
    y, which = _call("convolve_forward", outputs, x, kernel, bias, stride=np.int64(stride))
    return y, (x, kernel, which)


def _convolve_backward(stride: int, residuals: tuple[Array, ...], grads: Array) -> Any:
    x, kernel, which = residuals
    pool = {"stride": np.int64(stride)}
    outputs = _like(kernel), jax.ShapeDtypeStruct(kernel.shape[2:], np.float32)
    grad_kernel, grad_bias = _call("convolve_kernel_gradient", outputs, x, which, grads, **pool)
    # A call of its own, which XLA leaves out where this gradient is not used.
    grad_x = _call("convolve_inputs_gradient", _like(x), kernel, which, grads, **pool)
    return grad_x, grad_kernel, grad_bias


pooled_convolution.defvjp(_convolve_forward, _convolve_backward)


@jax.custom_vjp
def recur(projected: Array, recurrent_kernel: Array) -> Any:
    """Runs the recurrence of an LSTM, as `recurrent.recur` does: [T, B, 4 H] → [T, B, H]."""
    return _recur_forward(projected, recurrent_kernel)[0]


def _recur_forward(projected: Array, recurrent_kernel: Array) -> Any:
    state = jax.ShapeDtypeStruct((*projected.shape[:2], recurrent_kernel.shape[0]), np.float32)
    outputs = (state, state, _like(projected))
    hidden, cell, gates = _call("lstm_forward", outputs, projected, recurrent_kernel)
    return hidden, (hidden, cell, gates, recurrent_kernel)


def _recur_backward(residuals: tuple[Array, ...], grad_hidden: Array) -> tuple[Array, Array]:
    hidden, cell, gates, recurrent_kernel = residuals
    arguments = (cell, gates, recurrent_kernel, grad_hidden)
    grad_projected = _call("lstm_backward", _like(gates), *arguments)
    # A slice of hidden and one of grad_projected would copy the larger array.
    before = jnp.concatenate([jnp.zeros_like(hidden[:1]), hidden[:-1]])
    rows = (array.reshape(-1, array.shape[-1]) for array in (before, grad_projected))
    return grad_projected, jnp.einsum("rh,rz->hz", *rows)


recur.defvjp(_recur_forward, _recur_backward)


def adam(
    inputs: Array,
    grads: Array,
    state: Array,
    value: Array,
    moment1: Array,
    moment2: Array,
    *,
    rate: float,
    weight_decay: float,
    decay1: float,
    decay2: float,
    epsilon: float,
) -> tuple[Array, ...]:
    """Updates a kernel whose gradient is inputsᵀ · grads; in place, if its buffer is donated.

    Shapes: inputs [B, I], grads [B, O]; the kernel `value` and its moments [I, O]. `state` [4] f32:
    0 to leave everything as it is, else 1; factor of the gradient; factors of the first and the
    second moment in the step. `epsilon` is added to the root of the second moment.

    Returns:
      The new kernel and moments.
    """
    constants = {
        "rate": rate,
        "weight_decay": weight_decay,
        "decay1": decay1,
        "rest1": 1 - decay1,  # In float32 1 − 0.999 would be off by 5e-5.
        "decay2": decay2,
        "rest2": 1 - decay2,
        "epsilon": epsilon,
    }
    call = jax.ffi.ffi_call(
        load().prefix + "adam_of_product",
        [_like(value)] * 3,
        vmap_method="broadcast_all",
        input_output_aliases={3: 0, 4: 1, 5: 2},
    )
    attributes = {name: np.float32(constant) for name, constant in constants.items()}
    return tuple(call(inputs, grads, state, value, moment1, moment2, **attributes))


def _call(name: str, outputs: Any, *arguments: Array, **attributes: np.int64) -> Any:
    if any(value.dtype == np.float64 for value in arguments):
        raise TypeError("the kernels compute in float32")
    call = jax.ffi.ffi_call(load().prefix + name, outputs, vmap_method="sequential")
    return call(*arguments, **attributes)


def _like(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, np.float32)
