"""Every test runs on four virtual CPU devices, with implicit rank promotion forbidden."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax
import pytest

import ser_jax  # noqa: F401  (sets the compiler guard before a backend starts)

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keeps the user's caches out of the tests, and the tests out of the user's caches."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture
def float64():
    """Enables 64-bit floats for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def emodb_root() -> Path:
    """The 339 four-class recordings of EMO-DB, where they are at hand."""
    root = SHARED / "emodb4"
    if not root.is_dir():
        pytest.skip("EMO-DB recordings are not at hand")
    return root


@pytest.fixture
def iemocap_turns() -> Path:
    """The list of IEMOCAP's four-class turns (lengths and labels), where it is at hand."""
    path = SHARED / "iemocap_turns.csv"
    if not path.is_file():
        pytest.skip("the list of IEMOCAP turns is not at hand")
    return path
