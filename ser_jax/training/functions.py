"""The functions of one run that the programs of a group are made of."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from ser_jax.training import factored, optimiser, selection
from ser_jax.training import step as steps
from ser_jax.training.augmentation import Augmentation


class Recipe(NamedTuple):
    """How all runs are trained; see config.py for units and sources.

    Attributes:
      learning_rate: Of Adam.
      clip_norm: Largest global norm of the gradient.
      patience: Epochs without a better one after which a run stops; 0: never.
      weight_decay: See `optimiser.update_params`.
      ema: Decay of the running average of the parameters, which is then what is scored and kept; 0: none.
      label_smoothing: See `step.cross_entropy`.
      augmentation: How batches are varied; None: not at all.
      dropout: Whether the system drops values in training.
    """

    learning_rate: float
    clip_norm: float
    patience: int = 0
    weight_decay: float = 0.0
    ema: float = 0.0
    label_smoothing: float = 0.0
    augmentation: Augmentation | None = None
    dropout: bool = False

    @property
    def draws(self) -> bool:
        """Whether steps draw random numbers: then every run needs a key in its constants."""
        return self.dropout or self.augmentation is not None


class Functions(NamedTuple):
    """Pure functions of one run, with everything that is the same for all runs filled in.

    Attributes:
      init: key, example → TrainState.
      gradient: See `step.gradient_step`.
      moments: params, Adam, Gradient → params, Adam: `optimiser.update_moments`, and whatever parameters move with it.
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


def functions(model: nn.Module, recipe: Recipe, axis: str | None) -> Functions:
    """Fills in what is the same for all runs.

    Args:
      model: The system.
      recipe: How it is trained.
      axis: Mesh axis over which the rows of a batch are spread, or None.
    """

    def init(key: jax.Array, example: Any) -> steps.TrainState:
        return steps.init_state(model.init(key, example)["params"], averaged=recipe.ema > 0)

    def apply(params: Any, inputs: Any) -> Any:
        return model.apply({"params": params}, inputs)

    differentiate = factored.differentiated(model) if axis is None else None
    of_update = {"learning_rate": recipe.learning_rate, "weight_decay": recipe.weight_decay}

    def moments(params: Any, adam: optimiser.Adam, found: steps.Gradient) -> tuple[Any, optimiser.Adam]:
        adam = optimiser.update_moments(adam, *found, clip_norm=recipe.clip_norm)
        if differentiate is None:
            return params, adam
        return factored.update(params, adam, *found, clip_norm=recipe.clip_norm, **of_update)

    return Functions(
        init=init,
        gradient=functools.partial(
            steps.gradient_step,
            apply=apply,
            axis=axis,
            smoothing=recipe.label_smoothing,
            augmentation=recipe.augmentation,
            differentiate=differentiate,
        ),
        moments=moments,
        params=functools.partial(
            optimiser.update_params, **of_update, ema=recipe.ema, moved=factored.is_kernel if differentiate else None
        ),
        score=functools.partial(steps.score_step, apply=apply),
        judge=functools.partial(selection.judge, patience=recipe.patience),
    )
