"""Values that no run can be made with are refused, all others are not (what the sentences say: test_main.py)."""

import re

import pytest

from ser_jax import checks, config
from ser_jax.errors import UserError


@pytest.mark.parametrize("dispatch", ["auto", "step", "chunk"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_every_way_to_compute_is_accepted(dispatch, precision):
    c = config.get_config()
    c.training.dispatch, c.training.precision = dispatch, precision
    checks.check(c)


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("dispatch", "scan", "auto, step, chunk"),
        ("dispatch", "", "auto, step, chunk"),
        ("precision", "bfloat16", "float32, tf32, bf16"),
        ("precision", "float16", "float32, tf32, bf16"),
        ("class_weights", "equal", "none, balanced"),
        ("refit", "train", "none, train\\+validation"),
    ],
)
def test_an_unknown_choice_is_named_with_those_there_are(key, value, known):
    c = config.get_config()
    c.training[key] = value
    with pytest.raises(UserError, match=f"training.{key}='{value}' is not known; choose one of {known}$"):
        checks.check(c)


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("learning_rate", float("inf"), "it must be finite, such as 1e-3"),
        ("learning_rate", float("nan"), "it must be above 0"),
        ("patience", -1, "it must be at least 0"),
        ("checkpoint_seconds", -1.0, "it must be at least 0 and finite"),
        ("checkpoint_seconds", float("inf"), "it must be at least 0 and finite"),
        ("checkpoint_seconds", float("nan"), "it must be at least 0 and finite"),
        ("memory_share", 0.0, "it must be above 0 and at most 1, such as 0.4"),
        ("memory_share", 1.01, "it must be above 0 and at most 1, such as 0.4"),
        ("memory_share", float("nan"), "it must be above 0 and at most 1, such as 0.4"),
        ("preemption_exit_code", 0, "it must be from 1 to 255"),
        ("preemption_exit_code", 256, "it must be from 1 to 255"),
    ],
)
def test_a_value_beyond_its_limit_is_named_with_it(key, value, limit):
    c = config.get_config()
    c.training[key] = value
    with pytest.raises(UserError, match=f"training.{key}={value}; {limit}$"):
        checks.check(c)


@pytest.mark.parametrize(
    ("key", "value"), [("patience", 0), ("checkpoint_seconds", 0.0), ("preemption_exit_code", 255)]
)
def test_a_limit_itself_is_accepted(key, value):
    c = config.get_config()
    c.training[key] = value
    checks.check(c)


@pytest.mark.parametrize("system", config.SYSTEMS)
def test_every_system_is_accepted(system):
    c = config.get_config()
    c.system = system
    checks.check(c)


def test_an_unknown_system_is_named_with_those_there_are():
    c = config.get_config()
    c.system = "crnn"
    with pytest.raises(UserError, match=f"system='crnn' is not known; choose one of {', '.join(config.SYSTEMS)}"):
        checks.check(c)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("cell", "rnn", "model.end2you_cell='rnn' is not known; choose one of lstm, gru"),
        ("layers", 0, "model.end2you_layers=0; it must be at least 1"),
        ("widths", (20,), r"model.end2you_widths=\(20,\); it must be two numbers of at least 1, such as \(20,40\)"),
        ("pools", (2, 0), r"model.end2you_pools=\(2, 0\); it must be two numbers of at least 1"),
        ("chunk", 641, "model.end2you_chunk=641; it must be a multiple of 2, its model.end2you_pools"),
        ("chunk", 0, "model.end2you_chunk=0; it must be a multiple of 2"),
        ("filters", 44, "model.end2you_filters=44; it must be a multiple of 10"),
        ("dropout", 1.0, "model.end2you_dropout=1.0; it must be at least 0 and below 1"),
        ("dropout", -0.1, "model.end2you_dropout=-0.1; it must be at least 0"),
    ],
)
def test_what_end2you_cannot_be_made_of(key, value, sentence):
    c = config.get_config()
    c.system = "end2you"
    c.model[f"end2you_{key}"] = value
    with pytest.raises(UserError, match=sentence):
        checks.check(c)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("model.activation", "tanh", "='tanh' is not known; choose one of sigmoid, relu"),
        ("model.dropout", 1.0, "=1.0; it must be at least 0 and below 1"),
        ("model.hsf_dropout", -0.1, "=-0.1; it must be at least 0 and below 1"),
        ("training.ema", 1.0, "=1.0; it must be at least 0 and below 1"),
        ("training.label_smoothing", float("nan"), "=nan; it must be at least 0 and below 1"),
        ("training.weight_decay", -1.0, "=-1.0; it must be at least 0 and finite"),
        ("augment.speed", 1.0, "=1.0; it must be at least 0 and below 1"),
        ("augment.time_masks", -1, "=-1; it must be at least 0 and finite"),
    ],
)
def test_a_recipe_out_of_range_is_named(key, value, sentence):
    c = config.get_config()
    section, _, name = key.partition(".")
    c[section][name] = value
    with pytest.raises(UserError, match=f"^{key}{re.escape(sentence)}$"):
        checks.check(c)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"system": "end2you"}, "augment.gain_db=3.0 is not for system='end2you': only log-mel and functionals"),
        ({"system": "svm"}, "augment.gain_db=3.0 is not for system='svm': only log-mel and functionals"),
        ({"model.form": "literal"}, "augment.gain_db=3.0 needs model.form=fast: segments"),
    ],
)
def test_nothing_is_augmented_that_is_not_there(changes, sentence):
    c = config.get_config()
    c.augment.gain_db = 3.0
    checks.check(c)
    c.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=re.escape(sentence)):
        checks.check(c)


def test_streamed_data_cannot_be_handed_over_in_chunks():
    c = config.get_config()
    c.training.residence, c.training.dispatch = "streamed", "chunk"
    with pytest.raises(UserError, match="training.residence=streamed with training.dispatch=chunk: .*; set training.d"):
        checks.check(c)
