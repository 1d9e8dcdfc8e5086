"""Ensembles: their trials, their description, and that they predict the mean probabilities."""

from pathlib import Path

import numpy as np
import pytest
import releases
import scored
from commands import command, probabilities, read_table, train

from ser_jax.evaluation.results import diverged
from ser_jax.experiment import ensembles, pipeline
from ser_jax.protocols.protocol import Fold
from ser_jax.report import console
from ser_jax.runtime.errors import Diverged
from ser_jax.training.trials import Trial

A, B = Fold("a", "tve"), Fold("b", "etv")


def test_consecutive_seeds_of_a_fold_belong_together():
    trials = [Trial(fold, seed) for seed in range(3, 7) for fold in (A, B)]
    assert ensembles.members(trials, 2) == {
        Trial(A, 3): [Trial(A, 3), Trial(A, 4)],
        Trial(B, 3): [Trial(B, 3), Trial(B, 4)],
        Trial(A, 5): [Trial(A, 5), Trial(A, 6)],
        Trial(B, 5): [Trial(B, 5), Trial(B, 6)],
    }
    assert ensembles.members(trials, 1) == {trial: [trial] for trial in trials}


def test_an_ensemble_lists_its_members_and_has_diverged_if_all_of_it_has():
    trials = [Trial(A, seed) for seed in range(6)]
    status = ("diverged", "done", "diverged", "diverged", "stopped", "done")
    common = {"fold": "a", "best_epoch": 7, "temperature": 1.5}
    descriptions = {
        trial: {**common, "seed": trial.seed, "status": status[trial.seed], "c": 1}
        for trial in trials
    }
    pairs = ensembles.outcomes(ensembles.members(trials, 2), descriptions)
    assert pairs == [
        {
            **{"fold": "a", "seed": seed, "best_epoch": None, "status": of_pair},
            "temperature": None,
            "members": [
                {"seed": n, "best_epoch": 7, "status": status[n]} for n in (seed, seed + 1)
            ],
        }
        for seed, of_pair in ((0, "done"), (2, "diverged"), (4, "stopped"))
    ]
    assert diverged({"runs": pairs}) == (["a-0", "a-2", "a-3"], 6)
    single = ensembles.outcomes(ensembles.members(trials, 1), descriptions)
    assert diverged({"runs": single}) == (["a-0", "a-2", "a-3"], 6)
    assert single == [{**common, "seed": n, "status": of_one} for n, of_one in enumerate(status)]
    for seed in (0, 2, 3):
        del descriptions[trials[seed]]
    left = ensembles.outcomes(ensembles.members(trials, 2), descriptions)
    assert [row["seed"] for row in left] == [0, 4], "unfinished ensembles are left out"


def test_a_member_that_diverged_ends_with_3_and_all_trials_are_counted():
    done, lost = {"best_epoch": 1, "status": "done"}, {"best_epoch": None, "status": "diverged"}
    members = [{"seed": 0, **done}, {"seed": 1, **lost}, {"seed": 2, **lost}]
    runs = [{"fold": "s0", "seed": 0, "best_epoch": None, "status": "done", "members": members}]
    with pytest.raises(Diverged, match=r"2 of 3 trials diverged \(s0-1, s0-2\): try a lower"):
        pipeline.check_diverged({"runs": runs})
    found = scored.summarise(
        scored.make_rows(0, speakers=1, seeds=(0,)), runs=[{**runs[0], "fold": "f0"}], ensemble=3
    )
    sentence = "2 of 3 trials diverged, without a vote in their ensembles: f0-1, f0-2"
    assert sentence in console.summary_lines(found)
    assert (found["ensemble"], found["runs"][0]["members"]) == (3, members)


def test_the_description_counts_those_without_a_vote():
    assert ensembles.describe("softmax", 1, 2) == "softmax"
    assert ensembles.describe("softmax", 3) == "softmax; mean of 3 trainings"
    lost = "softmax; mean of 3 trainings, without 2 that diverged"
    assert ensembles.describe("softmax", 3, 2) == lost


def test_its_prediction_is_the_mean_of_its_members(tmp_path):
    """Two seeds of two trainings each are the four trainings of four seeds, averaged in pairs."""
    rows = releases.manifest_rows(speakers=3)
    root = releases.write_manifest(tmp_path / "corpus", rows, seconds=0.4).parent
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={root}")
    single = train(tmp_path / "single", *corpus, "--config.protocol.seeds=4")
    two = ("--config.protocol.seeds=2", "--config.protocol.ensemble=2")
    pairs = train(tmp_path / "pairs", *corpus, *two)

    def of_seed(run: str, seed: int) -> np.ndarray:
        rows = read_table(tmp_path / run / "predictions.csv")
        return probabilities(tmp_path / run)[[row["seed"] == str(seed) for row in rows]]

    for seed in (0, 2):
        mean = (of_seed("single", seed) + of_seed("single", seed + 1)) / 2
        np.testing.assert_allclose(of_seed("pairs", seed), mean, atol=1e-6)
    assert (single["seeds"], pairs["seeds"], len(pairs["runs"])) == ([0, 1, 2, 3], [0, 2], 6)
    assert "mean of 2 trainings" in pairs["probabilities"]
    assert (single["ensemble"], pairs["ensemble"]) == (1, 2)
    assert pairs["parameters"] == 2 * single["parameters"]
    assert "mean of" not in single["probabilities"]
    assert pairs["protocol_sha256"] == single["protocol_sha256"]
    before = (tmp_path / "pairs/predictions.csv").read_bytes()
    ended = command(f"--model={tmp_path / 'pairs'}", name="evaluate")
    assert ended.code == 0, ended.err
    assert (tmp_path / "pairs/predictions.csv").read_bytes() == before
    assert len(list(Path(tmp_path / "pairs/models").iterdir())) == 12
