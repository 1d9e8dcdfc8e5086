"""The model card: figures as `results.json` has them, and in words what they are of."""

import dataclasses
import datetime
import json
import re
from collections.abc import Sequence

import jax
import pytest
import untrained

from ser_jax.evaluation import stress_table
from ser_jax.evaluation.predictions import Prediction, write_predictions
from ser_jax.evaluation.results import summarise
from ser_jax.exporting import card
from ser_jax.prediction.ensemble import Ensemble
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError

SPEAKERS = ("03", "08", "09", "10", "11", "12")


def rows(correct: int) -> list[Prediction]:
    """Six speakers, four utterances of every class, of which the first `correct` are right."""
    found = []
    for speaker in SPEAKERS:
        for label in untrained.CLASSES:
            other = untrained.CLASSES[untrained.CLASSES.index(label) - 1]
            for number in range(4):
                predicted = label if number < correct else other
                shares = tuple(0.8 if name == predicted else 0.1 for name in untrained.CLASSES)
                name = f"{speaker}{label}{number}"
                found.append(Prediction(name, speaker, "03", 0, label, predicted, shares))
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
    workdir = tmp_path / "run"
    workdir.mkdir()
    protocol = {
        "classes": untrained.CLASSES,
        "label_mapping": {"W": "angry", "happy": "happy"},
        "validation": "the next speaker",
        "refit": "none",
        "notes": ["speakers are in both parts"],
        "utterances": [(row.id, row.label, row.speaker) for row in rows(4)],
    }
    (workdir / "protocol.json").write_text(json.dumps(protocol))
    (workdir / "versions.json").write_text('{"ser_jax": "0.1.0", "jax": "0.10.2"}')
    return workdir


def text(found: Ensemble, workdir, correct: int = 3) -> str:
    return card.write_text(found, results(rows(correct)), workdir, "m.safetensors")


def test_of_one_model(workdir):
    model = untrained.make("plain_crnn")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.models[0].params))
    found = text(model, workdir)
    assert "\n\n# Plain CRNN: angry, happy, sad\n" in found
    for line in (
        f"`m.safetensors` holds one model (03-0) of {parameters:,} parameters",
        "40 log-mel bands of 25 ms windows every 10 ms",
        "72 utterances (angry 24, happy 24, sad 24), 6 speakers",
        f"SHA-256 `{'f' * 64}`. Validation: the next speaker.",
        "- Labels: W → angry.",
        "- Note: speakers are in both parts.",
        "| UA (mean recall of the classes) | 75.0 | [75.0, 75.0] |",
        "| recall of sad | 75.0 | [75.0, 75.0] |",
        "intervals by jackknife over 6 speakers",
        "This model by itself, on the test part of its fold: UA 75.0\u00a0%, WA 75.0\u00a0%",
        "Not known to the program",
        "ser_jax 0.1.0, jax 0.10.2",
        "- The weights: none chosen yet.",
        f"card of {datetime.date.today().isoformat()}. Training: at most 100 epochs",
    ):
        assert line in found, line
    assert "openSMILE" not in found and "None" not in found and "{" not in found.split("---", 2)[2]


def test_the_front_matter_is_yaml(workdir):
    """As model hubs read it: between two lines of dashes at the very beginning."""
    yaml = pytest.importorskip("yaml")
    found = untrained.make("plain_crnn")
    written = card.write_text(found, results(rows(3)), workdir, "m.safetensors", "CC-BY-4.0")
    empty, front, text = written.split("---\n", 2)
    values = yaml.safe_load(front)
    assert not empty and text.startswith("\n# ") and "- The weights: CC-BY-4.0, as" in text
    assert values["license"] == "cc-by-4.0" and values["pipeline_tag"] == "audio-classification"
    (model,) = values["model-index"]
    (result,) = model["results"]
    assert result["dataset"] == {"type": "mine", "name": "mine (mine-speaker)"}
    scores = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert scores == {"recall": 0.75, "accuracy": 0.75, "f1": 0.75}


def test_what_is_told_about_the_data_replaces_what_is_not_known(workdir):
    arguments = untrained.make("plain_crnn"), results(rows(3)), workdir, "m.safetensors"
    written = card.write_text(*arguments, about="**Speakers.** Two.")
    assert written == card.write_text(*arguments).replace(card._unknown({}), "**Speakers.** Two.")
    assert "**Speakers.** Two." in written.partition("## Limits")[2].partition("## Licence")[0]


def test_parts_add_up(workdir):
    """Oracle: the size of every array."""
    found = untrained.make("multi_crnn", 2)
    sizes = [leaf.size for leaf in jax.tree.leaves(found.models[0].params)]
    cells = [line.split(" | ") for line in text(found, workdir).splitlines() if line[:2] == "| "]
    parts = {name.strip("|` "): int(size.replace(",", "")) for name, size, mb in cells[2:8]}
    assert parts.pop("one model") == sum(parts.values()) == sum(sizes) and len(parts) >= 3
    assert f"| all 2 models | {2 * sum(sizes):,} |" in text(found, workdir)


def test_of_several_models(workdir):
    found = text(untrained.make("plain_crnn", 2), workdir)
    assert "2 models, whose mean probabilities are the answer (03-0, 03-1) of " in found
    lost = dataclasses.replace(untrained.make("plain_crnn", 2), diverged=("08-0",))
    assert "(03-0, 03-1); 08-0 diverged and has no vote" in text(lost, workdir)
    assert "the models together were not scored" in found and "by itself" not in found


def test_functionals_bring_their_licence(workdir):
    found = text(untrained.make("hsf_crnn"), workdir)
    assert "6373 functionals ComParE_2016 of openSMILE" in found
    assert "non-commercial use only" in found


def test_models_that_normalise_by_speaker_say_how_to_enrol(workdir):
    config = untrained.small_config("plain_crnn")
    config.features.normalisation = "speaker"
    found = text(untrained.make("plain_crnn", config=config), workdir)
    assert "normalised by speaker (features.normalisation=speaker)" in found
    assert "--enrol=FOLDER" in found


def test_a_member_of_an_ensemble_has_no_score_of_its_own(workdir):
    config = untrained.small_config("plain_crnn")
    config.protocol.ensemble = 2
    found = untrained.make("plain_crnn", 2, config)
    second = Ensemble(config, found.models[1:], ("03-1",), found.classes, "")
    assert "not scored: seeds are ensembles of 2 trainings" in text(second, workdir)


def test_a_final_model_has_no_score(workdir):
    found = untrained.make("end2you")
    model = found.models[0]
    description = {**model.description, "fold": "final", "validation": {"ua": 0.9, "wa": 0.8}}
    models = (model._replace(description=description),)
    final = Ensemble(found.config, models, ("final-0",), found.classes, "")
    (workdir / "config.json").write_text(found.config.to_json())
    own = results([])
    written = card.write_text(final, own, workdir, "m.safetensors")
    assert "None on speech that took no part in training" in written
    assert "UA there: 90.0\u00a0%, too high" in written and "No such run was at hand" in written
    assert "the wave in chunks of 640 samples" in written and "model-index" not in written
    beside = workdir.parent / "crossed"
    beside.mkdir()
    (beside / "config.json").write_text(found.config.to_json())
    (beside / "results.json").write_text(json.dumps(results(rows(3))))
    written = card.write_text(final, own, workdir, "m.safetensors")
    assert "of such a run, crossed (mine-speaker). Of the whole cross-validation" in written
    assert "| UA (mean recall of the classes) | 75.0 | [75.0, 75.0] |" in written
    assert '"value": 0.75' in written and "by itself" not in written


@pytest.mark.parametrize("corpus", ["mine", "a_b, 3 utterances (x) <img>"])
def test_visitors_are_told_the_same_of_a_run_and_of_what_was_exported(workdir, corpus):
    found = results(rows(3)) | {"corpus": corpus}
    (workdir / "results.json").write_text(json.dumps(found))
    config = untrained.small_config("hsf_crnn")
    told = card.notes(config, workdir)
    assert told[:2] == [
        f"Trained on {corpus}: 72 utterances of 6 speakers.",
        "Such models reach a UA (mean recall of the classes) of 75.0 %, 95 % interval [75.0, 75.0],"
        " on recordings of that corpus kept out of training.",
    ]
    general = [*card.LIMITS, *card.licence_notes(config)]
    assert told[2:] == general
    weights = workdir / "model.safetensors"
    assert card.notes(config, weights) == general  # there is no card
    for licence, chosen in (
        ("", []),
        ("MIT", ["The weights: MIT, as chosen by who exported them"]),
    ):
        written = card.write_text(untrained.make("plain_crnn"), found, workdir, "m", licence)
        card.beside(weights).write_text(written)
        also = card.notes(config, weights)
        assert also[:2] == told[:2] and set(general) < set(also)
        assert [note.partition(",")[0] for note in also if "weights" in note] == [
            note.partition(",")[0] for note in chosen
        ]
    card.beside(weights).write_text("Rewritten by hand.")
    assert card.notes(config, weights) == general


def test_visitors_of_a_final_model_are_told_the_score_of_its_cross_validation(workdir):
    config = untrained.small_config("plain_crnn")
    own = results([]) | {"seeds": [0]}
    (workdir / "results.json").write_text(json.dumps(own))
    (workdir / "config.json").write_text(config.to_json())
    assert not [note for note in card.notes(config, workdir) if "reach" in note]
    beside = workdir.parent / "crossed"
    beside.mkdir()
    (beside / "config.json").write_text(config.to_json())
    (beside / "results.json").write_text(json.dumps(results(rows(3))))
    assert "of 75.0 %, 95 % interval [75.0, 75.0], on" in card.notes(config, workdir)[1]


def test_a_missing_file_is_told(workdir):
    (workdir / "protocol.json").write_text("{")
    with pytest.raises(UserError, match=r"protocol\.json"):
        text(untrained.make("plain_crnn"), workdir)


def test_names_are_text_and_no_markup(workdir):
    """Raw labels come from lists and file names of others."""
    protocol = json.loads((workdir / "protocol.json").read_text())
    protocol["label_mapping"] = {"<script>|\n# *x*": "angry", "[a](javascript:b)": "sad"}
    (workdir / "protocol.json").write_text(json.dumps(protocol))
    found = results(rows(3)) | {"corpus": "a_b <img src=x>"}
    written = card.write_text(untrained.make("plain_crnn"), found, workdir, "m.safetensors")
    assert r"- Labels: \<script\>\| \# \*x\* → angry, \[a\](javascript:b) → sad." in written
    assert r"- Corpus: a\_b \<img src=x\>, 72 utterances" in written


@pytest.mark.parametrize("name", ["x|y", "x\\|y", "a`b", "<b>", "~~x~~", "&amp;", "$x$", "![x](y)"])
def test_names_are_shown_as_they_are(name):
    shown = card.plain(name)
    assert re.sub(r"\\(.)", r"\1", shown) == name
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|~&$]", shown)


@pytest.mark.parametrize("same", [True, False])
def test_a_stress_table_of_the_same_models_is_part_of_the_card(workdir, same):
    found = untrained.make("plain_crnn")
    for model in found.models:
        model.description["sha256"] = "d" * 64
    digest = stress_table.models_sha256([model.description for model in found.models])
    spoken = [stress_table.Recording(str(n), f"s{n}", "sad") for n in range(6)]
    answers = {"unchanged": ["sad"] * 6, "10 dB quieter": ["angry"] * 3 + ["sad"] * 3}
    rows, facts = stress_table.table(spoken, answers, untrained.CLASSES)
    content = {
        "system": "plain_crnn",
        "models": 1,
        "models_sha256": digest if same else "other",
        "corpus": "mine",
        **{"recordings": 6, "rejected": 0, "left_out": 0, "training": True},
        **facts,
        "changes": [row._asdict() for row in rows],
    }
    (workdir / "stress").mkdir()
    strict_json.write(workdir / "stress/stress.json", content)
    card_text = text(found, workdir)
    assert ("## What changes the answer" in card_text) == same
    assert ("| 10 dB quieter | 50.0 | 50.0 | " in card_text) == same
    assert ("angry 0 → 50 % |" in card_text) == same
    assert ("These are recordings that the models were trained on" in card_text) == same


def test_groups(workdir):
    """A table of recall by group, and warnings of those that are small or recognised less well."""
    found = [
        dataclasses.replace(row, attributes=(("gender", "fm"[row.speaker < "11"]),))
        for row in rows(3)
    ]
    scores = results(found)
    write_predictions(workdir / "predictions.csv", found, untrained.CLASSES)
    written = card.write_text(untrained.make("plain_crnn"), scores, workdir, "m.safetensors")
    assert (
        "| gender f | 24 | 2 | 75.0 | [" in written and "| gender m | 48 | 4 | 75.0 | [" in written
    )
    assert "- Warning: gender f: only 24 test utterances of 2 speakers" in written
    assert "card: the language and age of the speakers, how the" in written
