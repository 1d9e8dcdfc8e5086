"""An upload, written to a temporary file while it arrives and removed whatever happens.

The client's file name is never used. Forms are parsed here because Starlette's parser accepts a
form that ends early, has no limit for the size of a file, and keeps files without a path, which the
decoder processes need.
"""

import asyncio
import contextlib
import dataclasses
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import python_multipart
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from ser_jax.web.limits import Refusal

FILE = "file"
FIELDS = ("classes", "threshold", "files")
_FORM_BYTES = 65_536  # that a body may have beside its recording
_FIELD_BYTES = 1024
_EXAMPLE = "send multipart/form-data with the part file, as in curl -F file=@a.wav"


@dataclasses.dataclass(frozen=True)
class Upload:
    """What has been received."""

    path: Path  # the recording
    fields: Mapping[str, str]  # name → text of the other parts, some of `FIELDS`


@contextlib.asynccontextmanager
async def receive(
    request: Request, folder: Path, *, max_bytes: int, seconds: float, silent_seconds: float
) -> AsyncIterator[Upload]:
    """Receives a form; the recording is there while this is entered.

    Args:
      request: The request.
      folder: Where recordings are kept meanwhile.
      max_bytes: Largest recording.
      seconds: Most time that it may take to come.
      silent_seconds: Most time without any of it.

    Yields:
      The upload.

    Raises:
      Refusal: 400 (no form, or another one than expected), 408 (too slow), 413 (too large), 415 (no
        form at all), 503 (no room for it).
    """
    form = _Form(request.headers.get("content-type", ""), max_bytes)
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes + _FORM_BYTES:
        raise too_large(max_bytes)
    path = None
    try:
        try:
            handle, name = tempfile.mkstemp(dir=folder)
            path = Path(name)
            with open(handle, "wb") as file:
                await _copy(request, form, file, seconds, silent_seconds)
        except TimeoutError:
            raise Refusal(
                408,
                f"the upload has not come in {seconds:g} s, or nothing of it for"
                f" {silent_seconds:g} s; send a smaller one",
            ) from None
        except ClientDisconnect:
            raise Refusal(400, "the client has gone before the upload was complete") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise Refusal(
                503, f"the server cannot keep the upload ({reason}); try again later", None, 60
            ) from None
        yield Upload(path, form.finish())
    finally:
        if path is not None:
            path.unlink(missing_ok=True)


def too_large(max_bytes: int) -> Refusal:
    """Returns the refusal of a recording that is too large."""
    return Refusal(
        413,
        f"the recording is larger than {max_bytes / 1e6:g} MB; cut it, or send it as FLAC or MP3",
    )


async def _copy(
    request: Request, form: "_Form", file: Any, seconds: float, silent_seconds: float
) -> None:
    total, clock = 0, asyncio.get_running_loop().time
    end = clock() + seconds
    async with asyncio.timeout(min(seconds, silent_seconds)) as limit:
        async for chunk in request.stream():
            total += len(chunk)
            if total > form.max_bytes + _FORM_BYTES:
                raise too_large(form.max_bytes)
            content = form.feed(chunk)
            if content:
                # A slow disk keeps nobody else waiting.
                await asyncio.to_thread(file.write, content)
            limit.reschedule(min(end, clock() + silent_seconds))


class _Form:
    """Takes a form apart as it comes."""

    def __init__(self, content_type: str, max_bytes: int):
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            raise Refusal(415, f"the content type {content_type[:80]!r} is no form; {_EXAMPLE}")
        if not options.get(b"boundary"):
            raise Refusal(400, f"the form does not say what separates its parts; {_EXAMPLE}")
        self.max_bytes = max_bytes
        self._fields: dict[str, bytearray] = {}
        self._name, self._size, self._ended = "", 0, False
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._content: list[bytes] = []
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open_part,
            "on_part_data": self._data,
            "on_end": self._end,
        }
        try:
            self._parser = python_multipart.MultipartParser(options[b"boundary"], callbacks)
        except FormParserError:
            raise Refusal(
                400, f"what separates the parts of the form is too long; {_EXAMPLE}"
            ) from None

    def feed(self, chunk: bytes) -> bytes:
        """Returns what of it belongs to the recording."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise Refusal(400, f"the form is damaged; {_EXAMPLE}") from None
        content, self._content = b"".join(self._content), []
        return content

    def finish(self) -> dict[str, str]:
        """Returns the fields of a complete form."""
        if not self._ended:
            raise Refusal(400, f"the form ends before its time; {_EXAMPLE}")
        if FILE not in self._fields:
            raise Refusal(400, f"the form has no part file; {_EXAMPLE}")
        return {
            name: value.decode("utf-8", "replace")
            for name, value in self._fields.items()
            if name != FILE
        }

    def _begin(self) -> None:
        self._disposition = b""

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _open_part(self) -> None:
        name = (
            parse_options_header(self._disposition)[1].get(b"name", b"").decode("utf-8", "replace")
        )
        if name not in (FILE, *FIELDS):
            raise Refusal(
                400, f"the form has a part {name[:80]!r}; {', '.join((FILE, *FIELDS))} are read"
            )
        if name in self._fields:
            raise Refusal(400, f"the form has the part {name} twice; send one")
        self._name, self._fields[name] = name, bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE:
            self._size += end - start
            if self._size > self.max_bytes:
                raise too_large(self.max_bytes)
            self._content.append(data[start:end])
            return
        self._fields[self._name] += data[start:end]
        if len(self._fields[self._name]) > _FIELD_BYTES:
            raise Refusal(
                400,
                f"the part {self._name} is longer than {_FIELD_BYTES} bytes; it holds a short text",
            )

    def _end(self) -> None:
        self._ended = True
