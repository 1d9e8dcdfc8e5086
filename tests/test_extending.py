"""The examples of docs/extending.md run as they are printed."""

import re
from pathlib import Path

import pytest

from ser_jax.corpora import registry
from ser_jax.models import build
from ser_jax.protocols import named

PAGE = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def test_every_section_has_an_example():
    assert list(EXAMPLES) == re.findall(r"^## (.+)", PAGE, re.MULTILINE)


@pytest.mark.parametrize("section", EXAMPLES)
def test_example(section, monkeypatch):
    for table, name in ((registry, "READERS"), (named, "SPECS"), (build, "REGISTRY")):
        monkeypatch.setattr(table, name, dict(getattr(table, name)))
    exec(
        compile(EXAMPLES[section], f"docs/extending.md: {section}", "exec"), {"__name__": "example"}
    )
