"""What comes next in a run directory, and what is written of a run (whole trainings: test_fit_given.py)."""

import dataclasses

import numpy as np
import pytest
import tiny

from ser_jax.errors import UserError
from ser_jax.training import model_files
from ser_jax.training.group import Record
from ser_jax.training.ledger import Ledger
from ser_jax.training.runs import CHOICE, GIVEN, folds_of_phases

PARAMS = {"w": np.ones(2, np.float32)}


def ledger(workdir, refit="train+validation") -> Ledger:
    folds = folds_of_phases(tiny.protocol(), refit)
    return Ledger(workdir, folds, {"system": "x"}, lambda fold: tiny.dataset().statistics(fold.train))


def record(**changes) -> Record:
    return dataclasses.replace(Record(best_epoch=2, best_ua=0.5, best_wa=0.5, best_loss=1.0, epochs=3), **changes)


def test_the_way_of_a_run_that_is_trained_again(tmp_path):
    (run,) = tiny.runs("a")
    made = ledger(tmp_path)
    assert made.phases(run) == [CHOICE, GIVEN]
    assert (made.choosing([run]), made.given([run]), made.finished(run)) == ([run], [], False)
    made.end(run, record(seconds=2.0), PARAMS, 1.25)
    assert made.choosing([run]) == [] and not made.finished(run)
    (again,) = made.given([run])
    assert (again.name, again.epochs, again.fold.parts) == (run.name, 2, run.fold.parts.replace("v", "t"))
    made.end(again, record(best_epoch=None, epochs=2, seconds=1.0), PARAMS, None)
    assert made.finished(run) and made.given([run]) == []
    found = model_files.read_model(tmp_path / "models/a-0").description
    assert found["first_pass"] == {"epochs": 3, "seconds": 2.0}
    assert (found["best_epoch"], found["epochs"], found["temperature"], found["seconds"]) == (2, 2, 1.25, 3.0)
    assert found["system"] == "x" and found["validation"] == {"ua": 0.5, "wa": 0.5, "loss": 1.0}


def test_the_way_of_a_run_that_is_trained_once(tmp_path):
    (run,) = tiny.runs("a")
    made = ledger(tmp_path, "none")
    assert made.phases(run) == [CHOICE]
    made.end(run, record(), PARAMS, 1.25)
    assert made.finished(run) and made.given([run]) == []
    assert not (tmp_path / "models/a-0" / model_files.CHOICE).exists()


def test_a_run_that_diverges_in_the_first_phase_is_finished(tmp_path):
    (run,) = tiny.runs("a")
    made = ledger(tmp_path)
    made.end(run, record(status="diverged"), PARAMS, None)
    assert made.finished(run) and made.given([run]) == []
    assert sorted(path.name for path in (tmp_path / "models/a-0").iterdir()) == ["model.json"]
    found = model_files.read_description(tmp_path / "models/a-0")
    assert found is not None and (found["status"], found["temperature"]) == ("diverged", None)


def test_a_damaged_choice_is_named(tmp_path):
    (run,) = tiny.runs("a")
    made = ledger(tmp_path)
    made.end(run, record(), PARAMS, 1.25)
    (tmp_path / "models/a-0/choice.json").write_text('{"schema": 1, "fo')
    with pytest.raises(UserError, match=r"choice\.json is damaged .* delete .*models/a-0 and run the training"):
        made.choosing([run])
