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
    with pytest.raises(UserError, match=r"\(augment, corpus, features, model, protocol, svm, system, training\)"):
        config.from_json({})


def test_a_run_that_is_older_than_a_neutral_key_is_read():
    """Such a key changes no result: the default stands for it."""
    values = stored(config.get_config())
    del values["training"]["residence"], values["training"]["memory_share"], values["features"]["shards"]
    assert config.from_json(values) == config.get_config()


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("training", "epochs", "many"),
        ("training", "epochs", 2.5),
        ("training", "epochs", None),
        ("training", "epochs", True),
        ("training", "epochs", [1]),
        ("training", "epochs", {"a": 1}),
        ("training", "learning_rate", "1e-3"),
        ("training", "compilation_cache", 1),
        ("corpus", "name", 3),
        ("model", "widths", 5),
        ("model", "widths", ["a", "b"]),
        ("model", "widths", [[5], 3]),
        ("", "training", 3),
        ("", "system", {"a": 1}),
    ],
)
def test_a_value_of_another_type_is_named(section, name, value):
    values = stored(config.get_config())
    (values[section] if section else values)[name] = value
    full = f"{section}.{name}" if section else name
    with pytest.raises(UserError) as refused:
        config.from_json(values)
    assert str(refused.value) == f"the run's configuration is damaged ({full}={value!r}); train it again"


def test_a_whole_number_may_stand_for_a_float():
    values = stored(config.get_config())
    values["training"]["clip_norm"] = 2
    assert config.from_json(values).training.clip_norm == 2.0


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
