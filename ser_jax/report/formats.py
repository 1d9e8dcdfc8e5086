"""Formats numbers for people, on the terminal and on pages."""

from collections.abc import Iterable, Mapping
from typing import Any

NO_VALUE = "–"


def percent(fraction: float | None) -> str:
    """Returns a fraction as a percentage with its sign."""
    return NO_VALUE if fraction is None else f"{100 * fraction:.1f}\u00a0%"


def points(fraction: float | None) -> str:
    """Returns a fraction as a percentage without its sign."""
    return NO_VALUE if fraction is None else f"{100 * fraction:.1f}"


def mean(fractions: Iterable[float | None]) -> float | None:
    """Returns the mean of those that are known, if any."""
    known = [fraction for fraction in fractions if fraction is not None]
    return sum(known) / len(known) if known else None


def spread(score: dict[str, Any]) -> str:
    """Returns mean ± standard deviation (if any) of a score of `results.json`, in percent."""
    std = "" if score["std"] is None else f" ± {points(score['std'])}"
    return points(score["mean"]) + std


def interval(limits: list[float] | None) -> str:
    """Returns an interval of fractions in percent, or nothing."""
    return f"[{points(limits[0])}, {points(limits[1])}]" if limits else ""


def spread_and_interval(score: dict[str, Any] | None) -> str:
    """Returns mean ± standard deviation and interval of a score in percent; None: a dash."""
    return f"{spread(score)} {interval(score['ci95'])}".strip() if score else NO_VALUE


def interval_method(results: Mapping[str, Any]) -> str:
    """Returns how the intervals of `results.json` were made; empty if there are none."""
    unit = results["ci95_unit"]
    if unit is None:
        return ""
    if "ci95_method" not in results:  # Early runs (docs/run-directory.md).
        return f"percentile bootstrap over {unit}s, too narrow for few {unit}s"
    return f"{results['ci95_method']} over {results['ci95_units']:,} {unit}s"


def difference(fraction: float, limits: list[float]) -> str:
    """Returns a difference of fractions in points, with its interval."""
    return f"{signed(fraction)} [{signed(limits[0])}, {signed(limits[1])}]"


def signed(fraction: float) -> str:
    """Returns a difference of fractions in points, with its sign if it is not 0."""
    text = f"{100 * fraction:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


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
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def unlike_trainings(results: Mapping[str, Any]) -> str | None:
    """Returns the sentence that a run needs whose trials were trained with unlike settings."""
    used = results.get("trained_with", [])  # Early runs lack it.
    if len(used) < 2:
        return None
    keys = dict.fromkeys(key for settings in used for key in settings if key != "trials")
    differing = [key for key in keys if len({settings.get(key) for settings in used}) > 1]
    described = []
    for settings in used:
        what = ", ".join(f"{key}={value(settings.get(key))}" for key in differing)
        described.append(f"{settings['trials']} with {what}")
    return (
        f"trials were not trained alike: {'; '.join(described)} (one that was resumed with other"
        " settings counts in each)"
    )


def value(thing: Any) -> str:
    """Returns anything as text."""
    return NO_VALUE if thing is None else str(thing)
