"""The gate before any comparison of training: peer and ser_jax compute the same loss and the same gradients."""

import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import workload
from flax import traverse_util
from peers import process

from ser_jax.arrays import padding
from ser_jax.arrays.inputs import Inputs
from ser_jax.config import Config
from ser_jax.models import build
from ser_jax.training.step import cross_entropy

FRAMES = (20, 30, 45, 49, 50, 51, 69, 70, 74, 75, *range(90, 530, 20))  # 32 utterances, edge cases first
SILENCE = -2.0  # standardised
CLASS_WEIGHTS = np.array([0.5, 1.0, 1.5, 2.0], np.float32)
LOSS_LIMIT, GRADIENT_LIMIT = 1e-13, 1e-12  # relative differences; a gradient's to its largest entry


class Different(Exception):
    """The peer computes something else."""


def initial_params(config: Config) -> dict[str, np.ndarray]:
    """Returns the parameters that every peer starts from, by flat name."""
    hsf = np.zeros((1, workload.FUNCTIONALS), np.float32) if build.uses_hsf(config) else None
    example = Inputs(np.array([100]), np.zeros((1, 100, workload.BANDS), np.float32), None, hsf)
    params = build.build_model(config, workload.CLASSES).init(jax.random.key(0), example)["params"]
    return {name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def check(config: Config, folder: Path, python: Path, forms: dict[str, list[Any]]) -> dict[str, dict[str, float]]:
    """Compares loss and gradients of one batch, in float64.

    Args:
      config: Names the system.
      folder: For the files that are exchanged.
      python: Interpreter of the peers' environment.
      forms: Name → arguments of torch_train.py.

    Returns:
      Name → the relative differences of the loss and of the gradient that differs most.

    Raises:
      Different: If one is too large.
    """
    rng = np.random.default_rng(0)
    window = max(channel.window for channel in build.channels(config))
    lengths = np.array(FRAMES, np.int32)
    frames = [rng.standard_normal((length, workload.BANDS), np.float32) for length in FRAMES]
    alone = [padding.pad_frames([values], max(len(values), window), window, SILENCE)[0] for values in frames]
    together = padding.pad_frames(frames, max(FRAMES), window, SILENCE)
    hsf = rng.standard_normal((len(FRAMES), workload.FUNCTIONALS), np.float32) if build.uses_hsf(config) else None
    targets = rng.integers(workload.CLASSES, size=len(FRAMES)).astype(np.int32)
    params = initial_params(config)
    process.write_corpus(folder, alone, lengths, hsf, targets, CLASS_WEIGHTS, params)
    loss, gradients = _ours(config, Inputs(lengths, together, None, hsf), targets, params)

    differences = {}
    for name, arguments in forms.items():
        path = folder / "gradients.npz"
        command = [python, process.SCRIPT, folder, *arguments, "--precision", "float64", "--gradients", path]
        subprocess.run(list(map(str, command)), check=True, env=process.environment(1))
        theirs = dict(np.load(path))
        worst = max(float(abs(theirs[n] - values).max() / abs(values).max()) for n, values in gradients.items())
        differences[name] = {"loss": float(abs(theirs["loss"] - loss) / abs(loss)), "gradient": worst}
        if not (differences[name]["loss"] <= LOSS_LIMIT and worst <= GRADIENT_LIMIT):
            raise Different(f"{config.system}: the peer ({name}) differs from ser_jax by {differences[name]}")
    return differences


def _ours(
    config: Config, inputs: Inputs, targets: np.ndarray, params: dict[str, np.ndarray]
) -> tuple[float, dict[str, np.ndarray]]:
    model = build.build_model(config, workload.CLASSES)
    with jax.enable_x64(True):
        # Lengths stay integers.
        inputs, params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64 if leaf.dtype == np.float32 else None), (inputs, params)
        )
        weights = jnp.asarray(CLASS_WEIGHTS, jnp.float64)[targets]

        def loss(params):
            logits = model.apply({"params": traverse_util.unflatten_dict(params, sep="/")}, inputs)
            return cross_entropy(logits, jnp.asarray(targets), weights) / jnp.sum(weights)

        value, gradients = jax.jit(jax.value_and_grad(loss))(params)
        return float(value), jax.device_get(gradients)
