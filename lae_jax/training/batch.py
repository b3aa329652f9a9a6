"""Runs side by side in one compiled program, on one device or many.

A lane is a place in a batch. Every lane holds weights padded with zero latents to the same size,
and its own learning rate, key, penalties or prior; the data are shared. Devices do not talk to
each other: each trains its lanes.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lae_jax import metrics
from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError
from lae_jax.hyperparameters import HYPERPARAMETERS
from lae_jax.params import crop_latents, pad_latents
from lae_jax.training import loop
from lae_jax.training import settings as experiment
from lae_jax.training.loop import Problem, Recipe, TrainState
from lae_jax.training.settings import Experiment, Settings

Array = jax.Array

# Records between two looks of the host at a batch: fixed, so that no result depends on the clock.
ROWS_PER_CHUNK = 50
# A problem with fields left out, or with axes in their place.
_partial: Any = Problem
_LANE_AXES = _partial(None, 0, 0, 0, 0, None, 0)  # the data and the components are shared
_SHARED, _BY_LANE = PartitionSpec(), PartitionSpec("lanes")


@dataclasses.dataclass
class Lane:
    """A run in flight, padded, on the host; its state is up to date after `Batch.fetch`."""

    index: int
    run: Experiment  # but its arrays
    problem: Problem  # what differs between lanes
    state: TrainState
    step: int = 0
    seconds: float = 0.0

    @property
    def params(self) -> Any:
        """The weights without padding, in input coordinates."""
        return self.run.in_input_coordinates(crop_latents(self.state.params, int(self.problem.latent_dim)))  # type: ignore


def start(index: int, settings: Settings, latent_dim: int, dataset: Dataset, target: float) -> Lane:
    """A run before its first step, padded."""
    built = experiment.build(settings, dataset, jax.local_devices()[:1])  # `place` spreads the lanes
    params = pad_latents(built.state.params, latent_dim)
    components, hyperparameter = built.problem.components, built.problem.hyperparameter
    if components is not None:
        components = dataset.components[:, :latent_dim].astype(components.dtype)  # type: ignore[assignment]
    if built.recipe.method.hyperparameter:
        mode = HYPERPARAMETERS[built.recipe.method.hyperparameter].pad
        hyperparameter = jnp.pad(hyperparameter, (0, latent_dim - len(hyperparameter)), mode=mode)  # type: ignore
    problem = built.problem._replace(
        key=jax.random.key_data(built.problem.key),
        hyperparameter=hyperparameter,
        components=components,
        latent_dim=np.int32(settings.latent_dim),  # type: ignore[arg-type]
    )
    # The optimiser starts at the padded size: all that it keeps is zero for a padded latent.
    state = loop.initial_state(built.recipe, built.problem, params)
    if (alignment := float(jax.jit(_axis_alignment)(problem, state))) <= target:
        raise InputError(
            f"target: {target:g} is met before the first step: axis alignment is {alignment:.3g} at the initial weights"
            f" of latent_dim {settings.latent_dim}; choose a smaller one"
        )
    light: Any = built._replace(problem=None, state=None)  # type: ignore[arg-type]
    return Lane(index, light, problem, jax.tree.map(np.asarray, state))


def resume(lane: Lane, saved: Mapping[str, np.ndarray], row: int) -> Lane:
    """The lane as it was saved in this row of `Batch.in_flight`."""
    leaves, structure = jax.tree.flatten(lane.state)
    state = jax.tree.unflatten(structure, [saved[f"leaf{i}"][row] for i in range(len(leaves))])
    return dataclasses.replace(lane, state=state, step=int(saved["step"][row]), seconds=float(saved["seconds"][row]))


def _put(devices: Sequence[jax.Device], tree: Any, spec: PartitionSpec) -> Any:
    sharding = NamedSharding(Mesh(np.asarray(devices), ("lanes",)), spec)

    # Every process holds all of the tree and gives its devices their part of it.
    def put(leaf: np.ndarray) -> Array:
        return jax.make_array_from_callback(leaf.shape, sharding, lambda where: leaf[where])

    return jax.tree.map(put, jax.tree.map(np.asarray, tree))


def meet(devices: Sequence[jax.Device]) -> None:
    """Have all processes at one place, where there are several.

    They wait 30 seconds for each other at their first exchange, as at no later one: too short for
    programs to be compiled before it.
    """
    _to_host(_put(devices, np.zeros(len(devices)), _BY_LANE))


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


class Batch:
    """The lanes of a group on its devices."""

    def __init__(self, devices: Sequence[jax.Device], per_device: int) -> None:
        self._devices = tuple(devices)
        self.lanes: list[Lane | None] = [None] * (len(devices) * per_device)
        self._shared: Problem | None = None

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        return _put(self._devices, tree, spec)

    def place(self) -> None:
        """Lanes from the host to the devices; an empty lane computes on a copy that nobody reads."""
        filler = next(lane for lane in self.lanes if lane)
        lanes = [lane or filler for lane in self.lanes]
        if self._shared is None:  # the data travel once
            alike = _partial(filler.problem.data, None, None, components=filler.problem.components, momentum=None)
            self._shared = self._put(alike, _SHARED)
        for lane in lanes:
            lane.problem = lane.problem._replace(data=None, components=None)  # type: ignore[arg-type]
        stacked = self._put(_stack([lane.problem for lane in lanes]), _BY_LANE)
        self._problem = stacked._replace(data=self._shared.data, components=self._shared.components)
        self._state = self._put(_stack([lane.state for lane in lanes]), _BY_LANE)

    def advance(self, rows: int, record_every: int, target: float) -> tuple[np.ndarray, np.ndarray]:
        """One chunk: axis alignment (lanes, ROWS_PER_CHUNK) and records made (lanes,)."""
        self._state, history, count = advance(*self._arguments(rows, record_every, target))
        history, count = _to_host((history, count))
        return history, count

    def compiled(self) -> jax.stages.Compiled:
        """The program, to be asked what it costs."""
        return advance.lower(*self._arguments(1, 1, 0.0)).compile()

    def _arguments(self, rows: int, record_every: int, target: float) -> tuple[Any, ...]:
        recipe = next(lane.run.recipe for lane in self.lanes if lane)
        active = self._put(np.array([lane is not None for lane in self.lanes]), _BY_LANE)
        return recipe, self._devices, self._problem, self._state, active, rows, record_every, target

    def fetch(self) -> None:
        """States from the devices to the lanes."""
        state = _to_host(self._state)
        for place, lane in enumerate(self.lanes):
            if lane:
                lane.state = jax.tree.map(operator.itemgetter(place), state)

    def in_flight(self) -> dict[str, np.ndarray]:
        """The lanes as arrays by name."""
        self.fetch()
        here = [lane for lane in self.lanes if lane]
        leaves = enumerate(jax.tree.leaves(_stack([lane.state for lane in here]))) if here else ()
        about = {name: np.array([getattr(lane, name) for lane in here]) for name in ("index", "step", "seconds")}
        return about | {f"leaf{i}": leaf for i, leaf in leaves}


def _to_host(tree: Any) -> Any:
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


@functools.partial(jax.jit, static_argnames=("recipe", "devices"))
def advance(
    recipe: Recipe,
    devices: tuple[jax.Device, ...],
    problem: Problem,
    state: TrainState,
    active: Array,
    rows: Array,
    record_every: Array,
    target: Array,
) -> tuple[TrainState, Array, Array]:
    """Train every lane for `rows` records, or until no active lane of its device has any reason to go on.

    Returns the state, axis alignment (lanes, ROWS_PER_CHUNK) and the records made by each lane.
    """
    problem_specs = _partial(*(_SHARED if axis is None else _BY_LANE for axis in _LANE_AXES))
    trained = jax.shard_map(
        functools.partial(_advance_lanes, recipe),
        mesh=Mesh(np.asarray(devices), ("lanes",)),
        in_specs=(problem_specs, _BY_LANE, _BY_LANE, _SHARED, _SHARED, _SHARED),
        out_specs=_BY_LANE,
        check_vma=False,
    )
    result: tuple[TrainState, Array, Array] = trained(problem, state, active, rows, record_every, target)
    return result


def _advance_lanes(
    recipe: Recipe, problem: Problem, state: TrainState, active: Array, rows: Array, record_every: Array, target: Array
) -> tuple[TrainState, Array, Array]:
    problem = problem._replace(key=jax.random.wrap_key_data(problem.key))
    step = jax.vmap(functools.partial(loop.step, recipe), (_LANE_AXES, 0))
    measure = jax.vmap(_axis_alignment, (_LANE_AXES, 0))
    dtype = state.params.decoder.dtype
    lanes = active.shape[0]

    def running(carry: tuple[Any, ...]) -> Array:
        count, _, _, alignment = carry
        # False where the alignment is not a number: a lane that diverged.
        return (count < rows) & jnp.any(active & (alignment > target))

    def block(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        count, state, history, _ = carry
        state = jax.lax.fori_loop(0, record_every, lambda _, inner: step(problem, inner), state)
        alignment = measure(problem, state)
        return count + 1, state, history.at[:, count].set(alignment), alignment

    start = (jnp.int32(0), state, jnp.zeros((lanes, ROWS_PER_CHUNK), dtype), jnp.full(lanes, jnp.inf, dtype))
    count, state, history, _ = jax.lax.while_loop(running, block, start)
    return state, history, jnp.full(lanes, count)


def _axis_alignment(problem: Problem, state: TrainState) -> Array:
    return metrics.axis_alignment(state.params.decoder, problem.components, problem.latent_dim)
