"""The guard against jaxlib 0.10.2's wrong sums on the CPU: a canary, and its XLA_FLAGS."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.runtime import xla_flags

ROWS = 32_769
EXACT = float((ROWS - 1) ** 2)  # 1073741824 = 2**30, which float32 holds exactly
AFFECTED = (
    importlib.metadata.version("jaxlib") in xla_flags.AFFECTED_VERSIONS
    and sys.platform == "linux"
    and platform.machine() == "x86_64"
)
GUARD = f"{xla_flags.FLAG}=-reduce"

# jax issue 39103: row r is (r, 0, 0) and M the identity, so the sum of squares of the last row is
# 32768 squared.
CANARY = f"""
import jax, jax.numpy as jnp
rows = jnp.zeros(({ROWS}, 3)).at[:, 0].set(jnp.arange({ROWS}))
print(float(jax.jit(jax.vmap(lambda r: jnp.sum((jnp.eye(3) @ r) ** 2)))(rows)[-1]))
"""


def run_python(program: str, flags: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a program in a fresh process on the CPU with exactly these XLA_FLAGS."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"  # as for a user, not as in conftest.py
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
        timeout=120,
    )


# --- Canary


def test_canary_in_this_process():
    """Every row, not only the last; all other tests rely on it."""
    matrix = np.eye(3, dtype=np.float32)
    rows = np.zeros((ROWS, 3), np.float32)
    rows[:, 0] = np.arange(ROWS)
    with jax.default_device(jax.devices("cpu")[0]):
        result = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    np.testing.assert_array_equal(result, np.square(rows[:, 0]))
    assert result[-1] == EXACT


def test_canary_with_the_package_imported():
    assert float(run_python("import ser_jax" + CANARY).stdout) == EXACT


def test_canary_without_the_guard():
    """It must fail where the guard is needed, else the canary above proves nothing."""
    result = float(run_python(CANARY).stdout)
    assert (result != EXACT) if AFFECTED else (result == EXACT)


# --- install()


@pytest.fixture
def version(monkeypatch):
    """Sets the version that jaxlib says it has; no backend counts as started."""

    def set_version(value: str | None):
        if value is None:  # Not installed: importing it raises ImportError.
            monkeypatch.setitem(sys.modules, "jaxlib.version", None)
        else:
            monkeypatch.setattr("jaxlib.version.__version__", value)

    monkeypatch.setattr(xla_flags, "_backend_started", lambda: False)
    set_version("0.10.2")
    return set_version


def set_flags(monkeypatch: pytest.MonkeyPatch, flags: str | None) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if flags is not None:
        monkeypatch.setenv("XLA_FLAGS", flags)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, GUARD),
        ("", GUARD),
        ("--xla_dump_to=dump --xla_force_host_platform_device_count=2", f"{{}} {GUARD}"),
        (GUARD, "{}"),
        (f"{xla_flags.FLAG}=+reduce", "{}"),
        (f"--xla_dump_to=dump {xla_flags.FLAG}= --xla_dump_hlo_as_text", "{}"),
    ],
    ids=["unset", "empty", "appended", "as ours", "of the user", "of the user among others"],
)
def test_flags(version, monkeypatch, before, after):
    set_flags(monkeypatch, before)
    for call in ("first", "second"):
        xla_flags.install()
        assert os.environ["XLA_FLAGS"] == after.format(before), call


@pytest.mark.parametrize("other", ["0.10.1", "0.10.20", "0.10.3", "0.11.0", None])
@pytest.mark.parametrize("before", [None, "--xla_dump_to=dump"])
def test_other_versions_are_left_alone(version, monkeypatch, other, before):
    """They may not know the flag, and an unknown flag aborts the process."""
    version(other)
    set_flags(monkeypatch, before)
    xla_flags.install()
    assert os.environ.get("XLA_FLAGS") == before


def test_too_late_is_a_warning(version, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(xla_flags, "_backend_started", lambda: True)
    with pytest.warns(RuntimeWarning, match="import ser_jax first, or set XLA_FLAGS=") as caught:
        xla_flags.install()
    assert len(caught) == 1 and os.environ["XLA_FLAGS"] == GUARD


def test_no_warning_where_the_flag_was_set_in_time(version, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", GUARD)
    monkeypatch.setattr(xla_flags, "_backend_started", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xla_flags.install()


def test_a_started_backend_is_noticed():
    """In fresh processes, with jax imported only, then started: a private name of jax tells."""
    program = """
import warnings
import jax
import jaxlib.version
jaxlib.version.__version__ = "0.10.2"  # A later jax would not be imported with it.
{start}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import ser_jax
print([w.category.__name__ for w in caught if "ser_jax" in str(w.message)])
"""
    assert run_python(program.format(start="")).stdout.strip() == "[]"
    assert run_python(program.format(start="jax.devices()")).stdout.strip() == "['RuntimeWarning']"
