"""The table of corpora, its copy in the documents, and proposals on the command line."""

import re
from pathlib import Path

import pytest

from ser_jax.commands import command_line
from ser_jax.corpora.named_releases import RELEASES
from ser_jax.corpora.registry import READERS
from ser_jax.report import corpora_page
from ser_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]


def test_the_table_names_every_corpus(capsys):
    command_line.call("corpora")
    text = capsys.readouterr().out
    for name, release in RELEASES.items():
        assert release.title in text and release.licence in text and release.source in text, name
    assert {*RELEASES, *corpora_page.LISTED, "demo"} == set(READERS)


def test_the_documents_hold_the_table_that_the_command_prints(capsys):
    command_line.call("corpora", "--markdown")
    page = (ROOT / "docs/corpora.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"corpora --markdown -->\n(.*)<!-- end -->", page, re.DOTALL)
    assert shown == capsys.readouterr().out
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in READERS if f"`{name}`" not in readme]


def test_a_proposal_can_be_run(capsys, tmp_path, monkeypatch):
    """The flags that are printed read what is shown."""
    for speaker in ("anna", "ben", "cleo"):
        for label in ("angry", "sad"):
            for number in (1, 2):
                (tmp_path / f"{speaker}_{label}_{number}.wav").touch()
    (tmp_path / "readme.wav").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    command_line.call("corpora", "--guess", "--config.corpus.root=~")
    shown = capsys.readouterr().out.replace("~", str(tmp_path))
    assert "reads 12 of 13 recordings" in shown and "angry 6, sad 6" in shown
    assert "anna 4, ben 4, cleo 4" in shown and "not read: readme.wav" in shown
    flags = re.findall(r"--config\.[\w.]+=[^\s']+", shown)
    with pytest.raises(UserError, match="1 of 13 listed recordings are unusable"):
        command_line.call("protocol", *flags)
    (tmp_path / "readme.wav").unlink()
    command_line.call("protocol", *flags)
    assert "files-speaker" in capsys.readouterr().out
    with pytest.raises(UserError, match="corpus.root is empty"):
        command_line.call("corpora", "--guess")
