"""The documentation site: pages made from the source, navigation, examples that run."""

import doctest
import os
import re

import reference
from sources import ROOT

from ser_jax.commands import command_line
from ser_jax.config import get_config

DOCS = ROOT / "docs"


def test_every_key_has_a_row_with_default_meaning_and_source():
    page = reference.configuration()
    rows = [line.strip("| ").split(" | ", 3) for line in page.splitlines() if line[:3] == "| `"]
    keys = [row[0].strip("`") for row in rows]
    assert keys == list(dict.fromkeys(keys)) and len(keys) > 80
    assert "| `model.lstm_units` | `128` | units of the LSTM | paper |" in page
    assert (
        "| `model.widths` | `5,3` | widths of the convolutions: frames, pooled frames | paper |"
        in page
    )
    assert "| `augment.gain_db` | `0.0` | dB, largest change of loudness | this project |" in page
    assert r"`none` | none \| majority: a list" in page
    assert not [row for row in rows if not row[2].strip()]
    assert set(get_config().training) == {k[9:] for k in keys if k.startswith("training.")}


def test_every_command_is_shown_with_its_help():
    page = reference.commands()
    for name, command in command_line.commands().items():
        assert f"\n## {name}\n\n```text\n{command_line.command_help(command)}\n```\n" in page


def test_pages_without_a_section_are_under_more():
    index = "# T\n\n## A\n- [x](x.md): y\n- [z](generated/z.md)\n\n## B\n- [w](w.md)\n"
    found = reference.trees(index, {"index", "x", "w", "generated/z", "new", "another"})
    listed = [re.findall(r"^(?!`|:)(.+)$", tree, re.M) for tree in found]
    assert listed == [["x", "generated/z"], ["w"], ["another", "new"]]
    assert [re.findall(r":caption: (.+)", tree) for tree in found] == [["A"], ["B"], ["More"]]


def test_examples_of_the_api_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "api.md").read_text("utf-8")
    blocks = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
    test = doctest.DocTestParser().get_doctest(blocks, {}, "docs/api.md", None, 0)
    assert len(test.examples) > 10
    results = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(test)
    assert results.failed == 0 and os.path.getsize("angry.png") > 1000
