"""How figures are written for people, on the terminal and on pages."""

from typing import Any

NO_VALUE = "–"


def percent(share: float | None) -> str:
    """Returns a share in [0, 1] as a percentage with its sign."""
    return NO_VALUE if share is None else f"{100 * share:.1f}\u00a0%"


def points(share: float | None) -> str:
    """Returns a share in [0, 1] as a percentage without its sign."""
    return NO_VALUE if share is None else f"{100 * share:.1f}"


def spread(score: dict[str, Any]) -> str:
    """Returns mean ± standard deviation in percent of a score of `results.json`; without the latter for one seed."""
    return points(score["mean"]) + (f" ± {points(score['std'])}" if score["std"] is not None else "")


def interval(limits: list[float] | None) -> str:
    """Returns an interval of shares in percent, or nothing."""
    return f"[{points(limits[0])}, {points(limits[1])}]" if limits else ""


def difference(share: float, limits: list[float]) -> str:
    """Returns a difference of shares in points, with its interval."""
    return f"{signed(share)} [{signed(limits[0])}, {signed(limits[1])}]"


def signed(share: float) -> str:
    """Returns a difference of shares in points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def decimals(number: float | None) -> str:
    """Returns a number with three decimals."""
    return NO_VALUE if number is None else f"{number:.3f}"


def p_value(p: float) -> str:
    """Returns a p-value with three decimals."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float | None) -> str:
    """Returns a time in s as seconds, minutes or hours."""
    if seconds is None:
        return NO_VALUE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def value(thing: Any) -> str:
    """Returns anything as text."""
    return NO_VALUE if thing is None else str(thing)
