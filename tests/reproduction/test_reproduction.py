"""The reproduced tables: commands, the page, and tables 1 and 2 of the paper on fake releases."""

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import commands
import pytest
import releases
import scored

from ser_jax.config import presets
from ser_jax.reproduction import table_rows, tables
from ser_jax.runtime import signals
from ser_jax.runtime.errors import Diverged, UserError

TABLE = tables.TABLES["2"]
OPTIONS = {"root": "/data", "seeds": 4, "shorten": True, "extra": ()}
ROWS = (
    tables.Row("One", "plain_crnn", (50.0,)),
    tables.Row("Two", "multi_crnn", (None,), ("training.epochs=2",)),
)
COLUMNS = (tables.Column("UA", "ua"),)
SMALL = tables.Table("Small", "demo", COLUMNS, ROWS, deviations=("It differs.",))


def options_of(row: tables.Row, **changes) -> dict[str, str]:
    arguments = table_rows.command(TABLE, row, Path("runs/x"), **{**OPTIONS, **changes})
    assert arguments[:2] == ["-m", "ser_jax.main"]
    given = [argument.split("=", 1) for argument in arguments[2:]]
    assert len({name for name, _ in given}) == len(given), "nothing is given twice"
    return dict(given)


def test_rows_have_a_preset_and_a_figure_per_column():
    for table in tables.TABLES.values():
        for row in table.rows:
            assert len(row.published) == len(table.columns)
            assert row.preset in presets(), row


def test_commands():
    end2you, plain = TABLE.rows[:2]
    found = options_of(plain)
    assert found["--config"] == "plain_crnn" and found["--workdir"] == "runs/x"
    assert found["--config.corpus.name"] == "emotass" and found["--config.corpus.root"] == "/data"
    assert found["--config.protocol.seeds"] == "4" and "--config.training.epochs" not in found
    assert options_of(end2you)["--config.protocol.seeds"] == "1"
    assert options_of(end2you, shorten=False)["--config.protocol.seeds"] == "4"
    overridden = options_of(end2you, extra=["--config.training.epochs=7"])
    assert overridden["--config.training.epochs"] == "7"


CHILD = """
import os, pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(42)
signal.signal(signal.SIGTERM, save)
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(100)
"""


def test_sigterm_reaches_the_training_of_a_row_which_may_save(tmp_path):
    """The child sends it to this process once it is ready, and exits only when it receives it."""
    with pytest.raises(signals.Interrupted):
        table_rows.train(["-c", CHILD, str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "saved"


def test_a_training_ends_with_a_killed_process(tmp_path):
    child = """
import os, pathlib, sys, time
from ser_jax.runtime import signals
signals.guard_process().know_exit_code(42)
print(os.getpid(), flush=True)
time.sleep(100)
"""
    parent = (
        "import sys; from ser_jax.reproduction import table_rows; table_rows.train(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, "-c", child],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    training = os.pidfd_open(int(process.stdout.readline()))
    process.kill()
    assert select.select([training], [], [], 60)[0], "it goes on"
    os.close(training)
    assert process.communicate()[1] == signals.exit_message(signal.SIGTERM) + "\n"


def write_run(folder: Path, number: int) -> Path:
    scored.write_run(folder, scored.make_rows(number, skill=0.2 + 0.1 * number))
    (folder / "config.json").write_text(json.dumps({"training": {"epochs": 40}}))
    protocol = {"name": "demo-speaker", "sha256": "decade" * 10, "notes": ["all are known"]}
    protocol |= {"validation": "the next speaker", "refit": "none"}
    (folder / "protocol.json").write_text(json.dumps(protocol))
    versions = {"ser_jax": "0.1.0", "python": "3.11.7", "jax": "0.10.2", "devices": "2 x cpu"}
    (folder / "versions.json").write_text(json.dumps(versions))
    return folder


def run_all(folder: Path, table: tables.Table, **changes) -> int:
    values = {**OPTIONS, "made_by": "ser-jax reproduce", "only": [], "cpu": True, **changes}
    del values["shorten"]
    return table_rows.reproduce(table, folder, folder / "table.md", **values)


def cells(folder: Path, title: str) -> list[str]:
    """Returns the cells of a row of the page."""
    lines = (folder / "table.md").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"| {title}")).strip("| ").split(" | ")


@pytest.fixture
def codes(monkeypatch) -> list[int]:
    """Exit codes of the next rows; a row that is trained leaves a finished run."""
    coming: list[int] = []

    def train(arguments):
        workdir = Path(next(a for a in arguments if a.startswith("--workdir=")).partition("=")[2])
        code = coming.pop(0)
        if code in (0, 3) and not workdir.is_dir():
            write_run(workdir, len(coming))
        return code

    monkeypatch.setattr(table_rows, "train", train)
    return coming


def test_the_page(tmp_path, codes, capsys):
    codes += [0, 0]
    assert run_all(tmp_path, SMALL) == 0
    page = (tmp_path / "table.md").read_text()
    results = json.loads((tmp_path / "plain_crnn" / "results.json").read_text())
    ua, ece = results["ua"], results["calibration"]["ece"]
    head = "system|UA, published|UA, ours|95 % interval|ECE|seeds|epochs|time|device|protocol"
    assert cells(tmp_path, "system") == head.split("|")
    row = cells(tmp_path, "One")
    assert row[:3] == ["One", "50.0", f"{100 * ua['mean']:.1f} ± {100 * ua['std']:.1f}"]
    assert row[4:6] == [f"{ece:.3f}", "2"]
    assert row[6:] == ["40", "1 min 47 s", "2 x cpu", "demo-speaker `decadedecade…`"]
    assert cells(tmp_path, "Two (shortened, not comparable)")[1] == "–"
    assert "One − Two" not in page, "what is shortened is compared with nothing"
    assert "- It differs." in page and "/data" not in page
    assert "python -m ser_jax.main --config=plain_crnn" in page
    assert "--config.corpus.root=$ROOT" in page
    assert "- `demo-speaker`, validation part: the next speaker; then: none." in page
    assert "- `demo-speaker`: all are known." in page and "by jackknife over 6 speakers" in page
    assert "table.md" in capsys.readouterr().out
    for row in SMALL.rows:  # The date is that of the trainings, whenever the page is written.
        os.utime(tmp_path / row.place / "results.json", times=(0, 1e9))
    codes += [0, 0]
    assert run_all(tmp_path, SMALL) == 0
    assert "\n2001-09-09, a machine with" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("extra", [[], ["--config.training.refit=none"]])
def test_the_tables_of_the_paper_train_on_four_sessions_and_say_how_they_differ(
    tmp_path, codes, extra
):
    codes += [0] * 7
    refit = extra[0] if extra else "--config.training.refit=train+validation"
    for name in "12":
        table, folder = tables.TABLES[name], tmp_path / name
        row = table_rows.command(table, table.rows[0], folder, **{**OPTIONS, "extra": extra})
        assert [word for word in row if "refit" in word] == [refit]
        assert run_all(folder, table, extra=extra) == 0
        page = (folder / "table.md").read_text()
        made = "Every row is trained with `training.refit=train+validation`."
        assert (made in page) == (not extra), "what is overridden is not claimed"
        assert all(sentence in page for sentence in table.deviations)
    sentences = " ".join(sum((tables.TABLES[name].deviations for name in "12"), ()))
    for word in ("“the remaining one”", "pooled", "The devel column", "docs/paper.md", "epoch"):
        assert word in sentences


def test_pairs_are_tested(tmp_path, codes):
    codes += [0, 0]
    run_all(tmp_path, SMALL, full=True)
    assert cells(tmp_path, "One − Two")[1].startswith(("+", "−"))


MEMBERS = {"svm": "A", "plain_crnn": "B"}
PROTOCOL = ("protocol.name=p",)
FUSION = tables.Row(
    *("Both", "tuned/fusion", (None,)), folder="x/both", overrides=PROTOCOL, members=MEMBERS
)


def test_members_of_a_fusion_are_rows_and_pairs_are_chosen(tmp_path, monkeypatch):
    given = []

    def train(arguments):
        given.append(dict(argument.split("=", 1) for argument in arguments[2:]))
        workdir = Path(given[-1]["--workdir"])
        write_run(workdir, 3)
        for number, name in enumerate(MEMBERS):
            write_run(workdir / "members" / name, number)
        return 0

    monkeypatch.setattr(table_rows, "train", train)
    chosen = (("Both", "A"), ("Both", "absent"), ("B", "A"))
    table = dataclasses.replace(
        SMALL, rows=(FUSION,), overrides=("training.epochs=9",), pairs=chosen
    )
    assert run_all(tmp_path, table) == 0
    assert given[0]["--workdir"] == str(tmp_path / "x" / "both")
    assert given[0]["--config.protocol.name"] == "p"
    assert "--config.training.epochs" not in given[0], "it has overrides of its own"
    page = (tmp_path / "table.md").read_text()
    titles = [line.split(" | ")[0][2:] for line in page.splitlines() if line.startswith("| ")]
    shown = ["system", "A", "B", "Both", "first − second", "Both − A", "B − A"]
    assert [title for title in titles if title != "---"] == shown
    assert page.count("python -m ser_jax.main") == 1, "one command trains the three rows"
    with pytest.raises(UserError, match="this table has the rows x/both$"):
        run_all(tmp_path, table, only=["tuned/fusion"])


def test_every_chosen_pair_is_one_of_titles():
    for table in tables.TABLES.values():
        titles = {row.title for row in table.rows}
        titles |= {title for row in table.rows for title in row.members.values()}
        assert titles >= {title for pair in table.pairs for title in pair}


def test_scores_of_one_fold(tmp_path, codes):
    """Oracle: the pooled score of a run that has this fold alone."""
    codes += [0, 0]
    column = tables.Column("devel UA", "ua", "f2")
    table = dataclasses.replace(SMALL, columns=(column,), rows=ROWS[:1])
    run_all(tmp_path, table)
    rows = [row for row in scored.make_rows(1, skill=0.3) if row.fold == "f2"]
    expected = 100 * scored.summarise(rows)["ua"]["mean"]
    assert cells(tmp_path, "One")[2].startswith(f"{expected:.1f} ±")
    absent = dataclasses.replace(table, columns=(dataclasses.replace(column, fold="none"),))
    run_all(tmp_path, absent)
    assert cells(tmp_path, "One")[2] == "–"


@pytest.mark.parametrize("code", [130, 42])
def test_interrupted(tmp_path, codes, code):
    codes += [0, code, 0, 0]
    assert run_all(tmp_path, SMALL) == code
    assert cells(tmp_path, "One"), "what is finished is on the page"
    assert run_all(tmp_path, SMALL) == 0 and cells(tmp_path, "Two")


def test_refused_and_diverged(tmp_path, codes):
    codes += [2, 3, 0]
    with pytest.raises(UserError, match="^One was refused"):
        run_all(tmp_path, SMALL)
    with pytest.raises(Diverged, match="^runs of One diverged"):
        run_all(tmp_path, SMALL)
    assert cells(tmp_path, "Two"), "the other rows are trained"
    message = "^--rows=svm: this table has the rows plain_crnn, multi_crnn$"
    with pytest.raises(UserError, match=message):
        run_all(tmp_path, SMALL, only=["svm"])


def test_a_row_is_continued_as_it_was_started(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("jax was started")

    monkeypatch.setattr(subprocess, "run", refuse)
    folder = write_run(tmp_path / "multi_crnn", 1)
    assert table_rows.on_cpu(tmp_path, ROWS)
    (folder / "versions.json").write_text(json.dumps({"devices": "1 x NVIDIA H200"}))
    assert not table_rows.on_cpu(tmp_path, ROWS)


def test_what_fixes_the_bits_is_set_and_kept(tmp_path, monkeypatch):
    """On a CPU the same for any number of cores; a row that has started goes on as it began."""
    given = []
    monkeypatch.setattr(table_rows, "train", lambda arguments: given.append(arguments) or 42)
    folder = write_run(tmp_path / "plain_crnn", 1)
    versions = json.loads((folder / "versions.json").read_text())
    started = {"training.devices": 4, "training.group": 8, "training.kernels": "xla"}
    (folder / "versions.json").write_text(json.dumps(versions | started))
    run_all(tmp_path, SMALL)
    (folder / "versions.json").unlink()
    run_all(tmp_path, SMALL)
    run_all(tmp_path, SMALL, extra=["--config.training.devices=1"])
    run_all(tmp_path, SMALL, cpu=False)
    shown = [[a[9:] for a in row if a.startswith("--config.training.")] for row in given]
    assert shown == [
        ["training.devices=4", "training.group=8", "training.kernels=xla"],
        ["training.devices=2", "training.group=2", "training.kernels=native"],
        ["training.group=2", "training.kernels=native", "training.devices=1"],
        [],
    ]


def test_a_table_is_made_as_its_figures_were_and_says_so(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    given = []
    monkeypatch.setattr(table_rows, "train", lambda arguments: given.append(arguments) or 42)
    table = dataclasses.replace(SMALL, made_with={"training.devices": 3, "training.group": 6})
    run_all(tmp_path, table, extra=["--config.training.group=1"])
    kept = [a for a in given[0] if "devices" in a or "group" in a]
    assert kept == ["--config.training.devices=3", "--config.training.group=1"]
    assert "note: training.devices=3, as the figures" in caplog.text
    caplog.clear()
    run_all(tmp_path, table, cpu=False)
    assert not caplog.text


def reproduce(*arguments: str) -> commands.Ended:
    return commands.real_command(*arguments, name="reproduce")


def small(folder: Path, release: Path) -> list[str]:
    tiny = [a for a in commands.TINY if "system" not in a and "devices" not in a]
    return [*tiny, "--seeds=1", f"--workdir={folder}", f"--config.corpus.root={release}"]


def test_table_1_on_a_fake_release(tmp_path):
    release = releases.write_iemocap(tmp_path, releases.iemocap_turns())
    model = ("--config.model.multi_short_dense=(8,)", "--config.model.multi_head=(8,)")
    rows = "--rows=plain_crnn,multi_crnn"
    folder = tmp_path / "runs"
    ended = reproduce("--table=1", rows, *small(folder, release), *model)
    assert ended.code == 0, ended.err
    assert cells(folder, "Plain CRNN")[1] == "56.54" and cells(folder, "Multi-CRNN")[4] == "58.06"
    page = (folder / "table.md").read_text()
    assert "iemocap-5531-session5+modified" in page and "Plain CRNN − Multi-CRNN" in page


def test_table_2_on_a_fake_release(tmp_path):
    """Test labels are withheld: that column is empty, and every row leaves its submission."""
    release = releases.write_emotass(tmp_path, releases.emotass_rows(train=6))
    folder = tmp_path / "runs"
    model = [f"--config.model.end2you_{v}" for v in ("filters=10", "units=8", "layers=1")]
    arguments = [*small(folder, release), *model]
    ended = reproduce("--table=2", "--rows=end2you,plain_crnn", *arguments)
    assert ended.code == 0, ended.err
    plain = dict(zip(cells(folder, "system"), cells(folder, "Plain CRNN"), strict=True))
    assert plain["devel UA, published"] == "29.37" and plain["test UA, ours"] == "–"
    ua = json.loads((folder / "plain_crnn" / "results.json").read_text())["ua"]["mean"]
    assert plain["devel UA, ours"] == f"{100 * ua:.1f}", "only devel has labels to be pooled"
    assert cells(folder, "End2You, baseline [20] (shortened, not comparable)")[1] == "41.8"
    assert all((folder / name / "submission.arff").is_file() for name in ("end2you", "plain_crnn"))
    before = commands.files_and_times(folder / "plain_crnn")
    assert reproduce("--table=2", "--rows=plain_crnn", *arguments).code == 0
    assert commands.files_and_times(folder / "plain_crnn").keys() == before.keys()


def test_refusals(tmp_path):
    assert reproduce().refusal == f"--table is missing: choose one of {', '.join(tables.TABLES)}"
    assert reproduce("--table=1").refusal.startswith("--config.corpus.root='' is not a folder; set")
    assert reproduce("--table=3").code == 2
    root = f"--config.corpus.root={tmp_path}"
    ended = reproduce("--table=1", f"--workdir={tmp_path / 'runs'}", root)
    assert ended.code == 2 and "Traceback" not in ended.err
    refusal = "error: Plain CRNN was refused, see above; correct it and run the same command again"
    assert ended.err.splitlines()[-1] == refusal
