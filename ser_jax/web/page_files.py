"""Files of the web page as they are sent; the style begins with that of the reports."""

from importlib import resources

INDEX = "index.html"
FILES = {
    INDEX: "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "early.js": "text/javascript; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "draw.js": "text/javascript; charset=utf-8",
    "microphone.js": "text/javascript; charset=utf-8",
    "worklet.js": "text/javascript; charset=utf-8",
}


def read(name: str) -> tuple[bytes, str]:
    """Returns the content of a file of `FILES` and its media type."""
    package = resources.files("ser_jax")
    content = (package / "web/files" / name).read_text(encoding="utf-8")
    if name == "style.css":
        reports = (package / "report/templates/style.html").read_text(encoding="utf-8")
        content = reports.replace("<style>", "").replace("</style>", "") + content
    return content.encode("utf-8"), FILES[name]
