"""Values that no run can be made with are refused, all others are not (what the sentences say: test_main.py)."""

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
    ],
)
def test_an_unknown_choice_is_named_with_those_there_are(key, value, known):
    c = config.get_config()
    c.training[key] = value
    with pytest.raises(UserError, match=f"training.{key}='{value}' is not known; choose one of {known}$"):
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
