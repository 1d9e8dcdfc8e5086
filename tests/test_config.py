"""The configuration: locked, the same after a way through JSON, and strict about its keys."""

import json

import pytest

from ser_jax import config
from ser_jax.errors import UserError


def stored(made) -> dict:
    return json.loads(made.to_json())


def test_it_comes_back_from_json_with_its_types():
    made = config.get_config()
    made.training.learning_rate, made.model.widths, made.model.plain_head = 3e-4, (7, 1), ()
    made.corpus.root, made.corpus.allow_missing = "/ä ö", True
    again = config.from_json(stored(made))
    assert again == made and again.is_locked
    assert again.model.widths == (7, 1) and isinstance(again.model.widths, tuple)
    assert again.model.plain_head == () and again.model.hsf_crnn_dense == (128,)
    assert stored(again) == stored(made)


@pytest.mark.parametrize(
    ("section", "name"), [("", "speed"), ("training", "momentum")], ids=["at the top", "in a section"]
)
def test_an_unknown_key_is_named(section, name):
    values = stored(config.get_config())
    (values[section] if section else values)[name] = 1
    full = f"{section}.{name}" if section else name
    with pytest.raises(UserError, match=rf"other configuration keys \({full}\); train it again"):
        config.from_json(values)


def test_missing_keys_are_named():
    values = stored(config.get_config())
    del values["features"]["fft"], values["features"]["bands"]
    with pytest.raises(UserError, match=r"\(features\.bands, features\.fft\)"):
        config.from_json(values)
    with pytest.raises(UserError, match=r"\(corpus, features, model, protocol, svm, system, training\)"):
        config.from_json({})


def test_it_is_locked_and_keeps_types():
    made = config.get_config()
    with pytest.raises(AttributeError, match="epochs"):
        made.training.epoch = 3
    with pytest.raises(TypeError, match="epochs"):
        made.training.epochs = "many"


def test_neutral_keys_exist():
    for key in config.NEUTRAL_KEYS:
        section, _, name = key.partition(".")
        assert name in config.get_config()[section]
