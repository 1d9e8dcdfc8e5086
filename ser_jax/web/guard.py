"""Checks of `Host` and `Origin`, and security headers of every response.

A page of another site that a user has open can send requests to 127.0.0.1. It cannot forge
`Origin`; and if its own name is made to lead to 127.0.0.1 (DNS rebinding), `Host` shows that name.
Starlette's TrustedHostMiddleware checks `Host` only, and answers in plain text without the headers.
"""

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src"
        " 'self' data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors"
        " 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Answers 403 to requests for, or from, another site; adds headers to all responses.

    HEAD is answered wherever GET is, without the body.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] | None):
        """Stands before an application.

        Args:
          app: The application.
          names: Host names, without port, that the server answers to; None: any.
        """
        self._app = app
        self._names = None if names is None else {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope.get("method") == "HEAD":  # what GET answers; the server leaves the body out
            scope = {**scope, "method": "GET"}
        reason = self.objection(Headers(scope=scope))
        if not reason:
            await self._app(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        else:
            await JSONResponse({"reason": reason}, 403)(scope, receive, send_with_headers)

    def objection(self, headers: Headers) -> str:
        """Returns why a request with these headers is refused; "" if it is not."""
        host = headers.get("host", "").lower()
        if self._names is not None and _without_port(host) not in self._names:
            return (
                f"this server does not answer to the name {host[:80]!r}; use"
                f" {', '.join(sorted(self._names))}"
            )
        origin = headers.get("origin")
        if origin is None:  # no browser, or a page that was opened by its address
            return ""
        way, _, place = origin.lower().partition("://")
        # Behind a proxy Host may be the server's own address while the page came from one of its
        # names.
        known = place == host or (
            self._names is not None and _without_port(place) in self._names - LOCAL
        )
        if way in ("http", "https") and known:
            return ""
        return f"a page of {origin[:80]!r} may not use this server; open the server's own page"


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and (name.endswith("]") or ":" not in name) else host
