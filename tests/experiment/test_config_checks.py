"""Values that cannot be trained with are refused with what is possible, all others are not."""

import re

import pytest

from ser_jax import config
from ser_jax.experiment import config_checks
from ser_jax.models import build
from ser_jax.runtime.errors import UserError


def changed(**changes):
    made = config.get_config()
    made.update_from_flattened_dict({key.replace("__", "."): v for key, v in changes.items()})
    return made


@pytest.mark.parametrize(
    "changes",
    [
        *({"system": system} for system in build.REGISTRY if system != "probe"),
        *(
            {"system": system, "features__embeddings": "folder"}
            for system in ("probe", "hsf_crnn", "svm")
        ),
        *({"training__dispatch": value} for value in ("auto", "step", "chunk")),
        *({"training__precision": value} for value in ("float32", "tf32", "bf16")),
        {"training__patience": 0, "training__checkpoint_seconds": 0.0},
        {"training__preemption_exit_code": 255, "augment__gain_db": 3.0},
        {"augment__variants": 3, "augment__noise_folder": "/noises"},
        {"augment__variants": 3, "system": "end2you"},
        {"augment__variants": 3, "model__form": "literal"},
    ],
    ids=str,
)
def test_accepted(changes):
    config_checks.check(changed(**changes))


INF, NAN = float("inf"), float("nan")
SHARE = "it must be above 0 and at most 1, such as 0.4"
PAIR = "it must be two numbers of at least 1, such as (20,40)"
FRACTION = "it must be at least 0 and below 1"
FINITE = "it must be at least 0 and finite"
PART, RANGE = "it must be a fraction in [0, 1]", "it must be two ascending numbers"


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("system", "crnn", f"is not known; choose one of {', '.join(build.REGISTRY)}"),
        ("training.dispatch", "scan", "is not known; choose one of auto, step, chunk"),
        ("training.dispatch", "", "is not known; choose one of auto, step, chunk"),
        ("training.precision", "float16", "is not known; choose one of float32, tf32, bf16"),
        ("training.class_weights", "equal", "is not known; choose one of none, balanced"),
        ("training.refit", "train", "is not known; choose one of none, train+validation"),
        ("model.form", "quick", "is not known; choose one of fast, literal"),
        ("model.activation", "tanh", "is not known; choose one of sigmoid, relu"),
        ("model.end2you_cell", "rnn", "is not known; choose one of lstm, gru"),
        ("protocol.seeds", 0, "it must be at least 1"),
        ("training.batch_size", 0, "it must be at least 1"),
        ("model.filters", 0, "it must be at least 1"),
        ("model.short_hop", 0, "it must be at least 1"),
        ("model.short_window", 14, "it must be at least 15"),
        ("model.end2you_layers", 0, "it must be at least 1"),
        ("training.shapes", -1, "it must be at least 0"),
        ("training.devices", -1, "it must be at least 0"),
        ("training.patience", -1, "it must be at least 0"),
        ("training.learning_rate", 0.0, "it must be above 0"),
        ("training.learning_rate", NAN, "it must be above 0"),
        ("training.learning_rate", INF, "it must be finite, such as 1e-3"),
        ("training.clip_norm", -1.0, "it must be above 0"),
        ("training.checkpoint_seconds", -1.0, FINITE),
        ("training.checkpoint_seconds", INF, FINITE),
        ("training.checkpoint_seconds", NAN, FINITE),
        ("training.memory_share", 0.0, SHARE),
        ("training.memory_share", 1.01, SHARE),
        ("training.memory_share", NAN, SHARE),
        ("training.preemption_exit_code", 0, "it must be from 1 to 255"),
        ("training.preemption_exit_code", 256, "it must be from 1 to 255"),
        ("model.widths", (5,), "it must be two widths of at least 1, such as (5,3)"),
        ("svm.c", (), "it must be one or more values above 0, such as (1e-5,1e-4)"),
        ("model.end2you_widths", (20,), PAIR),
        ("model.end2you_pools", (2, 0), PAIR),
        ("model.end2you_chunk", 641, "it must be a multiple of 2, its model.end2you_pools"),
        ("model.end2you_chunk", 0, "it must be a multiple of 2, its model.end2you_pools"),
        ("model.end2you_filters", 44, "it must be a multiple of 10, its model.end2you_pools"),
        ("model.end2you_dropout", 1.0, FRACTION),
        ("model.end2you_dropout", -0.1, FRACTION),
        ("model.dropout", 1.0, FRACTION),
        ("model.hsf_dropout", -0.1, FRACTION),
        ("training.ema", 1.0, FRACTION),
        ("training.label_smoothing", NAN, FRACTION),
        ("training.weight_decay", -1.0, FINITE),
        ("training.front_rate", NAN, FINITE),
        ("augment.speed", 1.0, FRACTION),
        ("augment.time_masks", -1, FINITE),
        ("augment.silence_frames", -1, FINITE),
        ("augment.noise_slope_db", NAN, FINITE),
        *((f"augment.{name}", 1.1, PART) for name in ("room", "noise", "telephone")),
        ("augment.variants", -1, "it must be at least 0"),
        ("augment.variants_codec", 1.1, PART),
        ("augment.variants_gain_db", INF, FINITE),
        ("augment.room_seconds", (0.0, 1.0), f"{RANGE} from 0.01, such as (0.2,0.8)"),
        ("augment.room_seconds", (0.3,), f"{RANGE} from 0.01, such as (0.2,0.8)"),
        ("augment.noise_snr_db", (20.0, 5.0), f"{RANGE} from -100, such as (0,30)"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_possible(key, value, sentence):
    made = config.get_config()
    section, _, name = key.rpartition(".")
    (made[section] if section else made)[name] = value
    shown = (
        f"{key}={value!r} {sentence}" if "not known" in sentence else f"{key}={value}; {sentence}"
    )
    with pytest.raises(UserError, match=f"^{re.escape(shown)}$"):
        config_checks.check(made)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"system": "end2you"}, "augment.gain_db=3.0 is not for system='end2you': only log-mel"),
        ({"system": "svm"}, "augment.gain_db=3.0 is not for system='svm': only log-mel"),
        (
            {"system": "svm", "augment__gain_db": 0.0, "augment__noise": 0.5},
            "augment.noise=0.5 is not for system='svm': only log-mel",
        ),
        (
            {"augment__room": 0.5, "features__normalisation": "utterance"},
            "augment.room=0.5 adds energies, which features.normalisation=utterance has taken",
        ),
        ({"model__form": "literal"}, "augment.gain_db=3.0 needs model.form=fast: segments"),
        (
            {"system": "svm", "augment__gain_db": 0.0, "augment__variants": 3},
            "augment.variants=3 with system='svm': only networks train on variants",
        ),
        (
            {"system": "hsf_crnn", "augment__variants": 3, "features__embeddings": "folder"},
            "augment.variants=3 with features.embeddings: embeddings are those of the recordings",
        ),
        (
            {"augment__room_folder": "/rooms"},
            "augment.room_folder=/rooms is for variants: set augment.variants, such as 3, too",
        ),
        (
            {"training__residence": "streamed", "training__dispatch": "chunk"},
            "training.residence=streamed with training.dispatch=chunk: streamed batches",
        ),
        ({"training__front_rate": 0.0}, "training.front_rate=0 without training.init_from: all"),
        (
            {"training__init_from": "runs/a", "system": "svm"},
            "training.init_from=runs/a with system='svm': only networks start from trained",
        ),
    ],
)
def test_values_that_do_not_go_together(changes, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        config_checks.check(changed(**{"augment__gain_db": 3.0, **changes}))
