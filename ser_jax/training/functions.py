"""The functions of one run that the programs of a group are made of."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from ser_jax.training import optimiser, selection
from ser_jax.training import step as steps


class Functions(NamedTuple):
    """Pure functions of one run, with everything that is the same for all runs filled in.

    Attributes:
      init: key, example → TrainState.
      gradient: See `step.gradient_step`.
      moments: See `optimiser.update_moments`.
      params: See `optimiser.update_params`.
      score: See `step.score_step`.
      judge: See `selection.judge`.
    """

    init: Callable[..., Any]
    gradient: Callable[..., Any]
    moments: Callable[..., Any]
    params: Callable[..., Any]
    score: Callable[..., Any]
    judge: Callable[..., Any]


def functions(
    model: nn.Module, *, learning_rate: float, clip_norm: float, patience: int, axis: str | None
) -> Functions:
    """Fills in what is the same for all runs.

    Args:
      model: The system.
      learning_rate: Of Adam.
      clip_norm: Largest global norm of the gradient.
      patience: Epochs without a better one after which a run stops; 0: never.
      axis: Mesh axis over which the rows of a batch are spread, or None.
    """

    def init(key: jax.Array, example: Any) -> steps.TrainState:
        return steps.init_state(model.init(key, example)["params"])

    def apply(params: Any, inputs: Any) -> Any:
        return model.apply({"params": params}, inputs)

    return Functions(
        init=init,
        gradient=functools.partial(steps.gradient_step, apply=apply, axis=axis),
        moments=functools.partial(optimiser.update_moments, clip_norm=clip_norm),
        params=functools.partial(optimiser.update_params, learning_rate=learning_rate),
        score=functools.partial(steps.score_step, apply=apply),
        judge=functools.partial(selection.judge, patience=patience),
    )
