"""Calibration: by hand, against plain loops and scikit-learn, and the temperature against a search of the grid."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays
from scipy import special
from sklearn import metrics as sklearn_metrics

from ser_jax.evaluation import calibration

BY_HAND = np.array([[0.9, 0.1, 0.0], [0.05, 0.9, 0.05], [0.3, 0.2, 0.5], [0.25, 0.5, 0.25]])
LABELS = np.array([0, 0, 2, 2])
MEASURES = (
    calibration.expected_calibration_error,
    calibration.negative_log_likelihood,
    calibration.brier_score,
)


def random_probabilities(seed: int, count=400, classes=4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.full(classes, 0.5), count), generator.integers(0, classes, count)


# --- How well probabilities are calibrated ----------------------------------------------------------------------------


def test_by_hand():
    # 0.9 lies in bin 14 of 15: one of two is right. 0.5 lies in bin 8: one of two is right, as the confidence says.
    assert calibration.expected_calibration_error(BY_HAND, LABELS) == pytest.approx(2 / 4 * 0.4 + 2 / 4 * 0.0)
    likelihoods = [0.9, 0.05, 0.5, 0.25]
    assert calibration.negative_log_likelihood(BY_HAND, LABELS) == pytest.approx(-np.log(likelihoods).mean())
    squares = [0.1**2 + 0.1**2, 0.95**2 + 0.9**2 + 0.05**2, 0.3**2 + 0.2**2 + 0.5**2, 0.25**2 + 0.5**2 + 0.75**2]
    assert calibration.brier_score(BY_HAND, LABELS) == pytest.approx(np.mean(squares))


def test_bins_by_hand():
    bins = calibration.reliability(BY_HAND, LABELS)
    assert bins.count.tolist() == [0] * 7 + [2] + [0] * 5 + [2, 0]
    assert bins.confidence[[7, 13]] == pytest.approx([0.5, 0.9])
    assert bins.accuracy[[7, 13]].tolist() == [0.5, 0.5]
    assert np.isnan(bins.accuracy[[0, 14]]).all() and np.isnan(bins.confidence[[0, 14]]).all()


@pytest.mark.parametrize("numerator", range(8, 16))
def test_a_bin_holds_its_upper_edge(numerator):
    confidence = numerator / 15
    bins = calibration.reliability(np.array([[confidence, 1 - confidence]]), np.array([0]))
    assert bins.count.argmax() == numerator - 1


def test_ece_against_a_plain_loop():
    probabilities, labels = random_probabilities(0)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration.expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_likelihood_against_scikit_learn():
    probabilities, labels = random_probabilities(1)
    expected = sklearn_metrics.log_loss(labels, probabilities, labels=range(4))
    assert calibration.negative_log_likelihood(probabilities, labels) == pytest.approx(expected)


def test_brier_score_against_a_plain_loop():
    probabilities, labels = random_probabilities(2)
    expected = np.mean(
        [((row - np.eye(4)[label]) ** 2).sum() for row, label in zip(probabilities, labels, strict=True)]
    )
    assert calibration.brier_score(probabilities, labels) == pytest.approx(expected)


def test_the_best_and_the_worst():
    sure, right, wrong = np.eye(3), np.arange(3), np.array([1, 2, 0])
    assert [measure(sure, right) for measure in MEASURES] == [0, 0, 0]
    assert calibration.expected_calibration_error(sure, wrong) == 1
    assert calibration.brier_score(sure, wrong) == 2
    nats = calibration.negative_log_likelihood(sure, wrong)
    assert 700 < nats < 710, "a probability of 0 for the truth costs much, but not infinitely much"


@pytest.mark.parametrize("measure", MEASURES)
def test_nothing_to_measure(measure):
    assert np.isnan(measure(np.zeros((0, 3)), np.zeros(0, np.int64)))


# --- The temperature --------------------------------------------------------------------------------------------------


def loss(logits: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    return calibration.negative_log_likelihood(special.softmax(logits / temperature, axis=1), targets)


def labelled(seed: int, temperature: float, count=400) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits and labels drawn from softmax(logits / temperature)."""
    generator = np.random.default_rng(seed)
    logits = 3 * generator.normal(size=(count, 4))
    shares = special.softmax(logits / temperature, axis=1)
    return logits, np.array([generator.choice(4, p=row) for row in shares])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_against_the_grid(temperature):
    logits, targets = labelled(3, temperature)
    grid = np.exp(np.linspace(np.log(calibration.COLDEST), np.log(calibration.HOTTEST), 4001))
    expected = grid[np.argmin([loss(logits, targets, t) for t in grid])]
    found = calibration.fit_temperature(logits, targets)
    assert found == pytest.approx(expected, rel=0.002)
    assert found == pytest.approx(temperature, rel=0.25), "it is the one that the labels were drawn with"


def test_logits_twice_as_large_are_twice_as_hot():
    logits, targets = labelled(4, 1.5)
    once, twice = calibration.fit_temperature(logits, targets), calibration.fit_temperature(2 * logits, targets)
    assert twice == pytest.approx(2 * once, rel=1e-4)


def test_separable_data_stop_at_the_coldest():
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [3.0, -3.0]])
    found = calibration.fit_temperature(logits, np.array([0, 1, 0]))
    assert found == pytest.approx(calibration.COLDEST, rel=1e-3)


def test_labels_at_random_stop_at_the_hottest():
    generator = np.random.default_rng(5)
    logits = 1000 * generator.normal(size=(500, 4))
    found = calibration.fit_temperature(logits, generator.integers(0, 4, 500))
    assert found == pytest.approx(calibration.HOTTEST, rel=1e-3)


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (np.zeros((0, 3)), np.zeros(0)),
        (np.ones((4, 3)), np.full(4, -1)),
        (np.ones((4, 3)), np.arange(4) % 3),
        (1e5 * np.eye(3), np.arange(3)),
    ],
    ids=["no rows", "no labels", "logits that say nothing", "right beyond doubt"],
)
def test_without_a_reason_it_stays_1(logits, targets):
    assert calibration.fit_temperature(logits, targets) == 1.0


def test_withheld_labels_do_not_matter():
    logits, targets = labelled(6, 2.0)
    more, withheld = np.vstack([logits, 50 * np.ones((3, 4))]), np.append(targets, [-1, -1, -1])
    assert calibration.fit_temperature(more, withheld) == calibration.fit_temperature(logits, targets)


@hypothesis.given(
    arrays.arrays(np.float64, (7, 3), elements=strategies.integers(-400, 400).map(lambda number: number / 8)),
    arrays.arrays(np.int64, 7, elements=strategies.integers(-1, 2)),
)
@hypothesis.settings(deadline=None)
def test_it_never_makes_the_validation_part_worse_and_changes_no_prediction(logits, targets):
    found = calibration.fit_temperature(logits, targets)
    assert calibration.COLDEST <= found <= calibration.HOTTEST
    np.testing.assert_array_equal((logits / found).argmax(axis=1), logits.argmax(axis=1))
    kept = targets >= 0
    if kept.any():
        assert loss(logits[kept], targets[kept], found) <= loss(logits[kept], targets[kept], 1.0) + 1e-12


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.ones((4, 3)), np.zeros(3), r"shape \(4, 3\) for targets of shape \(3,\)"),
        (np.ones(4), np.zeros(4), "shape"),
        (np.ones((2, 3)), np.array([0, 3]), "from 0 to 3 for 3 classes"),
        (np.ones((2, 3)), np.array([-2, 0]), "from -2 to 0 for 3 classes"),
        (np.full((2, 3), np.nan), np.array([0, 1]), "non-finite"),
    ],
)
def test_wrong_input_is_refused(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        calibration.fit_temperature(logits, targets)
