"""`ser_jax.train`, `evaluate` and `load` in Python: as a notebook runs them, and refusals."""

import ast
import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import commands
import pytest
import releases

import ser_jax
from ser_jax.config import get_config
from ser_jax.experiment import run as experiments
from ser_jax.runtime import signals
from ser_jax.runtime.errors import Diverged, UserError

# A feature store for each test, so that extracting is seen in both.
SETTINGS: dict[str, Any] = {"features.store": "store"}
for flag in commands.TINY:
    key, _, value = flag.removeprefix("--config.").partition("=")
    SETTINGS[key] = value if key == "system" else ast.literal_eval(value)

# The last line of each is shown, and must be this text or, for the drawing, an image.
CELLS = (
    (
        "import ser_jax\n"
        "results = ser_jax.train('plain_crnn', corpus='manifest', root={root!r}, workdir='run',\n"
        "    settings={settings!r})\n"
        "results",
        "plain_crnn on manifest-speaker: 24 utterances, 3 folds x 1 seed",
    ),
    ("model = ser_jax.load(results.folder); model", "<Predictor: the ensemble of 3 models of run"),
    ("len(model.predict([{wav!r}, {wav!r}]))", "2"),
    ("ser_jax.evaluate('run')['ua'] == results['ua']", "True"),
    ("model.timeline({wav!r})", "<Timeline of sad0.wav, 0.4 s: 1 row"),
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> list[tuple[str, str]]:
    folder = tmp_path_factory.mktemp("corpus")
    path = releases.write_manifest(folder, releases.manifest_rows(speakers=3), seconds=0.4)
    names = {"root": str(path.parent), "settings": SETTINGS}
    names["wav"] = str(path.parent / "audio/s0/sad0.wav")
    return [(source.format(**names), shown) for source, shown in CELLS]


def shown_by(source: str, names: dict[str, Any]) -> str:
    """Executes a cell; returns what a notebook would show below it."""
    tree = ast.parse(source)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    exec(compile(tree, "cell", "exec"), names)
    return repr(eval(compile(ast.Expression(last.value), "cell", "eval"), names))


def test_cells_run_while_an_event_loop_runs(cells, tmp_path, monkeypatch):
    """Kernels run cells inside of their event loop, where asyncio.run is refused."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    async def kernel() -> None:
        for source, shown in cells:
            assert shown_by(source, names).startswith(shown)

    asyncio.run(kernel())
    results = names["results"]
    found = json.loads((tmp_path / "run/results.json").read_text())
    del results["seconds"]  # evaluate has taken its own time
    assert {key: found[key] for key in results} == results
    assert str(results).rstrip().endswith(f"report  {Path('run/report.html')}")


@pytest.mark.filterwarnings("default")  # of packages that only notebooks need
def test_a_notebook(cells, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(source) for source, _ in cells]
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=commands.SLOW, resources=place).execute()
    for cell, (_, shown) in zip(book.cells, cells, strict=True):
        (value,) = (one for one in cell.outputs if one.output_type == "execute_result")
        assert value.data["text/plain"].startswith(shown)
    progress = [one.data["text/plain"] for one in book.cells[0].outputs if "data" in one][:-1]
    assert [line.split(",")[0] for line in progress] == [
        *("extracting: 24/24 files", "training: 6/6 epochs")
    ], "a line for each job, replaced as it goes on"
    assert "image/png" in book.cells[-1].outputs[-1].data


def test_in_another_thread_signals_are_left_alone():
    with signals.Watch():
        pass
    failed = []

    def work() -> None:
        try:
            with signals.Watch() as watch:
                assert watch.received is None
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed


@pytest.mark.parametrize(
    ("stop", "expected", "sentence"),
    [
        (signals.Interrupted(2), KeyboardInterrupt, "stopped by SIGINT; run the same call again"),
        (UserError("mend it"), UserError, "mend it"),
    ],
)
def test_how_training_stops(monkeypatch, stop, expected, sentence):
    def stopped(*_):
        raise stop

    monkeypatch.setattr(experiments, "train", stopped)
    with pytest.raises(expected, match=sentence):
        ser_jax.train()


def test_diverged_trials_are_an_error(monkeypatch, tmp_path):
    found = {"runs": [{"fold": "a", "seed": 0, "status": "diverged"}]}
    monkeypatch.setattr(experiments, "train", lambda *_: experiments.Results(found, tmp_path))
    with pytest.raises(Diverged, match=r"1 of 1 trial diverged \(a-0\)"):
        ser_jax.train(get_config())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"config": "plain"}, "--config=plain: there is no such file and no such preset"),
        ({"settings": {"training.epoch": 3}}, "no key 'epoch'; did you mean 'epochs'"),
        ({"settings": {"training.epochs": "x"}}, "'epochs' .* cannot be casted to type .*int"),
        ({"settings": {"training.epochs": 0}}, "training.epochs=0"),
        ({"corpus": "mine"}, "corpus.name"),
    ],
)
def test_train_refuses(arguments, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        ser_jax.train(**{"config": "plain_crnn", "workdir": tmp_path / "run", **arguments})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "is not a run directory"),
        ({"settings": {"corpus.labels": "a=b"}}, "are for another corpus: name its reader"),
        ({"corpus": "emodb", "settings": {"corpus.x": 1}}, "no key 'x'"),
    ],
)
def test_evaluate_refuses(arguments, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        ser_jax.evaluate(tmp_path, **arguments)
