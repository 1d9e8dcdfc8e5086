"""Keeps jaxlib 0.10.2 from miscompiling on the CPU (jax issue 39103).

By default that version computes wrong sums: `jit(vmap(lambda r: sum((M @ r) ** 2)))` over 32,769
rows is off by a fraction of a percent to several percent. Switching off one fusion cures it. XLA
reads its flags once, when the first backend starts, and an unknown flag aborts the process: so the
flag is set on import of this package, for that version only.
"""

import os
import sys
import warnings

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
AFFECTED_VERSIONS = ("0.10.2",)


def install() -> None:
    """Appends the flag to `XLA_FLAGS` if the version is affected and the flag is not set."""
    version = _jaxlib_version()
    flags = os.environ.get("XLA_FLAGS", "")
    if version not in AFFECTED_VERSIONS or FLAG in flags:
        return
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=-reduce".strip()
    if "jax" in sys.modules and _backend_started():
        warnings.warn(
            f"jaxlib {version} gives wrong sums on the CPU and had started before ser_jax was"
            f" imported: import ser_jax first, or set XLA_FLAGS={FLAG}=-reduce",
            RuntimeWarning,
            stacklevel=3,
        )


def _jaxlib_version() -> str:
    try:  # importlib.metadata takes three times as long, in every process of this package.
        from jaxlib.version import __version__
    except ImportError:
        return ""
    return __version__


def _backend_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bool(getattr(bridge, "_backends", None))
