"""The networks of a run, segment by segment: all models at once, one program per number of segments.

The modules are those of training (`models/systems.py`); the recurrence goes on from the state that it is given, and
what it has pooled is handed in. Kernels of all models are stacked, so that one call serves an ensemble.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ser_jax import cache, machinery
from ser_jax.arrays.inputs import Inputs
from ser_jax.arrays.standardise import Statistics, standardise
from ser_jax.config import Config
from ser_jax.errors import UserError
from ser_jax.models import build
from ser_jax.models.arithmetic import Arithmetic
from ser_jax.models.recurrence import State
from ser_jax.prediction.pool import ROWS
from ser_jax.training import scoring
from ser_jax.training.model_files import Model
from ser_jax.training.programs import use_compilation_cache

# System → its CRNNs, in the order of `build.channels`. The others need the whole utterance.
CRNNS = {"plain_crnn": ("crnn",), "multi_crnn": ("short", "long")}


def check_streams(config: Config) -> None:
    """Refuses a system that cannot follow a stream.

    Raises:
      UserError: If its answer needs the whole utterance.
    """
    if config.system not in CRNNS:
        raise UserError(
            f"{config.system} needs the whole utterance and cannot follow a stream; score sliding windows instead: "
            f"python -m ser_jax.predict --model=RUN FILES --timeline --window=3"
        )


class SegmentNetwork:
    """The R models of a run on the default device.

    Attributes:
      channels: Segmentations that they read; the first is the one with a moment per segment.
    """

    def __init__(self, config: Config, models: Sequence[Model], classes: int):
        """Puts the models on the device and compiles the programs for one segment.

        Args:
          config: Configuration that they were trained with.
          models: The models.
          classes: Number of classes K.

        Raises:
          UserError: If the system needs the whole utterance.
        """
        check_streams(config)
        self.channels = build.channels(config)
        if config.training.compilation_cache:
            use_compilation_cache(cache.cache_folder() / "xla")
        self._precision = machinery.matmul_precision(config)
        self._temperatures = [model.description["temperature"] for model in models]
        self._size = len(models), config.model.lstm_units
        # Every model has kernels of its own: XLA's convolution would be several times slower than products.
        system: Any = build.build_model(config, classes, Arithmetic(machinery.operands(config), unfold=True))
        self._names = CRNNS[config.system]
        self._hidden = [jax.jit(functools.partial(_hidden, getattr(system, name))) for name in self._names]
        self._answer = jax.jit(functools.partial(_answer, system))
        stacked = jax.tree.map(
            lambda *leaves: np.stack(leaves).astype(np.float32),
            *((model.params, Statistics(model.statistics.mean, model.statistics.std)) for model in models),
        )
        self._params, self._statistics = jax.device_put(stacked)
        self._compile(config.features.bands)

    def start(self) -> list[State]:
        """Returns the state of every channel before its first segment, with the rows of a `Pool`."""
        zeros = jax.device_put(np.zeros((self._size[0], ROWS, self._size[1]), np.float32))
        return [State(zeros, zeros) for _ in self.channels]

    def advance(
        self, channel: int, state: State, segments: np.ndarray, restarts: np.ndarray
    ) -> tuple[State, np.ndarray]:
        """Runs the next segments of a channel.

        Args:
          channel: Its number.
          state: After the segment before them.
          segments: [n, W, M] f32, log-mel, not standardised; every n has a program of its own.
          restarts: [n, ROWS] bool, see `Pool.restarts`.

        Returns:
          The state after the last of them, and the hidden states [R, ROWS, n, H] f32.
        """
        params = self._params[self._names[channel]]
        with jax.default_matmul_precision(self._precision):
            hidden, state = self._hidden[channel](
                params, self._statistics, state, *jax.device_put((segments, restarts))
            )
        return state, jax.device_get(hidden)

    def probabilities(self, pooled: Sequence[np.ndarray]) -> np.ndarray:
        """Answers for n moments.

        Args:
          pooled: Per channel [R, n, 3 H] f32: max, mean and min of hidden states.

        Returns:
          [n, K] f64, the mean over the models of their calibrated probabilities.
        """
        with jax.default_matmul_precision(self._precision):
            logits = jax.device_get(self._answer(self._params, jax.device_put(tuple(pooled))))
        return scoring.mean_probabilities(logits, self._temperatures)

    def _compile(self, bands: int) -> None:
        """Runs once what a live stream runs per segment, so that it does not wait for the compiler while it plays."""
        for number, (state, channel) in enumerate(zip(self.start(), self.channels, strict=True)):
            self.advance(number, state, np.zeros((1, channel.window, bands), np.float32), np.zeros((1, ROWS), bool))
        models, units = self._size
        self.probabilities([np.zeros((models, 2, 3 * units), np.float32) for _ in self.channels])


def _hidden(
    crnn: Any, params: Any, statistics: Any, state: State, segments: jax.Array, restarts: jax.Array
) -> tuple[jax.Array, State]:
    """Hidden states [R, ROWS, n, H] of segments [n, W, M], and the states behind them; the literal form of the CNN."""
    window, hop = crnn.channel
    length = jnp.array([(segments.shape[0] - 1) * hop + window])

    def of_one(params, statistics, state):
        [values] = standardise(Inputs(length, segments=(segments[None],)), statistics, jnp).time_arrays
        return crnn.apply({"params": params}, values, length, state, restarts, method="hidden")

    return jax.vmap(of_one)(params, statistics, state)


def _answer(system: Any, params: Any, pooled: tuple[jax.Array, ...]) -> jax.Array:
    """Logits [R, n, K] of what every model has pooled."""
    return jax.vmap(lambda params, pooled: system.apply({"params": params}, pooled, method="answer"))(params, pooled)
