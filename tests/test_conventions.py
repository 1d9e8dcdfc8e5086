"""What the architecture and the style promise of every file: imports, docstrings, safety, configuration, length."""

import ast
import importlib.util
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import ml_collections
import pytest
from sources import CONFIGS, PACKAGE, ROOT, dotted, imports, name_of, parse, sources

from ser_jax import config

# The way of the data: a sub-package imports from itself and from those to its left.
WAY = ("corpora", "features", "protocols", "arrays", "models", "training", "baselines", "evaluation")
NOT_ON_THE_WAY = {
    ("protocols", "features"),
    ("baselines", "models"),
    ("evaluation", "models"),
    ("evaluation", "training"),
    ("evaluation", "baselines"),
}
# Commands of several files: like the files at the top of the package they may import everything.
COMMANDS = ("diagnosis", "exporting", "prediction", "reproduction", "web")
SHARED = {"errors", "metrics", "config", "atomic", "strict_json", "progress", "cache", "cores"}
ONLY_HERE = {"jax": {"models", "training", "prediction", "exporting", ""}, "flax": {"models", "training"}}
LONGEST_FILE = 350


def sub_package(path: Path) -> str:
    """Returns the sub-package of a file, or "" for the top of the package."""
    return path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else ""


files = pytest.mark.parametrize("path", sources(), ids=name_of)


# --- Imports ----------------------------------------------------------------------------------------------------------


def allowed(box: str) -> set[str]:
    """Returns what a sub-package may import of ser_jax."""
    left = WAY[: WAY.index(box) + 1]
    return {name for name in left if (box, name) not in NOT_ON_THE_WAY} | SHARED


def test_every_sub_package_has_its_place_on_the_way():
    found = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert found <= {*WAY, *COMMANDS}, "a new sub-package: say in WAY what it may import"
    assert SHARED <= {path.stem for path in PACKAGE.glob("*.py")}


@files
def test_imports_go_one_way(path):
    own = [name.split(".")[1] for name in imports(parse(path)) if name.startswith("ser_jax.")]
    box = sub_package(path)
    if path.stem in SHARED and not box:
        assert set(own) <= SHARED, "what anyone may import imports nothing else"
    elif box and box not in COMMANDS:
        assert set(own) <= allowed(box), f"{box} may import {sorted(allowed(box))}"


@files
def test_jax_and_flax_stay_in_their_place(path):
    """Readers, feature workers and reports start fast, and a forked or spawned worker never loads jax."""
    roots = {name.split(".")[0] for name in imports(parse(path))}
    for library, boxes in ONLY_HERE.items():
        assert library not in roots or sub_package(path) in boxes, f"{library} belongs in {sorted(boxes)}"


def test_importing_loads_no_more_than_it_must():
    """Stage by stage in one fresh process: what had been loaded after each import."""
    stages = [
        ("ser_jax", {"jax", "numpy", "opensmile"}),
        ("ser_jax.corpora.registry", {"jax", "opensmile"}),
        ("ser_jax.features.extract", {"jax", "opensmile"}),
        ("ser_jax.protocols.registry", {"jax", "opensmile"}),
        ("ser_jax.arrays.dataset", {"jax", "opensmile"}),
        ("ser_jax.baselines.svm", {"jax", "opensmile", "sklearn"}),
        ("ser_jax.evaluation.report", {"jax", "opensmile"}),
        ("ser_jax.main", {"jax", "opensmile"}),
    ]
    program = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(name)\n"
        "    print(json.dumps([name, sorted({m.split('.')[0] for m in sys.modules})]))\n"
    )
    arguments = [sys.executable, "-c", program, json.dumps([name for name, _ in stages])]
    output = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=ROOT, timeout=60).stdout
    loaded = dict(json.loads(line) for line in output.splitlines())
    for name, unwanted in stages:
        assert not unwanted & set(loaded[name]), f"importing {name} loads what it must not"


# --- Docstrings -------------------------------------------------------------------------------------------------------


def public(
    body: list[ast.stmt], prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Yields every public function, class and method with its name."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


@files
def test_every_public_name_has_a_docstring(path):
    tree = parse(path)
    assert ast.get_docstring(tree), "the file says what it holds"
    bare = [name for name, node in public(tree.body) if not ast.get_docstring(node)]
    assert not bare


@files
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, "one concern per file: split it"


# --- Configuration ----------------------------------------------------------------------------------------------------


def flat_keys(value: ml_collections.ConfigDict, prefix: str = "") -> set[str]:
    keys = set()
    for name, item in value.items():
        inner = isinstance(item, ml_collections.ConfigDict)
        keys |= flat_keys(item, f"{prefix}{name}.") if inner else {prefix + name}
    return keys


def assigned_keys() -> dict[str, str]:
    """Returns every key that config.py assigns, with the comment that stands beside it."""
    text = (PACKAGE / "config.py").read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    keys = {}
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        key = dotted(node.targets[0]).removeprefix("c.")
        if not (isinstance(node.value, ast.Call) and dotted(node.value.func).endswith("ConfigDict")):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            keys[key] = " ".join(comments[line] for line in lines if line in comments)
    return keys


KEYS = assigned_keys()


def test_config_py_assigns_every_key_there_is():
    assert set(KEYS) == flat_keys(config.get_config())


@pytest.mark.parametrize("key", KEYS)
def test_every_key_says_what_it_is(key):
    """Its meaning or unit, and where it is from: [P] the paper, [D] decided here."""
    assert re.search(r"# \S", KEYS[key])


def test_neutral_keys_exist():
    assert set(config.NEUTRAL_KEYS) <= set(KEYS)
    assert len(set(config.NEUTRAL_KEYS)) == len(config.NEUTRAL_KEYS)


def test_the_base_configuration_is_locked_and_new_every_time():
    first = config.get_config()
    assert first.is_locked and first.training.is_locked and first.system in config.SYSTEMS
    first.training.epochs = 1
    assert config.get_config().training.epochs != 1
    with pytest.raises(AttributeError):
        first.training.epoch = 1


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=name_of)
def test_presets(path):
    """Each opens with what it is, overrides keys that exist, and stays locked."""
    assert ast.get_docstring(parse(path))
    spec = importlib.util.spec_from_file_location(f"preset_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    preset = module.get_config()
    assert preset.is_locked and flat_keys(preset) == set(KEYS)
    assert preset.system in config.SYSTEMS


def test_the_presets_of_the_paper_are_there():
    assert {f"{system}.py" for system in config.SYSTEMS} <= {path.name for path in CONFIGS.glob("*.py")}
