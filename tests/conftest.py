"""Every test runs on four virtual CPU devices, with implicit rank promotion forbidden.

`--figures=FILE` writes what became of every test: outcome, seconds and what it recorded as
"measured" (see reliability.py).
"""

import gc
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "helpers"))
# Compilation by XLA would take most of a test's time: half of it is optimisation by LLVM, half of
# the rest is the newer way to emit fused loops, and dividing a program among threads costs a
# quarter of what is left. The trainings of .ci/wheel compile as for a user; so does every test with
# JAX_DISABLE_MOST_OPTIMIZATIONS=0.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
    if version("jaxlib") == "0.10.2":  # another version may not know the flag, and abort
        flags = os.environ.get("XLA_FLAGS", "")
        faster = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ["XLA_FLAGS"] = f"{faster} {flags}".strip()
# To write a small program costs more than to compile it; commands write all (see commands.py).
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
# The threads of OpenBLAS spin while they wait for the next of many small products.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import commands
import jax
import pytest
import releases

import ser_jax  # noqa: F401  (sets the compiler guard before a backend starts)
from ser_jax.main import COLLECTIONS
from ser_jax.training.execution import program_cache
from ser_jax.training.execution.plan import ExecutionPlan

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser):
    parser.addoption(
        "--figures",
        type=Path,
        help="JSON file for outcomes, seconds and recorded figures of all tests",
    )


def pytest_collection_finish():
    """Keeps what pytest has collected out of garbage collections: they took 5 % of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)


def pytest_configure(config):
    path = config.getoption("--figures")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Figures(path))


class Figures:
    """Collects the reports of all workers."""

    def __init__(self, path: Path):
        self._path = path
        self._tests: dict[str, dict] = {}

    def pytest_runtest_logreport(self, report):
        test = self._tests.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
        test["seconds"] = round(test["seconds"] + report.duration, 2)
        if report.outcome != "passed":
            test["outcome"] = report.outcome
        if report.when == "call":
            test |= {name: value for name, value in report.user_properties if name == "measured"}

    def pytest_sessionfinish(self):
        self._path.write_text(json.dumps(dict(sorted(self._tests.items())), indent=1) + "\n")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keeps the user's caches out of the tests, and the tests out of the user's caches.

    Each worker has a feature store of its own; kernels and kept programs are shared by all workers
    of this session, so that each is compiled once.
    """
    before = os.environ.get("XDG_CACHE_HOME")
    cache = tmp_path_factory.mktemp("cache")
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    (cache / "ser_jax").mkdir()
    for name in ("native", "xla"):
        (shared / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        (cache / "ser_jax" / name).symlink_to(shared / name)
    os.environ["XDG_CACHE_HOME"] = str(cache)
    program_cache.use_compilation_cache()
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs_are_dropped(request):
    """Drops a module's compiled programs when they are many.

    Each takes memory maps of the process, of which Linux allows 65,530 (vm.max_map_count): without
    this a worker came to 51,000, and beyond the limit the compiler crashes.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.is_file() and maps.read_bytes().count(b"\n") > 35_000:
        for module in (request.module, sys.modules.get("tiny")):
            for value in vars(module).values() if module else ():
                getattr(value, "cache_clear", lambda: None)()
        gc.collect()
        jax.clear_caches()


@pytest.fixture
def newer_emitter(monkeypatch):
    """Compiles what trains with the newer emitter and in as many parts as XLA does by default."""
    options, newer = vars(ExecutionPlan)["compiler_options"].fget, {}
    if "xla_cpu_use_fusion_emitters=false" in os.environ.get("XLA_FLAGS", ""):
        newer = {"xla_cpu_use_fusion_emitters": True, "xla_cpu_parallel_codegen_split_count": 32}
    monkeypatch.setattr(
        ExecutionPlan, "compiler_options", property(lambda plan: options(plan) | newer)
    )


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory) -> Path:
    """A run of three folds as the command leaves it; tests do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    rows = releases.manifest_rows(speakers=3, per_label=1)
    root = releases.write_manifest(folder / "corpus", rows, seconds=0.4).parent
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={root}")
    commands.train(folder / "run", *corpus)
    return folder / "run"


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
def ravdess_root() -> Path:
    """The 1440 recordings of RAVDESS, where they are at hand."""
    root = SHARED / "ravdess"
    if not root.is_dir():
        pytest.skip("RAVDESS recordings are not at hand")
    return root


@pytest.fixture
def iemocap_turns() -> Path:
    """The list of IEMOCAP's four-class turns (lengths and labels), where it is at hand."""
    path = SHARED / "iemocap_turns.csv"
    if not path.is_file():
        pytest.skip("the list of IEMOCAP turns is not at hand")
    return path
