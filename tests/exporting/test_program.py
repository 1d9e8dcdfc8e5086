"""The exported function against the predictor, whose front end is NumPy's: any rows, lengths,
company and padding."""

import functools

import jax
import numpy as np
import pytest
import untrained
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ser_jax.experiment import setup
from ser_jax.exporting.program import make_members, make_program, named
from ser_jax.exporting.stablehlo import PLATFORMS, lower
from ser_jax.features.logmel import log_mel
from ser_jax.features.pcm import to_int16
from ser_jax.features.preparation import normalise
from ser_jax.models import build
from ser_jax.prediction.ensemble import Ensemble
from ser_jax.prediction.network import Network, Values
from ser_jax.training import scoring

FILLS = (0.0, 1e4, np.nan, -np.inf)
OPTIONS = {  # of config.model
    "hsf_crnn skip": {"hsf_skip": True},
    "plain_crnn more": {"attention_units": 4, "lstm_residual": True},
}


@functools.cache
def models(system: str, count: int) -> Ensemble:
    name = system.split()[0]
    config = untrained.small_config(name)
    config.model.update(OPTIONS.get(system, {}))
    return untrained.make(name, count, config)


@functools.cache
def exported(system: str, count: int):
    """The program as it comes out of a file, and its weights."""
    found = models(system, count)
    members = make_members(found.models)
    program = jax.export.deserialize(lower(found, members).serialize())
    return jax.jit(program.call), named(members)


@functools.cache
def network(system: str, count: int) -> Network:
    found = models(system, count)
    return Network(found.config, found.models, len(found.classes))


def call(
    system: str, count: int, waves: list[np.ndarray], size: int, fill: float, hsf: np.ndarray
) -> np.ndarray:
    program, weights = exported(system, count)
    padded = np.full((len(waves), size), fill, np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    inputs = [padded, np.array([len(wave) for wave in waves], np.int32)]
    reads_hsf = build.uses_hsf(models(system, count).config)
    return np.asarray(program(weights, *inputs, *([hsf] if reads_hsf else [])))


def offline(system: str, count: int, waves: list[np.ndarray], hsf: np.ndarray) -> np.ndarray:
    """What the predictor says, from features that NumPy has computed."""
    found = models(system, count)
    values = Values(hsf=hsf if build.uses_hsf(found.config) else None)
    if build.uses_wave(found.config):
        values = values._replace(waves=[to_int16(wave) for wave in waves])
    else:
        values = values._replace(
            log_mel=[log_mel(wave, setup.logmel_settings(found.config)) for wave in waves]
        )
    temperatures = [model.description["temperature"] for model in found.models]
    return scoring.mean_probabilities(list(network(system, count).logits(values)), temperatures)


def speech(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        np.float32(rng.uniform(0.001, 0.3) * rng.standard_normal(length)).clip(-1, 1)
        for length in lengths
    ]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("system", [*untrained.NEURAL, *OPTIONS])
def test_it_says_what_the_predictor_says(system, count):
    """Around the lengths of a window, a segment of either channel and a chunk."""
    for lengths, fill in (
        ((5039, 5040, 8239, 8240, 16001), np.nan),
        ((1, 399, 400, 640, 641), 1e4),
    ):
        waves, hsf = speech(*lengths), untrained.functionals(5)
        found = call(system, count, waves, max(lengths) + 7, fill, hsf)
        assert found.shape == (len(waves), 3) and found.dtype == np.float32
        np.testing.assert_allclose(found, offline(system, count, waves, hsf), atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
        assert np.ptp(found, axis=1).min() > 0.01


@pytest.mark.parametrize("system", ["multi_crnn", "end2you"])
def test_a_minute_and_a_single_sample(system):
    for length in (60 * 16000, 1):
        waves, hsf = speech(length), untrained.functionals(1)
        np.testing.assert_allclose(
            call(system, 1, waves, length, 0.0, hsf), offline(system, 1, waves, hsf), atol=1e-5
        )


@pytest.mark.parametrize(
    ("system", "count"), [("plain_crnn", 3), ("multi_crnn", 1), ("end2you", 1)]
)
@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(1, 12000), min_size=3, max_size=3), fill=st.sampled_from(FILLS))
@example(lengths=[12000, 12000, 1], fill=np.nan)
def test_neither_padding_nor_company_matters(system, count, lengths, fill):
    waves, hsf = speech(*lengths), untrained.functionals(3)
    together = call(system, count, waves, 12000, fill, hsf)
    np.testing.assert_allclose(together, offline(system, count, waves, hsf), atol=1e-5)
    other = call(system, count, [waves[0][:1], waves[2], waves[0]], 12000, 0.0, hsf)
    np.testing.assert_allclose(other[2], together[0], atol=1e-6)


def test_the_mean_of_an_utterance_is_subtracted_inside():
    found = untrained.make("plain_crnn", 1)
    found.config.features.normalisation = "utterance"
    members, waves = make_members(found.models), speech(16001, 5040, 300)
    padded = np.full((3, 17000), np.nan, np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    program = make_program(found.config, members, len(found.classes))
    shares = program(named(members), padded, np.array([len(wave) for wave in waves], np.int32))
    settings = setup.logmel_settings(found.config)
    frames = [normalise(log_mel(wave, settings), "utterance") for wave in waves[:2]]
    scores = Network(found.config, found.models, 3).logits(Values(log_mel=frames))
    temperature = found.models[0].description["temperature"]
    expected = scoring.mean_probabilities(list(scores), [temperature])
    np.testing.assert_allclose(shares[:2], expected, atol=1e-5)
    assert np.isfinite(shares).all()


def test_by_hand():
    """Weights of 0: the logits are the biases of the last layer, whatever the wave."""
    found = untrained.make("plain_crnn", 2)
    shares = ((1 / 8, 2 / 8, 5 / 8), (4 / 6, 1 / 6, 1 / 6))
    models = []
    for model, temperature, share in zip(found.models, (1.0, 2.0), shares, strict=True):
        params = jax.tree.map(np.zeros_like, model.params)
        params["softmax"]["bias"][:] = temperature * np.log(share)
        models.append(
            model._replace(
                params=params, description={**model.description, "temperature": temperature}
            )
        )
    members = make_members(models)
    program = jax.jit(make_program(found.config, members, 3))
    answers = program(named(members), np.stack(speech(8000, 8000)), np.array([8000, 500], np.int32))
    np.testing.assert_allclose(answers, [np.mean(shares, axis=0)] * 2, atol=1e-6)


def test_samples_over_full_scale_are_clipped_and_lengths_end_with_the_row():
    (wave,) = speech(9000)
    loud = np.where(wave > 0.1, 3, wave)
    hsf = untrained.functionals(1)
    found = call("plain_crnn", 1, [loud], 9000, 0.0, hsf)
    np.testing.assert_allclose(
        found, offline("plain_crnn", 1, [np.clip(loud, -1, 1)], hsf), atol=1e-5
    )
    program, weights = exported("plain_crnn", 1)
    beyond = program(weights, loud[None, :], np.array([10**6], np.int32))
    np.testing.assert_allclose(beyond, found, atol=1e-6)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_precision_is_that_of_the_training(precision):
    config = untrained.small_config("plain_crnn")
    config.training.precision = precision
    found = untrained.make("plain_crnn", 1, config)
    text = lower(found, make_members(found.models)).mlir_module()
    assert ("bf16" in text) == (precision == "bf16")
    assert "precision = [HIGHEST, HIGHEST]" in text, "the front end is exact"
    assert ("precision = [HIGH, HIGH]" in text) == (precision == "tf32")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("system", untrained.NEURAL)
def test_the_program_is_for_every_platform_and_any_shape(system, count):
    found = models(system, count)
    lowered = lower(found, make_members(found.models))
    assert lowered.platforms == PLATFORMS == ("cpu", "cuda", "tpu")
    calls = {part.split("(")[0] for part in lowered.mlir_module().split("custom_call @")[1:]}
    assert calls <= {"shape_assertion"}, "a call of a library that only some platforms have"
    (answers,) = lowered.out_avals
    assert str(answers.shape[0]) == "rows" and answers.shape[1] == 3


def test_the_program_holds_neither_weights_nor_paths():
    found = untrained.make("plain_crnn", 3)
    one, other = (
        bytes(lower(found, make_members(part)).serialize())
        for part in (found.models[:2], found.models[1:])
    )
    assert one == other and b".py" not in one
