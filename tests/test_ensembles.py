"""Which runs predict together, what is known of them, and that their prediction is the mean of their probabilities."""

from pathlib import Path

import numpy as np
import releases
from commands import command, probabilities, read_table, train

from ser_jax import ensembles
from ser_jax.protocols.protocol import Fold
from ser_jax.training.runs import Run

A, B = Fold("a", "tve"), Fold("b", "etv")


def test_consecutive_seeds_of_a_fold_belong_together():
    runs = [Run(fold, seed) for seed in range(3, 7) for fold in (A, B)]
    assert ensembles.members(runs, 2) == {
        Run(A, 3): [Run(A, 3), Run(A, 4)],
        Run(B, 3): [Run(B, 3), Run(B, 4)],
        Run(A, 5): [Run(A, 5), Run(A, 6)],
        Run(B, 5): [Run(B, 5), Run(B, 6)],
    }
    assert ensembles.members(runs, 1) == {run: [run] for run in runs}


def test_an_ensemble_has_diverged_if_all_of_it_has():
    def described(run: Run, status: str) -> dict:
        return {"fold": run.fold.name, "seed": run.seed, "best_epoch": 7, "status": status, "temperature": 1.5, "c": 1}

    runs = [Run(A, seed) for seed in range(6)]
    status = dict(zip(runs, ("diverged", "done", "diverged", "diverged", "stopped", "done"), strict=True))
    descriptions = {run: described(run, value) for run, value in status.items()}
    pairs = ensembles.outcomes(ensembles.members(runs, 2), descriptions)
    assert [(row["seed"], row["status"]) for row in pairs] == [(0, "done"), (2, "diverged"), (4, "stopped")]
    assert {(row["best_epoch"], row["temperature"]) for row in pairs} == {(None, None)}
    alone = ensembles.outcomes(ensembles.members(runs, 1), descriptions)
    assert [(row["seed"], row["status"], row["best_epoch"], row["temperature"]) for row in alone] == [
        (run.seed, status[run], 7, 1.5) for run in runs
    ]
    del descriptions[runs[0]], descriptions[runs[2]], descriptions[runs[3]]
    left = ensembles.outcomes(ensembles.members(runs, 2), descriptions)
    assert [row["seed"] for row in left] == [0, 4], "what is not finished is not known of"


def test_its_prediction_is_the_mean_of_its_members(tmp_path):
    """Two seeds of two trainings each are the four trainings of four seeds, averaged in pairs."""
    root = releases.write_manifest(tmp_path / "corpus", releases.manifest_rows(speakers=3), seconds=0.4).parent
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={root}")
    single = train(tmp_path / "single", *corpus, "--config.protocol.seeds=4")
    pairs = train(tmp_path / "pairs", *corpus, "--config.protocol.seeds=2", "--config.protocol.ensemble=2")
    rows = read_table(tmp_path / "single/predictions.csv")
    by_seed = {seed: probabilities(tmp_path / "single")[[row["seed"] == seed for row in rows]] for seed in "0123"}
    expected = np.concatenate([(by_seed["0"] + by_seed["1"]) / 2, (by_seed["2"] + by_seed["3"]) / 2])
    seeds = np.array([row["seed"] for row in read_table(tmp_path / "pairs/predictions.csv")])
    found = np.concatenate([probabilities(tmp_path / "pairs")[seeds == seed] for seed in "02"])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (single["seeds"], pairs["seeds"], len(pairs["runs"])) == ([0, 1, 2, 3], [0, 2], 6)
    assert "mean of 2 trainings" in pairs["probabilities"] and "mean of" not in single["probabilities"]
    assert pairs["protocol_sha256"] == single["protocol_sha256"]
    before = (tmp_path / "pairs/predictions.csv").read_bytes()
    ended = command(f"--model={tmp_path / 'pairs'}", module="ser_jax.evaluate")
    assert ended.code == 0, ended.err
    assert (tmp_path / "pairs/predictions.csv").read_bytes() == before
    assert len(list(Path(tmp_path / "pairs/models").iterdir())) == 12
