"""The exception that says why a recording cannot be used; every check of recordings raises it."""

REASONS = (
    "missing",
    "unreadable",
    "truncated",
    "non-finite",
    "silent",
    "too long",
    "too short",
    "over the limits",
    "span outside the file",
)


class BadAudio(Exception):
    """A recording that cannot be used.

    Attributes:
      reason: Short fixed name, one of `REASONS`.
      detail: What was found, for a person; without the path, so that equal recordings give equal details.
    """

    def __init__(self, reason: str, detail: str):
        """Stores both; they are also the arguments, so that the exception survives pickling between processes."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        """Returns the reason and the detail in one line."""
        return f"{self.reason}: {self.detail}"
