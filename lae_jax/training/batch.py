"""A batch of runs: training mapped over latent sizes, seeds and learning rates at once, on one device or many.

Weights are padded with zero latents to one size, and zero latents stay zero under every rule of the table. So runs of
any latent size are arrays of one shape, and `jax.vmap` (or `jax.lax.map`, which is the same result by another way)
over them is a batch: no loss and no rule knows of it. The functions are pure; `lae_jax.training.sweeps` decides which
runs stand in a batch, and when.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lae_jax import metrics
from lae_jax.covariance import Covariance
from lae_jax.data.layouts import to_host as to_host
from lae_jax.hyperparameters import HYPERPARAMETERS
from lae_jax.params import Array, Value, pad_latents
from lae_jax.training import loop
from lae_jax.training.loop import Problem, Recipe, TrainState
from lae_jax.training.settings import Experiment

# Records between two looks of the host at a batch: fixed, so that no result depends on the clock.
ROWS_PER_CHUNK = 50
Put = TypeVar("Put")  # a tree of arrays
_SHARED, _BY_RUN = PartitionSpec(), PartitionSpec("runs")


class Shared(NamedTuple):
    """What all runs of a batch read."""

    data: Covariance
    components: Array | None  # U (m, k); None where `data` is diagonal


class Run(NamedTuple):
    """One run, padded, as arrays; or a batch of them, stacked along a first axis."""

    learning_rate: Array
    key: Array  # data of a PRNG key
    hyperparameter: Value  # penalties or prior
    momentum: Array
    latent_dim: Array  # active latents
    state: TrainState


def shared(run: Experiment, components: np.ndarray, latent_dim: int) -> Shared:
    """What `run` has in common with its batch, of this padded size; `components` U (m, m) of the data."""
    if run.problem.components is None:
        return Shared(run.problem.data, None)
    return Shared(run.problem.data, jnp.asarray(components[:, :latent_dim], run.problem.components.dtype))


def padded(run: Experiment, latent_dim: int) -> Run:
    """A run before its first step with zero latents up to `latent_dim`, as numpy arrays."""
    recipe, problem, params = run.recipe, run.problem, run.state.params
    hyperparameter = problem.hyperparameter
    if recipe.method.hyperparameter and hyperparameter is not None:
        mode = HYPERPARAMETERS[recipe.method.hyperparameter].pad
        hyperparameter = jnp.pad(hyperparameter, (0, latent_dim - len(hyperparameter)), mode=mode)
    # The optimiser starts at the padded size: all that it keeps is zero for a padded latent.
    state = loop.initial_state(recipe, problem, pad_latents(params, latent_dim))
    key, active = jax.random.key_data(problem.key), jnp.int32(params.encoder.shape[0])
    made = Run(jnp.asarray(problem.learning_rate), key, hyperparameter, jnp.asarray(problem.momentum), active, state)
    return jax.tree.map(np.asarray, made)


def _problem(shared: Shared, run: Run) -> Problem:
    key = jax.random.wrap_key_data(run.key)
    return Problem(
        shared.data, run.learning_rate, key, run.hyperparameter, run.momentum, shared.components, run.latent_dim
    )


@jax.jit
def axis_alignment(shared: Shared, run: Run) -> Array:
    """The distance of one run to an axis-aligned solution, shape (). Def. 7.1."""
    return metrics.axis_alignment(run.state.params.decoder, shared.components, run.latent_dim)


def train_run(
    recipe: Recipe, shared: Shared, run: Run, rows: Array, record_every: Array, target: Array
) -> tuple[TrainState, Array, Array]:
    """Train one run for `rows` records, or until its axis alignment is at or below `target`, or is not a number.

    Returns the state, axis alignment (ROWS_PER_CHUNK,) and how many of its entries are records. All bounds are
    traced, so that one program serves every length.
    """
    problem = _problem(shared, run)

    def going_on(carry: tuple[Array, TrainState, Array, Array]) -> Array:
        count, _, _, alignment = carry
        return (count < rows) & (alignment > target)

    def block(carry: tuple[Array, TrainState, Array, Array]) -> tuple[Array, TrainState, Array, Array]:
        count, state, history, _ = carry
        state = jax.lax.fori_loop(0, record_every, lambda _, inner: loop.step(recipe, problem, inner), state)
        alignment = axis_alignment(shared, run._replace(state=state))
        return count + 1, state, history.at[count].set(alignment), alignment

    dtype = run.state.params.decoder.dtype
    start = (jnp.int32(0), run.state, jnp.zeros(ROWS_PER_CHUNK, dtype), jnp.full((), jnp.inf, dtype))
    count, state, history, _ = jax.lax.while_loop(going_on, block, start)
    return state, history, count


@functools.partial(jax.jit, static_argnames=("recipe", "devices", "at_a_time"))
def advance(
    recipe: Recipe,
    devices: tuple[jax.Device, ...],
    at_a_time: int,
    shared: Shared,
    runs: Run,
    rows: Array,
    record_every: Array,
    target: Array,
) -> tuple[TrainState, Array, Array]:
    """`train_run` of every run of a batch, for rows (runs,) records each; every device has an equal share of the runs.

    A device takes `at_a_time` of its runs side by side (`jax.vmap`) and such groups one after the other, each until
    the last of the group stops: one by one a run costs what it costs alone; all at once is what a device with many
    cores wants. Devices do not talk to each other. Returns what `train_run` does, stacked.
    """

    def on_a_device(
        shared: Shared, runs: Run, rows: Array, record_every: Array, target: Array
    ) -> tuple[TrainState, Array, Array]:
        def one(run_and_rows: tuple[Run, Array]) -> tuple[TrainState, Array, Array]:
            return train_run(recipe, shared, *run_and_rows, record_every, target)

        return jax.lax.map(one, (runs, rows), batch_size=at_a_time if at_a_time > 1 else None)

    specs = (_SHARED, _BY_RUN, _BY_RUN, _SHARED, _SHARED)
    mesh = Mesh(np.asarray(devices), ("runs",))
    mapped = jax.shard_map(on_a_device, mesh=mesh, in_specs=specs, out_specs=_BY_RUN, check_vma=False)
    advanced: tuple[TrainState, Array, Array] = mapped(shared, runs, rows, record_every, target)
    return advanced


# Between the host and the devices, which may belong to several processes. Every process holds all of a tree and
# gives its devices their part of it.


def _put(devices: Sequence[jax.Device], tree: Put, spec: PartitionSpec) -> Put:
    sharding = NamedSharding(Mesh(np.asarray(devices), ("runs",)), spec)

    def put(leaf: np.ndarray) -> Array:
        return jax.make_array_from_callback(leaf.shape, sharding, lambda where: leaf[where])

    placed: Put = jax.tree.map(put, jax.tree.map(np.asarray, tree))
    return placed


def share(devices: Sequence[jax.Device], shared: Shared) -> Shared:
    """A copy for every device."""
    return _put(devices, shared, _SHARED)


def stack(devices: Sequence[jax.Device], runs: Sequence[Put]) -> Put:
    """Trees of one structure as one, an equal share of them on each device."""
    stacked: Put = jax.tree.map(lambda *leaves: np.stack(leaves), *runs)
    return _put(devices, stacked, _BY_RUN)
