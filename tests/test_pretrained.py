"""Models that come with the package: what their cards say, how they are named, who takes them."""

import re
from pathlib import Path

import numpy as np
import pytest
from commands import command
from releases import write_wav

import ser_jax
from ser_jax import metrics, pretrained
from ser_jax.commands import command_line
from ser_jax.config import get_config
from ser_jax.corpora import from_config
from ser_jax.exporting import card
from ser_jax.features import audio
from ser_jax.protocols import named
from ser_jax.runtime.errors import UserError

CARD = pretrained.card("emodb-plain").read_text("utf-8")


def test_files_are_small_have_cards_and_hold_no_pickle():
    assert pretrained.DEFAULT in pretrained.names()
    for name in pretrained.names():
        assert pretrained.find(name).stat().st_size < 1e6
        assert pretrained.find(name).read_bytes()[8:9] == b"{"  # safetensors: a header of JSON
        assert "\n## Scores\n" in pretrained.card(name).read_text("utf-8")


@pytest.mark.parametrize(
    "told",
    [
        "Ten German actors",
        "must not be used",
        "make emodb-plain EMODB=",
        "339 utterances (angry 127, happy 71, neutral 79, sad 62), 10 speakers",
        "The weights: cc0-1.0",
        "emodb4-speaker10",
        "intervals by jackknife over 10 speakers",
    ],
)
def test_the_card_says(told):
    assert told in CARD


def test_visitors_of_its_page_are_told_what_the_card_says():
    told = card.notes(ser_jax.load("emodb-plain").config, pretrained.find("emodb-plain"))
    assert told[:2] == [
        "Trained on emodb: 339 utterances of 10 speakers.",
        "Such models reach a UA (mean recall of the classes) of 77.9 ± 1.6 %, 95 % interval"
        " [70.4, 84.0], on recordings of that corpus kept out of training.",
    ]
    assert "The weights: cc0-1.0, as chosen by who exported them, within what follows." in told


def test_emodb_plain_predicts_what_its_card_says(emodb_root, tmp_path):
    """The UA on its validation speakers, from the recordings."""
    config = get_config()
    with config.unlocked():
        config.corpus.name, config.corpus.root = "emodb", str(emodb_root)
    corpus = from_config.read(config, tmp_path / "rejected.csv", audio.length)
    name, spec = named.find_spec("emodb-final", corpus)
    chosen = named.select(spec, corpus)
    protocol, _ = named.build_protocol(name, spec, chosen, chosen.utterances)
    (fold,) = protocol.folds
    model = ser_jax.load("emodb-plain")
    assert model.classes == tuple(protocol.classes)
    files: list[Path] = [corpus.root / chosen.utterances[number].file for number in fold.validation]
    confusion = np.zeros((4, 4), int)
    for answer, target in zip(model.predict(files), protocol.targets[fold.validation], strict=True):
        confusion[target, model.classes.index(str(answer.label))] += 1
    said = re.search(r"UA there: ([\d.]+)", CARD)
    assert said and f"{100 * metrics.unweighted_accuracy(confusion):.1f}" == said[1]


def test_it_is_what_predict_takes_without_a_model(tmp_path, tone):
    ended = command(str(tone), name="predict")
    assert ended.code == 0
    assert "note: emodb-plain predicts, since no --model is given" in ended.err
    named_one = command(f"{tone}", "--model=emodb-plain", name="predict")
    assert named_one.out == ended.out and "since no --model" not in named_one.err


@pytest.fixture
def tone(tmp_path):
    path = tmp_path / "tone.wav"
    write_wav(path, 0.3 * np.sin(np.arange(16000) / 8))
    return path


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emodb-plain").mkdir()
    with pytest.raises(UserError, match="emodb-plain is not a run directory: there is no config"):
        ser_jax.load("emodb-plain")


def test_an_unknown_name_is_told_the_known_ones(tmp_path, capsys):
    with pytest.raises(UserError, match="nothing of that name; .* with the package: emodb-plain"):
        ser_jax.load("emodb-plane")
    assert command_line.main(["models", "emodb-plane"]) == 2
    assert "no model 'emodb-plane' comes with the package; there are emodb-plain" in (
        capsys.readouterr().err
    )


def test_models_lists_them_and_shows_their_cards(capsys):
    assert command_line.main(["models"]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("emodb-plain  Plain CRNN: angry, happy, neutral, sad (what predict")
    assert str(pretrained.card("emodb-plain")) in listed
    assert command_line.main(["models", "emodb-plain"]) == 0
    assert capsys.readouterr().out == f"{CARD}\n"
