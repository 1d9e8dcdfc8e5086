"""The gate before any comparison of training: all candidates compute one loss and its gradients.

The reference is ser_jax with XLA's programs in float64. The peers are compared with it in float64;
what is timed of ser_jax, own kernels included, in float32.
"""

import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import workload
from flax import traverse_util
from peers import process

from ser_jax.config import Config
from ser_jax.data import padding
from ser_jax.data.inputs import Inputs
from ser_jax.models import build
from ser_jax.models.layers import DEFAULT_COMPUTE, ComputeOptions
from ser_jax.training import step

FRAMES = (
    20,
    30,
    45,
    49,
    50,
    51,
    69,
    70,
    74,
    75,
    *range(90, 530, 20),
)  # 32 utterances, edge cases first
SILENCE = -2.0  # standardised
CLASS_WEIGHTS = np.array([0.5, 1.0, 1.5, 2.0], np.float32)
# Largest relative differences of the loss, and of a gradient to its largest entry: of the peers, in
# float64, and of what is timed of ser_jax, in float32.
PEER_LIMITS, OWN_LIMITS = (1e-13, 1e-12), (1e-6, 1e-5)


class Different(Exception):
    """A candidate computes something else."""


def initial_params(config: Config) -> dict[str, np.ndarray]:
    """Returns the parameters that every peer starts from, by flat name."""
    hsf = np.zeros((1, workload.FUNCTIONALS), np.float32) if build.uses_hsf(config) else None
    example = Inputs(np.array([100]), np.zeros((1, 100, workload.BANDS), np.float32), None, hsf)
    params = build.build_model(config, workload.CLASSES).init(jax.random.key(0), example)["params"]
    return {
        name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }


def check(
    config: Config,
    folder: Path,
    python: Path,
    forms: dict[str, list[Any]],
    timed: dict[str, ComputeOptions],
) -> dict[str, dict[str, float]]:
    """Compares loss and gradients of one batch.

    Args:
      config: Names the system.
      folder: For the files that are exchanged.
      python: Interpreter of the peers' environment.
      forms: Name of a peer → arguments of torch_train.py.
      timed: Name of what is timed of ser_jax → how it computes.

    Returns:
      Name → the relative differences of the loss and of the gradient that differs most.

    Raises:
      Different: If one is too large.
    """
    rng = np.random.default_rng(0)
    window = max(channel.window for channel in build.segmentations(config))
    lengths = np.array(FRAMES, np.int32)
    frames = [rng.standard_normal((length, workload.BANDS), np.float32) for length in FRAMES]
    alone = [
        padding.pad_frames([values], max(len(values), window), window, SILENCE)[0]
        for values in frames
    ]
    together = padding.pad_frames(frames, max(FRAMES), window, SILENCE)
    hsf = (
        rng.standard_normal((len(FRAMES), workload.FUNCTIONALS), np.float32)
        if build.uses_hsf(config)
        else None
    )
    targets = rng.integers(workload.CLASSES, size=len(FRAMES)).astype(np.int32)
    params = initial_params(config)
    process.write_corpus(folder, alone, lengths, hsf, targets, CLASS_WEIGHTS, params)
    inputs = Inputs(lengths, together, None, hsf)
    with jax.enable_x64(True):
        reference = _ours(config, inputs, targets, params, jnp.float64, DEFAULT_COMPUTE)

    differences = {}
    for name, compute in timed.items():
        with jax.default_matmul_precision("float32"):
            own = _ours(config, inputs, targets, params, jnp.float32, compute)
        differences[name] = _compare(f"{config.system}, {name}", own, reference, OWN_LIMITS)
    for name, arguments in forms.items():
        path = folder / "gradients.npz"
        command = [
            python,
            process.SCRIPT,
            folder,
            *arguments,
            "--precision",
            "float64",
            "--gradients",
            path,
        ]
        subprocess.run(list(map(str, command)), check=True, env=process.environment(1))
        theirs = dict(np.load(path))
        found = theirs.pop("loss"), theirs
        differences[name] = _compare(f"{config.system}, {name}", found, reference, PEER_LIMITS)
    return differences


def _compare(
    name: str, found: Any, reference: Any, limits: tuple[float, float]
) -> dict[str, float]:
    loss, gradients = reference
    worst = max(
        float(abs(found[1][n] - values).max() / abs(values).max())
        for n, values in gradients.items()
    )
    difference = {"loss": float(abs(found[0] - loss) / abs(loss)), "gradient": worst}
    if not (difference["loss"] <= limits[0] and worst <= limits[1]):
        raise Different(f"{name} differs from ser_jax in float64 by {difference}")
    return difference


def _ours(
    config: Config,
    inputs: Inputs,
    targets: np.ndarray,
    params: dict[str, np.ndarray],
    dtype: Any,
    compute: ComputeOptions,
) -> tuple[float, dict[str, np.ndarray]]:
    model: Any = build.build_model(config, workload.CLASSES, compute)
    settings = step.TrainSettings(learning_rate=1e-3, clip_norm=1.0)
    low_rank = step.uses_low_rank(model, settings, axis=None)
    # Lengths stay integers.
    inputs, params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype if leaf.dtype == np.float32 else None),
        (inputs, params),
    )
    weights = jnp.asarray(CLASS_WEIGHTS, dtype)[targets]

    def objective(logits):
        loss = step.cross_entropy(logits, jnp.asarray(targets), weights) / jnp.sum(weights)
        return loss, loss

    @jax.jit
    def gradients_of(params, inputs):
        if low_rank:
            grads, loss = step.low_rank_gradient(model, objective, params, inputs)
        else:
            grads, loss = step.full_gradient(model, objective, params, inputs, settings)
        return traverse_util.flatten_dict(grads, sep="/"), loss

    tree = traverse_util.unflatten_dict(params, sep="/")
    gradients, loss = jax.device_get(gradients_of(tree, inputs))
    return float(loss), {
        name: leaf.inputs.T @ leaf.output_grads if isinstance(leaf, step.LowRankGradient) else leaf
        for name, leaf in gradients.items()
    }
