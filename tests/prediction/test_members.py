"""Which models of a run directory are read: the final one, all of them, one by its name."""

from pathlib import Path

import pytest
import untrained

from ser_jax import atomic
from ser_jax.errors import UserError
from ser_jax.evaluation.results import DIVERGED
from ser_jax.prediction import members
from ser_jax.training import model_files


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished run with the models 03-0, 03-1, final-0, final-1, and 08-0, which has diverged."""
    made = untrained.make("plain_crnn", 2)
    (tmp_path / "config.json").write_text(made.config.to_json())
    atomic.write_json(tmp_path / "results.json", {})
    for fold in ("03", "final"):
        for model in made.models:
            description = {**model.description, "fold": fold, "status": "done"}
            target = tmp_path / f"models/{fold}-{model.description['seed']}"
            model_files.write_model(target, description, model.params, model.statistics)
    diverged = {**made.models[0].description, "fold": "08", "status": DIVERGED}
    model_files.write_model(tmp_path / "models/08-0", diverged, None, None)
    return tmp_path


@pytest.mark.parametrize(
    ("run", "names", "words"),
    [
        ("", ("final-0", "final-1"), "the ensemble of 2 final models of"),
        ("final", ("final-0", "final-1"), "the ensemble of 2 final models of"),
        ("ensemble", ("03-0", "03-1", "final-0", "final-1"), "the ensemble of 4 models of"),
        ("03-1", ("03-1",), "the model 03-1 of"),
        ("final-0", ("final-0",), "the model final-0 of"),
    ],
)
def test_which_are_read(folder, run, names, words):
    found = members.read(folder, run)
    assert found.names == names and found.description.startswith(words)
    assert [f"{one.description['fold']}-{one.description['seed']}" for one in found.models] == list(names)


@pytest.mark.parametrize("run", ["08-0", "3-0", "03"])
def test_one_that_is_not_there_or_has_diverged_is_refused_with_those_that_are(folder, run):
    listed = "final, ensemble, 03-0, 03-1, final-0, final-1"
    with pytest.raises(UserError, match=f"run={run}: .* holds no such model; choose one of {listed}$"):
        members.read(folder, run)
