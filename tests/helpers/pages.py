"""HTML pages as tests read them."""

import re
from html import parser
from urllib import parse

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(parser.HTMLParser):
    """Collects the tags and attributes of a page and checks that every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.text = text
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.links: list[str] = []  # addresses of <a> and <audio>
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in ("a", "audio"):
            self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        else:
            self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def check_self_contained(self) -> None:
        """Checks that it loads nothing external, has relative links only, and no dangling ids."""
        for link in self.links:
            assert not any(parse.urlsplit(link)[:2]) and not link.startswith("/")
        assert not {"script", "img", "iframe", "object"} & set(self.tags)
        sources = ("src", "href", "xlink:href", "action")
        links = [value or "" for name, value in self.attributes if name in sources]
        assert all(link.startswith(("#", "data:")) for link in links)
        assert not re.search(r"url\((?!#)|@import", self.text)
        for name, value in self.attributes:
            assert "://" not in (value or "") or name.startswith("xmlns")
        ids = [value for name, value in self.attributes if name == "id"]
        assert len(ids) == len(set(ids))
        wanted = {link[1:] for link in links if link.startswith("#")}
        wanted |= {value for name, value in self.attributes if name == "aria-labelledby"}
        assert wanted | set(re.findall(r"url\(#([^)]+)\)", self.text)) <= set(ids)
