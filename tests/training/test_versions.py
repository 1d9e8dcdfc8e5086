"""Training on variants: every utterance once an epoch, as itself or as one; resumed to the bit."""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from tiny_runs import interrupted, outcome

from ser_jax.data import dataset as datasets
from ser_jax.evaluation import calibration
from ser_jax.models import build
from ser_jax.training import trainer as loop

PAIR = tiny.trials("a,b")
VARIANTS = 2


@functools.cache
def data(shapes: int = 2) -> datasets.Dataset:
    """The utterances of the tiny protocol, and two noisy variants of all that are not speaker d's.

    So the part that only fold d tests has variants in no fold.
    """
    rng = np.random.default_rng(1)
    count = len(tiny.protocol().ids)
    log_mel = [rng.normal(size=(int(rng.integers(12, 75)), 6)).astype("f4") for _ in range(count)]
    versions = np.tile(np.arange(count), (VARIANTS + 1, 1))
    for version, n in np.ndindex(VARIANTS, count):
        if tiny.protocol().speakers[n] != "d":
            versions[version + 1, n] = len(log_mel)
            frames = log_mel[n] + rng.normal(size=log_mel[n].shape).astype("f4")
            log_mel.append(frames[: len(frames) - version])
    return datasets.frames_dataset(
        datasets.frames_source(log_mel, None)._replace(versions=versions),
        tiny.protocol().targets,
        segmentations=build.segmentations(tiny.config()),
        form="fast",
        silence=-23.0,
        shapes=shapes,
        batch_size=tiny.BATCH,
        train_fraction=0.5,
    ).loaded()


def sampler(shapes: int = 2) -> loop.BatchSampler:
    programs: Any = SimpleNamespace(
        plan=SimpleNamespace(trials=2), score_chunk=1, put=lambda tree: tree
    )
    return loop.BatchSampler(tiny.protocol(), data(shapes), programs, tiny.settings())


def taken(shapes: int, epoch: int, trials=PAIR) -> list[dict[int, int]]:
    """Per trial, utterance → its version in an epoch; raises if one comes twice."""
    held = data(shapes)
    order, rows, mask = sampler(shapes).epoch(trials, [True] * len(trials), epoch)
    found = []
    for place in range(len(trials)):
        own: dict[int, int] = {}
        for bucket, row, real in zip(order, rows[:, place], mask[:, place], strict=True):
            members = held.utterances(bucket)
            for one in row[real].tolist():
                version, where = np.nonzero(held.versions[:, members] == one)
                n = int(members[where[0]])
                assert n not in own
                own[n] = int(version[0])
        found.append(own)
    return found


@pytest.mark.parametrize("epoch", [1, 2, 5])
def test_every_utterance_comes_once_as_itself_or_as_a_variant(epoch):
    for trial, own in zip(PAIR, taken(2, epoch), strict=True):
        assert sorted(own) == trial.fold.train.tolist()


def test_draws_depend_on_trial_and_epoch_and_on_nothing_else():
    """Not on the buckets, nor on the other trials of the group."""
    first = taken(2, 1)
    assert first == taken(4, 1) == taken(1, 1)
    assert taken(2, 1, PAIR[1:]) == first[1:]
    assert taken(2, 2)[0] != first[0]
    one, other = taken(2, 1, tiny.trials("a", seeds=2))
    assert one.keys() == other.keys() and one != other


def test_versions_come_equally_often():
    drawn = [own for epoch in range(1, 41) for own in taken(2, epoch)]
    counts = np.bincount([version for own in drawn for version in own.values()])
    of_d = np.mean([tiny.protocol().speakers[n] == "d" for own in drawn for n in own])
    expected = (1 - of_d) * sum(counts) / (VARIANTS + 1)
    np.testing.assert_allclose(counts[1:], expected, rtol=0.1)


def test_validation_and_test_parts_hear_recordings_as_they_are():
    held = data()
    variants = [set(np.unique(held.versions[1:][:, held.bucket == b])) for b in range(2)]
    as_they_are = [set(held.row[held.bucket == b].tolist()) for b in range(2)]
    assert all(variants[b] - as_they_are[b] for b in range(2)), "there are some in every bucket"
    order, rows, _ = sampler().validation(PAIR)
    for bucket, step in zip(order.tolist(), rows, strict=True):
        assert set(step.reshape(-1).tolist()) <= as_they_are[bucket] | {0}
    for fold in tiny.protocol().folds:
        for part in (fold.validation, fold.test):
            for bucket, own in enumerate(held.rows(part)):
                assert set(own.tolist()) <= as_they_are[bucket]


def test_resumes_to_the_bit(tmp_path):
    """SIGTERM in the second epoch, on the executor of a CPU and on that of accelerators."""
    for chunk in (0, 7):
        executor = tiny.new_executor(2, 2, chunk, data=data())

        def trainer(name: str, executor=executor) -> loop.Trainer:
            workdir = tmp_path / name
            workdir.mkdir(exist_ok=True)
            return loop.Trainer(
                *(tiny.protocol(), data(), executor, tiny.settings(), workdir),
                *({"system": "plain_crnn"}, calibration.fit_temperature, None, {}),
            )

        whole, cut = f"whole-{chunk}", f"cut-{chunk}"
        trainer(whole).train(PAIR)
        calls = 4 if chunk else len(sampler().epoch(PAIR, [True, True], 1)[0]) + 3
        interrupted(lambda cut=cut, make=trainer: make(cut), PAIR, executor, after_train=[calls])
        trainer(cut).train(PAIR)
        assert outcome(tmp_path / cut) == outcome(tmp_path / whole)
