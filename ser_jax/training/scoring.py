"""Logits of many utterances for the runs of a group, in the training buckets."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.special

from ser_jax.arrays import plans
from ser_jax.arrays.dataset import Dataset
from ser_jax.training.model_files import Model
from ser_jax.training.programs import Programs


def group_logits(
    programs: Programs,
    dataset: Dataset,
    params: Any,
    statistics: Any,
    utterances: Sequence[np.ndarray],
    batch_size: int,
) -> list[np.ndarray]:
    """Scores each run's own utterances.

    Args:
      programs: Compiled programs of the group.
      dataset: All utterances.
      params: Parameters on the devices, leading run axis.
      statistics: Standardisation on the devices, leading run axis.
      utterances: Per run, numbers of the utterances (in the protocol); every one is scored exactly once.
      batch_size: Rows of a batch.

    Returns:
      Per run [n, K] float64, in the order of `utterances`.
    """
    rows = [dataset.rows(numbers) for numbers in utterances]
    counts = [max(-(-len(run[bucket]) // batch_size) for run in rows) for bucket in range(len(dataset.buckets))]
    order = np.repeat(np.arange(len(counts)), counts)
    if not len(order):
        return [np.zeros((0, 0))] * len(utterances)
    chosen, mask = plans.in_order(order, [plans.scoring_batches(run, batch_size, counts) for run in rows])
    found = jax.device_get(programs.score(params, statistics, order, chosen))
    logits = np.concatenate([np.reshape(values, (len(rows), -1, values.shape[-1])) for values in found], axis=1)
    logits = logits[:, : len(order) * batch_size].astype(np.float64)
    members = [dataset.utterances(bucket) for bucket in range(len(counts))]
    results = []
    for place, numbers in enumerate(utterances):
        real = mask[:, place]
        scored = np.concatenate([members[bucket][chosen[s, place][real[s]]] for s, bucket in enumerate(order)])
        place_of = np.empty(len(dataset.bucket), np.int64)
        place_of[scored] = np.arange(len(scored))
        results.append(logits[place][real.reshape(-1)][place_of[numbers]])
    return results


def model_logits(
    programs: Programs,
    dataset: Dataset,
    models: Iterable[Model],
    utterances: Sequence[np.ndarray],
    batch_size: int,
) -> list[np.ndarray]:
    """Scores with stored models, a group at a time.

    Args:
      programs: Compiled programs of a group.
      dataset: All utterances.
      models: Any number of trained models of that system; no more than a group of them is in memory at a time.
      utterances: Per model, numbers of the utterances.
      batch_size: Rows of a batch.

    Returns:
      Per model [n, K] float64.
    """
    results = []
    models = iter(models)
    while members := list(itertools.islice(models, programs.size)):
        parts = list(utterances[len(results) : len(results) + len(members)])
        idle = programs.size - len(members)
        params, statistics = jax.tree.map(
            lambda *leaves: np.stack(leaves),
            *((m.params, dataset.device_statistics(m.statistics)) for m in members + members[-1:] * idle),
        )
        parts += [np.zeros(0, np.int64)] * idle
        logits = group_logits(programs, dataset, programs.put(params), programs.put(statistics), parts, batch_size)
        results += logits[: len(members)]
    return results


def softmax(logits: np.ndarray, temperature: float | None = None) -> np.ndarray:
    """Returns the probabilities of logits [n, K] divided by a temperature, in float64; none stands for 1."""
    return scipy.special.softmax(np.asarray(logits, np.float64) / (temperature or 1.0), axis=-1)


def mean_probabilities(logits: Sequence[np.ndarray], temperatures: Sequence[float | None]) -> np.ndarray:
    """Returns the mean of the probabilities of several models [n, K] f64, each with its own temperature."""
    return np.mean(list(map(softmax, logits, temperatures)), axis=0)
