"""Training as one compiled loop: steps, records and stopping all on the device.

What decides the program (`Recipe`) is apart from what it computes with (`Problem`, all traced
arrays), so one compilation serves every seed, learning rate, penalty and length of run. History
(diagnostics) is apart from `TrainState` (what the next step needs).
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lae_jax import metrics
from lae_jax.covariance import Covariance, Samples
from lae_jax.data import layouts
from lae_jax.methods import Method
from lae_jax.params import Array, Number, Value, Weights
from lae_jax.training.claims import check_claims
from lae_jax.training.merging import merged
from lae_jax.training.units import in_unit_of_data

History = dict[str, np.ndarray]

# Rows of history a compiled loop can hold before it hands them to the host.
CAPACITY = 512
# Two threads that start programs over several devices may do so in another order on each, and wait for ever.
_ONE_BY_ONE = threading.Lock()
# The columns of history, in order.
COLUMNS = ("step", "loss", *metrics.NAMES)


class Recipe(NamedTuple):
    """What is compiled."""

    method: Method
    optimizer: Callable[[Number, Number], optax.GradientTransformation]  # (learning_rate, momentum) -> optimiser
    batch_size: int = 0  # 0: full batch
    spread: bool = False  # on several devices
    streamed: bool = False  # the data are mini-batches that the caller makes
    spare: int | None = None  # latents that are trained beside those shown; None: as the method has it


class Problem(NamedTuple):
    """What is computed with: a pytree of arrays."""

    data: Covariance
    learning_rate: Number
    key: Array  # PRNG key of batches and of stochastic objectives
    hyperparameter: Value = None  # penalties or prior, whichever the method takes
    momentum: Number = 0.9
    components: Array | None = None  # U (m, k); None where `data` is diagonal
    latent_dim: Array | int | None = None  # active latents, where the weights are padded
    unit: float = 1.0  # that the data are measured in; records come in the data's own


class TrainState(NamedTuple):
    """What the next step needs."""

    step: Array  # int32 ()
    params: Weights
    optimizer_state: optax.OptState


# Records made, the state, their rows, and loss and axis alignment of the last.
Carry = tuple[Array, TrainState, dict[str, Array], Array, Array]


def _rule(recipe: Recipe, problem: Problem) -> optax.GradientTransformationExtraArgs:
    optimizer = recipe.optimizer(problem.learning_rate, problem.momentum)
    return recipe.method.update_rule(optimizer, recipe.batch_size > 0 or recipe.streamed, recipe.spare)


def initial_state(recipe: Recipe, problem: Problem, params: Weights) -> TrainState:
    """State before the first step. Raises InputError where the method is not what it says (`claims.check_claims`)."""
    check_claims(recipe.method, *params.encoder.shape)
    return TrainState(jnp.zeros((), jnp.int32), params, _rule(recipe, problem).init(params))


def step(recipe: Recipe, problem: Problem, state: TrainState) -> TrainState:
    """One update. The same seed and step draw the same batch and the same masks."""
    one = functools.partial(_step, recipe)
    return merged(one)(problem, state) if recipe.spread else one(problem, state)


def _step(recipe: Recipe, problem: Problem, state: TrainState) -> TrainState:
    batch_key, loss_key = jax.random.split(jax.random.fold_in(problem.key, state.step))
    data = problem.data
    if recipe.batch_size:
        samples = cast(Samples, data)
        chosen = jax.random.randint(batch_key, (recipe.batch_size,), 0, samples.count)
        data = Samples(samples.rows[chosen])
    gradients = jax.grad(recipe.method.loss)(state.params, data, loss_key, problem.hyperparameter)
    updates, optimizer_state = _rule(recipe, problem).update(
        gradients, state.optimizer_state, state.params, covariance=data
    )
    return TrainState(state.step + 1, cast(Weights, optax.apply_updates(state.params, updates)), optimizer_state)


def record(recipe: Recipe, problem: Problem, state: TrainState) -> dict[str, Array]:
    """One row of history: the step, the full-batch loss and every metric."""
    loss_key = jax.random.fold_in(problem.key, state.step)
    loss = recipe.method.loss(state.params, problem.data, loss_key, problem.hyperparameter)
    measured = metrics.measure(state.params, problem.data, problem.components, problem.latent_dim)
    return {"step": state.step, "loss": loss, **measured}


@functools.partial(jax.jit, static_argnames="recipe")
def _first_row(recipe: Recipe, problem: Problem, state: TrainState) -> dict[str, Array]:
    return record(recipe, problem, state)


@functools.partial(jax.jit, static_argnames="recipe")
def _advance(
    recipe: Recipe, problem: Problem, state: TrainState, stop: Array, rows: Array, record_every: Array, target: Array
) -> tuple[TrainState, dict[str, Array], Array]:
    """Go on until step `stop`, for at most `rows` records, or to the target, or to a non-finite loss.

    All the bounds are traced: one program whatever the length, so a run that was interrupted and
    goes on computes the same bits as one that was not.
    """
    shapes = jax.eval_shape(functools.partial(record, recipe), problem, state)
    history = {name: jnp.zeros((CAPACITY, *row.shape), row.dtype) for name, row in shapes.items()}

    def running(carry: Carry) -> Array:
        count, state, _, loss, alignment = carry
        return (count < rows) & (state.step < stop) & jnp.isfinite(loss) & (alignment > target)

    def block(carry: Carry) -> Carry:
        count, state, history, _, _ = carry
        todo = jnp.minimum(record_every - state.step % record_every, stop - state.step)
        state = jax.lax.fori_loop(0, todo, lambda _, inner: step(recipe, problem, inner), state)
        row = record(recipe, problem, state)
        history = {name: history[name].at[count].set(row[name]) for name in history}
        return count + 1, state, history, row["loss"], row["axis_alignment"]

    dtype = shapes["loss"].dtype
    start = (jnp.int32(0), state, history, jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype))
    count, state, history, _, _ = jax.lax.while_loop(running, block, start)
    return state, history, count


class DivergenceError(ArithmeticError):
    """The loss is no longer finite. `step` is the first recorded step at which it was not."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss is not finite at step {step}: lower the learning rate")
        self.step = step


def first_row(recipe: Recipe, problem: Problem, state: TrainState) -> History:
    """The row of history at `state`, without a step."""
    row = _first_row(recipe, problem, state)
    history = _to_host(recipe, problem, state, jax.tree.map(lambda value: value[None], row), 1)
    _raise_if_diverged(history)
    return history


def train(
    recipe: Recipe,
    problem: Problem,
    state: TrainState,
    num_steps: int,
    record_every: int = 10,
    target: float = -1.0,
    rows_per_chunk: Callable[[], int] = lambda: CAPACITY,
) -> Iterator[tuple[TrainState, History]]:
    """Train from `state` up to step `num_steps`, yielding (state, new rows of history) chunk by chunk.

    A row every `record_every` steps and at the last one; `first_row` gives the one before them.
    Stops early once axis alignment is at or below `target`. Raises `DivergenceError` after
    yielding the rows up to a non-finite loss.
    """
    spread = layouts.mesh_under(problem.data) is not None
    while int(state.step) < num_steps:
        rows = min(rows_per_chunk(), CAPACITY)
        with _ONE_BY_ONE if spread else contextlib.nullcontext():
            state, buffers, count = _advance(recipe, problem, state, num_steps, rows, record_every, target)
        history = _to_host(recipe, problem, state, buffers, int(count))
        yield state, history
        _raise_if_diverged(history)
        if history["axis_alignment"][-1] <= target:
            return


# A problem with axes in place of arrays: the runs of a batch share the data and its components, and nothing else.
_axes: Any = Problem
_BATCH_AXES = _axes(None, 0, 0, 0, 0, None, 0, None)


@functools.partial(jax.jit, static_argnames=("recipe", "num_steps", "record_every"))
def train_batch(
    recipe: Recipe, problems: Problem, stacked: Weights, num_steps: int, record_every: int = 100
) -> tuple[TrainState, dict[str, Array]]:
    """Train a batch of runs side by side: different k, seeds, learning rates, penalties. Pure, in one program.

    Padding needs no mask: latents of zero stay zero under every rule, and losses and metrics of a padded run are those
    of the run.

    Args:
        recipe: what is compiled.
        problems: as for one run, but `learning_rate`, `key`, `hyperparameter`, `momentum` and `latent_dim` have a
            leading batch axis (b, ...); `latent_dim` (b,) says how many latents of each are its own.
        stacked: weights as `params.stack_latents` gives them.
        num_steps: steps of each run, a multiple of `record_every`.
        record_every: steps between records.

    Returns:
        The states (b, ...), and the history (b, records) of every column of `COLUMNS`.
    """

    def run(problem: Problem, params: Weights) -> tuple[TrainState, dict[str, Array]]:
        def block(state: TrainState, _: None) -> tuple[TrainState, dict[str, Array]]:
            state = jax.lax.fori_loop(0, record_every, lambda _, inner: step(recipe, problem, inner), state)
            return state, record(recipe, problem, state)

        return jax.lax.scan(block, initial_state(recipe, problem, params), length=num_steps // record_every)

    return jax.vmap(run, (_BATCH_AXES, 0))(problems, stacked)


def _to_host(recipe: Recipe, problem: Problem, state: TrainState, buffers: dict[str, Array], rows: int) -> History:
    # A dictionary comes out of a compiled program with its keys sorted: put them back in order.
    fetched: History = layouts.to_host(buffers)
    history = {name: fetched[name][:rows] for name in COLUMNS}
    return in_unit_of_data(recipe.method, history, problem.unit, state.params.encoder.shape[1])


def _raise_if_diverged(history: History) -> None:
    bad = np.flatnonzero(~np.isfinite(history["loss"]))
    if bad.size:
        raise DivergenceError(int(history["step"][bad[0]]))


def concatenate(histories: list[History]) -> History:
    """Chunks of history as one."""
    return {name: np.concatenate([history[name] for history in histories]) for name in histories[0]}
