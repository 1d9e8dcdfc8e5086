"""The model card: figures as `results.json` has them, and in words what they are of."""

import json
from collections.abc import Sequence

import pytest
import untrained

from ser_jax.errors import UserError
from ser_jax.evaluation.predictions import Prediction
from ser_jax.evaluation.results import summarise
from ser_jax.exporting import card
from ser_jax.prediction.members import Members

SPEAKERS = ("03", "08", "09", "10", "11", "12")


def rows(correct: int) -> list[Prediction]:
    """Six speakers with four utterances of every class, of which the first `correct` are recognised."""
    found = []
    for speaker in SPEAKERS:
        for label in untrained.CLASSES:
            for number in range(4):
                said = label if number < correct else untrained.CLASSES[untrained.CLASSES.index(label) - 1]
                shares = tuple(0.8 if name == said else 0.1 for name in untrained.CLASSES)
                name = f"{speaker}{label}{number}"
                found.append(Prediction(name, speaker, "03", 0, label, said, shares))
    return found


def results(predictions: Sequence[Prediction]) -> dict:
    return summarise(
        predictions,
        system="plain_crnn",
        parameters=1234567,
        corpus="mine",
        corpus_sha256="c" * 64,
        protocol="mine-speaker",
        protocol_sha256="f" * 64,
        classes=untrained.CLASSES,
        runs=[{"fold": "03", "seed": 0, "best_epoch": 1, "status": "done", "temperature": 1.5}],
        seconds={},
    )


@pytest.fixture
def workdir(tmp_path):
    protocol = {
        "classes": untrained.CLASSES,
        "label_mapping": {"W": "angry", "happy": "happy"},
        "validation": "the next speaker",
        "refit": "none",
        "utterances": [(row.id, row.label, row.speaker) for row in rows(4)],
    }
    (tmp_path / "protocol.json").write_text(json.dumps(protocol))
    (tmp_path / "versions.json").write_text('{"ser_jax": "0.1.0", "jax": "0.10.2"}')
    return tmp_path


def text(found: Members, workdir, correct: int = 3) -> str:
    return card.write_text(found, results(rows(correct)), workdir, "m.safetensors")


def test_of_one_model(workdir):
    found = text(untrained.make("plain_crnn"), workdir)
    assert found.startswith("# Plain CRNN: angry, happy, sad\n")
    for line in (
        "`m.safetensors` holds one model (03-0) of 1,234,567 parameters",
        "40 log-mel bands of 25 ms windows every 10 ms",
        "72 utterances (angry 24, happy 24, sad 24), 6 speakers",
        f"SHA-256 `{'f' * 64}`. Validation: the next speaker.",
        "- Labels: W → angry.",
        "| UA (mean recall of the classes) | 75.0 | [75.0, 75.0] |",
        "| recall of sad | 75.0 | [75.0, 75.0] |",
        "intervals by bootstrap over speakers",
        "This model by itself, on the test part of its fold: UA 75.0\u00a0%, WA 75.0\u00a0%",
        "Not known to the program",
        "ser_jax 0.1.0, jax 0.10.2",
    ):
        assert line in found, line
    assert "openSMILE" not in found and "None" not in found and "{" not in found


def test_of_several_models(workdir):
    found = text(untrained.make("plain_crnn", 2), workdir)
    assert "2 models, whose mean probabilities are the answer (03-0, 03-1)" in found
    assert "the models together were not scored" in found and "by itself" not in found


def test_functionals_bring_their_licence(workdir):
    found = text(untrained.make("hsf_crnn"), workdir)
    assert "6373 ComParE 2016 functionals of openSMILE" in found and "non-commercial use only" in found


def test_a_member_of_an_ensemble_has_no_score_of_its_own(workdir):
    config = untrained.small_config("plain_crnn")
    config.protocol.ensemble = 2
    found = untrained.make("plain_crnn", 2, config)
    second = Members(config, found.models[1:], ("03-1",), found.classes, "")
    assert "not scored: seeds are ensembles of 2 trainings" in text(second, workdir)


def test_a_final_model_has_no_score(workdir):
    found = untrained.make("end2you")
    model = found.models[0]
    description = {**model.description, "fold": "final", "validation": {"ua": 0.9, "wa": 0.8}}
    final = Members(found.config, (model._replace(description=description),), ("final-0",), found.classes, "")
    written = text(final, workdir)
    assert "None on speech that took no part in training" in written and "UA there: 90.0\u00a0%, too high" in written
    assert "the wave in chunks of 640 samples" in written and "75.0" not in written


def test_a_missing_file_is_told(workdir):
    (workdir / "protocol.json").write_text("{")
    with pytest.raises(UserError, match=r"protocol\.json"):
        text(untrained.make("plain_crnn"), workdir)


def test_tables_keep_their_columns():
    assert card._table(["a"], [["x|y"]]) == ["| a |", "| --- |", "| x\\|y |"]
