"""How near streaming rules come to the statistical limit: the eigenvectors of the covariance of the same samples.

The ratio is the mean over seeds of a rule's distance to the components of the population, over the mean of that limit's
on the same draws: 1 is the best that any rule can do, asymptotically and without prior knowledge; one seed says little.
Every rule takes every batch once, one rule after the other, so that their times are of one machine. A rule that has a
learning rate is run at each of several, falling exponentially.

Legend: V (m, k) the directions that a rule holds; X (b, m) a batch, of mean zero in the population.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from lae_jax import baselines, metrics, params
from lae_jax.covariance import Covariance, Samples
from lae_jax.hyperparameters import HYPERPARAMETERS
from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.params import Array
from lae_jax.training import loop, low_rank
from lae_jax.training.populations import Population, drifting_stream

# Where the learning rate ends, in units of that at the start.
DECAY = 0.01
# Of a rule: arrays, or an estimator of scikit-learn and a size. A rule knows its own, and nothing else looks into it.
State = Any


class StreamingRule(NamedTuple):
    """A rule that takes batches one by one."""

    label: str
    start: Callable[[Population, int, int], State]  # (population, k, seed) -> state
    step: Callable[[State, np.ndarray, float], State]  # (state, batch, learning rate) -> state
    directions: Callable[[State], np.ndarray | Array]  # state -> (m, k)
    rates: tuple[float, ...] = (0.0,)  # to be tried, in units of 1 / d_1; a rule without takes any number


class Ratio(NamedTuple):
    """A rule beside the limit, means over the seeds."""

    rule: str
    rate: float  # in units of 1 / d_1; the one of least axis alignment of those tried
    axis_alignment: float  # Def. 7.1
    subspace_distance: float  # Def. 7.2
    ratio: float  # of the axis alignment to the limit's
    subspace_ratio: float
    microseconds: float  # of a batch, the mean of all but the slowest twentieth
    kibibytes: float  # that are held between batches, at most


def _random_start(population: Population, latent_dim: int, seed: int) -> Array:
    noise = jax.random.normal(jax.random.key(seed), (len(population.components), latent_dim))
    return jnp.linalg.qr(noise)[0]


def _ascent(
    direction: Callable[[Array, Covariance], Array], retract: Callable[[Array], Array] = lambda decoder: decoder
) -> Callable[[State, np.ndarray, float], State]:
    @jax.jit
    def step(decoder: Array, rows: Array, rate: float) -> Array:
        return retract(decoder + rate * direction(decoder, Samples(rows)))

    return step


def _krasulina(decoder: Array, covariance: Covariance) -> Array:
    """(I - V V^T) C V: a variance-reduced Oja. Tang 2019."""
    product = covariance @ decoder
    return product - decoder @ (decoder.T @ product)


def _unit_columns(decoder: Array) -> Array:
    return decoder / jnp.linalg.norm(decoder, axis=0, keepdims=True)


@jax.jit
def _adaoja(state: tuple[Array, Array], rows: Array, _: float) -> tuple[Array, Array]:
    """Oja with a step 1 / sqrt(sum of squared gradients) for each column. Henriksen and Ward 2019."""
    decoder, squares = state
    gradient = Samples(rows) @ decoder
    squares = squares + jnp.sum(gradient**2, axis=0)
    return baselines.orthonormal_columns(decoder + gradient / jnp.sqrt(squares)[None, :]), squares


def _incremental_pca(size: int) -> Callable[[Population, int, int], State]:
    def start(population: Population, latent_dim: int, seed: int) -> State:
        from sklearn.decomposition import IncrementalPCA  # takes seconds to import, which streams need not wait for

        return IncrementalPCA(size * latent_dim), latent_dim

    return start


def _partial_fit(state: State, rows: np.ndarray, _: float) -> State:
    return state[0].partial_fit(rows), state[1]


def _history_start(population: Population, latent_dim: int, seed: int) -> State:
    input_dim = len(population.components)
    rule = low_rank.stream_rule(latent_dim, input_dim, center=False)
    return rule, low_rank.start(rule, input_dim, seed)


def _history_step(state: State, rows: np.ndarray, _: float) -> State:
    rule, history = state
    return rule, low_rank.extend(rule, history, rows)[0]


def _history_directions(state: State) -> np.ndarray | Array:
    return low_rank.finish(*state).vectors[:, : state[0].latent_dim]


def _leading(state: State) -> np.ndarray:
    return state[0].components_[: state[1]].T


@functools.partial(jax.jit, static_argnames="recipe")
def _method_step(recipe: loop.Recipe, problem: loop.Problem, state: loop.TrainState) -> loop.TrainState:
    return loop.step(recipe, problem, state)


def of_method(name: str, rates: tuple[float, ...]) -> StreamingRule:
    """A row of METHODS under Nesterov momentum, with its default penalties or prior."""
    method = METHODS[name]
    recipe = loop.Recipe(method, OPTIMIZERS["nesterov"].build, streamed=True)
    kind = HYPERPARAMETERS[method.hyperparameter] if method.hyperparameter else None

    def start(population: Population, latent_dim: int, seed: int) -> State:
        key, given = jax.random.key(seed), None
        if kind:
            given = jnp.asarray(kind.default(population.variances, latent_dim), jnp.float32)
        weights = params.gaussian(key, latent_dim, len(population.components))
        problem = loop.Problem(None, jnp.float32(0), key, given)  # type: ignore[arg-type] # data below
        return problem, loop.initial_state(recipe, problem, method.lift(weights))

    def step(state: State, rows: np.ndarray, rate: float) -> State:
        problem = state[0]._replace(data=Samples(jnp.asarray(rows)), learning_rate=jnp.float32(rate))
        return state[0], _method_step(recipe, problem, state[1])

    return StreamingRule(method.label, start, step, lambda state: np.asarray(state[1].params.decoder), rates)


# Rates from which the best is taken: on streams of 100 batches and more it is at no end of them.
RULES: dict[str, StreamingRule] = {
    "low_rank_history": StreamingRule("low-rank history", _history_start, _history_step, _history_directions),
    "aligned": of_method("aligned", (0.1, 0.3, 1.0)),
    "incremental_pca_2k": StreamingRule("IncrementalPCA, 2 k", _incremental_pca(2), _partial_fit, _leading),
    "incremental_pca": StreamingRule("IncrementalPCA, k", _incremental_pca(1), _partial_fit, _leading),
    "generalized_hebbian": StreamingRule(
        "generalised Hebbian",
        _random_start,
        _ascent(baselines.generalized_hebbian_direction),
        np.asarray,
        (0.1, 0.3, 1.0, 1.5, 2.0),
    ),
    "eigengame_mu": StreamingRule(
        "mu-EigenGame",
        _random_start,
        _ascent(baselines.eigengame_mu_direction, _unit_columns),
        np.asarray,
        (0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    ),
    "adaoja": StreamingRule(
        "Oja, AdaOja's step",
        lambda *size: (_random_start(*size), jnp.full(size[1], 1e-10)),
        _adaoja,
        lambda state: np.asarray(state[0]),
    ),
    # Finds the span alone.
    "krasulina": StreamingRule(
        "matrix Krasulina",
        _random_start,
        _ascent(_krasulina, baselines.orthonormal_columns),
        np.asarray,
        (1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
    ),
}


@jax.jit
def _measure(decoder: Array, components: Array) -> tuple[Array, Array]:
    return metrics.axis_alignment(decoder, components), metrics.subspace_distance(decoder, components)


def _distances(directions: ArrayLike, components: np.ndarray) -> tuple[float, float]:
    alignment, distance = _measure(np.asarray(directions, np.float32), np.asarray(components, np.float32))
    return float(alignment), float(distance)


def _kibibytes(state: State) -> float:
    """What the arrays of a state take, those of an estimator included."""
    leaves = [*jax.tree.leaves(state)]
    owned = [value for leaf in leaves for value in getattr(leaf, "__dict__", {}).values()]
    return sum(each.nbytes for each in (*leaves, *owned) if isinstance(each, np.ndarray | jax.Array)) / 1024


def ratios_to_limit(
    population: Population,
    latent_dim: int,
    *,
    num_batches: int,
    batch_size: int = 256,
    num_seeds: int = 12,
    rules: Mapping[str, StreamingRule] = RULES,
    on_batches: Callable[[int], None] = lambda batches: None,
) -> list[Ratio]:
    """Run every rule on the same samples of a population whose components are known.

    Args:
        population: what is drawn from.
        latent_dim: k.
        num_batches: each is seen once.
        batch_size: b, at least 2 k for IncrementalPCA.
        num_seeds: at least 12 for a figure that can be told.
        rules: by name; more of one's own may stand beside `RULES`.
        on_batches: is told how many batches every rule has just taken.

    Returns:
        A row for the limit itself and one for each rule, at the best of its rates.
    """
    components = population.components[:, :latent_dim]
    runs = [(name, rate) for name, rule in rules.items() for rate in rule.rates]
    limits: list[tuple[float, float]] = []
    found: dict[tuple[str, float], list[tuple[float, float]]] = {run: [] for run in runs}
    times: dict[tuple[str, float], list[float]] = {run: [] for run in runs}
    held = dict.fromkeys(runs, 0.0)
    for seed in range(num_seeds):
        generator, total = np.random.default_rng(seed), np.zeros((len(components),) * 2)
        states = {run: rules[run[0]].start(population, latent_dim, seed) for run in runs}
        for batch in range(num_batches):
            rows = population.draw(generator, batch_size).astype(np.float32)
            total += rows.T @ rows
            falling = DECAY ** (batch / num_batches) / float(population.variances[0])
            for run in runs:
                began = time.perf_counter()
                states[run] = jax.block_until_ready(rules[run[0]].step(states[run], rows, run[1] * falling))
                times[run].append(time.perf_counter() - began)
                held[run] = max(held[run], _kibibytes(states[run]))
            on_batches(1)
        limits.append(_distances(np.linalg.eigh(total)[1][:, ::-1][:, :latent_dim], components))
        for run, state in states.items():
            found[run].append(_distances(rules[run[0]].directions(state), components))
    limit = np.mean(limits, axis=0)
    table = [Ratio("limit", 0.0, float(limit[0]), float(limit[1]), 1.0, 1.0, 0.0, 8 * len(components) ** 2 / 1024)]
    for name, rule in rules.items():
        rows_of = []
        for run in [(name, rate) for rate in rule.rates]:
            ends = np.nan_to_num(np.mean(found[run], axis=0), nan=np.inf)
            each = 1e6 * float(np.mean(np.sort(times[run])[: -(-19 * len(times[run]) // 20)]))
            (alignment, subspace), (ratio, subspace_ratio) = ends.tolist(), (ends / limit).tolist()
            rows_of.append(Ratio(*run, alignment, subspace, ratio, subspace_ratio, each, held[run]))
        table.append(min(rows_of, key=lambda row: row.axis_alignment))
    return table


class Tracking(NamedTuple):
    """How far from the components of the moment, on average, on a stream that turns."""

    counted: int  # samples, 1 / forget; the window has twice as many, which is the same mean age and variance
    low_rank_history: float  # axis alignment
    sliding_window: float  # that of the eigenvectors of the last samples

    @property
    def ratio(self) -> float:
        """Ours over the window's."""
        return self.low_rank_history / self.sliding_window


def tracking(
    variances: np.ndarray, latent_dim: int, counted: int, *, num_batches: int, batch_size: int, turns: float
) -> Tracking:
    """The rule that forgets beside the eigenvectors of a sliding window, once two windows are over."""
    input_dim, window = len(variances), max(1, 2 * counted // batch_size)
    batches, components = drifting_stream(input_dim, num_batches, batch_size, variances, turns)
    rule = low_rank.stream_rule(latent_dim, input_dim, forget=1 / counted, center=False)
    state, ours, theirs = low_rank.start(rule, input_dim), [], []
    for index, (rows, truth) in enumerate(zip(batches, components, strict=True)):
        state, _ = low_rank.extend(rule, state, rows.astype(np.float32))
        if index >= 2 * window and index % 3 == 0:
            recent = np.concatenate(batches[index - window + 1 : index + 1])
            leading = np.linalg.eigh(recent.T @ recent)[1][:, ::-1][:, :latent_dim]
            ours.append(_distances(low_rank.finish(rule, state).vectors[:, :latent_dim], truth[:, :latent_dim])[0])
            theirs.append(_distances(leading, truth[:, :latent_dim])[0])
    return Tracking(counted, float(np.mean(ours)), float(np.mean(theirs)))
