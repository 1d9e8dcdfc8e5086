"""`metrics.jsonl`: what a line holds, and which lines a repeated epoch replaces."""

import json

import numpy as np
import pytest

from ser_jax.protocols.protocol import Fold
from ser_jax.training import journal
from ser_jax.training.runs import Run
from ser_jax.training.selection import Scores

RUN, AGAIN, OTHER = Run(Fold("a", "tve"), 1), Run(Fold("a", "tte"), 1, epochs=4), Run(Fold("b", "vet"), 1)
YES, NO = np.bool_(True), np.bool_(False)
JUDGED = Scores(np.float32(0.5), np.float32(2.0), np.array([[1, 1], [0, 3]]), YES, NO, YES, NO, np.int32(2))
CLOSED = Scores(np.float32(0.25), None, None, YES, NO, None, NO, np.int32(0))


def test_lines_by_hand():
    """Recalls ½ and 1; 4 of 5 are right."""
    assert journal.make_line(RUN, 3, JUDGED, 1.23456) == {
        **{"fold": "a", "seed": 1, "phase": 1, "epoch": 3, "loss": 0.5, "skipped": 2},
        **{"validation_loss": 2.0, "validation_ua": 0.75, "validation_wa": 0.8, "seconds": 1.2346},
    }
    given = {"fold": "a", "seed": 1, "phase": 2, "epoch": 3, "loss": 0.25, "skipped": 0, "seconds": 1.0}
    assert journal.make_line(AGAIN, 3, CLOSED, 1.0) == given


def kept(workdir) -> list[tuple[str, int, int]]:
    lines = map(json.loads, (workdir / journal.FILE).read_text().splitlines())
    return [(line["fold"], line["phase"], line["epoch"]) for line in lines]


@pytest.mark.parametrize(
    ("run", "after", "lost"),
    [
        (RUN, 0, {("a", 1, 1), ("a", 1, 2)}),
        (RUN, 1, {("a", 1, 2)}),
        (AGAIN, 0, {("a", 2, 1), ("a", 2, 2)}),
        (OTHER, 2, set()),
    ],
)
def test_only_epochs_of_the_run_and_its_phase_are_forgotten(tmp_path, run, after, lost):
    for epoch in (1, 2):
        journal.append(tmp_path, [journal.make_line(each, epoch, CLOSED, 1.0) for each in (RUN, AGAIN, OTHER)])
    with (tmp_path / journal.FILE).open("a") as file:
        file.write('{"fold": "b", "se')  # A process was killed here.
    before = [(fold, phase, epoch) for epoch in (1, 2) for fold, phase in (("a", 1), ("a", 2), ("b", 1))]
    journal.forget(tmp_path, [run], after)
    assert kept(tmp_path) == [line for line in before if line not in lost]


def test_nothing_to_forget(tmp_path):
    journal.forget(tmp_path, [RUN], 0)
    assert not list(tmp_path.iterdir())


def test_lines_are_strict_json_and_damaged_ones_are_dropped(tmp_path):
    """The loss of a run that diverges is not finite; JSON has no word for that."""
    journal.append(tmp_path, [journal.make_line(RUN, 1, CLOSED._replace(train_loss=np.float32("nan")), 1.0)])
    assert (
        "NaN" not in (tmp_path / journal.FILE).read_text() and '"loss": null' in (tmp_path / journal.FILE).read_text()
    )
    with (tmp_path / journal.FILE).open("ab") as file:
        file.writelines(
            [b"[" * 100_000 + b"\n", b"[1]\n", b"\xff\n", b'{"fold": ["a"], "seed": 1, "phase": 1}\n', b"3\n"]
        )
    journal.forget(tmp_path, [OTHER], 0)
    assert kept(tmp_path) == [("a", 1, 1)]
