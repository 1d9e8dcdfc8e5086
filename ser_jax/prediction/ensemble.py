"""The models of a run directory that predict together, and the decision from probabilities."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ser_jax.config import Config
from ser_jax.experiment import run_directory
from ser_jax.features.pcm import NO_SPEECH
from ser_jax.models import build
from ser_jax.runtime.errors import UserError
from ser_jax.training import model_files
from ser_jax.training.model_files import DIVERGED, Model

FINAL = "final"  # name of the only fold of the protocols that train the model to ship
ENSEMBLE = "ensemble"


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The models that predict together."""

    config: Config  # configuration that they were trained with
    models: tuple[Model, ...]  # one or more
    names: tuple[str, ...]  # their folders' names, FOLD-SEED
    classes: tuple[str, ...]  # their K classes
    description: str  # which models they are, in words
    diverged: tuple[str, ...] = ()  # names of those that would vote too, had they not diverged

    @property
    def reads(self) -> frozenset[str]:
        """Kinds of features that they read: "logmel", "hsf" (functionals), "wave"."""
        return frozenset(build.spec(self.config).reads)


def read_ensemble(workdir: Path, run: str = "") -> Ensemble:
    """Reads the models of a finished run.

    Args:
      workdir: The run directory.
      run: Which of them: "final", "ensemble" (all that have not diverged) or the name of one,
        FOLD-SEED. Empty: those whose fold is "final"; if there is none, the ensemble.

    Returns:
      The models.

    Raises:
      UserError: If the folder is no run directory, the run is not finished, all of it has diverged,
        a file is damaged, or one of these models is missing.
    """
    config = run_directory.read_config(workdir)
    trials = run_directory.read_trials(workdir)
    folds = {n: found["fold"] if found else n.rpartition("-")[0] for n, found in trials.items()}
    final = [name for name, fold in folds.items() if fold == FINAL]
    usable = [n for n, found in trials.items() if found is None or found["status"] != DIVERGED]
    choices = {"": final or list(trials), FINAL: final, ENSEMBLE: list(trials)}
    requested = choices.get(run, [run] if run in usable else [])
    if trials and not requested:
        listed = ", ".join([*([FINAL] if final else []), ENSEMBLE, *usable])
        raise UserError(f"run={run}: {workdir} holds no such model; choose one of {listed}")
    requested = {name: trials[name] for name in requested}
    trained, diverged = run_directory.split_diverged(workdir, requested)
    models = tuple(model_files.read_model(workdir / "models" / name) for name in trained)
    return Ensemble(
        *(config, models, tuple(trained), tuple(models[0].description["classes"])),
        describe(models, workdir, list(requested) == final, diverged),
        tuple(diverged),
    )


def describe(
    models: tuple[Model, ...], place: Path, final: bool, diverged: Sequence[str] = ()
) -> str:
    """Returns in words which models these are, how many of how many vote, and where they lie."""
    first, kind = models[0].description, "final " if final else ""
    if diverged:
        count = len(models) + len(diverged)
        left_out = ", ".join(diverged)
        name = f"the ensemble of {len(models)} of {count} {kind}models ({left_out} diverged)"
    elif len(models) == 1:
        name = "the final model" if final else f"the model {first['fold']}-{first['seed']}"
    else:
        name = f"the ensemble of {len(models)} {kind}models"
    calibrated = sum(model.description["temperature"] is not None for model in models)
    extent = {0: "uncalibrated", len(models): "calibrated"}.get(
        calibrated, f"{calibrated} of them calibrated"
    )
    return f"{name} of {place} ({first['system']}, {extent})"


@dataclasses.dataclass(frozen=True)
class Answer:
    """The prediction for a recording."""

    # the class with the highest probability; None if that is below the threshold, and "no speech"
    # where there is none
    label: str | None
    # class → probability in [0, 1], in the model's order; they add up to 1. Without speech empty
    probabilities: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Decision:
    """How probabilities become answers."""

    known: tuple[str, ...]  # the K classes of the model
    classes: tuple[str, ...]  # those to choose from, in the same order
    threshold: float  # smallest probability with which a class is named, in [0, 1]

    def answers(
        self, probabilities: np.ndarray, flags: Sequence[Sequence[str]] | None = None
    ) -> list[Answer]:
        """Returns an answer for each of N recordings.

        Args:
          probabilities: [N, K], rows that add up to 1. Those of the classes to choose from are
            divided by their sum.
          flags: What is odd about each, of `pcm.FLAGS`: with "no speech" the answer is that, and
            the row is not read.
        """
        odd = [()] * len(probabilities) if flags is None else flags
        columns = [self.known.index(name) for name in self.classes]
        chosen = np.asarray(probabilities, np.float64)[:, columns]
        # The sum of very unlikely classes may be 0.
        chosen = chosen / np.maximum(chosen.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        best = chosen.argmax(axis=1)
        return [
            Answer(NO_SPEECH, {})
            if NO_SPEECH in found
            else Answer(
                self.classes[int(number)] if row[number] >= self.threshold else None,
                dict(zip(self.classes, row.tolist(), strict=True)),
            )
            for number, row, found in zip(best, chosen, odd, strict=True)
        ]


def make_decision(known: Sequence[str], classes: Sequence[str], threshold: float) -> Decision:
    """Makes a decision, whose classes are in the model's order.

    Args:
      known: Classes of the model.
      classes: Those to choose from, in any order; none: all.
      threshold: Smallest probability with which a class is named.

    Raises:
      UserError: If a class is unknown, only one is left, or the threshold is not in [0, 1].
    """
    requested = {name.strip() for name in classes} - {""}
    unknown = sorted(requested - set(known))
    if unknown:
        raise UserError(
            f"classes={','.join(unknown)}: the model knows {', '.join(known)}; choose among them"
        )
    if len(requested) == 1:
        raise UserError(
            f"classes={requested.pop()} leaves no choice; name two or more of {', '.join(known)}"
        )
    if not 0 <= threshold <= 1:
        raise UserError(
            f"threshold={threshold:g} is no probability; choose one in [0, 1], such as 0.5"
        )
    kept = tuple(name for name in known if name in (requested or known))
    return Decision(tuple(known), kept, threshold)
