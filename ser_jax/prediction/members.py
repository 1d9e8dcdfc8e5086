"""Which models of a run directory predict: the final one if there is one, else those of all folds together."""

import dataclasses
from pathlib import Path

from ser_jax import run_directory
from ser_jax.config import Config
from ser_jax.errors import UserError
from ser_jax.training import model_files
from ser_jax.training.model_files import Model

FINAL = "final"  # name of the only fold of the protocols that train the model to ship
ENSEMBLE = "ensemble"


@dataclasses.dataclass(frozen=True)
class Members:
    """The models that predict together.

    Attributes:
      config: Configuration that they were trained with.
      models: One or more.
      names: Their folders' names, FOLD-SEED.
      classes: Their K classes.
      description: Which models they are, in words.
    """

    config: Config
    models: tuple[Model, ...]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    description: str


def read(workdir: Path, run: str = "") -> Members:
    """Reads the models of a finished run.

    Args:
      workdir: The run directory.
      run: Which of them: "final", "ensemble" (all that have not diverged) or the name of one, FOLD-SEED. Empty: those
        whose fold is "final"; if there is none, the ensemble.

    Returns:
      The models.

    Raises:
      UserError: If the folder is no run directory, the run is not finished, all of it has diverged, a file is damaged,
        or there is no such model.
    """
    config = run_directory.read_config(workdir)
    if not (workdir / "results.json").is_file():
        raise UserError(
            f"{workdir} is not finished: it holds {len(model_files.list_models(workdir))} models and no results.json; "
            f"run the training command again to finish it"
        )
    trained = model_files.list_trained(workdir)
    final = [folder for folder, found in trained.items() if found["fold"] == FINAL]
    choices = {"": final or list(trained), FINAL: final, ENSEMBLE: list(trained)}
    folders = choices.get(run, [folder for folder in trained if folder.name == run])
    if not folders:
        names = ", ".join((*([FINAL] if final else []), ENSEMBLE, *(folder.name for folder in trained)))
        raise UserError(f"run={run}: {workdir} holds no such model; choose one of {names}")
    models = tuple(model_files.read_model(folder) for folder in folders)
    classes, names = tuple(models[0].description["classes"]), tuple(folder.name for folder in folders)
    return Members(config, models, names, classes, _describe(models, workdir, folders == final))


def _describe(models: tuple[Model, ...], workdir: Path, final: bool) -> str:
    first = models[0].description
    if len(models) == 1:
        name = "the final model" if final else f"the model {first['fold']}-{first['seed']}"
    else:
        name = f"the ensemble of {len(models)} {'final ' if final else ''}models"
    calibrated = sum(model.description["temperature"] is not None for model in models)
    extent = {0: "uncalibrated", len(models): "calibrated"}.get(calibrated, f"{calibrated} of them calibrated")
    return f"{name} of {workdir} ({first['system']}, {extent})"
