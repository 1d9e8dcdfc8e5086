"""Calibration: by hand, against loops and scikit-learn; the temperature against a grid search."""

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


def test_by_hand():
    # 0.9 lies in bin 14 of 15: one of two is right. 0.5 lies in bin 8: one of two is right, as the
    # confidence says.
    nats = -np.log([0.9, 0.05, 0.5, 0.25]).mean()
    wrong = [[0.1, 0.1], [0.95, 0.9, 0.05], [0.3, 0.2, 0.5], [0.25, 0.5, 0.75]]
    brier = np.mean([sum(value**2 for value in row) for row in wrong])
    found = [measure(BY_HAND, LABELS) for measure in MEASURES]
    assert found == pytest.approx([2 / 4 * 0.4 + 2 / 4 * 0.0, nats, brier])
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


def test_against_plain_loops_and_scikit_learn():
    generator = np.random.default_rng(0)
    probabilities, labels = generator.dirichlet(np.full(4, 0.5), 400), generator.integers(0, 4, 400)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    pairs = zip(probabilities, labels, strict=True)
    brier = np.mean([((row - np.eye(4)[label]) ** 2).sum() for row, label in pairs])
    nats = sklearn_metrics.log_loss(labels, probabilities, labels=range(4))
    found = [measure(probabilities, labels) for measure in MEASURES]
    assert found == pytest.approx([expected, nats, brier])


def test_the_best_and_the_worst():
    sure, right, wrong = np.eye(3), np.arange(3), np.array([1, 2, 0])
    assert [measure(sure, right) for measure in MEASURES] == [0, 0, 0]
    assert calibration.expected_calibration_error(sure, wrong) == 1
    assert calibration.brier_score(sure, wrong) == 2
    nats = calibration.negative_log_likelihood(sure, wrong)
    assert 700 < nats < 710, "a probability of 0 for the truth costs much, but not infinitely much"
    assert np.isnan([measure(np.zeros((0, 3)), np.zeros(0, int)) for measure in MEASURES]).all()


def loss(logits: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    """The mean negative logarithm of likelihood and prior."""
    probabilities = special.softmax(logits / temperature, axis=1)
    prior = (np.log(temperature) / calibration.SPREAD) ** 2 / 2
    return calibration.negative_log_likelihood(probabilities, targets) + prior / len(targets)


def labelled(seed: int, temperature: float, count=400) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits and labels drawn from softmax(logits / temperature)."""
    generator = np.random.default_rng(seed)
    logits = 3 * generator.normal(size=(count, 4))
    values = special.softmax(logits / temperature, axis=1)
    return logits, np.array([generator.choice(4, p=row) for row in values])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_against_the_grid(temperature):
    logits, targets = labelled(3, temperature)
    grid = np.geomspace(calibration.MIN_TEMPERATURE, calibration.MAX_TEMPERATURE, 4001)
    expected = grid[np.argmin([loss(logits, targets, t) for t in grid])]
    found = calibration.fit_temperature(logits, targets)
    assert found == pytest.approx(expected, rel=0.002)
    assert found == pytest.approx(temperature, rel=0.25), "the labels were drawn with it"


def test_bounds_are_relative_to_the_size_of_the_logits():
    """An SVM's values of a hundredth need temperatures that a network never has."""
    logits, targets = labelled(3, 1.0)
    once = calibration.fit_temperature(logits, targets)
    small = calibration.fit_temperature(logits / 100, targets, 1 / 100)
    assert small == pytest.approx(once / 100)
    assert calibration.fit_temperature(logits / 100, targets) > 0.24


def test_accuracy_by_coverage_by_hand():
    """Confidences 0.9 (right, wrong) and 0.5 (right, wrong): ties are answered together."""
    found = calibration.accuracy_by_coverage(BY_HAND[[2, 0, 3, 1]], LABELS[[2, 0, 3, 1]])
    assert [values.tolist() for values in found] == [[0.9, 0.5], [0.5, 1.0], [0.5, 0.5]]
    untied = BY_HAND + np.array([[0.01, -0.01, 0], [0, 0, 0], [0, 0, 0], [0.2, -0.2, 0]])
    found = calibration.accuracy_by_coverage(untied, LABELS)
    np.testing.assert_allclose(found.threshold, [0.91, 0.9, 0.5, 0.45])
    np.testing.assert_allclose(found.accuracy, [1, 1 / 2, 2 / 3, 2 / 4])
    assert all(
        not len(values) for values in calibration.accuracy_by_coverage(BY_HAND[:0], LABELS[:0])
    )


def test_few_rows_that_are_all_right_do_not_ask_for_certainty():
    """The more there are, the lower the temperature, down to the limit."""
    logits, targets = np.array([[2.0, 0.0], [0.0, 2.0], [3.0, -3.0]]), np.array([0, 1, 0])
    sizes = 1, 10, 10**4
    few, more, many = (
        calibration.fit_temperature(np.tile(logits, (n, 1)), np.tile(targets, n)) for n in sizes
    )
    assert 0.8 < few < 1 and 0.4 < more < few - 0.1
    assert many == pytest.approx(calibration.MIN_TEMPERATURE, rel=1e-3)


def test_random_labels_stop_at_the_limit():
    generator = np.random.default_rng(5)
    logits = 1000 * generator.normal(size=(500, 4))
    found = calibration.fit_temperature(logits, generator.integers(0, 4, 500))
    assert found == pytest.approx(calibration.MAX_TEMPERATURE, rel=1e-3)


def test_without_a_reason_it_stays_1():
    """Without rows, without labels, with equal logits, and where all are right beyond doubt."""
    assert calibration.fit_temperature(np.zeros((0, 3)), np.zeros(0)) == 1.0
    assert calibration.fit_temperature(np.ones((4, 3)), np.full(4, -1)) == 1.0
    assert calibration.fit_temperature(np.ones((4, 3)), np.arange(4) % 3) == 1.0
    assert calibration.fit_temperature(1e5 * np.eye(3), np.arange(3)) == 1.0


def test_withheld_labels_do_not_matter():
    logits, targets = labelled(6, 2.0)
    more, withheld = np.vstack([logits, 50 * np.ones((3, 4))]), np.append(targets, [-1, -1, -1])
    expected = calibration.fit_temperature(logits, targets)
    assert calibration.fit_temperature(more, withheld) == expected


EIGHTHS = strategies.integers(-400, 400).map(lambda number: number / 8)


@hypothesis.given(
    arrays.arrays(np.float64, (7, 3), elements=EIGHTHS),
    arrays.arrays(np.int64, 7, elements=strategies.integers(-1, 2)),
)
@hypothesis.settings(deadline=None)
def test_it_never_makes_the_validation_part_worse_and_changes_no_prediction(logits, targets):
    found = calibration.fit_temperature(logits, targets)
    assert calibration.MIN_TEMPERATURE <= found <= calibration.MAX_TEMPERATURE
    np.testing.assert_array_equal((logits / found).argmax(axis=1), logits.argmax(axis=1))
    kept = targets >= 0
    if kept.any():
        before = loss(logits[kept], targets[kept], 1.0)
        assert loss(logits[kept], targets[kept], found) <= before + 1e-12


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
