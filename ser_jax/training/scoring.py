"""Scores utterances with the models of many trials at once: logits and probabilities."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.special

from ser_jax.data import epoch_plans
from ser_jax.data.dataset import Dataset
from ser_jax.training.execution.executor import Executor
from ser_jax.training.model_files import Model


def group_logits(
    executor: Executor,
    dataset: Dataset,
    params: Any,
    statistics: Any,
    utterances: Sequence[np.ndarray],
    batch_size: int,
) -> list[np.ndarray]:
    """Scores, for every trial of a group, utterances of its own; each exactly once.

    Args:
      executor: Scores the group.
      dataset: All utterances.
      params: Parameters on the devices, leading trial axis.
      statistics: Standardisation on the devices, leading trial axis.
      utterances: Per trial, numbers of the utterances (in the protocol).
      batch_size: Rows of a batch.

    Returns:
      Per trial [n, K] float64, in the order of `utterances`.
    """
    rows = [dataset.rows(numbers) for numbers in utterances]
    counts = [
        max(-(-len(trial[bucket]) // batch_size) for trial in rows)
        for bucket in range(len(dataset.buckets))
    ]
    order = np.repeat(np.arange(len(counts)), counts)
    if not len(order):
        return [np.zeros((0, 0))] * len(utterances)
    batches = [epoch_plans.scoring_batches(trial, batch_size, counts) for trial in rows]
    chosen, mask = epoch_plans.in_order(order, batches)
    scores = jax.device_get(executor.score(params, statistics, order, chosen))
    # An array per step or chunk; the last chunk may be filled up.
    flat = [values.reshape(len(rows), -1, values.shape[-1]) for values in scores]
    logits = np.concatenate(flat, axis=1)[:, : len(order) * batch_size].astype(np.float64)
    members = [dataset.utterances(bucket) for bucket in range(len(counts))]
    results = []
    for place, numbers in enumerate(utterances):
        real = mask[:, place]
        scored = np.concatenate(
            [members[bucket][chosen[s, place][real[s]]] for s, bucket in enumerate(order)]
        )
        place_of = np.empty(len(dataset.bucket), np.int64)
        place_of[scored] = np.arange(len(scored))
        results.append(logits[place][real.reshape(-1)][place_of[numbers]])
    return results


def model_logits(
    executor: Executor,
    dataset: Dataset,
    models: Iterable[Model],
    utterances: Sequence[np.ndarray],
    batch_size: int,
) -> list[np.ndarray]:
    """Scores with any number of stored models, of which one group at a time is in memory.

    Takes per model the numbers of its utterances; returns per model [n, K] float64.
    """
    size, results, models = executor.plan.trials, [], iter(models)
    while members := list(itertools.islice(models, size)):
        idle = size - len(members)
        parts = list(utterances[len(results) : len(results) + len(members)])
        trees = [(m.params, dataset.device_statistics(m.statistics)) for m in members]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *trees, *trees[-1:] * idle)
        params, statistics = map(executor.put, stacked)
        parts += [np.zeros(0, np.int64)] * idle
        logits = group_logits(executor, dataset, params, statistics, parts, batch_size)
        results += logits[: len(members)]
    return results


def softmax(logits: np.ndarray, temperature: float | None = None) -> np.ndarray:
    """Returns the probabilities [n, K] f64 of logits divided by a temperature (None: 1)."""
    return scipy.special.softmax(np.asarray(logits, np.float64) / (temperature or 1.0), axis=-1)


def mean_probabilities(
    logits: Sequence[np.ndarray], temperatures: Sequence[float | None]
) -> np.ndarray:
    """Returns the mean of the probabilities of several models, [n, K] f64."""
    return np.mean(list(map(softmax, logits, temperatures)), axis=0)
