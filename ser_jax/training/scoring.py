"""Logits of many utterances for the runs of a group, in the training buckets."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

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
    batches = [plans.scoring_batches(run, batch_size, counts) for run in rows]
    pending = []
    for bucket, count in enumerate(counts):
        for number in range(count):
            chosen = np.stack([run[bucket].rows[number] for run in batches])
            pending.append((bucket, number, programs.score(bucket, params, statistics, chosen)))
    scored = [(bucket, number, np.asarray(jax.device_get(logits), np.float64)) for bucket, number, logits in pending]
    results = []
    for place, numbers in enumerate(utterances):
        by_utterance = {}
        for bucket, number, logits in scored:
            real = batches[place][bucket].mask[number]
            members = dataset.utterances(bucket)[batches[place][bucket].rows[number][real]]
            by_utterance.update(zip(members.tolist(), logits[place][real], strict=True))
        results.append(np.stack([by_utterance[number] for number in numbers.tolist()]) if len(numbers) else None)
    classes = next((logits.shape[-1] for _, _, logits in scored), 0)
    return [np.zeros((0, classes)) if result is None else result for result in results]


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


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of logits [n, K], in float64."""
    return np.exp(log_softmax(logits))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the log-probabilities of logits [n, K], in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
