"""The configuration: locked, the same after a way through JSON, and strict about its keys."""

import json
import re

import pytest

from ser_jax import config
from ser_jax.runtime.errors import UserError


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


@pytest.mark.parametrize("full", ["speed", "training.momentum"])
def test_a_key_of_a_newer_version_is_named(full):
    values = stored(config.get_config())
    section, _, name = full.rpartition(".")
    (values[section] if section else values)[name] = 1
    with pytest.raises(UserError, match=rf"newer version.* know \({full}\): install that version"):
        config.from_json(values)


def test_a_key_that_is_newer_than_the_run_takes_the_value_of_before(monkeypatch):
    values = stored(config.get_config())
    del values["training"]["patience"], values["features"]["shards"], values["augment"]
    values["training"] |= {"epochs": 7, "clip_norm": 2}  # JSON may drop the point of 2.0
    assert config.from_json(values).training.patience == 0
    monkeypatch.setattr(config, "OLD_DEFAULTS", {"training.patience": 3, "training.epochs": 5})
    again = config.from_json(values)
    assert (again.training.patience, again.training.epochs) == (3, 7)
    assert again.training.clip_norm == 2.0
    assert again.augment == config.get_config().augment and again.is_locked


def test_old_defaults_are_of_keys_that_exist():
    known = config.get_config()
    for key, value in config.OLD_DEFAULTS.items():
        section, _, name = key.rpartition(".")
        assert config._fits(value, (known[section] if section else known)[name])


def test_what_is_no_configuration_is_refused():
    with pytest.raises(UserError, match="damaged .it lacks system.; train it again"):
        config.from_json({})


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        *(("training", "epochs", value) for value in ("many", 2.5, None, True, [1], {"a": 1})),
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
    sentence = f"the run's configuration is damaged ({full}={value!r}); train it again"
    with pytest.raises(UserError, match=re.escape(sentence)):
        config.from_json(values)
