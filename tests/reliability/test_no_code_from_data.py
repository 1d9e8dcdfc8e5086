"""R24: nothing that is read can run code: a scan of the sources, and bombs for files."""

import ast
import hashlib
import io
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import scored
import soundfile
import yaml
from sources import CONFIGS, PACKAGE, ROOT, dotted, imports, name_of, parse, sources

from ser_jax import config
from ser_jax.corpora import from_config
from ser_jax.corpora.emobox import BadRow, parse_row
from ser_jax.corpora.registry import read_corpus
from ser_jax.data.standardise import Statistics
from ser_jax.evaluation import finished_run, predictions
from ser_jax.experiment import run_directory
from ser_jax.features import audio
from ser_jax.features.pcm import BadAudio
from ser_jax.features.store import FeatureStore, key
from ser_jax.report import run_page
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.training import checkpoint, model_files

# --- The sources

MODULES = {
    *("pickle", "cPickle", "_pickle", "cloudpickle", "dill"),
    *("jsonpickle", "joblib", "marshal", "shelve", "runpy"),
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *("yaml.load", "yaml.load_all", "torch.load", "torch.hub.load"),
    *("importlib.import_module", "os.system", "os.popen"),
    *(f"builtins.{name}" for name in BUILTINS),
}
# Methods and classes that are unsafe whatever they belong to.
NAMES = {
    *("unsafe_load", "unsafe_load_all", "full_load", "full_load_all"),
    *("UnsafeLoader", "FullLoader", "CUnsafeLoader"),
    *("read_pickle", "to_pickle", "exec_module", "load_module", "from_string"),
}
SAFE_VALUES = {"allow_pickle": False, "pickle_tables": False, "shell": False, "weights_only": True}


def unsafe(tree: ast.AST) -> list[str]:
    """Returns what in a file could run code that came with data."""
    found = [name for name in imports(tree) if MODULES & set(name.split(".")) or name in CALLS]
    nodes = list(ast.walk(tree))
    called = {
        alias.asname: name
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias, name in zip(node.names, imports(node), strict=True)
        if alias.asname
    }

    def full(node: ast.AST) -> str:
        first, dot, rest = dotted(node).partition(".")
        return called.get(first, first) + dot + rest

    for node in nodes:
        if isinstance(node, ast.Name) and (node.id in BUILTINS or node.id in NAMES):
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and (full(node) in CALLS or node.attr in NAMES):
            found.append(full(node))
        elif isinstance(node, ast.Call):
            if full(node.func) in ("np.load", "numpy.load") and len(node.args) > 2:
                found.append("allow_pickle")
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            found += [
                name for name in SAFE_VALUES.keys() & given if given[name] is not SAFE_VALUES[name]
            ]
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal, json",
        "def f():\n    import shelve",
        "from sklearn.externals import joblib",
        "eval('1')",
        "run = exec",
        "builtins.eval(text)",
        "__import__(name)",
        "importlib.import_module(name)",
        "from importlib import import_module",
        "spec.loader.exec_module(module)",
        "yaml.load(file, Loader=yaml.SafeLoader)",
        "from yaml import load",
        "import yaml as y\ny.load(file)",
        "yaml.unsafe_load(file)",
        "y.UnsafeLoader",
        "torch.load(path)",
        "import torch as t\nt.load(path, weights_only=True)",
        "audb.load(name, pickle_tables=True)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "np.load(path, None, True)",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "environment.from_string(text)",
    ],
)
def test_the_scan_finds(line):
    assert unsafe(ast.parse(line))


@pytest.mark.parametrize(
    "line",
    [
        "'''No pickle, no eval(x), no allow_pickle=True.'''",
        "np.load(path, allow_pickle=False)",
        "np.load(path, 'r')",
        "model.eval()",
        "json.load(file)",
        "yaml.safe_load(file)",
        "re.compile('exec')",
        "jax.jit(f).lower(x).compile()",
        "audb.load(name, pickle_tables=False)",
    ],
)
def test_the_scan_does_not_mind(line):
    assert not unsafe(ast.parse(line))


SCANNED = [*sources(), *CONFIGS.rglob("*.py"), *(ROOT / "launch").rglob("*.py")]


def test_no_source_file_can_run_what_it_reads():
    assert not [(name_of(path), found) for path in SCANNED if (found := unsafe(parse(path)))]


def test_the_package_holds_no_file_that_is_loaded_as_code_or_objects():
    found = (path for path in PACKAGE.rglob("*") if path.is_file())
    kinds = {path.suffix for path in found if "__pycache__" not in path.parts}
    # .cc is compiled; of the rest nothing is more than text and numbers.
    text = {".html", ".css", ".js", ".md", ".toml"}
    assert kinds <= {".py", ".cc", ".safetensors"} | text


class Trap:
    """Writes a file if it is ever unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


BOMBS = ("pickle 0", "pickle 5", "npy", "npz", "yaml", "python")


def bomb(kind: str, mark: Path) -> bytes:
    """Returns a file that writes `mark` if it is read by the reader that it is made for."""
    if kind.startswith("pickle"):
        return pickle.dumps(Trap(mark), int(kind[-1]))
    if kind in ("npy", "npz"):
        buffer, objects = io.BytesIO(), np.array([Trap(mark)], object)
        arrays: Any = {"params/w": objects}
        np.save(buffer, objects) if kind == "npy" else np.savez(buffer, **arrays)
        return buffer.getvalue()
    if kind == "yaml":
        return f'!!python/object/apply:builtins.open ["{mark}", "w"]\n'.encode()
    return f"open({str(mark)!r}, 'w')\n".encode()


def detonate(kind: str, content: bytes) -> None:
    """Reads a bomb as it is meant to be read."""
    if kind.startswith("pickle"):
        pickle.loads(content)
    elif kind in ("npy", "npz"):
        found: Any = np.load(io.BytesIO(content), allow_pickle=True)
        found["params/w"] if kind == "npz" else None
    elif kind == "yaml":
        yaml.unsafe_load(content)
    else:
        exec(content)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", BOMBS)
def test_the_bombs_are_live(kind, tmp_path):
    content = bomb(kind, tmp_path / "mark")
    assert not (tmp_path / "mark").exists()
    detonate(kind, content)
    assert (tmp_path / "mark").exists()


class Place(NamedTuple):
    """A file that is read."""

    file: str  # its path in the folder that `filled` makes
    read: Callable[[Path], Any]  # reads it, given that folder
    sentence: str | None  # of the refusal; None if the reader goes on without the file


ENTRY = key("hsf", "ab" * 32, None, None, {})


def read_store(folder: Path) -> None:
    assert FeatureStore(folder / "store").get(ENTRY) is None


def read_history(folder: Path) -> None:
    assert finished_run.read_history(folder / "run/metrics.jsonl")[0] == []


def read_rows(folder: Path) -> None:
    for line in (folder / "rows.jsonl").read_text(errors="replace").splitlines():
        with pytest.raises(BadRow, match="not a? ?JSON"):
            parse_row(line, {"sad": "sad"})


def read_manifest(folder: Path) -> None:
    read_corpus("manifest", str(folder / "corpus"), manifest="manifest.csv", allow_missing=False)


def read_runs(folder: Path) -> None:
    finished_run.read_runs([folder / "run"])


def report(folder: Path) -> None:
    run_page.write_report(folder / "run")


def read_model(folder: Path) -> None:
    model_files.read_model(folder / "model")


PLACES = [
    Place(f"store/{ENTRY[:2]}/{ENTRY}.npy", read_store, None),
    Place(
        "run/config.json", lambda f: run_directory.read_config(f / "run"), "config.json is damaged"
    ),
    Place(
        "run/results.json",
        lambda f: run_directory.finished_results(f / "run"),
        "results.json is damaged",
    ),
    Place("run/results.json", read_runs, "results.json is damaged"),
    Place("run/results.json", report, "results.json is damaged"),
    Place("run/protocol.json", report, "protocol.json is damaged"),
    Place("run/versions.json", report, "versions.json is damaged"),
    Place("run/predictions.csv", read_runs, "predictions.csv has the SHA-256"),
    Place(
        "run/predictions.csv",
        lambda f: predictions.read_predictions(f / "run/predictions.csv"),
        r"predictions.csv(, line \d+: | does not begin with the columns)",
    ),
    Place(
        "run/rejected.csv",
        lambda f: from_config.read_rejected(f / "run/rejected.csv"),
        "rejected.csv is not the list",
    ),
    Place("run/metrics.jsonl", read_history, None),
    Place("model/model.json", read_model, "model.json is damaged"),
    Place("model/model.npz", read_model, "model.npz is not the file that"),
    Place(
        "model/choice.json",
        lambda f: model_files.read_choice(f / "model"),
        "choice.json is damaged",
    ),
    Place("corpus/manifest.csv", read_manifest, "manifest.csv"),
    Place("rows.jsonl", read_rows, None),
]


@pytest.fixture
def filled(tmp_path) -> Path:
    """A folder with one file of every kind that is read outside training."""
    FeatureStore(tmp_path / "store").put(ENTRY, np.zeros(3, np.float32))
    run = scored.write_run(tmp_path / "run", scored.make_rows(0))
    (run / "config.json").write_text(config.get_config().to_json())
    for name in ("protocol.json", "versions.json"):
        (run / name).write_text("{}")
    (run / "rejected.csv").write_text("file,line,reason,detail\n")
    (run / "metrics.jsonl").write_text("")
    weights, statistics = {"w": np.zeros(2)}, Statistics(np.zeros(1), np.ones(1))
    model_files.write_model(tmp_path / "model", {"status": "done"}, weights, statistics)
    model_files.write_choice(tmp_path / "model", {"status": "done"})
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/manifest.csv").write_text(
        "file,label,speaker\n0.wav,sad,s0\n1.wav,angry,s1\n"
    )
    (tmp_path / "rows.jsonl").write_text("")
    return tmp_path


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.file[:20]}-{place.sentence}")
def test_a_bomb_in_the_place_of_a_file_is_refused(place, kind, filled):
    mark = filled / "mark"
    assert (filled / place.file).is_file()
    (filled / place.file).write_bytes(bomb(kind, mark))
    if place.sentence is None:
        place.read(filled)
    else:
        with pytest.raises(UserError, match=place.sentence):
            place.read(filled)
    assert not mark.exists()


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_with_a_digest_that_fits_is_refused(kind, filled):
    """Whoever may write a folder may also write digests: they do not make a file harmless."""
    mark = filled / "mark"
    content = bomb(kind, mark)
    entry = FeatureStore(filled / "store").path(ENTRY)
    entry.write_bytes(content + hashlib.sha256(ENTRY.encode() + content).digest())
    read_store(filled)
    (filled / "model/model.npz").write_bytes(content)
    described = json.loads((filled / "model/model.json").read_text())
    del described[strict_json.CHECKSUM]
    described["sha256"] = hashlib.sha256(content).hexdigest()
    (filled / "model/model.json").write_text(json.dumps(strict_json.with_checksum(described)))
    with pytest.raises(UserError, match=r"model\.npz holds no model"):
        model_files.read_model(filled / "model")
    assert not mark.exists()


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_for_a_recording_is_no_audio(kind, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(bomb(kind, tmp_path / "mark"))
    with pytest.raises(BadAudio):
        audio.decode(path, max_seconds=1.0)
    assert not (tmp_path / "mark").exists()
    soundfile.write(path, np.sin(np.arange(8000)), 16000)
    assert audio.decode(path, max_seconds=1.0).seconds == 0.5


ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, bytes]:
    """The files of a checkpoint, by their paths in its folder."""
    folder = tmp_path_factory.mktemp("saved")
    with checkpoint.open_checkpoints(folder) as checkpoints:
        checkpoints.save(ARRAYS, {"step": 1})
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# Where one of tensorstore's reads fails, it complains of the others, which end too late.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["pickle 5", "python"])
def test_a_bomb_in_the_place_of_any_file_of_a_checkpoint_never_runs(kind, saved, tmp_path, caplog):
    """Each in turn: the checkpoint is moved aside with a sentence, or the file is not needed."""
    mark, aside = tmp_path / "mark", 0
    for number, name in enumerate(saved):
        folder = tmp_path / str(number)
        for path, content in saved.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(bomb(kind, mark) if path == name else content)
        with (
            caplog.at_level(logging.ERROR, logger="absl"),
            checkpoint.open_checkpoints(folder) as checkpoints,
        ):
            position = checkpoints.position
            if position is None:
                aside += 1
            else:
                assert position == {"step": 1}
                restored = checkpoints.restore(jax.eval_shape(lambda: ARRAYS))
                np.testing.assert_array_equal(restored["w"], ARRAYS["w"])
        assert not mark.exists(), name
    assert aside > 0


def test_a_configuration_beside_a_run_is_never_executed(filled):
    """A run is made again from config.json alone; Python files in its folder are nothing to it."""
    mark = filled / "mark"
    for name in ("config.py", "config.json.py", "__init__.py", "sitecustomize.py"):
        (filled / "run" / name).write_bytes(bomb("python", mark))
    assert run_directory.read_config(filled / "run") == config.get_config()
    assert not mark.exists()


HOSTILE = {
    "deep list": "[" * 200_000,
    "deep object": '{"a":' * 200_000,
    "deep and closed": '{"a": ' * 500 + "1" + "}" * 500,
    "repeated key": '{"system": "svm", "system": "plain_crnn"}',
    "not a number": '{"system": NaN}',
    "infinite": '{"schema": 1e999}',
    "long number": '{"schema": ' + "1" * 5000 + "}",
    "list": "[]",
    "text": '"schema"',
    "nothing": "",
}
JSON_PLACES = [place for place in PLACES if place.file.endswith(".json")]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("place", JSON_PLACES, ids=lambda place: f"{place.file}-{place.sentence}")
def test_hostile_json_is_refused(place, text, filled):
    (filled / place.file).write_text(text)
    with pytest.raises(UserError, match=place.sentence):
        place.read(filled)


@pytest.mark.parametrize("text", [HOSTILE["deep list"], HOSTILE["deep object"], HOSTILE["list"]])
def test_hostile_lines_are_skipped_or_named(text, filled):
    (filled / "run/metrics.jsonl").write_text(text + "\n")
    read_history(filled)
    (filled / "rows.jsonl").write_text(text)
    read_rows(filled)
