"""`metrics.jsonl`: what a line holds, and which lines a repeated epoch replaces."""

import json

import numpy as np
import pytest

from ser_jax.protocols.protocol import Fold
from ser_jax.training import metrics_log
from ser_jax.training.early_stopping import Scores
from ser_jax.training.trials import Trial

FIRST, AGAIN, OTHER = (
    Trial(Fold("a", "tve"), 1),
    Trial(Fold("a", "tte"), 1, epochs=4),
    Trial(Fold("b", "vet"), 1),
)
YES, NO = np.bool_(True), np.bool_(False)
SCORED = Scores(
    np.float32(0.5), np.float32(2.0), np.array([[1, 1], [0, 3]]), YES, NO, YES, NO, np.int32(2)
)
UNSCORED = Scores(np.float32(0.25), None, None, YES, NO, None, NO, np.int32(0))


def test_lines_by_hand():
    """Recalls ½ and 1; 4 of 5 are right."""
    assert metrics_log.make_line(FIRST, 3, SCORED, 1.23456) == {
        **{"fold": "a", "seed": 1, "phase": 1, "epoch": 3, "loss": 0.5, "skipped": 2},
        **{"validation_loss": 2.0, "validation_ua": 0.75, "validation_wa": 0.8, "seconds": 1.2346},
    }
    unscored = {"fold": "a", "seed": 1, "phase": 2, "epoch": 3, "loss": 0.25, "skipped": 0}
    assert metrics_log.make_line(AGAIN, 3, UNSCORED, 1.0) == {**unscored, "seconds": 1.0}


def kept(workdir) -> list[tuple[str, int, int]]:
    lines = map(json.loads, (workdir / metrics_log.FILE).read_text().splitlines())
    return [(line["fold"], line["phase"], line["epoch"]) for line in lines]


@pytest.mark.parametrize(
    ("trial", "after", "lost"),
    [
        (FIRST, 0, {("a", 1, 1), ("a", 1, 2)}),
        (FIRST, 1, {("a", 1, 2)}),
        (AGAIN, 0, {("a", 2, 1), ("a", 2, 2)}),
        (OTHER, 2, set()),
    ],
)
def test_only_epochs_of_the_trial_and_its_phase_are_dropped(tmp_path, trial, after, lost):
    for epoch in (1, 2):
        metrics_log.append_lines(
            tmp_path,
            [metrics_log.make_line(each, epoch, UNSCORED, 1.0) for each in (FIRST, AGAIN, OTHER)],
        )
    with (tmp_path / metrics_log.FILE).open("a") as file:
        file.write('{"fold": "b", "se')  # A process was killed here.
    before = [
        (fold, phase, epoch) for epoch in (1, 2) for fold, phase in (("a", 1), ("a", 2), ("b", 1))
    ]
    metrics_log.drop_lines(tmp_path, [trial], after)
    assert kept(tmp_path) == [line for line in before if line not in lost]


def test_no_file_to_drop_from(tmp_path):
    metrics_log.drop_lines(tmp_path, [FIRST], 0)
    assert not list(tmp_path.iterdir())


def test_lines_are_strict_json_and_damaged_ones_are_dropped(tmp_path):
    """The loss of a trial that diverges is not finite, which JSON cannot express."""
    scores, path = UNSCORED._replace(train_loss=np.float32("nan")), tmp_path / metrics_log.FILE
    metrics_log.append_lines(tmp_path, [metrics_log.make_line(FIRST, 1, scores, 1.0)])
    assert "NaN" not in path.read_text() and '"loss": null' in path.read_text()
    damaged = [b"[" * 100_000, b"[1]", b"\xff", b'{"fold": ["a"], "seed": 1, "phase": 1}', b"3"]
    with path.open("ab") as file:
        file.writelines(line + b"\n" for line in damaged)
    metrics_log.drop_lines(tmp_path, [OTHER], 0)
    assert kept(tmp_path) == [("a", 1, 1)]
