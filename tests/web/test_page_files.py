"""The files of the page: complete, self-contained, and as the policy of the server demands."""

import re

import pages
import pytest

from ser_jax.web import page_files
from ser_jax.web.page_files import FILES


def text(name: str) -> str:
    return page_files.read(name)[0].decode()


def test_the_document_loads_its_own_files_only():
    document = pages.Page(text(page_files.INDEX))
    loaded = {value for name, value in document.attributes if name in ("src", "href")}
    assert loaded == {"data:,", "style.css", "early.js", "page.js"}
    assert loaded - {"data:,"} <= set(FILES)
    assert not {"style", "onclick", "onload"} & {name for name, _ in document.attributes}
    assert "style" not in document.tags and text(page_files.INDEX).count("<script") == 2


@pytest.mark.parametrize("name", FILES)
def test_no_address_of_another_place(name):
    assert not re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]{2,}|@import|url\(", text(name))


def test_scripts_import_files_that_are_served():
    scripts = "".join(text(file) for file in FILES if file.endswith(".js"))
    named = set(re.findall(r'(?:from|addModule\()\s*"(?:\./)?([^"]+)"', scripts))
    assert named == {"draw.js", "microphone.js", "worklet.js"} and named < set(FILES)


def test_every_part_that_the_script_asks_for_is_there():
    ids = set(re.findall(r'id="([^"]+)"', text(page_files.INDEX)))
    used = set(re.findall(r'part\("([^"]+)"\)', text("page.js")))
    assert used and used <= ids


def test_the_style_is_that_of_the_reports_and_more():
    style = text("style.css")
    for part in ("--paper:", "prefers-color-scheme: dark", "prefers-reduced-motion"):
        assert part in style
    assert "<" not in style and style.count("{") == style.count("}")
