"""A run on streamed data, from the command to its files: the same as with everything in memory, and
what it refuses."""

import numpy as np
import pytest
import releases
from commands import TINY, command, train

DENSE = tuple(f"--config.model.{name}=(8,)" for name in ("hsf_crnn_dense", "hsf_dense", "hsf_head"))


@pytest.fixture(scope="module")
def two_folds(tmp_path_factory) -> tuple[str, ...]:
    """Arguments for two folds of recordings of 0.3 to 3 s, a dozen batches an epoch."""
    rows = releases.manifest_rows(speakers=4, per_label=6)
    lengths = np.random.default_rng(0).uniform(0.3, 3, len(rows)).tolist()
    path = releases.write_manifest(tmp_path_factory.mktemp("corpus"), rows, seconds=lengths)
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={path.parent}")
    return *corpus, "--config.protocol.folds=s0,s1", "--config.training.batch_size=4"


@pytest.mark.parametrize(
    ("system", "streamed"),
    [
        ("plain_crnn", "--config.training.memory_share=1e-9"),
        ("hsf_crnn", "--config.training.residence=streamed"),
    ],
)
def test_predictions_and_parameters_are_those_of_resident_training_to_the_bit(
    system, streamed, two_folds, tmp_path
):
    normalisation = "speaker" if system == "hsf_crnn" else "training"
    options = (*two_folds, f"--config.system={system}", "--config.training.shapes=2", *DENSE)
    options += (f"--config.features.normalisation={normalisation}",)
    train(tmp_path / "resident", *options)
    train(
        tmp_path / "streamed", *options, streamed, f"--config.features.shards={tmp_path / 'shards'}"
    )
    assert len(list(tmp_path.glob("shards/*/index.json"))) == 1, "it was streamed"
    assert (tmp_path / "streamed/predictions.csv").read_bytes() == (
        tmp_path / "resident/predictions.csv"
    ).read_bytes()
    models = sorted(
        path.relative_to(tmp_path / "resident")
        for path in tmp_path.glob("resident/models/*/model.npz")
    )
    assert len(models) == 2
    for model in models:
        assert (tmp_path / "streamed" / model).read_bytes() == (
            tmp_path / "resident" / model
        ).read_bytes()


def test_damage_is_refused_before_anything_is_trained(two_folds, tmp_path):
    shards = tmp_path / "shards"
    streamed = ("--config.training.residence=streamed", f"--config.features.shards={shards}")
    train(tmp_path / "run", *two_folds, *streamed)
    (path,) = shards.glob("*/logmel-00000.array_record")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused = command(*TINY, *two_folds, *streamed, f"--workdir={tmp_path / 'other'}").refusal
    assert refused.startswith(f"{path}: sha256 ") and refused.endswith(
        "writes it again from the feature store"
    )
    (path.parent / "index.json").unlink()
    refused = command(*TINY, *two_folds, *streamed, f"--workdir={tmp_path / 'other'}").refusal
    assert refused.startswith(f"{path.parent} holds 1 record file but no index.json")
