"""The reproduced tables: commands, the page, and tables 1 and 2 of the paper on fake releases."""

import dataclasses
import json
import subprocess
from pathlib import Path

import commands
import pytest
import releases
import scored

from ser_jax.errors import Diverged, UserError
from ser_jax.reproduction import rows, tables
from ser_jax.training import interrupt

TABLE = tables.TABLES["2"]
OPTIONS = {"root": "/data", "seeds": 4, "shorten": True, "extra": ()}


def options_of(row: tables.Row, **changes) -> dict[str, str]:
    arguments = rows.command(TABLE, row, Path("runs/x"), **{**OPTIONS, **changes})
    assert arguments[:2] == ["-m", "ser_jax.main"]
    given = [argument.split("=", 1) for argument in arguments[2:]]
    assert len({name for name, _ in given}) == len(given), "nothing is given twice"
    return dict(given)


def test_published_figures_of_the_paper():
    """Luo, Zou and Huang (2018), tables 1 and 2."""
    first, second = ({row.preset: row.published for row in tables.TABLES[name].rows} for name in "12")
    assert first == {"plain_crnn": (56.54, 56.42), "multi_crnn": (57.53, 58.06), "hsf_crnn": (60.35, 63.98)}
    assert [column.title for column in tables.TABLES["1"].columns] == ["WA", "UA"]
    assert second["end2you"] == (41.8, 28.0) and second["hsf_crnn"] == (32.45, 35.795)
    assert [(column.score, column.fold) for column in TABLE.columns] == [("ua", "devel"), ("ua", "test")]
    for table in tables.TABLES.values():
        assert all(len(row.published) == len(table.columns) for row in table.rows)


def test_commands():
    plain, end2you = TABLE.rows[1], TABLE.rows[0]
    found = options_of(plain)
    assert found["--config"] == "configs/plain_crnn.py" and found["--workdir"] == "runs/x"
    assert found["--config.corpus.name"] == "emotass" and found["--config.corpus.root"] == "/data"
    assert found["--config.protocol.seeds"] == "4" and "--config.training.epochs" not in found
    assert options_of(end2you)["--config.protocol.seeds"] == "1"
    assert options_of(end2you, shorten=False)["--config.protocol.seeds"] == "4"
    assert options_of(end2you, extra=["--config.training.epochs=7"])["--config.training.epochs"] == "7"


def test_every_preset_exists():
    for table in tables.TABLES.values():
        for row in table.rows:
            assert (rows.CONFIGS / f"{row.preset}.py").is_file(), row


CHILD = """
import os, pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(42)
signal.signal(signal.SIGTERM, save)
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(100)
"""


def test_sigterm_reaches_the_training_of_a_row_which_may_save(monkeypatch, tmp_path):
    """The child sends it to this process once it is ready, and leaves only when it gets it back."""
    monkeypatch.setattr(rows, "CONFIGS", tmp_path)
    with pytest.raises(interrupt.Interrupted), interrupt.leaving_on_sigterm(42):
        rows.train(["-c", CHILD, str(tmp_path / "file"), "--config=configs/x.py"])
    assert (tmp_path / "file").read_text() == "saved"


def test_without_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "CONFIGS", tmp_path / "absent")
    with pytest.raises(UserError, match="run this from a checkout"):
        rows.train(["-m", "ser_jax.main", "--config=configs/plain_crnn.py"])


def write_run(folder: Path, number: int, **changes) -> Path:
    scored.write_run(folder, scored.make_rows(number, skill=0.2 + 0.1 * number), **changes)
    (folder / "config.json").write_text(json.dumps({"training": {"epochs": 40}}))
    versions = {"ser_jax": "0.1.0", "python": "3.11.7", "jax": "0.10.2", "devices": "2 x cpu"}
    (folder / "versions.json").write_text(json.dumps(versions))
    return folder


def run_all(tmp_path: Path, table: tables.Table, **changes) -> int:
    values = {**OPTIONS, "made_by": "python -m ser_jax.reproduce", "only": [], **changes}
    return rows.reproduce(table, tmp_path, tmp_path / "table.md", **values)


ROWS = (tables.Row("One", "plain_crnn", (50.0,)), tables.Row("Two", "multi_crnn", (None,), ("training.epochs=2",)))
SMALL = tables.Table("Small", "demo", (tables.Column("UA", "ua"),), ROWS, deviations=("It differs.",))


@pytest.fixture
def codes(monkeypatch) -> list[int]:
    """Exit codes of the rows to come; a row that is trained leaves a finished run."""
    coming: list[int] = []

    def train(arguments):
        workdir = Path(next(a for a in arguments if a.startswith("--workdir=")).partition("=")[2])
        code = coming.pop(0)
        if code in (0, 3) and not workdir.is_dir():
            write_run(workdir, len(coming))
        return code

    monkeypatch.setattr(rows, "train", train)
    return coming


def cells(page: str, title: str) -> list[str]:
    return next(line for line in page.splitlines() if line.startswith(f"| {title}")).strip("| ").split(" | ")


def test_the_page(tmp_path, codes, capsys):
    codes += [0, 0]
    assert run_all(tmp_path, SMALL) == 0
    page = (tmp_path / "table.md").read_text()
    results = json.loads((tmp_path / "plain_crnn" / "results.json").read_text())
    head, row = cells(page, "system"), cells(page, "One")
    assert head == "system|UA, published|UA, ours|95 % interval|seeds|epochs|time|device|protocol".split("|")
    mean, std = (100 * results["ua"][key] for key in ("mean", "std"))
    assert row[:3] == ["One", "50.0", f"{mean:.1f} ± {std:.1f}"]
    assert row[4:] == ["2", "40", "1 min 47 s", "2 x cpu", "demo-speaker `decadedecade…`"]
    assert cells(page, "Two (shortened, not comparable)")[1] == "–"
    assert "plain_crnn − multi_crnn" not in page, "what is shortened is compared with nothing"
    assert "- It differs." in page and "/data" not in page
    assert "python -m ser_jax.main --config=configs/plain_crnn.py" in page and "--config.corpus.root=$ROOT" in page
    assert "table.md" in capsys.readouterr().out


def test_pairs_are_tested(tmp_path, codes):
    codes += [0, 0]
    run_all(tmp_path, SMALL, shorten=False)
    assert cells((tmp_path / "table.md").read_text(), "plain_crnn − multi_crnn")[1].startswith(("+", "−"))


def test_scores_of_one_fold(tmp_path, codes):
    """Oracle: the pooled score of a run that has this fold alone."""
    codes += [0]
    table = dataclasses.replace(SMALL, columns=(tables.Column("devel UA", "ua", "f2"),), rows=ROWS[:1])
    run_all(tmp_path, table)
    rows = [row for row in scored.make_rows(0, skill=0.2) if row.fold == "f2"]
    expected = scored.summarise(rows)["ua"]
    assert cells((tmp_path / "table.md").read_text(), "One")[2].startswith(f"{100 * expected['mean']:.1f} ±")
    absent = dataclasses.replace(table, columns=(tables.Column("test UA", "ua", "none"),))
    codes += [0]
    run_all(tmp_path, absent)
    assert cells((tmp_path / "table.md").read_text(), "One")[2] == "–"


@pytest.mark.parametrize("code", [130, 42])
def test_interrupted(tmp_path, codes, code):
    codes += [0, code]
    assert run_all(tmp_path, SMALL) == code
    assert cells((tmp_path / "table.md").read_text(), "One"), "what is finished is on the page"
    codes += [0, 0]
    assert run_all(tmp_path, SMALL) == 0 and "| Two" in (tmp_path / "table.md").read_text()


def test_refused_and_diverged(tmp_path, codes):
    codes += [2]
    with pytest.raises(UserError, match="^One was refused"):
        run_all(tmp_path, SMALL)
    codes += [3, 0]
    with pytest.raises(Diverged, match="^runs of One diverged"):
        run_all(tmp_path, SMALL)
    assert "| Two" in (tmp_path / "table.md").read_text(), "the other rows are trained"
    with pytest.raises(UserError, match="^--rows=svm: this table has the rows plain_crnn, multi_crnn$"):
        run_all(tmp_path, SMALL, only=["svm"])


def test_a_row_that_was_begun_goes_on_as_it_was_begun(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("jax is asked")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert not rows.on_cpu(tmp_path, ROWS[:1]), "nothing depends on it"
    folder = write_run(tmp_path / "multi_crnn", 1)
    assert rows.on_cpu(tmp_path, ROWS)
    (folder / "versions.json").write_text(json.dumps({"devices": "1 x NVIDIA H200"}))
    assert not rows.on_cpu(tmp_path, ROWS)


TINY = [argument for argument in commands.TINY if "system" not in argument and "devices" not in argument]


def reproduce(*arguments: str) -> commands.Ended:
    return commands.real_command(*arguments, module="ser_jax.reproduce")


def test_table_1_on_a_fake_release(tmp_path):
    release = releases.write_iemocap(tmp_path, releases.iemocap_turns())
    arguments = ("--table=1", "--seeds=1", "--rows=plain_crnn,multi_crnn", f"--workdir={tmp_path / 'runs'}")
    small = (*TINY, "--config.model.multi_short_dense=(8,)", "--config.model.multi_head=(8,)")
    ended = reproduce(*arguments, *small, f"--config.corpus.root={release}")
    assert ended.code == 0, ended.err
    page = (tmp_path / "runs" / "table.md").read_text()
    assert cells(page, "Plain CRNN")[1] == "56.54" and cells(page, "Multi-CRNN")[4] == "58.06"
    assert "iemocap-5531-session5+modified" in page and "plain_crnn − multi_crnn" in page
    before = commands.files_and_times(tmp_path / "runs" / "plain_crnn")
    again = reproduce(*arguments, *small, f"--config.corpus.root={release}")
    assert again.code == 0 and commands.files_and_times(tmp_path / "runs" / "plain_crnn").keys() == before.keys()


def test_table_2_on_a_fake_release(tmp_path):
    """Test labels are withheld: the test column stays empty, and every row leaves its submission."""
    release = releases.write_emotass(tmp_path, releases.emotass_rows(train=6))
    folder = tmp_path / "runs"
    arguments = ("--table=2", "--seeds=1", "--rows=end2you,plain_crnn", f"--workdir={folder}")
    ended = reproduce(*arguments, *TINY, f"--config.corpus.root={release}")
    assert ended.code == 0, ended.err
    page = (folder / "table.md").read_text()
    head, plain = cells(page, "system"), cells(page, "Plain CRNN")
    assert dict(zip(head, plain, strict=True))["devel UA, published"] == "29.37"
    assert dict(zip(head, plain, strict=True))["test UA, ours"] == "–"
    ua = json.loads((folder / "plain_crnn" / "results.json").read_text())["ua"]["mean"]
    assert plain[head.index("devel UA, ours")] == f"{100 * ua:.1f}", "pooled is what has labels: devel"
    assert cells(page, "End2You, baseline [20] (shortened, not comparable)")[1] == "41.8"
    assert all((folder / name / "submission.arff").is_file() for name in ("end2you", "plain_crnn"))


def test_refusals(tmp_path):
    assert reproduce().refusal == "--table is missing: choose one of 1, 2, emodb"
    assert reproduce("--table=1").refusal.startswith("--config.corpus.root='' is not a folder; set it to the folder of")
    assert reproduce("--table=3").code == 2
    ended = reproduce("--table=1", f"--workdir={tmp_path / 'runs'}", f"--config.corpus.root={tmp_path}")
    assert ended.code == 2 and "Traceback" not in ended.err
    assert (
        ended.err.splitlines()[-1] == "error: Plain CRNN was refused, see above; mend it and run the same command again"
    )
