"""Text in any script: fonts that have its glyphs are asked for, and a note says if none has."""

import logging
import types

import matplotlib
import pytest
from matplotlib import figure

from ser_jax.report import figures

WORDS = ("怒り", "गुस्सा", "sad, or angry", "غاضب")


@pytest.fixture
def glyphs(monkeypatch):
    """Two installed fonts: one for each of the scripts."""
    own = {"cjk": set(map(ord, WORDS[0])), "hindi": set(map(ord, WORDS[1]))}
    fonts = [types.SimpleNamespace(name=name.title(), fname=name) for name in own]
    before = figures._glyphs
    manager = types.SimpleNamespace(ttflist=fonts)
    monkeypatch.setattr(figures.font_manager, "fontManager", manager)
    monkeypatch.setattr(figures, "_glyphs", lambda file: own.get(file) or before(file))
    figures._fonts_for.cache_clear()
    yield
    figures._fonts_for.cache_clear()


def test_a_font_for_every_script(glyphs, caplog):
    with figures.styled(*WORDS):
        assert matplotlib.rcParams["font.sans-serif"][-2:] == ["Cjk", "Hindi"]
    with figures.styled(*WORDS[2:], "ä ß € …"):
        assert matplotlib.rcParams["font.sans-serif"] == figures.STYLE["font.sans-serif"]
    assert caplog.text == ""


def test_without_one_a_note_says_so_and_the_figure_is_drawn(monkeypatch, caplog, tmp_path):
    own = figures._glyphs(figures.font_manager.findfont("DejaVu Sans"))
    monkeypatch.setattr(figures, "_glyphs", lambda file: own)
    figures._fonts_for.cache_clear()
    with caplog.at_level(logging.WARNING), figures.styled("한국", *WORDS[2:]):
        drawing = figure.Figure()
        drawing.add_subplot().set_title("한국")
        drawing.savefig(tmp_path / "a.png")
    assert "no installed font has 국한, which figures show as boxes" in caplog.text


def test_figures_of_pages_keep_their_text():
    @figures.svg
    def draw():
        drawing, axes = figures.new_panel()
        axes.set_title(WORDS[0])
        return drawing

    assert WORDS[0] in draw(name="a")
