"""What a client is told that does not get what it asked for: an HTTP status and one sentence."""

import dataclasses

_TOO_SLOW = 408


@dataclasses.dataclass(eq=False)
class Refusal(Exception):
    """Ends a request.

    Attributes:
      status: HTTP status, 400 to 599.
      reason: One sentence that names the value, the limit and the remedy.
      kind: For recordings that cannot be used: one of `bad_audio.REASONS`; otherwise None.
      retry_after: Seconds after which the same request may succeed; None where waiting does not help.
    """

    status: int
    reason: str
    kind: str | None = None
    retry_after: int | None = None

    @property
    def body(self) -> dict[str, str]:
        """The JSON answer."""
        return {"reason": self.reason} | ({"kind": self.kind} if self.kind else {})

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that go with it."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"Connection": "close"} if self.status == _TOO_SLOW else {})  # the rest is not waited for
