"""How often 95 % intervals of UA hold the true value: the jackknife's, and three bootstraps.

    python bench/coverage.py --json=bench/results/coverage.json

Speakers are drawn at random: each has a recall of its own for every class (normal in log-odds) and
its own number of examples. The true value is that of infinitely many such speakers. `small` is like
EMO-DB (few utterances, UA 82 %), `large` like IEMOCAP (about 550 utterances a speaker, UA 57 %),
`uneven` has few utterances and speakers that differ much.
"""

import argparse
from typing import Any, NamedTuple

import measure
import numpy as np
from scipy import special

from ser_jax.evaluation import intervals

SPEAKERS = (5, 8, 10, 24, 60)
METHODS = ("percentile", "BCa", "bootstrap-t", "jackknife", "difference")


class Setting(NamedTuple):
    """A kind of corpus."""

    recall: tuple[float, ...]  # [K] of the speaker in the middle
    examples: tuple[float, ...]  # [K] mean number per speaker
    speaker: float  # standard deviation of the log-odds between speakers
    cell: float  # the same between classes of a speaker


SETTINGS = {
    "small": Setting((0.93, 0.60, 0.85, 0.93), (12.7, 7.1, 7.9, 6.2), 0.5, 0.6),
    "large": Setting((0.60, 0.50, 0.55, 0.65), (110, 164, 171, 108), 0.3, 0.5),
    "uneven": Setting((0.60, 0.50, 0.70, 0.80), (10, 10, 10, 10), 1.0, 1.0),
}


def draw(
    setting: Setting, corpora: int, speakers: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns hits of two equally good systems [2, R, U, K] and examples [R, U, K]."""
    size = (corpora, speakers, len(setting.recall))
    examples = rng.poisson(setting.examples * np.exp(rng.normal(0, 0.3, size))).clip(1)
    common = setting.speaker * rng.standard_normal((corpora, speakers, 1))
    own = setting.cell * rng.standard_normal((2, *size))
    recall = special.expit(special.logit(setting.recall) + common + own)
    return rng.binomial(examples, recall), examples


def truth(setting: Setting) -> float:
    """Returns the UA over infinitely many speakers."""
    normal = special.ndtri((np.arange(10_000) + 0.5) / 10_000)
    spread = np.hypot(setting.speaker, setting.cell) * normal[:, None]
    return float(special.expit(special.logit(setting.recall) + spread).mean())


def bootstraps(
    hits: np.ndarray, examples: np.ndarray, resamples: int, rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns method → limits of UA, [R] each, of R corpora that share the same draws.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 12 to 14; the
    standard errors of bootstrap-t are those of the linearised UA.
    """
    corpora, units, _ = hits.shape
    times = rng.multinomial(units, np.full(units, 1 / units), resamples).astype(np.float64)
    drawn, total = (np.tensordot(times, counts, (1, 1)) for counts in (hits, examples))  # [B, R, K]
    recall = drawn / total.clip(1)
    values, ua = recall.mean(axis=-1), (hits.sum(axis=1) / examples.sum(axis=1)).mean(axis=-1)

    def error(times: np.ndarray, recall: np.ndarray, total: np.ndarray) -> np.ndarray:
        moved = ((hits - recall[:, None] * examples) / total[:, None]).mean(axis=-1)  # [R, U]
        return np.sqrt(units / (units - 1) * (moved**2 @ times))

    whole = error(np.ones(units), hits.sum(axis=1) / examples.sum(axis=1), examples.sum(axis=1))
    errors = np.stack([error(*of) for of in zip(times, recall, total.clip(1), strict=True)])
    low, high = np.quantile((values - ua) / errors.clip(1e-9), [0.025, 0.975], axis=0)
    found = {"bootstrap-t": (ua - high * whole, ua - low * whole)}

    below = (values < ua).mean(axis=0) + (values == ua).mean(axis=0) / 2
    bias = special.ndtri(below.clip(1 / resamples, 1 - 1 / resamples))
    left = [counts.sum(axis=1, keepdims=True) - counts for counts in (hits, examples)]
    gap = (left[0] / left[1]).mean(axis=-1)
    gap = gap.mean(axis=1, keepdims=True) - gap
    skew = (gap**3).sum(axis=1) / (6 * (gap**2).sum(axis=1) ** 1.5).clip(1e-30)
    ordered, limits = np.sort(values, axis=0), []
    for normal in special.ndtri([0.025, 0.975]):
        level = special.ndtr(bias + (bias + normal) / (1 - skew * (bias + normal)))
        place = (level * resamples).astype(np.int64).clip(0, resamples - 1)
        limits.append(ordered[place, np.arange(corpora)])
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    return {"percentile": (low, high), "BCa": (limits[0], limits[1]), **found}


def by_jackknife(hits: np.ndarray, examples: np.ndarray) -> dict[str, Any]:
    """Returns the limits [R] that the program gives: of UA, and of the difference of two UAs."""
    wrong = examples - hits[0]
    counts = np.zeros((*examples.shape, examples.shape[-1]), np.int64)  # [R, U, K, K]
    classes = np.arange(examples.shape[-1])
    counts[..., classes, classes] = hits[0]
    counts[..., classes, classes - 1] = wrong
    ua = np.array([intervals.score_intervals(each).ua for each in counts[:, :, None]])

    def difference(sums: np.ndarray) -> np.ndarray:
        return ((sums[:, 0] - sums[:, 1]) / sums[:, 2]).mean(axis=-1, keepdims=True)

    both = np.stack([*hits, examples], axis=2)  # [R, U, 3, K]
    gaps = np.array([intervals.jackknife(corpus, difference) for corpus in both])[..., 0].T
    return {"jackknife": ua.T, "difference": (gaps[0] - gaps[1], gaps[0] + gaps[1])}


def measured(setting: Setting, speakers: int, corpora: int, resamples: int) -> dict[str, Any]:
    """Returns method → percent of the corpora whose interval holds the truth, and mean width."""
    rng = np.random.default_rng(speakers)
    hits, examples = draw(setting, corpora, speakers, rng)
    found = bootstraps(hits[0], examples, resamples, rng) | by_jackknife(hits, examples)
    result = {}
    for method in METHODS:
        low, high = found[method]
        true = 0 if method == "difference" else truth(setting)
        holds = 100 * np.mean((low <= true) & (true <= high))
        result[method] = {"covers": float(holds), "width": float(100 * np.mean(high - low))}
    return result


def main() -> None:
    """Parses the flags and simulates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpora", type=int, default=4000, help="simulated corpora of a row")
    parser.add_argument("--resamples", type=int, default=1000, help="draws of the bootstraps")
    parser.add_argument("--json", default="", help="file for the result")
    flags = parser.parse_args()
    result: dict[str, Any] = measure.environment("ser_jax", "numpy", "scipy")
    result |= {"corpora": flags.corpora, "resamples": flags.resamples, "rows": []}
    for name, setting in SETTINGS.items():
        for speakers in SPEAKERS:
            found = measured(setting, speakers, flags.corpora, flags.resamples)
            result["rows"].append({"setting": name, "speakers": speakers, **found})
    cells = [
        (row["setting"], row["speakers"])
        + tuple("{covers:.1f} ({width:.1f})".format(**row[method]) for method in METHODS)
        for row in result["rows"]
    ]
    measure.print_table(
        f"Coverage of 95 % intervals in % (mean width in points), {flags.corpora} corpora a row",
        ("setting", "speakers", *METHODS),
        cells,
    )
    measure.write_json(flags.json, result)


if __name__ == "__main__":
    main()
