"""Rules on mini-batches of samples, with a learning rate that decays: where each of them settles (Appendix I.2)."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import optax

from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError
from lae_jax.methods import METHODS
from lae_jax.params import Number
from lae_jax.training import loop, settings
from lae_jax.training.loop import History
from lae_jax.training.settings import Settings

# Of the records that say where a run settles.
_LAST = 5


def decaying(num_steps: int, decay: float) -> optax.Schedule:
    """From 1 at the first step to `decay` at step `num_steps`, exponentially. Raises InputError."""
    if not 0 < decay <= 1:
        raise InputError(f"decay: {decay}: must be above 0 and at most 1 (no decay)")
    return lambda step: decay ** (step / num_steps)


def train(
    asked: Settings,
    dataset: Dataset,
    *,
    num_steps: int,
    decay: float,
    record_every: int = 100,
    on_steps: Callable[[str, int], None] = lambda label, steps: None,
) -> History:
    """Train a method of the table by momentum on mini-batches, its learning rate decaying.

    Args:
        asked: settings with a method by name, `batch_size`, and the `learning_rate` at the start in units of
            1 / sigma_1^2.
        dataset: the data, with its samples.
        num_steps: how many batches.
        decay: the learning rate at the end, in units of that at the start.
        record_every: batches between records of the loss and metrics on all the data.
        on_steps: is told (what is trained, batches taken or, where it diverged, no longer needed).

    Returns:
        History; its last loss is not finite where the run diverged.

    Raises:
        InputError: at settings that cannot be meant so.
    """
    name, rate = str(asked.method), asked.learning_rate or 0.0
    schedule, unit = decaying(num_steps, decay), 1 / float(dataset.variances[0])
    resolved, _ = settings.resolve(dataclasses.replace(asked, learning_rate=rate * unit), dataset)
    built = settings.build(resolved, dataset)

    def nesterov(learning_rate: Number, momentum: Number) -> optax.GradientTransformation:
        return optax.sgd(lambda step: learning_rate * schedule(step), momentum, nesterov=True)

    recipe = loop.Recipe(METHODS[name], nesterov, asked.batch_size)
    start = loop.initial_state(recipe, built.problem, built.state.params)
    parts, done = [loop.first_row(recipe, built.problem, start)], 0
    try:
        for state, history in loop.train(recipe, built.problem, start, num_steps, record_every):
            parts.append(history)
            on_steps(f"{name} at {rate:g}", int(state.step) - done)
            done = int(state.step)
    except loop.DivergenceError:
        on_steps(f"{name} at {rate:g}", num_steps - done)
    return loop.concatenate(parts)


class Settled(NamedTuple):
    """Where a run settles: medians of its last records, inf where it diverged."""

    axis_alignment: float
    subspace_distance: float
    note: str


def settled(history: History) -> Settled:
    """What a history of `train` comes to."""
    if not np.isfinite(history["loss"][-1]):
        infinite = float("inf")
        return Settled(infinite, infinite, f"the loss is not finite at step {history['step'][-1]:.0f}")
    alignment, distance = (np.median(history[name][-_LAST:]) for name in ("axis_alignment", "subspace_distance"))
    return Settled(float(alignment), float(distance), "")
