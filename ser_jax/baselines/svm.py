"""The classical baseline: linear support vector machines on standardised ComParE functionals.

A fit is a function of fold and seed: the training part gives statistics and coefficients, the
validation part chooses C. This module must not import jax: the worker processes of `svm_system`
load it.
"""

import dataclasses
import functools
import importlib.util
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ser_jax import metrics
from ser_jax.data.inputs import Inputs
from ser_jax.data.standardise import (
    Statistics,
    hsf_statistics,
    of_speakers,
    standardise,
    with_speakers,
)
from ser_jax.protocols.protocol import TRAIN, VALIDATION, Fold
from ser_jax.runtime.errors import UserError

FUNCTIONALS = "functionals.npy"  # the file from which the fitting processes read

_MISSING = (
    'system=svm is fitted by scikit-learn, which is not installed: pip install "ser_jax[svm,hsf]". '
    "A fitted one is scored without it."
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an SVM is fitted; see config.py for units and sources."""

    c: tuple[float, ...]  # values of C to choose from, ascending
    class_weights: str  # none | balanced
    tolerance: float  # spread of the projected gradient at which a fit has converged
    iterations: int  # passes over the training part after which it ends unconverged
    refit: bool = False  # whether the chosen C is fitted again, on training and validation part


@dataclasses.dataclass(frozen=True)
class Job:
    """A trial to be fitted."""

    fold: Fold
    seed: int
    folder: Path  # holds `FUNCTIONALS`, [N, D] f32
    targets: np.ndarray  # [N] i32, class numbers
    classes: int  # K
    settings: Settings  # how to fit
    # [N] numbers of the speakers, see `standardise.of_speakers`; empty: no speaker normalisation
    speakers: tuple[int, ...] = ()


class Tried(NamedTuple):
    """The search for C, one value per C."""

    c: tuple[float, ...]  # the values of C, ascending
    validation_ua: tuple[float | None, ...]  # UA on the validation part; None without such a part
    validation_wa: tuple[float | None, ...]  # WA there
    passes: tuple[int, ...]  # passes over the training part that the fit took


class Fitted(NamedTuple):
    """A fitted trial."""

    coefficients: np.ndarray  # [K, D] f64, of standardised functionals
    intercept: np.ndarray  # [K] f64
    statistics: Statistics  # of the utterances that it was fitted to
    c: float  # the chosen C
    tried: Tried  # the search for C
    # [n, K] f64, decision values of the validation part, before it was fitted again on that part
    validation: np.ndarray


def require_scikit_learn() -> None:
    """Raises `UserError` with the remedy if scikit-learn is not installed; does not import it."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(_MISSING)


def decision_values(
    hsf: np.ndarray,
    coefficients: np.ndarray,
    intercept: np.ndarray,
    statistics: Statistics,
    speaker: np.ndarray | None = None,
) -> np.ndarray:
    """Returns decision values [n, K] f64 of functionals [n, D] as extracted; the highest wins.

    The other arguments are those of `Fitted`, and `Inputs.speaker`.
    """
    return standardised(hsf, statistics, speaker) @ coefficients.T + intercept


def fit(job: Job) -> Fitted:
    """Fits a trial for every C; returns the SVM with the best validation UA.

    Of equals the smallest C is chosen. The dual form is solved (LIBLINEAR's coordinate descent):
    also with more utterances than functionals it took half the time of the primal one. It visits
    the utterances in a random order, which is all that the seed decides.

    Raises:
      UserError: If scikit-learn is not installed.
    """
    try:
        from sklearn import exceptions
        from sklearn.svm import LinearSVC
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise UserError(_MISSING) from error

    fold, s = job.fold, job.settings
    options: dict[str, Any] = {
        "class_weight": None if s.class_weights == "none" else s.class_weights,
        "dual": True,
        "max_iter": s.iterations,
        "random_state": job.seed % 2**32,
        "tol": s.tolerance,
    }

    def fit_one(
        part: _TrainingPart, rows: np.ndarray, c: float
    ) -> tuple[np.ndarray, np.ndarray, int]:
        svm: Any = LinearSVC(C=c, **options).fit(part.coordinates, job.targets[rows])
        coefficients, intercept = svm.coef_, svm.intercept_
        if part.basis is not None:
            coefficients = coefficients @ part.basis.T
        if job.classes == 2:  # scikit-learn fits one hyperplane, whose sign tells the class
            coefficients = np.concatenate([-coefficients, coefficients])
            intercept = np.concatenate([-intercept, intercept])
        return coefficients, intercept, int(svm.n_iter_)

    validation = np.load(job.folder / FUNCTIONALS, mmap_mode="r")[fold.validation]
    speaker = np.array(job.speakers)[fold.validation] if job.speakers else None
    targets = job.targets[fold.validation]
    fitted, scores, confusions, passes = [], [], [], []
    # One thread: sums of several depend on how many there are, and every core has a job of its own.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)  # `passes` shows it
        part = _training_part(job.folder, fold, job.speakers)
        for c in s.c:
            coefficients, intercept, count = fit_one(part, fold.train, c)
            fitted.append((coefficients, intercept))
            values = decision_values(validation, coefficients, intercept, part.tables, speaker)
            scores.append(values)
            predictions = values.argmax(axis=1)
            confusions.append(metrics.confusion_matrix(targets, predictions, job.classes))
            passes.append(count)
        ua = [metrics.unweighted_accuracy(confusion) for confusion in confusions]
        wa = [metrics.weighted_accuracy(confusion) for confusion in confusions]
        exact = list(map(metrics.exact_unweighted_accuracy, confusions))
        best = exact.index(max(exact))  # the first of equals
        coefficients, intercept = fitted[best]
        if s.refit and len(fold.validation):
            both = dataclasses.replace(fold, parts=fold.parts.replace(VALIDATION, TRAIN))
            part = _training_part(job.folder, both, job.speakers)
            coefficients, intercept, _ = fit_one(part, both.train, s.c[best])
    tried = Tried(s.c, _known(ua), _known(wa), tuple(passes))
    return Fitted(coefficients, intercept, part.statistics, s.c[best], tried, scores[best])


class _TrainingPart(NamedTuple):
    """The training part of a fold in as few dimensions as it spans."""

    # [n, min(n, D)] f64, the standardised functionals along the columns of `basis`
    coordinates: np.ndarray
    # [D, n] f64, orthonormal columns; None if n ≥ D: there is nothing to gain
    basis: np.ndarray | None
    statistics: Statistics  # of the functionals
    tables: Statistics  # the same, with those of the speakers


@functools.lru_cache(maxsize=2)  # for the seeds of a fold, with and without the validation part
def _training_part(folder: Path, fold: Fold, speakers: tuple[int, ...]) -> _TrainingPart:
    """Standardises and rotates the training part.

    An SVM with the penalty |w|² depends on inner products of utterances only, which a rotation
    does not change. So n utterances can be written in the n dimensions that they span instead of in
    D: the same SVM, fitted 30 times as fast from 260 utterances and twice as fast from 4000.
    """
    hsf = np.load(folder / FUNCTIONALS, mmap_mode="r")
    statistics = statistics_of(hsf, fold.train)
    tables, speaker = statistics, None
    if speakers:
        numbers = np.array(speakers)
        own = of_speakers(functools.partial(statistics_of, hsf), numbers)
        tables, speaker = with_speakers(statistics, own), numbers[fold.train]
    values = standardised(hsf[fold.train], tables, speaker)
    if len(values) >= values.shape[1]:
        return _TrainingPart(values, None, statistics, tables)
    basis, triangle = np.linalg.qr(values.T)
    return _TrainingPart(np.ascontiguousarray(triangle.T), basis, statistics, tables)


def statistics_of(hsf: np.ndarray, rows: np.ndarray) -> Statistics:
    """Returns the statistics of some utterances, given the functionals [N, D] of all."""
    mean, std = hsf_statistics(hsf, rows)
    return Statistics(hsf_mean=mean, hsf_std=std)


def standardised(
    hsf: np.ndarray, statistics: Statistics, speaker: np.ndarray | None = None
) -> np.ndarray:
    """Returns [n, D] f64 functionals, standardised as those of the neural systems are."""
    with np.errstate(invalid="ignore"):  # infinite where the training part is constant
        values = standardise(Inputs(length=None, hsf=hsf, speaker=speaker), statistics, np).hsf
    assert values is not None
    return values


def _known(scores: Sequence[float]) -> tuple[float | None, ...]:
    """Returns None for NaN, the score of an empty validation part."""
    return tuple(None if math.isnan(score) else score for score in scores)
