"""The files of the page: complete, self-contained, and as the policy of the server demands."""

import re

import pages
import pytest

from ser_jax.web import page


def text(name: str) -> str:
    return page.read(name)[0].decode()


def test_the_document_loads_its_own_files_only():
    document = pages.Page(text(page.INDEX))
    loaded = {value for name, value in document.attributes if name in ("src", "href")}
    assert loaded == {"data:,", "style.css", "page.js"} and {"style.css", "page.js"} <= set(page.FILES)
    assert not {"style", "onclick", "onload"} & {name for name, _ in document.attributes}
    assert "style" not in document.tags and text(page.INDEX).count("<script") == 1


@pytest.mark.parametrize("name", page.FILES)
def test_no_address_of_another_place(name):
    assert not re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]{2,}|@import|url\(", text(name))


def test_scripts_import_files_that_are_served():
    named = [name for file in page.FILES if file.endswith(".js") for name in _named_in(text(file))]
    assert sorted(set(named)) == ["draw.js", "microphone.js", "worklet.js"] and set(named) < set(page.FILES)


def _named_in(script: str) -> list[str]:
    return re.findall(r'(?:from|addModule\()\s*"(?:\./)?([^"]+)"', script)


def test_every_part_that_the_script_asks_for_is_there():
    ids = set(re.findall(r'id="([^"]+)"', text(page.INDEX)))
    asked = set(re.findall(r'part\("([^"]+)"\)', text("page.js")))
    assert asked and asked <= ids


def test_the_style_is_that_of_the_reports_and_more():
    style = text("style.css")
    assert "--paper:" in style and "prefers-color-scheme: dark" in style and "prefers-reduced-motion" in style
    assert "<" not in style and style.count("{") == style.count("}")
