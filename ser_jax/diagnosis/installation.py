"""What a report of a defect needs to know of this installation: `ser-jax doctor --system`."""

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping

from ser_jax.config import get_config
from ser_jax.experiment import run_directory, setup
from ser_jax.models.kernels import cpu
from ser_jax.runtime import machine
from ser_jax.runtime.errors import UserError

VARIABLES = (
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "JAX_COMPILATION_CACHE_DIR",
    "CUDA_VISIBLE_DEVICES",
    "CXX",
)
# What an extra of jax installs.
PLUGINS = {f"jax[cuda{version}]": f"jax-cuda{version}-plugin" for version in (12, 13)}
PLUGINS["jax[tpu]"] = "libtpu"


def report() -> str:
    """Returns a line for each fact; what is missing or does not work is said, never raised."""
    facts = {"system": platform.platform(), "cores": str(machine.available_cores())}
    facts["memory"] = f"{setup.host_bytes() / 1e9:.1f} GB"
    facts["devices"] = _devices()
    facts["C++ compiler"] = _compiler()
    facts["openSMILE"] = _opensmile()
    facts["cache"] = _cache()
    set_here = (f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name))
    facts["environment"] = ", ".join(set_here) or "nothing set that matters"
    sections = {"versions": run_directory.versions(), "machine": facts, "extras": _extras()}
    return "\n\n".join(f"{title}\n{_aligned(found)}" for title, found in sections.items())


def _aligned(facts: Mapping[str, str]) -> str:
    width = max(map(len, facts), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in facts.items())


def _devices() -> str:
    try:
        devices = setup.start(get_config())
    except (UserError, RuntimeError) as error:
        return f"jax does not start: {' '.join(str(error).split())}"
    kinds = sorted({f"{device.platform}, {device.device_kind}" for device in devices})
    return f"{len(devices)} ({'; '.join(kinds)})"


def _compiler() -> str:
    program = cpu.compiler()
    if program is None:
        return f"none ({', '.join(cpu.COMPILERS)} or CXX): training on a CPU is slower"
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} does not work: {error}"
    return f"{program}: {answer.stdout.partition(chr(10))[0] or answer.stderr.strip()}"


def _opensmile() -> str:
    try:
        import opensmile

        return f"loads, {opensmile.__version__}"
    except ModuleNotFoundError:
        return "not installed: pip install 'ser_jax[hsf]'"
    except Exception as error:  # Whatever a library that does not fit may raise.
        return f"is installed and does not load: {' '.join(str(error).split())}"


def _cache() -> str:
    folder = machine.cache_folder()
    size = sum(size for _, size in machine.sizes(folder).values())
    return f"{folder}, {size / 1e6:.0f} MB"


def _extras() -> dict[str, str]:
    """Returns extra → "installed", or the packages that it lacks."""
    try:
        required = importlib.metadata.requires("ser_jax") or []
    except importlib.metadata.PackageNotFoundError:
        return {"unknown": "ser_jax is not installed, only imported"}
    missing: dict[str, list[str]] = {}
    for line in required:
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", line)
        name = re.match(r"[\w.-]+(\[\w+\])?", line)
        if extra and name:
            package = PLUGINS.get(name[0], name[0].partition("[")[0])
            lacks = missing.setdefault(extra[1], [])
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                lacks.append(package)
    return {
        extra: f"lacks {', '.join(lacks)}" if lacks else "installed"
        for extra, lacks in missing.items()
    }
