"""One training step, all of it: gradient of a batch, clipping, optimiser, running average, scoring.

Pure functions of one trial. `vmap`, `shard_map` and `jit` are applied where they are called, in
`execution/`. An update has two halves:

    compute_gradients, update_moments    a batch → its gradient → the moments of Adam
    update_params                        the moments → parameters and their running average

`train_step` is both, one after the other: tests call it as it is, accelerators scan it. On a CPU
each half is a program of its own, because XLA makes one loop per result there: in one program the
loop of the parameters reads the moments that other loops overwrite, so every array is copied first.

The gradient of HSF-CRNN's first dense kernel (6.5 of its 7.3 million parameters) has the rank of
the batch, 32. With the package's own kernels it stays a `LowRankGradient`: its norm follows from
two Gram matrices, and Adam forms it a few rows at a time. Written out it would be written once and
read three times in every step.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from ser_jax.data.inputs import Array, Inputs
from ser_jax.data.standardise import Statistics, standardise
from ser_jax.models.crnn import HSFCRNN, TAP
from ser_jax.models.introspection import is_last_layer
from ser_jax.models.kernels import cpu
from ser_jax.training.augmentation import Augmentation, vary_frames, vary_hsf

MOST_BAD_STEPS = 5
DECAY1, DECAY2, EPSILON = 0.9, 0.999, 1e-8  # of Adam
LOW_RANK_KERNEL = ("hsf_dense", "Dense_0", "kernel")

Objective = Callable[[Array], tuple[Array, Array]]  # logits [B, K] → value to differentiate, extra


class TrainSettings(NamedTuple):
    """How all trials are trained; see config.py for units and sources."""

    learning_rate: float  # the highest one
    clip_norm: float  # largest global norm of the gradient
    patience: int = 0  # epochs without a better one after which a trial stops; 0: never
    # fraction of a kernel that is taken off per unit of the learning rate (decoupled: Loshchilov
    # and Hutter 2019); biases are not decayed
    weight_decay: float = 0.0
    ema: float = 0.0  # decay of the running average of the parameters, then the model; 0: none
    label_smoothing: float = 0.0  # see `cross_entropy`
    augmentation: Augmentation | None = None  # how batches are varied; None: not at all
    dropout: bool = False  # whether the system drops values in training
    optimizer: str = "adam"  # adam, or a key of `OPTAX_OPTIMIZERS`
    schedule: str = "constant"  # of the learning rate: a key of `SCHEDULES`
    warmup_updates: int = 0  # updates in which the learning rate rises from 0
    total_updates: int = 0  # updates at whose end a schedule that decays has reached 0
    equal_weights: bool = False  # whether every utterance weighs the same in an epoch
    # factor of the learning rate of all layers but the last; 0: they are frozen
    front_rate: float = 1.0

    @property
    def draws(self) -> bool:
        """Whether steps draw random numbers: then every trial needs a key in its constants."""
        return self.dropout or self.augmentation is not None

    def rate_factor(self, path: Sequence[Any]) -> float:
        """Factor of the learning rate of the parameter at a place in the tree of parameters."""
        return 1.0 if is_last_layer(path[0].key) else self.front_rate


class Bucket(NamedTuple):
    """Utterances of one padded length, shared by all trials."""

    inputs: Inputs  # raw features of n utterances
    # [n] i32, class numbers, in joined corpora plus K times the number of the corpus; −1: unknown
    targets: Array


class TrialConstants(NamedTuple):
    """What distinguishes a trial besides its parameters and batches."""

    statistics: Statistics  # standardisation of its training part
    class_weights: (
        Array  # [K · corpora] f32, weight in the loss, by the numbers of `Bucket.targets`
    )
    key: Array | None = None  # [2] u32, data of the key of its random draws; None: no draws
    # [] f32, mean weight of its batches, the divisor of their losses; None: each by its own weight
    batch_weight: Array | None = None


class Counters(NamedTuple):
    """Sums of one trial."""

    loss_sum: Array  # [] f32, weighted cross-entropy summed since the epoch began
    weight_sum: Array  # [] f32, sum of the weights
    skipped: Array  # [] i32, updates skipped because loss or gradient was not finite, ever
    bad_steps: Array  # [] i32, the same in a row; at MOST_BAD_STEPS the trial has diverged
    active: Array  # [] bool, False once the trial has stopped or diverged; then nothing changes


class Adam(NamedTuple):
    """State of the optimiser."""

    moment1: Any  # running mean of the clipped gradient, a tree like the parameters
    moment2: Any  # running mean of its square
    count: Array  # [] i32, updates made


class OptaxState(NamedTuple):
    """State of an optimiser of `OPTAX_OPTIMIZERS`."""

    direction: Any  # what the parameters are moved against, a tree like them
    inner: Any  # state of the optax transformation
    count: Array  # [] i32, updates made


class TrainState(NamedTuple):
    """State of one trial."""

    params: Any  # parameters
    adam: Adam | OptaxState  # state of the optimiser, whichever (the name is in checkpoints)
    counters: Counters  # sums
    average: Any = None  # running average of the parameters; None without one

    @property
    def model(self) -> Any:
        """The parameters that are scored and kept: the average, if there is one."""
        return self.params if self.average is None else self.average


class LowRankGradient(NamedTuple):
    """A gradient inputsᵀ · output_grads that is not written out."""

    inputs: Array  # [B, I] f32, what the dense layer reads
    output_grads: Array  # [B, O] f32, gradient of what it returns


class Gradients(NamedTuple):
    """Result of one batch."""

    grads: Any  # A tree like the parameters; `LowRankGradient` in the place of the low-rank kernel
    norm: Array  # [] f32, its global norm
    # [] bool, whether it is applied: the batch has a real row, loss and gradient are finite, and
    # the trial has neither stopped nor diverged
    valid: Array


def init_state(params: Any, settings: TrainSettings | None = None) -> TrainState:
    """Returns the state of a trial before its first step."""
    averaged = settings is not None and settings.ema > 0
    zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    counters = Counters(zero, zero, none, none, jnp.array(True))
    average = jax.tree.map(jnp.copy, params) if averaged else None
    adam = init_adam(params)
    if settings is not None and settings.optimizer in OPTAX_OPTIMIZERS:
        inner = OPTAX_OPTIMIZERS[settings.optimizer]().init(params)
        adam = OptaxState(adam.moment1, inner, adam.count)
    return TrainState(params, adam, counters, average)


def init_adam(params: Any) -> Adam:
    """Returns the state of the optimiser before the first update."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return Adam(zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros((), jnp.int32))


# --- The gradient of a batch


def take(bucket: Bucket, rows: Array) -> tuple[Inputs, Array]:
    """Gathers rows [B] of a bucket; returns raw inputs and class numbers [B]."""
    return jax.tree.map(lambda values: values[rows], bucket.inputs), bucket.targets[rows]


def updates_made(trial: TrialConstants, adam: Adam | OptaxState) -> Array | None:
    """Returns the number that tells the random draws of one step from those of another, if any."""
    return None if trial.key is None else adam.count


def row_keys(key: Array, updates: Array, rows: int, axis: str | None) -> Array:
    """Returns [rows, 2] u32: a key for every row of a batch.

    They follow from the trial's key [2] u32, the number of updates it has made and the row's place
    in the batch (spread over `axis`, if any): neither an interruption, nor other trials, nor the
    number of devices changes the draws.
    """
    first = 0 if axis is None else lax.axis_index(axis) * rows
    of_step = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), updates)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(of_step, first + jnp.arange(rows))
    return jax.random.key_data(keys)


def cross_entropy(logits: Array, targets: Array, weights: Array, smoothing: float = 0.0) -> Array:
    """Returns Σ w·ce of logits [B, K], class numbers [B] and weights [B] (0: does not count).

    With `smoothing` s the truth is 1 − s + s/K, and s/K for the other classes (Szegedy et al. 2016,
    section 7).
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * jnp.mean(jax.nn.log_softmax(logits), -1)
    return jnp.sum(jnp.where(weights > 0, losses, 0) * weights)


def compute_gradients(
    model: nn.Module,
    settings: TrainSettings,
    bucket: Bucket,
    params: Any,
    counters: Counters,
    trial: TrialConstants,
    rows: Array,
    mask: Array,
    updates: Array | None = None,
    *,
    axis: str | None = None,
) -> tuple[Gradients, Counters]:
    """Computes the gradient of one batch of one trial; the loss is Σ w·ce / `trial.batch_weight`.

    Without that it is Σ w·ce / max(Σ w, tiny), by which an utterance weighs more in a batch that is
    not full.

    Args:
      model: The system: `model.apply({"params": params}, inputs)` → logits [B, K].
      settings: How it is trained.
      bucket: The bucket that the batch is from.
      params: Parameters.
      counters: Sums of the trial.
      trial: Its statistics, class weights and key.
      rows: [B] i32, the batch: rows of the bucket.
      mask: [B] bool, True = a real utterance of this trial.
      updates: [] i32, see `updates_made`.
      axis: Mesh axis over which the rows of the batch are spread; None: all of them are here.

    Returns:
      The gradient of the whole batch, and the new sums.
    """
    # Padding rows repeat the first real row: 0 · NaN would otherwise reach the gradient.
    rows = jnp.where(mask, rows, rows[jnp.argmax(mask)])
    raw, targets = take(bucket, rows)
    keys = None if updates is None else row_keys(trial.key, updates, len(rows), axis)
    augmentation = settings.augmentation
    if augmentation is None:
        inputs = standardise(raw, trial.statistics, jnp)
    else:
        assert keys is not None
        varied = vary_frames(raw, keys, trial.statistics, augmentation)
        inputs = vary_hsf(standardise(varied, trial.statistics, jnp), keys, augmentation)
    if axis is not None:  # There may be no real row among those that are here.
        inputs = jax.tree.map(lambda leaf: jnp.where(mask.any(), leaf, jnp.ones_like(leaf)), inputs)
    inputs = inputs._replace(keys=keys)
    weights = jnp.where(mask, trial.class_weights[targets], 0)
    weight, real = _summed((jnp.sum(weights), jnp.sum(mask)), axis)
    divisor = trial.batch_weight
    if divisor is None:
        divisor = jnp.maximum(weight, jnp.finfo(weight.dtype).tiny)

    def loss(logits: Array) -> tuple[Array, Array]:
        classes = targets % logits.shape[-1]
        total = cross_entropy(logits, classes, weights, settings.label_smoothing)
        return total / divisor, total

    low_rank = uses_low_rank(model, settings, axis)
    if low_rank:
        found = low_rank_gradient(model, loss, params, inputs)
    else:
        found = full_gradient(model, loss, params, inputs, settings)
    grads, total = _summed(found, axis)
    norm = global_norm(grads)
    trains = (real > 0) & counters.active & (counters.bad_steps < MOST_BAD_STEPS)
    finite = jnp.isfinite(norm) & jnp.isfinite(counters.loss_sum + total)
    valid = trains & finite
    bad = (trains & ~finite).astype(jnp.int32)
    counters = Counters(
        loss_sum=counters.loss_sum + jnp.where(valid, total, 0),
        weight_sum=counters.weight_sum + jnp.where(valid, weight, 0),
        skipped=counters.skipped + bad,
        bad_steps=jnp.where(valid, 0, counters.bad_steps + bad),
        active=counters.active,
    )
    return Gradients(grads, norm, valid), counters


def _summed(tree: Any, axis: str | None) -> Any:
    return tree if axis is None else lax.psum(tree, axis)


def full_gradient(
    model: nn.Module, objective: Objective, params: Any, inputs: Inputs, settings: TrainSettings
) -> tuple[Any, Array]:
    """Returns the gradient of objective(logits)[0], a tree like the parameters, and its [1].

    That of frozen parameters is 0: they do not count in the norm, and nothing is computed for them.
    """

    def of(params: Any) -> tuple[Array, Array]:
        if not settings.front_rate:
            params = jax.tree.map_with_path(
                lambda path, leaf: leaf if settings.rate_factor(path) else lax.stop_gradient(leaf),
                params,
            )
        return objective(model.apply({"params": params}, inputs))

    return jax.grad(of, has_aux=True)(params)


def uses_low_rank(model: nn.Module, settings: TrainSettings, axis: str | None) -> bool:
    """Returns whether the gradient of the model's largest kernel stays a `LowRankGradient`."""
    own = isinstance(model, HSFCRNN) and model.compute.native and axis is None
    trained = settings.front_rate > 0
    return own and trained and settings.optimizer == "adam" and has_constant_rate(settings)


def is_low_rank(path: Sequence[Any]) -> bool:
    """Returns whether a place in the tree of parameters is that of the low-rank kernel."""
    return tuple(part.key for part in path) == LOW_RANK_KERNEL


def low_rank_gradient(
    model: nn.Module, objective: Objective, params: Any, inputs: Inputs
) -> tuple[Any, Array]:
    """Does what `full_gradient` does, with a `LowRankGradient` for the kernel of that rank."""
    assert inputs.hsf is not None
    layer = LOW_RANK_KERNEL[0]

    def of(params: Any, probe: Array) -> tuple[Array, tuple[Array, Array]]:
        kept = jax.tree.map_with_path(
            lambda path, leaf: lax.stop_gradient(leaf) if is_low_rank(path) else leaf, params
        )
        variables = {"params": kept, "perturbations": {layer: {TAP: probe}}}
        logits, seen = model.apply(variables, inputs, mutable=["intermediates"])
        value, extra = objective(logits)
        return value, (extra, seen["intermediates"][layer][TAP][0])

    _, dense, kernel = LOW_RANK_KERNEL
    width = params[layer][dense][kernel].shape[1]
    probe = jnp.zeros((len(inputs.hsf), width), inputs.hsf.dtype)
    (grads, output_grads), (extra, seen) = jax.grad(of, (0, 1), has_aux=True)(params, probe)
    low_rank = LowRankGradient(seen, output_grads)
    return jax.tree.map_with_path(
        lambda path, leaf: low_rank if is_low_rank(path) else leaf, grads
    ), extra


def global_norm(grads: Any) -> Array:
    """Returns [] f32, the Euclidean norm of all gradients together.

    By products: they sum faster than XLA's reduction does.
    """

    def square(leaf: Any) -> Array:
        if isinstance(leaf, LowRankGradient):  # ‖XᵀG‖² = Σ (X Xᵀ)(G Gᵀ), element by element
            gram, other = leaf.inputs @ leaf.inputs.T, leaf.output_grads @ leaf.output_grads.T
            return jnp.maximum(jnp.vdot(gram, other), 0)
        return jnp.vdot(leaf, leaf)

    return jnp.sqrt(sum(map(square, _leaves(grads))))


def _leaves(grads: Any) -> list[Any]:
    return jax.tree.leaves(grads, is_leaf=lambda node: isinstance(node, LowRankGradient))


def _any_low_rank(grads: Any) -> bool:
    return any(isinstance(leaf, LowRankGradient) for leaf in _leaves(grads))


# --- The optimiser, behind a clip of the global norm. The paper names none. Adam (Kingma and Ba
# 2015, algorithm 1) is written out because of its two halves and the low-rank kernel; with
# `optax.chain(clip_by_global_norm(c), adamw(…))` as the oracle of tests. The others are optax's.

OPTAX_OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.trace(decay=0.9),  # with momentum
    "rmsprop": optax.scale_by_rms,
    "adagrad": optax.scale_by_rss,
    "lion": optax.scale_by_lion,
}
OPTIMIZERS = ("adam", *OPTAX_OPTIMIZERS)
SCHEDULES = ("constant", "cosine", "linear")


def has_constant_rate(settings: TrainSettings) -> bool:
    """Returns whether the learning rate is the same in every update."""
    return settings.schedule == "constant" and not settings.warmup_updates


def learning_rate(settings: TrainSettings, count: Array) -> float | Array:
    """Returns the learning rate of update number `count`, from 1: warm-up, then the schedule."""
    if has_constant_rate(settings):
        return settings.learning_rate
    peak, warmup = settings.learning_rate, settings.warmup_updates
    rest = max(1, settings.total_updates - warmup)
    decay = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
    }[settings.schedule]
    rise = optax.linear_schedule(0.0, peak, max(1, warmup))
    return jnp.asarray(optax.join_schedules([rise, decay], [warmup])(count - 1))


def clip_scale(norm: Array, clip_norm: float) -> Array:
    """Returns [] f32, the factor that brings a gradient of this norm down to `clip_norm`."""
    return jnp.where(norm < clip_norm, 1, clip_norm / norm)


def bias_corrections(count: Array) -> tuple[Array, Array]:
    """Returns [] f32 each, the divisors of both moments after so many updates from zero."""
    return 1 - DECAY1**count, 1 - DECAY2**count


def decays(path: Sequence[Any]) -> bool:
    """Returns whether weight decay applies to a parameter: to kernels, not to biases."""
    return path[-1].key.endswith("kernel")


def update_moments(
    settings: TrainSettings, params: Any, adam: Any, gradients: Gradients
) -> tuple[Any, Any]:
    """Takes a gradient into the moments of Adam, or the state of another optimiser.

    Where the gradient is not valid everything stays as it is, to the bit. Of the parameters only
    those whose gradient is a `LowRankGradient` are updated here. Returns parameters and state.
    """
    grads, norm, valid = gradients
    scale = clip_scale(norm, settings.clip_norm)
    if isinstance(adam, OptaxState):
        transformation = OPTAX_OPTIMIZERS[settings.optimizer]()
        clipped = jax.tree.map(lambda grad: grad * scale, grads)
        new = OptaxState(*transformation.update(clipped, adam.inner, params), adam.count + 1)
        return params, jax.tree.map(lambda new, old: jnp.where(valid, new, old), new, adam)

    def stays(path, grad):
        return isinstance(grad, LowRankGradient) or not settings.rate_factor(path)

    def first(path, moment, grad):
        if stays(path, grad):
            return moment
        return jnp.where(valid, DECAY1 * moment + (1 - DECAY1) * (grad * scale), moment)

    def second(path, moment, grad):
        if stays(path, grad):
            return moment
        return jnp.where(valid, DECAY2 * moment + (1 - DECAY2) * (grad * scale) ** 2, moment)

    adam = Adam(
        jax.tree.map_with_path(first, adam.moment1, grads),
        jax.tree.map_with_path(second, adam.moment2, grads),
        jnp.where(valid, adam.count + 1, adam.count),
    )
    if not _any_low_rank(grads):
        return params, adam
    correction1, correction2 = bias_corrections(adam.count)
    of_step = jnp.stack([valid.astype(jnp.float32), scale, 1 / correction1, 1 / correction2])
    constants = {
        "rate": settings.learning_rate * settings.front_rate,
        "weight_decay": settings.weight_decay,
        **{"decay1": DECAY1, "decay2": DECAY2, "epsilon": EPSILON},
    }

    def update(value: Array, moment1: Array, moment2: Array, grad: Any) -> Any:
        if not isinstance(grad, LowRankGradient):
            return value, moment1, moment2
        return cpu.adam(*grad, of_step, value, moment1, moment2, **constants)

    new = jax.tree.map(update, params, adam.moment1, adam.moment2, grads)
    params, moment1, moment2 = (
        jax.tree.map(lambda _, leaf, n=n: leaf[n], params, new) for n in range(3)
    )
    return params, adam._replace(moment1=moment1, moment2=moment2)


def update_params(
    settings: TrainSettings,
    params: Any,
    average: Any,
    adam: Any,
    valid: Array,
    *,
    low_rank: bool = False,
) -> tuple[Any, Any]:
    """Moves parameters and their average (None: none) along the moments after `update_moments`.

    With `valid` False all stay, to the bit, and frozen ones always; `low_rank`: whether the
    low-rank kernel is updated already. The decay of the average is at most (1 + n) / (10 + n) in
    update n, so that it leaves the initial values.
    """
    correction1, correction2 = bias_corrections(adam.count)
    rate = learning_rate(settings, adam.count)

    def update(path, value, moment1, *moment2):
        factor = settings.rate_factor(path)
        if not factor or (low_rank and is_low_rank(path)):
            return value
        step = moment1
        if moment2:
            step = (moment1 / correction1) / (jnp.sqrt(moment2[0] / correction2) + EPSILON)
        if settings.weight_decay and decays(path):
            step += settings.weight_decay * value
        return jnp.where(valid, value - rate * factor * step, value)

    directions = (adam.direction,) if isinstance(adam, OptaxState) else (adam.moment1, adam.moment2)
    params = jax.tree.map_with_path(update, params, *directions)
    if average is None:
        return params, None
    decay = jnp.minimum(settings.ema, (1.0 + adam.count) / (10.0 + adam.count))

    def mix(path, mean, value):
        if not settings.rate_factor(path):
            return mean
        return jnp.where(valid, decay * mean + (1 - decay) * value, mean)

    return params, jax.tree.map_with_path(mix, average, params)


# --- The step


def apply_gradients(
    settings: TrainSettings, state: TrainState, gradients: Gradients, counters: Counters
) -> TrainState:
    """Returns the state after an update; see `update_moments` and `update_params`."""
    low_rank = _any_low_rank(gradients.grads)
    params, adam = update_moments(settings, state.params, state.adam, gradients)
    params, average = update_params(
        settings, params, state.average, adam, gradients.valid, low_rank=low_rank
    )
    return TrainState(params, adam, counters, average)


def train_step(
    model: nn.Module,
    settings: TrainSettings,
    bucket: Bucket,
    state: TrainState,
    trial: TrialConstants,
    rows: Array,
    mask: Array,
    *,
    axis: str | None = None,
) -> TrainState:
    """One update of one trial; arguments as for `compute_gradients`.

    Where the gradient is not valid, parameters and optimiser stay as they are, to the bit.
    """
    gradients, counters = compute_gradients(
        *(model, settings, bucket, state.params, state.counters, trial, rows, mask),
        updates_made(trial, state.adam),
        axis=axis,
    )
    return apply_gradients(settings, state, gradients, counters)


def score_step(
    model: nn.Module, bucket: Bucket, params: Any, statistics: Statistics, rows: Array
) -> Array:
    """Returns the logits [B, K] of one batch of one trial; arguments as for `compute_gradients`."""
    inputs = standardise(take(bucket, rows)[0], statistics, jnp)
    return model.apply({"params": params}, inputs)
