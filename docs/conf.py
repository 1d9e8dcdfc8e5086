"""The documentation site, for Sphinx: `make docs` builds it into build/docs."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import reference  # noqa: E402

import ser_jax  # noqa: E402
from ser_jax import pretrained  # noqa: E402

project = "ser_jax"
author = copyright = "The ser_jax authors"
release = version = ser_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "none"  # the signature stays readable; the docstring says what they are
default_role = "code"
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"ser_jax {version}"
html_show_sourcelink = False
# The text of --help is 100 columns wide.
html_theme_options = {"light_css_variables": {"code-font-size": "74%"}}
highlight_language = "text"

# Pages outside docs/, and what stands on the site in the place of sources that pages link to.
ROOT_PAGES = ("BUILD.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
ON_SITE = {
    "../ser_jax/config.py": "configuration.md",
    "../ser_jax/commands/": "commands.md",
    **{f"../ser_jax/pretrained/{name}.safetensors.md": f"{name}.md" for name in pretrained.names()},
}


def generate(app) -> None:
    """Writes docs/generated/: pages made from the source, model cards, the root's pages."""
    folder = HERE / "generated"
    folder.mkdir(exist_ok=True)
    pages = {"configuration.md": reference.configuration(), "commands.md": reference.commands()}
    for name in ROOT_PAGES:
        text = (HERE.parent / name).read_text("utf-8")
        text = re.sub(r"\]\(docs/", "](../", text)
        pages[name] = re.sub(r"\]\((?!https?:|\.\./|#|[A-Z]+\.md)", "](../../", text)
    for name in pretrained.names():
        pages[f"{name}.md"] = pretrained.card(name).read_text("utf-8").split("---\n", 2)[2].lstrip()
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text("utf-8") != text:  # else Sphinx builds it again
            path.write_text(text, "utf-8")


def adapt(app, page: str, source: list[str]) -> None:
    """Leads links of a page to the site, and makes the navigation from the lists of index.md."""
    if page.startswith("generated/"):
        return
    for name in ROOT_PAGES:
        source[0] = source[0].replace(f"](../{name}", f"](generated/{name}")
    for name, there in ON_SITE.items():
        source[0] = source[0].replace(f"]({name})", f"](generated/{there})")
    if page == "index":
        source[0] += "".join(reference.trees(source[0], app.env.found_docs))


def setup(app) -> None:
    """Connects the two functions above."""
    app.connect("builder-inited", generate)
    app.connect("source-read", adapt)
