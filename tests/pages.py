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
        self.links: list[str] = []  # addresses of <a>
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "a":
            self.links += [value or "" for name, value in attrs if name == "href"]
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
        """Checks that it loads nothing from elsewhere, links only to what lies near it, and finds what it refers to."""
        assert not [link for link in self.links if any(parse.urlsplit(link)[:2]) or link.startswith("/")]
        assert not {"script", "img", "iframe", "object"} & set(self.tags)
        links = [value or "" for name, value in self.attributes if name in ("src", "href", "xlink:href", "action")]
        assert all(link.startswith(("#", "data:")) for link in links)
        assert not re.search(r"url\((?!#)|@import", self.text)
        assert not [value for name, value in self.attributes if "://" in (value or "") and not name.startswith("xmlns")]
        ids = [value for name, value in self.attributes if name == "id"]
        assert len(ids) == len(set(ids))
        wanted = {link[1:] for link in links if link.startswith("#")}
        wanted |= {value for name, value in self.attributes if name == "aria-labelledby"}
        assert wanted | set(re.findall(r"url\(#([^)]+)\)", self.text)) <= set(ids)
