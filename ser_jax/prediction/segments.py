"""The networks of a run, segment by segment, with pooling that is updated after every segment.

The modules are those of training (`models/crnn.py`); the recurrence goes on from the state that it
is given. Kernels of all models are stacked, so that one call serves an ensemble.

A window is scored as if nothing had been before it: by an LSTM that starts where the window starts.
Windows overlap, so several recurrences run side by side on the same segments, as rows of one batch.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ser_jax.config import Config
from ser_jax.data.inputs import Inputs
from ser_jax.data.standardise import Statistics, standardise
from ser_jax.experiment import setup
from ser_jax.features.preparation import RUNNING_LEVELS
from ser_jax.models import build
from ser_jax.models.layers import ComputeOptions
from ser_jax.models.recurrent import State
from ser_jax.runtime.errors import UserError
from ser_jax.training import scoring
from ser_jax.training.execution.program_cache import use_compilation_cache
from ser_jax.training.model_files import Model

ROWS = 17  # of the recurrence: the first is the whole stream, the others are windows


class Pool:
    """The pooling of `models/pooling.py`, updated state by state for every row of a recurrence.

    Every segment is active or not (silent). With `trim` a row begins with its first active segment,
    and what comes after its last one is left out, until there is another.
    """

    def __init__(self, segments: int, trim: bool = False):
        """Starts empty.

        Args:
          segments: Length of a window. Up to 16, a window of exactly so many ends with every
            segment. Longer ones begin at every second segment, or third and so on, and `recent` is
            over up to a fifteenth more.
          trim: Whether silent segments at both ends are left out.
        """
        self.count = 0  # segments so far
        self._segments = segments
        self._every = max(1, math.ceil((segments - 1) / (ROWS - 2)))
        self._trim = trim
        self._had_speech = np.zeros(ROWS, bool)  # whether a row has an active segment
        self._seen = np.zeros(ROWS, np.int64)
        self._maximum: np.ndarray = np.zeros(0)
        self._minimum: np.ndarray = self._maximum
        self._total: np.ndarray = self._maximum
        self._kept = self._state()  # after the last active segment

    def restarts(self, ahead: int, active: Sequence[bool]) -> np.ndarray:
        """Returns [n, ROWS] bool: rows that restart with each segment `ahead` of those seen.

        `active` says it of the ahead + n segments that come next.
        """
        had_speech, rows = self._had_speech.copy(), []
        for number, one in enumerate(active, self.count):
            rows.append(self._restart(number, had_speech))
            had_speech |= one
        return np.stack(rows[ahead:])

    def add(self, hidden: np.ndarray, active: bool = True) -> None:
        """Adds the hidden states [R, ROWS, H] f32 after a segment."""
        restarted = self._restart(self.count, self._had_speech)
        if not self.count:
            restarted[:] = True
            self._maximum = self._minimum = hidden
            # In float32 a day of steps would lose its digits.
            self._total = np.zeros(hidden.shape, np.float64)
        fresh = restarted[:, None]
        self._maximum = np.where(fresh, hidden, np.maximum(self._maximum, hidden))
        self._minimum = np.where(fresh, hidden, np.minimum(self._minimum, hidden))
        self._total = np.where(fresh, 0, self._total) + hidden
        self._seen = np.where(restarted, 0, self._seen) + 1
        self._had_speech |= active
        if active:
            self._kept = self._state()
        self.count += 1

    def has_speech(self, recent: bool) -> bool:
        """Returns whether a segment of the last window, or of all, was active."""
        return bool(self._had_speech[self._recent() if recent else 0])

    def all(self) -> np.ndarray:
        """Returns max, mean and min [R, 3 H] f32 over all states; at least one must be there."""
        return self._of(0)

    def recent(self) -> np.ndarray:
        """Returns max, mean and min [R, 3 H] f32 over the last window (all until it is full)."""
        return self._of(self._recent())

    def _recent(self) -> int:
        return self._row(max(0, self.count - self._segments) // self._every)

    def _restart(self, number: int, had_speech: np.ndarray) -> np.ndarray:
        """Rows that restart with a segment; `had_speech` forgets what came before."""
        rows = np.zeros(ROWS, bool)
        rows[self._row(number // self._every)] = number % self._every == 0
        had_speech &= ~rows
        return rows | ~had_speech if self._trim else rows

    def _row(self, window: int) -> int:
        return 1 + window % (ROWS - 1)

    def _state(self) -> tuple[np.ndarray, ...]:
        return self._maximum, self._minimum, self._total, self._seen

    def _of(self, row: int) -> np.ndarray:
        kept = self._kept if self._trim and self._had_speech[row] else self._state()
        maximum, minimum, total, seen = kept
        mean = (total[:, row] / seen[row]).astype(np.float32)
        return np.concatenate([maximum[:, row], mean, minimum[:, row]], axis=-1)


def can_stream(config: Config) -> bool:
    """Returns whether a recording can be followed before its end is known."""
    follows = build.spec(config).streams and not config.model.attention_units
    return bool(follows) and config.features.level in RUNNING_LEVELS


def check_streams(config: Config) -> None:
    """Raises `UserError` if the system needs the whole utterance and cannot follow a stream."""
    if not can_stream(config):
        what, level, attention = config.system, config.features.level, config.model.attention_units
        if level not in RUNNING_LEVELS:
            what = f"a model of features.level={level}"
        elif build.spec(config).streams:
            what = f"a model of model.attention_units={attention}"
        raise UserError(
            f"{what} needs the whole utterance and cannot follow a stream; score sliding"
            " windows instead: ser-jax predict --model=RUN FILES --timeline --window=3"
        )


class SegmentNetwork:
    """The R models of a run on the default device."""

    def __init__(self, config: Config, models: Sequence[Model], classes: int):
        """Puts the models on the device and compiles the programs for one segment.

        Raises:
          UserError: If the system needs the whole utterance.
        """
        check_streams(config)
        self.segmentations = build.segmentations(config)  # the first has a moment per segment
        if config.training.compilation_cache:
            use_compilation_cache()
        self._precision = setup.matmul_precision(config)
        self._temperatures = [model.description["temperature"] for model in models]
        self._size = len(models), config.model.lstm_units
        # Every model has its own kernels: XLA's convolution would be several times slower.
        compute = ComputeOptions(build.operands(config), unfold=True)
        system: Any = build.build_model(config, classes, compute)
        self._names = build.spec(config).streams
        self._hidden = [
            jax.jit(functools.partial(_hidden, getattr(system, name))) for name in self._names
        ]
        self._answer = jax.jit(functools.partial(_answer, system))
        arrays = [(m.params, Statistics(m.statistics.mean, m.statistics.std)) for m in models]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves).astype(np.float32), *arrays)
        self._params, self._statistics = jax.device_put(stacked)
        self._compile(config.features.bands)

    def start(self) -> list[State]:
        """Returns the state of every segmentation before its first segment, [R, ROWS, H] zeros."""
        zeros = jax.device_put(np.zeros((self._size[0], ROWS, self._size[1]), np.float32))
        return [State(zeros, zeros) for _ in self.segmentations]

    def advance(
        self, segmentation: int, state: State, segments: np.ndarray, restarts: np.ndarray
    ) -> tuple[State, np.ndarray]:
        """Runs the next segments of a segmentation.

        Args:
          segmentation: Its number.
          state: After the segment before them.
          segments: [n, W, M] f32, log-mel, not standardised; every n has a program of its own.
          restarts: [n, ROWS] bool, see `Pool.restarts`.

        Returns:
          The state after the last of them, and the hidden states [R, ROWS, n, H] f32.
        """
        params = self._params[self._names[segmentation]]
        with jax.default_matmul_precision(self._precision):
            hidden, state = self._hidden[segmentation](
                params, self._statistics, state, *jax.device_put((segments, restarts))
            )
        return state, jax.device_get(hidden)

    def probabilities(self, pooled: Sequence[np.ndarray]) -> np.ndarray:
        """Answers for n moments.

        Args:
          pooled: Per segmentation [R, n, 3 H] f32: max, mean and min of hidden states.

        Returns:
          [n, K] f64, the mean over the models of their calibrated probabilities.
        """
        with jax.default_matmul_precision(self._precision):
            logits = jax.device_get(self._answer(self._params, jax.device_put(tuple(pooled))))
        return scoring.mean_probabilities(logits, self._temperatures)

    def _compile(self, bands: int) -> None:
        """Compiles what a live stream runs per segment, so that it need not wait while it plays."""
        for number, state in enumerate(self.start()):
            segment = np.zeros((1, self.segmentations[number].window, bands), np.float32)
            self.advance(number, state, segment, np.zeros((1, ROWS), bool))
        models, units = self._size
        pooled = np.zeros((models, 2, 3 * units), np.float32)
        self.probabilities([pooled for _ in self.segmentations])


def _hidden(
    crnn: Any, params: Any, statistics: Any, state: State, segments: jax.Array, restarts: jax.Array
) -> tuple[jax.Array, State]:
    """Hidden states [R, ROWS, n, H] of segments [n, W, M] and the next state; the literal CNN."""
    window, hop = crnn.segmentation
    length = jnp.array([(segments.shape[0] - 1) * hop + window])

    def of_one(params, statistics, state):
        inputs = Inputs(length, segments=(segments[None],))
        [values] = standardise(inputs, statistics, jnp).time_arrays
        return crnn.apply({"params": params}, values, length, state, restarts, method="hidden")

    return jax.vmap(of_one)(params, statistics, state)


def _answer(system: Any, params: Any, pooled: tuple[jax.Array, ...]) -> jax.Array:
    """Logits [R, n, K] of what every model has pooled."""
    answer = functools.partial(system.apply, method="answer")
    return jax.vmap(lambda params, pooled: answer({"params": params}, pooled))(params, pooled)
