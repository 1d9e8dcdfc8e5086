"""The challenge's form: by hand, the mean over seeds, and a parser that did not write it."""

import re

import numpy as np
import pytest
from scipy.io import arff

from ser_jax.evaluation.predictions import Prediction
from ser_jax.evaluation.submission import ensemble, write_submission

CLASSES = ("angry", "happy", "neutral", "sad")


def row(name: str, seed: int, *probabilities: float) -> Prediction:
    best = CLASSES[int(np.argmax(probabilities))]
    return Prediction(f"wav/{name}", "", "test", seed, "", best, probabilities)


ROWS = [
    row("test_0002", 0, 0.1, 0.2, 0.3, 0.4),
    row("test_0001", 0, 0.7, 0.3, 0.0, 0.0),
    row("test_0001", 1, 0.1, 0.9, 0.0, 0.0),
    row("test_0002", 1, 0.1, 0.2, 0.3, 0.4),
]


def test_by_hand(tmp_path):
    """The seeds disagree about the first recording; their mean says happy (0.6 to 0.4)."""
    write_submission(tmp_path / "submission.arff", ROWS, CLASSES)
    assert (tmp_path / "submission.arff").read_text().splitlines() == [
        "@relation ComParE2018_AtypicalAffect_Predictions_ser_jax",
        "@attribute instance_name string",
        "@attribute prediction { angry, happy, neutral, sad }",
        *(f"@attribute score_{name} numeric" for name in CLASSES),
        "@data",
        "'test_0001.wav',happy,0.400000,0.600000,0.000000,0.000000",
        "'test_0002.wav',sad,0.100000,0.200000,0.300000,0.400000",
    ]


def test_another_program_reads_it(tmp_path):
    """SciPy reads ARFF without strings: it finds the same numbers and classes."""
    generator = np.random.default_rng(0)
    values = generator.dirichlet(np.ones(4), size=(3, 20))
    rows = [row(f"test_{n:04}", seed, *values[seed, n]) for seed in range(3) for n in range(20)]
    write_submission(tmp_path / "submission.arff", rows, CLASSES)
    lines = (tmp_path / "submission.arff").read_text().splitlines()
    nameless = [re.sub("^'.*?',", "", line) for line in lines if "string" not in line]
    (tmp_path / "nameless.arff").write_text("\n".join(nameless))
    data, meta = arff.loadarff(tmp_path / "nameless.arff")
    assert meta["prediction"][1] == CLASSES
    scores = np.array([[line[f"score_{name}"] for name in CLASSES] for line in data])
    np.testing.assert_allclose(scores, values.mean(axis=0), atol=1e-6)
    expected = [CLASSES[k] for k in values.mean(axis=0).argmax(axis=1)]
    assert [line["prediction"].decode() for line in data] == expected


def test_the_order_of_rows_does_not_matter():
    assert ensemble(ROWS, CLASSES) == ensemble(ROWS[::-1], CLASSES)
    assert list(ensemble(ROWS[::-1], CLASSES)) == ["wav/test_0001", "wav/test_0002"]
    equal = ensemble([row("a", 0, 0.0, 0.5, 0.5, 0.0)], CLASSES)
    assert equal["wav/a"][0] == "happy", "the first of equal classes wins"


@pytest.mark.parametrize(
    "rows", [ROWS[:3], [*ROWS, ROWS[0]]], ids=["a seed is missing", "a row is there twice"]
)
def test_every_seed_has_every_recording_once(rows):
    with pytest.raises(ValueError, match=f"{len(rows)} rows are not 2 utterances x 2 seeds"):
        ensemble(rows, CLASSES)
