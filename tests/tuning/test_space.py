"""The search space: what is read, and the sentence for what is not."""

import pytest

from ser_jax.config import get_config
from ser_jax.runtime.errors import UserError
from ser_jax.tuning import space
from ser_jax.tuning.space import Choices, Range


def read(tmp_path, text):
    (tmp_path / "s.toml").write_text(text, encoding="utf-8")
    return space.read(tmp_path / "s.toml", get_config())


def test_the_space_that_comes_with_the_package():
    assert "training.learning_rate" in space.read(space.DEFAULT, get_config())


def test_both_forms_of_toml(tmp_path):
    expected = {
        "training.ema": Choices((0.0, 0.98)),
        "training.epochs": Range(20, 60, step=20),
        "model.plain_head": Choices(([128, 32], [64, 16])),
    }
    flat = '"training.ema" = [0.0, 0.98]\n"training.epochs" = {low = 20, high = 60, step = 20}\n'
    heads = "plain_head = [[128, 32], [64, 16]]\n"
    assert read(tmp_path, f'{flat}"model.{heads.replace(" =", chr(34) + " =")}') == expected
    tables = "[training]\nema = [0.0, 0.98]\nepochs = {low = 20, high = 60, step = 20}\n"
    assert read(tmp_path, f"{tables}[model]\n{heads}") == expected


def test_choices_keep_their_types():
    kept = Choices((1, 2.0, "a", True, [5, 3]))

    class Trial:
        def suggest_categorical(self, key, values):
            return values

    assert [kept.value(one) for one in kept.suggest(Trial(), "k")] == [1, 2.0, "a", True, (5, 3)]


def test_whole_numbers_stay_whole():
    optuna = pytest.importorskip("optuna")
    trial = optuna.trial.FixedTrial({"training.epochs": 40, "model.dropout": 0.2})
    assert type(Range(20, 60, step=20).suggest(trial, "training.epochs")) is int
    assert Range(0.0, 0.5).suggest(trial, "model.dropout") == 0.2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a = ", "is no TOML"),
        ("", "names no key"),
        ('"training.epoch" = [1, 2]', "training.epoch: .*epochs"),
        ('"training.epochs" = [1, "x"]', "training.epochs: .*every key is listed in"),
        ('"training.epochs" = [1]', "a list of two or more values"),
        ('"training.epochs" = 3', "training.epochs = 3 is neither a list"),
        ('"training.ema" = {low = 0.5, high = 0.1}', "low below high"),
        ('"training.ema" = {low = 0.0, high = 0.1, log = true}', "low above 0"),
        ('"training.ema" = {low = 0.0, hihg = 0.1}', "is neither"),
        ('"training.ema" = {low = "a", high = "b"}', "is neither|type"),
        ('"corpus.labels" = ["", "a=b"]', "corpus.labels makes another task"),
        ('"protocol.seeds" = [1, 2]', "protocol.seeds makes another task"),
    ],
)
def test_refusals(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        read(tmp_path, text)
    assert str(error.value).startswith("--space=")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        space.read(tmp_path / "none.toml", get_config())
