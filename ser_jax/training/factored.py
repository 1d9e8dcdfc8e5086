"""The gradient of a large kernel as the two factors that it is the product of.

HSF-CRNN has 6.5 of its 7.3 million parameters in one kernel [6373, 1024], whose gradient is inputsᵀ · slopes of the 32
rows of a batch. Written out it is as large as the kernel, and it is written, read for its norm and read for each of the
moments. As factors it is small; its norm follows from their Gram matrices, and Adam's update forms it a few rows at a
time (`native.adam`), so that kernel and moments are read and written once in a step, and nothing else of that size.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ser_jax.arrays.inputs import Array, Inputs
from ser_jax.models import native
from ser_jax.models.systems import FACTORS, HSFCRNN, PROBES
from ser_jax.training import optimiser
from ser_jax.training.optimiser import Factors

KERNEL = ("hsf_dense", "Dense_0", "kernel")

Objective = Callable[[Array], tuple[Array, Array]]


def is_kernel(path: tuple[Any, ...]) -> bool:
    """Returns whether a place in the tree of parameters is that of the kernel."""
    return tuple(part.key for part in path) == KERNEL


class Differentiated(NamedTuple):
    """Differentiates an objective of logits with respect to the parameters of HSF-CRNN.

    Attributes:
      model: The system.
    """

    model: HSFCRNN

    def __call__(self, objective: Objective, params: Any, inputs: Inputs) -> tuple[Any, Array]:
        """As `step.differentiated` does, but with `Factors` in the place of the kernel's gradient.

        Args:
          objective: logits [B, K] → what is differentiated, and what comes along.
          params: Parameters.
          inputs: Of the system.
        """
        assert inputs.hsf is not None
        layer = KERNEL[0]

        def of(params: Any, probe: Array) -> tuple[Array, tuple[Array, Array]]:
            kept = jax.tree.map_with_path(
                lambda path, leaf: lax.stop_gradient(leaf) if is_kernel(path) else leaf, params
            )
            variables = {"params": kept, PROBES: {layer: {PROBES: probe}}}
            logits, found = self.model.apply(variables, inputs, mutable=[FACTORS])
            value, more = objective(logits)
            return value, (more, found[FACTORS][layer][FACTORS][0])

        probe = jnp.zeros((len(inputs.hsf), params[layer][KERNEL[1]][KERNEL[2]].shape[1]), inputs.hsf.dtype)
        (gradient, slopes), (more, seen) = jax.grad(of, (0, 1), has_aux=True)(params, probe)
        factors = Factors(seen, slopes)
        return jax.tree.map_with_path(lambda path, leaf: factors if is_kernel(path) else leaf, gradient), more


def differentiated(model: nn.Module) -> Differentiated | None:
    """Returns how to differentiate a system that has a kernel to be updated by factors; None if it has none."""
    return Differentiated(model) if isinstance(model, HSFCRNN) and model.arithmetic.native else None


def update(
    params: Any,
    state: optimiser.Adam,
    gradient: Any,
    norm: Array,
    good: Array,
    *,
    clip_norm: float,
    learning_rate: float,
    weight_decay: float,
) -> tuple[Any, optimiser.Adam]:
    """Does what `optimiser.update_moments` and `update_params` leave out: the kernels whose gradients are factors.

    Args:
      params: Parameters.
      state: What `update_moments` has returned.
      gradient: Gradient, a tree like the parameters.
      norm: [] its global norm.
      good: [] bool; False leaves everything as it is, to the bit.
      clip_norm: See `update_moments`.
      learning_rate: See `update_params`.
      weight_decay: See `update_params`.

    Returns:
      The new parameters and the new state.
    """
    correction1, correction2 = optimiser.corrections(state.count)
    scale = optimiser.clip_scale(norm, clip_norm)
    of_step = jnp.stack([good.astype(jnp.float32), scale, 1 / correction1, 1 / correction2])
    constants = {
        "rate": learning_rate,
        "weight_decay": weight_decay,
        "decay1": optimiser.DECAY1,
        "share1": 1 - optimiser.DECAY1,  # not to be computed in float32
        "decay2": optimiser.DECAY2,
        "share2": 1 - optimiser.DECAY2,
        "epsilon": optimiser.EPSILON,
    }

    def move(value: Array, moment1: Array, moment2: Array, slope: Any) -> Any:
        if not isinstance(slope, Factors):
            return value, moment1, moment2
        return native.adam(*slope, of_step, value, moment1, moment2, **constants)

    moved = jax.tree.map(move, params, state.moment1, state.moment2, gradient)
    params, moment1, moment2 = (jax.tree.map(lambda _, found, n=n: found[n], params, moved) for n in range(3))
    return params, state._replace(moment1=moment1, moment2=moment2)


def differences() -> Iterator[float]:
    """Yields how far kernel and moments are from those of the optimiser after two updates, as shares of the largest.

    For `kernel_parity.prepare`.
    """
    rng = np.random.default_rng(1)
    params = own = {"w": jnp.asarray(rng.standard_normal((70, 45)), jnp.float32)}
    state = own_state = optimiser.init(params)
    good, rate, decay = jnp.array(True), 0.1, 0.01
    for _ in range(2):
        factors = Factors(*(jnp.asarray(rng.standard_normal((5, width)), jnp.float32) for width in (70, 45)))
        written = {"w": factors.inputs.T @ factors.slopes}
        norm = optimiser.global_norm(written)
        state = optimiser.update_moments(state, written, norm, good, clip_norm=1.0)
        params, _ = optimiser.update_params(params, None, state, good, learning_rate=rate, weight_decay=decay, ema=0.0)
        own_state = optimiser.update_moments(own_state, {"w": factors}, norm, good, clip_norm=1.0)
        own, own_state = update(
            *(own, own_state, {"w": factors}, norm, good), clip_norm=1.0, learning_rate=rate, weight_decay=decay
        )
    theirs, ours = ((p["w"], s.moment1["w"], s.moment2["w"]) for p, s in ((params, state), (own, own_state)))
    for one, other in zip(ours, theirs, strict=True):
        yield float(jnp.max(jnp.abs(one - other)) / jnp.max(jnp.abs(other)))
