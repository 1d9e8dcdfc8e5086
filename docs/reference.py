"""What conf.py makes of the source: pages of configuration keys and commands, the navigation."""

import ast
import functools
import inspect
import io
import operator
import re
import tokenize

import ml_collections

from ser_jax import config
from ser_jax.commands import command_line

SOURCES = {"P": "paper", "D": "this project"}


def comments() -> dict[str, str]:
    """Returns every key that config.py assigns → the comments beside it and right above it.

    A section, such as `training`, is a key as well; the order is that of the file.
    """
    text = inspect.getsource(config)
    found = [
        token
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    by_line = {token.start[0]: token.string for token in found}
    alone = {token.start[0] for token in found if not token.line[: token.start[1]].strip()}
    keys = {}
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        first = node.lineno
        while first - 1 in alone:
            first -= 1
        lines = range(first, (node.end_lineno or node.lineno) + 1)
        words = [by_line[line].removeprefix("#").strip() for line in lines if line in by_line]
        keys[ast.unparse(node.targets[0]).removeprefix("c.")] = " ".join(words)
    return keys


def configuration() -> str:
    """Returns the page of all configuration keys, with defaults, meanings, units and sources."""
    described = comments()
    lines = [
        "# Configuration",
        "",
        "Every key, its default and its meaning, with the unit. `--config.KEY=VALUE` sets it on the"
        ' command line, `settings={"KEY": VALUE}` in Python. Source: what the paper says (Luo, Zou'
        " and Huang, Interspeech 2018), or what it leaves open and this project decides. Made from"
        " `ser_jax/config.py`, where no default is missing.",
    ]
    base, head = config.get_config(), ["| key | default | meaning | source |", "|---|---|---|---|"]
    lines += ["", *head]
    shared = ""  # source of a whole section
    for key, comment in described.items():
        meaning, source = _split_source(comment)
        value = functools.reduce(operator.getitem, key.split("."), base)
        if isinstance(value, ml_collections.ConfigDict):
            lines += ["", f"## {key}", "", *([meaning, ""] if meaning else []), *head]
            shared = source
        else:
            cells = f"`{key}`", f"`{_shown(value)}`", meaning, source or shared
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _split_source(comment: str) -> tuple[str, str]:
    """Returns a comment without its marks [P] and [D], and what these say."""
    marks = re.findall(r"\[([PD])\]", comment)
    text = re.sub(r"\s*\[[PD]\]", "", comment)
    return text, ", ".join(SOURCES[mark] for mark in dict.fromkeys(marks))


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'


def commands() -> str:
    """Returns the page of all commands: what `ser-jax COMMAND --help` prints."""
    blocks = ["# Commands", f"```text\n{command_line.overview()}\n```"]
    for name, command in command_line.commands().items():
        blocks.append(f"## {name}\n\n```text\n{command_line.command_help(command)}\n```")
    return "\n\n".join(blocks) + "\n"


def trees(index: str, pages: set[str]) -> list[str]:
    """Returns a hidden toctree for each section of index.md, and one of pages without a section."""
    found = {}
    for caption, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", index, re.M | re.S):
        found[caption] = re.findall(r"\]\(([\w/.-]+)\.md\)", body)
    named = {"index", *(page for listed in found.values() for page in listed)}
    found["More"] = sorted(pages - named)
    form = "\n```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```\n"
    return [form.format(name, "\n".join(listed)) for name, listed in found.items() if listed]
