"""The baseline that every reader expects: ComParE functionals, z-score, linear support vector machines, one per class.

A fit is a function of fold and seed: the training part gives statistics and coefficients, the validation part chooses
C. This module must not import jax: it is loaded by worker processes.
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
from ser_jax.arrays.inputs import Inputs
from ser_jax.arrays.standardise import Statistics, hsf_statistics, standardise
from ser_jax.errors import UserError
from ser_jax.protocols.protocol import TRAIN, VALIDATION, Fold
from ser_jax.training.runs import Run

FUNCTIONALS, STOP = "functionals.npy", "stop"  # files by which the fitting processes are given data and called back

_MISSING = (
    'system=svm is fitted by scikit-learn, which is not installed: pip install "ser_jax[svm,hsf]". '
    "A fitted one is scored without it."
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a machine is fitted; see config.py for units and sources.

    Attributes:
      c: Values of C to choose from, ascending.
      class_weights: none | balanced.
      tolerance: Spread of the projected gradient at which a fit has converged.
      iterations: Passes over the training part after which it ends unconverged.
      refit: Whether, with C chosen, a machine is fitted anew on training and validation part.
    """

    c: tuple[float, ...]
    class_weights: str
    tolerance: float
    iterations: int
    refit: bool = False


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to be fitted.

    Attributes:
      run: Fold and seed.
      folder: Holds `FUNCTIONALS`, [N, D] f32; once it holds `STOP`, fits that have not begun are left out.
      targets: [N] i32, class numbers.
      classes: K.
      settings: How to fit.
    """

    run: Run
    folder: Path
    targets: np.ndarray
    classes: int
    settings: Settings


class Tried(NamedTuple):
    """What was tried, one value per C.

    Attributes:
      c: The values of C, ascending.
      validation_ua: UA on the validation part; None without such a part.
      validation_wa: WA there.
      passes: How many passes over the training part the fit took.
    """

    c: tuple[float, ...]
    validation_ua: tuple[float | None, ...]
    validation_wa: tuple[float | None, ...]
    passes: tuple[int, ...]


class Fitted(NamedTuple):
    """A fitted run.

    Attributes:
      coefficients: [K, D] f64, of standardised functionals.
      intercept: [K] f64.
      statistics: Of what it was fitted to.
      c: The chosen C.
      tried: What it was chosen from.
    """

    coefficients: np.ndarray
    intercept: np.ndarray
    statistics: Statistics
    c: float
    tried: Tried


def require_scikit_learn() -> None:
    """Raises `UserError` with the remedy if scikit-learn is not installed; does not import it."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(_MISSING)


def decision_values(
    hsf: np.ndarray, coefficients: np.ndarray, intercept: np.ndarray, statistics: Statistics
) -> np.ndarray:
    """Returns the decision values [n, K] f64 of functionals [n, D]; the highest names the class.

    Args:
      hsf: [n, D] f32, as extracted.
      coefficients: [K, D] f64.
      intercept: [K] f64.
      statistics: Of the training part.
    """
    return _standardised(hsf, statistics) @ coefficients.T + intercept


def fit(job: Job) -> Fitted | None:
    """Fits a run for every C and keeps the machine with the best validation UA, of equals that of the smallest C.

    The dual form is solved (LIBLINEAR's coordinate descent): also with more utterances than functionals it took half
    the time of the primal one. It visits the utterances in a random order, which is all that the seed decides.

    Args:
      job: The run.

    Returns:
      The machine, or None if the job was called back.

    Raises:
      UserError: If scikit-learn is not installed.
    """
    try:
        from sklearn import exceptions
        from sklearn.svm import LinearSVC
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise UserError(_MISSING) from error

    fold, s = job.run.fold, job.settings
    options: dict[str, Any] = {
        "class_weight": None if s.class_weights == "none" else s.class_weights,
        "dual": True,
        "max_iter": s.iterations,
        "random_state": job.run.seed % 2**32,
        "tol": s.tolerance,
    }

    def machine(part: _TrainingPart, rows: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray, int]:
        found: Any = LinearSVC(C=c, **options).fit(part.coordinates, job.targets[rows])
        coefficients, intercept = part.turned_back(found.coef_), found.intercept_
        if job.classes == 2:  # One machine tells two classes apart: what speaks for one speaks against the other.
            coefficients, intercept = (np.concatenate([-values, values]) for values in (coefficients, intercept))
        return coefficients, intercept, int(found.n_iter_)

    validation = np.load(job.folder / FUNCTIONALS, mmap_mode="r")[fold.validation]
    machines, confusions, passes = [], [], []
    # One thread: sums of several depend on how many there are, and every core has a job of its own.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)  # `passes` tells.
        part = _training_part(job.folder, fold)
        for c in s.c:
            if (job.folder / STOP).exists():
                return None
            coefficients, intercept, count = machine(part, fold.train, c)
            machines.append((coefficients, intercept))
            predictions = decision_values(validation, coefficients, intercept, part.statistics).argmax(axis=1)
            confusions.append(metrics.confusion_matrix(job.targets[fold.validation], predictions, job.classes))
            passes.append(count)
        ua = [metrics.unweighted_accuracy(confusion) for confusion in confusions]
        wa = [metrics.weighted_accuracy(confusion) for confusion in confusions]
        best = max(range(len(ua)), key=lambda n: ua[n])  # the first of equals
        coefficients, intercept = machines[best]
        if s.refit and len(fold.validation):
            both = dataclasses.replace(fold, parts=fold.parts.replace(VALIDATION, TRAIN))
            part = _training_part(job.folder, both)
            coefficients, intercept, _ = machine(part, both.train, s.c[best])
    return Fitted(
        coefficients, intercept, part.statistics, s.c[best], Tried(s.c, _known(ua), _known(wa), tuple(passes))
    )


class _TrainingPart(NamedTuple):
    """The training part of a fold in as few dimensions as it spans.

    Attributes:
      coordinates: [n, min(n, D)] f64, the standardised functionals along the columns of `basis`.
      basis: [D, n] f64, orthonormal columns; None if n ≥ D: there is nothing to gain.
      statistics: Of the functionals.
    """

    coordinates: np.ndarray
    basis: np.ndarray | None
    statistics: Statistics

    def turned_back(self, coefficients: np.ndarray) -> np.ndarray:
        """Returns coefficients of the coordinates as coefficients [·, D] of the functionals."""
        return coefficients if self.basis is None else coefficients @ self.basis.T


@functools.lru_cache(maxsize=2)  # The seeds of a fold follow one another; a refit adds the validation part.
def _training_part(folder: Path, fold: Fold) -> _TrainingPart:
    """Standardises and rotates the training part.

    A machine with the penalty |w|² sees utterances through their inner products only, and a rotation leaves these as
    they are. So n utterances can stand in the n dimensions that they span instead of in D: the same machine, fitted 30
    times as fast from 260 utterances and twice as fast from 4000.
    """
    hsf = np.load(folder / FUNCTIONALS, mmap_mode="r")
    mean, std = hsf_statistics(hsf, fold.train)
    statistics = Statistics(hsf_mean=mean, hsf_std=std)
    values = _standardised(hsf[fold.train], statistics)
    if len(values) >= values.shape[1]:
        return _TrainingPart(values, None, statistics)
    basis, triangle = np.linalg.qr(values.T)
    return _TrainingPart(np.ascontiguousarray(triangle.T), basis, statistics)


def _standardised(hsf: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Returns [n, D] f64 functionals, standardised as those of the neural systems are."""
    values = standardise(Inputs(length=None, hsf=hsf), statistics, np).hsf
    assert values is not None
    return values


def _known(shares: Sequence[float]) -> tuple[float | None, ...]:
    """Returns None for NaN, a score of nothing."""
    return tuple(None if math.isnan(share) else share for share in shares)
