"""notebooks/first_steps.ipynb: it is shipped executed, and runs again."""

import json

import commands
import pytest
from sources import ROOT

BOOK = ROOT / "notebooks/first_steps.ipynb"
CODE = [c for c in json.loads(BOOK.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]


def kinds(outputs) -> set[str]:
    """The MIME types that the outputs show."""
    return {kind for one in outputs for kind in one.get("data", {})}


def test_it_is_shipped_executed_without_paths_of_a_machine():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not [one for cell in CODE for one in cell["outputs"] if one["output_type"] == "error"]
    assert "UA" in "".join(CODE[0]["outputs"][-1]["data"]["text/plain"])
    assert sum("image/png" in kinds(cell["outputs"]) for cell in CODE) == 1
    text = BOOK.read_text("utf-8")
    assert not [word for word in ("/root", "/home", "/work", "/tmp") if word in text]
    assert BOOK.stat().st_size < 300_000


@pytest.mark.filterwarnings("default")  # of packages that only notebooks need
def test_it_runs_again(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.read(BOOK, as_version=4)
    first = next(cell for cell in book.cells if cell.cell_type == "code")
    assert '"training.epochs": 10' in first.source
    first.source = first.source.replace('"training.epochs": 10', '"training.epochs": 1')
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=commands.SLOW, resources=place).execute()
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    shown = [kinds(cell.outputs) for cell in cells]
    assert shown == [kinds(cell["outputs"]) for cell in CODE]
    assert (tmp_path / "runs/notebook/report.html").is_file()
