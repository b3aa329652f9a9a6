"""Training from a stream: any iterable of batches, each read once, centred by the mean so far."""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lae_jax.covariance import Samples
from lae_jax.data.arrays import FillValues, SamplesLike
from lae_jax.data.batches import checked_batch
from lae_jax.errors import InputError
from lae_jax.params import Array, Value, Weights
from lae_jax.training import loop
from lae_jax.training.loop import DivergenceError, Problem, Recipe, TrainState


class StreamResult(NamedTuple):
    """What a stream leaves."""

    params: Weights
    mean: np.ndarray  # (m,) float64, of all the rows; zeros if not centred
    num_rows: int
    losses: np.ndarray  # (batches,), of each batch at the weights before its step


@functools.partial(jax.jit, static_argnames="recipe")
def _step(recipe: Recipe, problem: Problem, state: TrainState) -> tuple[TrainState, Array]:
    # The key that `loop.step` draws masks with, so that the loss told is the one that was descended.
    loss_key = jax.random.split(jax.random.fold_in(problem.key, state.step))[1]
    loss = recipe.method.loss(state.params, problem.data, loss_key, problem.hyperparameter)
    return loop.step(recipe, problem, state), loss


def train_stream(
    recipe: Recipe,
    params: Weights,
    batches: Iterable[SamplesLike],
    learning_rate: float | Callable[[int], float],
    *,
    hyperparameter: Value = None,
    momentum: float = 0.9,
    center: bool = True,
    key: Array | None = None,
    on_batch: Callable[[int, float], None] = lambda rows, loss: None,
) -> StreamResult:
    """One step of a method per batch (n_i, m) of real numbers; `params` as `recipe.method.lift` gives them.

    Each batch is centred, in float64, by the mean of all the rows seen so far, its own included. A batch thus
    shows (1 - n_i / rows so far) of the offset between its mean and the mean before it; from an i.i.d. stream
    the covariance that is learned lacks a share n_i / rows so far of the variance, which fades.

    `learning_rate` may be a schedule of the step (optax's are). The program is compiled once for each distinct
    n_i. The next batch is read while the step runs: `on_batch(rows so far, loss)` and errors come one batch late.
    Raises InputError at a batch that is not such numbers, DivergenceError where the loss is not finite.
    """
    if recipe.batch_size:
        raise InputError(f"batch_size: {recipe.batch_size}: the stream makes the batches; use 0")
    recipe = recipe._replace(streamed=True)
    input_dim, dtype = params.encoder.shape[1], params.encoder.dtype
    rate = learning_rate if callable(learning_rate) else lambda step: learning_rate
    problem = Problem(None, 0.0, jax.random.key(0) if key is None else key, hyperparameter, momentum)  # type: ignore[arg-type] # data below
    state = loop.initial_state(recipe, problem, params)
    losses: list[float] = []
    mean, num_rows, pending, fill_values = np.zeros(input_dim), 0, None, FillValues()

    def settle() -> None:
        if pending is not None:
            losses.append(float(pending[1]))
            if not np.isfinite(losses[-1]):
                raise DivergenceError(len(losses) - 1)
            on_batch(pending[0], losses[-1])

    for index, batch in enumerate(batches):
        rows = checked_batch(index, batch, input_dim).astype(np.float64)
        fill_values.add(rows)
        fill_values.check(f"batches: up to batch {index}:")
        num_rows += len(rows)
        if center:
            mean += (rows.mean(axis=0) - mean) * (len(rows) / num_rows)
        problem = problem._replace(
            data=Samples(jnp.asarray(rows - mean, dtype)), learning_rate=jnp.asarray(rate(index), dtype)
        )
        settle()
        state, loss = _step(recipe, problem, state)
        pending = (num_rows, loss)
    if pending is None:
        raise InputError("batches: there are none; need at least one batch (n_i, m)")
    settle()
    return StreamResult(state.params, mean, num_rows, np.asarray(losses))
