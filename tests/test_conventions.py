"""Conventions of this project that no linter checks; each test lists all offenders at once."""

import ast
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import ml_collections
import pytest
import reference
from sources import CONFIGS, PACKAGE, ROOT, imports, name_of, parse, sources

from ser_jax import config
from ser_jax.models import build

# The way of the data: a folder imports from those above it, never from those below.
ORDER = (
    *("runtime", "config", "pretrained", "metrics", "corpora", "features", "protocols", "data"),
    *("models", "training", "cluster", "baselines", "evaluation", "report", "experiment"),
    *("prediction", "exporting", "diagnosis", "reproduction", "tuning", "web", "commands", "main"),
)
TOP_LEVEL = {"__init__", "__main__", "main", "config", "metrics"}
# What a folder below "models" must not know although it stands above it in the order.
UNRELATED = {
    "protocols": {"features"},
    "features": {"config"},
    "baselines": {"models", "cluster"},
    "evaluation": {"models", "training", "cluster", "baselines"},
    "report": {"models", "training", "cluster", "baselines"},
    "reproduction": {"models", "training", "experiment", "prediction"},
}
BACKWARDS = {
    ("ser_jax/evaluation/comparison.py", "report")  # the formats of numbers
}
# Readers, feature workers and pages start fast, and a forked worker never loads jax.
ONLY_IN = {
    "jax": {"models", "training", "cluster", "experiment", "prediction", "exporting"},
    "flax": {"models", "training"},
    "optax": {"training"},
    "orbax": {"training"},
    "sklearn": {"baselines"},
    "fastapi": {"web"},
    "starlette": {"web"},
    "optuna": {"tuning"},
    "tensorboard": {"training"},
    "mlflow": {"training"},
    "wandb": {"training"},
    "ray": {"runtime"},
    "grain": {"data", "training"},
    "array_record": {"data"},
}
PRIVATE = {
    # There is no public name.
    "ser_jax/cluster/hosts.py": {"jax._src.distributed", "jax._src.clusters"},
    "ser_jax/training/execution/program_cache.py": {"jax._src.compilation_cache"},
}
# A command and its package may share a name.
TWICE = {"protocol"}

TREES = {path: parse(path) for path in sources()}


def folder(path: Path) -> str:
    """Returns the folder of a source file, or its own name at the top of the package."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def own_imports(tree: ast.AST) -> list[str]:
    return [name.removeprefix("ser_jax.") for name in imports(tree) if name.startswith("ser_jax.")]


# --- Imports


def test_every_folder_has_its_place():
    assert {folder(path) for path in TREES} - TOP_LEVEL == set(ORDER) - TOP_LEVEL
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP_LEVEL


def test_imports_go_one_way():
    offenders = []
    for path, tree in TREES.items():
        box = folder(path)
        if box in ("__init__", "__main__"):
            continue
        allowed = {*ORDER[: ORDER.index(box) + 1], "__version__"} - UNRELATED.get(box, set())
        offenders += [
            f"{name_of(path)} imports {name}"
            for name in own_imports(tree)
            if name.split(".")[0] not in allowed
            and (name_of(path), name.split(".")[0]) not in BACKWARDS
        ]
    assert not offenders


def test_no_import_cycle():
    """Between modules, as they are loaded: imports within functions do not count."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in TREES
    }
    graph = {}
    for module, path in modules.items():
        body: list[ast.stmt] = [
            node for node in TREES[path].body if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        found = imports(ast.Module(body, []))
        names = [name if name in modules else name.rpartition(".")[0] for name in found]
        graph[module] = {name for name in names if name in modules and name != "ser_jax"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_libraries_stay_in_their_place():
    offenders = [
        f"{name_of(path)} imports {name}"
        for path, tree in TREES.items()
        for name in imports(tree)
        if folder(path) not in ONLY_IN.get(name.split(".")[0], {folder(path)})
    ]
    assert not offenders, ONLY_IN


def test_no_private_module_of_a_library():
    offenders = [
        f"{name_of(path)} imports {name}"
        for path, tree in TREES.items()
        for name in imports(tree)
        if "_src" in name.split(".") and name not in PRIVATE.get(name_of(path), ())
    ]
    assert not offenders


def test_no_file_name_twice():
    count = Counter(path.stem for path in TREES if path.stem != "__init__")
    assert {name for name, number in count.items() if number > 1} <= TWICE


def test_importing_loads_no_more_than_it_must():
    """Stage by stage in one fresh process: what had been loaded after each import."""
    without_jax = ("corpora.registry", "features.extraction", "protocols.named", "data.dataset")
    without_jax += ("report.run_page", "main")
    stages = [
        ("ser_jax", {"jax", "numpy", "opensmile"}),
        *((f"ser_jax.{name}", {"jax", "opensmile"}) for name in without_jax),
        ("ser_jax.baselines.svm", {"jax", "opensmile", "sklearn"}),
    ]
    program = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(name)\n"
        "    print(json.dumps([name, sorted({m.split('.')[0] for m in sys.modules})]))\n"
    )
    arguments = [sys.executable, "-c", program, json.dumps([name for name, _ in stages])]
    output = subprocess.run(
        arguments, check=True, capture_output=True, text=True, cwd=ROOT, timeout=60
    ).stdout
    loaded = dict(json.loads(line) for line in output.splitlines())
    assert not [name for name, unwanted in stages if unwanted & set(loaded[name])]


# --- Configuration


def flat_keys(value: ml_collections.ConfigDict, prefix: str = "") -> set[str]:
    keys = set()
    for name, item in value.items():
        inner = isinstance(item, ml_collections.ConfigDict)
        keys |= flat_keys(item, f"{prefix}{name}.") if inner else {prefix + name}
    return keys


COMMENTS = reference.comments()
KEYS = {key for key in COMMENTS if not any(other.startswith(f"{key}.") for other in COMMENTS)}


def test_every_key_stands_once_in_config_py_with_its_meaning():
    assert flat_keys(config.get_config()) == KEYS
    assert not [key for key in KEYS if not COMMENTS[key]]
    assert set(config.NEUTRAL_KEYS) <= KEYS
    assert len(set(config.NEUTRAL_KEYS)) == len(config.NEUTRAL_KEYS)


def test_the_base_configuration_is_locked_and_new_every_time():
    first = config.get_config()
    assert first.is_locked and first.training.is_locked and first.system in build.REGISTRY
    first.training.epochs = 1
    assert config.get_config().training.epochs != 1
    with pytest.raises(AttributeError, match="epochs"):
        first.training.epoch = 1
    with pytest.raises(TypeError, match="epochs"):
        first.training.epochs = "many"


def test_presets():
    """Each opens with what it is, overrides keys that exist, and stays locked."""
    paths = sorted(CONFIGS.rglob("*.py"))
    for path in paths:
        name = name_of(path)
        assert ast.get_docstring(parse(path)), name
        spec = importlib.util.spec_from_file_location(f"preset_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        preset = module.get_config()
        assert preset.is_locked and flat_keys(preset) == KEYS, name
        assert preset.system in build.REGISTRY, name
    assert {f"{system}.py" for system in build.REGISTRY} <= {path.name for path in paths}
