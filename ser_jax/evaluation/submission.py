"""`submission.arff`: predictions of withheld test labels in the format of ComParE 2018.

Until 2018 the challenge took ARFF files with the attributes instance_name, prediction and one score
per class, as the baseline scripts in its releases write them; from 2019 on it took CSV files.
"""

import collections
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ser_jax.evaluation.predictions import Prediction
from ser_jax.runtime import files

TASK = "ComParE2018_AtypicalAffect"
SUFFIX = ".wav"  # of the challenge's instance names, which are file names


def ensemble(
    predictions: Sequence[Prediction], classes: Sequence[str]
) -> dict[str, tuple[str, list[float]]]:
    """Averages the probabilities of all seeds.

    Args:
      predictions: Rows of one fold; every seed with the same utterances.
      classes: The K classes of the protocol; the first of equal maxima is predicted.

    Returns:
      Utterance id → its class and K mean probabilities, sorted by id.

    Raises:
      ValueError: If an utterance lacks a seed, or has one twice.
    """
    found: dict[str, dict[int, tuple[float, ...]]] = collections.defaultdict(dict)
    for row in predictions:
        found[row.id][row.seed] = row.probabilities
    seeds = {row.seed for row in predictions}
    once = sum(map(len, found.values())) == len(predictions)
    if not once or any(one.keys() != seeds for one in found.values()):
        raise ValueError(
            f"{len(predictions)} rows are not {len(found)} utterances x {len(seeds)} seeds"
        )
    order = sorted(seeds)
    means = {name: np.mean([found[name][s] for s in order], axis=0) for name in sorted(found)}
    return {name: (classes[int(mean.argmax())], mean.tolist()) for name, mean in means.items()}


def write_submission(path: Path, predictions: Sequence[Prediction], classes: Sequence[str]) -> None:
    """Writes the ensemble of all seeds (fold "test"), one line per recording, sorted by name.

    Raises:
      ValueError: If an utterance lacks a seed.
    """
    lines = [
        f"@relation {TASK}_Predictions_ser_jax",
        "@attribute instance_name string",
        f"@attribute prediction {{ {', '.join(classes)} }}",
        *(f"@attribute score_{name} numeric" for name in classes),
        "@data",
    ]
    for name, (label, scores) in ensemble(predictions, classes).items():
        numbers = ",".join(f"{score:.6f}" for score in scores)
        lines.append(f"'{PurePosixPath(name).name}{SUFFIX}',{label},{numbers}")
    files.write_text(path, "\n".join(lines) + "\n")
