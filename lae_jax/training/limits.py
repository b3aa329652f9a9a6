"""How near streaming rules come to the statistical limit: the eigenvectors of the covariance of the same samples.

The ratio is the mean over seeds of a rule's distance to the components of the population, over the mean of that limit's
on the same draws: 1 is the best that any rule can do, asymptotically and without prior knowledge; one seed says little.
Every rule sees each batch once. A rule that has a learning rate is run at each of several, falling exponentially.

Legend: V (m, k) the directions that a rule holds; X (b, m) a batch, of mean zero in the population.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lae_jax import baselines, metrics
from lae_jax.covariance import Covariance, Samples
from lae_jax.params import Array
from lae_jax.training import low_rank

Draw = Callable[[np.random.Generator, int], np.ndarray]  # (generator, b) -> samples (b, m)
# Where the learning rate ends, in units of that at the start.
DECAY = 0.01


class StreamingRule(NamedTuple):
    """A rule that takes batches one by one."""

    label: str
    start: Callable[[int, int, int], Any]  # (m, k, seed) -> state
    step: Callable[[Any, np.ndarray, float], Any]  # (state, batch, learning rate) -> state
    directions: Callable[[Any], Any]  # state -> (m, k)
    rates: tuple[float, ...] = (0.0,)  # to be tried, in units of 1 / d_1; a rule without takes any number


class Ratio(NamedTuple):
    """A rule beside the limit, means over the seeds."""

    rule: str
    rate: float  # in units of 1 / d_1; the one of least axis alignment of those tried
    axis_alignment: float  # Def. 7.1
    subspace_distance: float  # Def. 7.2
    ratio: float  # of the axis alignment to the limit's
    subspace_ratio: float
    seconds: float  # of a batch
    numbers: int  # that are held between batches


def _random_start(input_dim: int, latent_dim: int, seed: int) -> Array:
    return jnp.linalg.qr(jax.random.normal(jax.random.key(seed), (input_dim, latent_dim)))[0]


def _ascent(
    direction: Callable[[Array, Covariance], Array], retract: Callable[[Array], Array] = lambda decoder: decoder
) -> Callable[[Any, np.ndarray, float], Any]:
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


def _incremental_pca(size: int) -> Callable[[int, int, int], Any]:
    def start(input_dim: int, latent_dim: int, seed: int) -> Any:
        from sklearn.decomposition import IncrementalPCA  # takes seconds to import, which streams need not wait for

        return IncrementalPCA(size * latent_dim), latent_dim

    return start


def _partial_fit(state: Any, rows: np.ndarray, _: float) -> Any:
    return state[0].partial_fit(rows), state[1]


def _history_start(input_dim: int, latent_dim: int, seed: int) -> Any:
    rule = low_rank.stream_rule(latent_dim, input_dim, center=False)
    return rule, low_rank.start(rule, input_dim, seed)


def _history_step(state: Any, rows: np.ndarray, _: float) -> Any:
    rule, history = state
    return rule, low_rank.extend(rule, history, rows)[0]


def _history_directions(state: Any) -> Any:
    return low_rank.finish(*state).vectors[:, : state[0].latent_dim]


def _leading(state: Any) -> np.ndarray:
    return state[0].components_[: state[1]].T


_RATES = (0.03, 0.1, 0.3, 1.0)
RULES: dict[str, StreamingRule] = {
    "low_rank_history": StreamingRule("low-rank history", _history_start, _history_step, _history_directions),
    "incremental_pca_2k": StreamingRule("IncrementalPCA, 2 k", _incremental_pca(2), _partial_fit, _leading),
    "incremental_pca": StreamingRule("IncrementalPCA, k", _incremental_pca(1), _partial_fit, _leading),
    "generalized_hebbian": StreamingRule(
        "generalised Hebbian", _random_start, _ascent(baselines.generalized_hebbian_direction), np.asarray, _RATES
    ),
    "eigengame_mu": StreamingRule(
        "mu-EigenGame", _random_start, _ascent(baselines.eigengame_mu_direction, _unit_columns), np.asarray, _RATES
    ),
    "adaoja": StreamingRule(
        "Oja, AdaOja's step",
        lambda *size: (_random_start(*size), jnp.full(size[1], 1e-10)),
        _adaoja,
        lambda state: np.asarray(state[0]),
    ),
    # Finds the span alone.
    "krasulina": StreamingRule(
        "matrix Krasulina", _random_start, _ascent(_krasulina, baselines.orthonormal_columns), np.asarray, _RATES
    ),
}


@jax.jit
def _measure(decoder: Array, components: Array) -> tuple[Array, Array]:
    return metrics.axis_alignment(decoder, components), metrics.subspace_distance(decoder, components)


def _distances(directions: Any, components: np.ndarray) -> tuple[float, float]:
    alignment, distance = _measure(np.asarray(directions, np.float32), np.asarray(components, np.float32))
    return float(alignment), float(distance)


def _numbers(state: Any) -> int:
    """How many numbers a state holds, those of an estimator's arrays included."""
    leaves = [*jax.tree.leaves(state)]
    owned = [value for leaf in leaves for value in getattr(leaf, "__dict__", {}).values()]
    return sum(int(np.size(each)) for each in (*leaves, *owned) if isinstance(each, np.ndarray | jax.Array))


def ratios_to_limit(
    draw: Draw,
    components: np.ndarray,
    largest_variance: float,
    *,
    num_batches: int,
    batch_size: int = 256,
    num_seeds: int = 12,
    rules: Mapping[str, StreamingRule] = RULES,
    on_batches: Callable[[str, int], None] = lambda rule, batches: None,
) -> list[Ratio]:
    """Run every rule on the same samples of a population whose components are known.

    Args:
        draw: independent samples (b, m) of mean zero from a generator of numpy.
        components: U (m, k) of the population.
        largest_variance: d_1 of the population, the unit of learning rates.
        num_batches: each is seen once.
        batch_size: b, at least 2 k for IncrementalPCA.
        num_seeds: at least 12 for a figure that can be told.
        rules: by name; more of one's own may stand beside `RULES`.
        on_batches: is told the rule and how many batches it has just taken.

    Returns:
        A row for the limit itself and one for each rule, at the best of its rates.
    """
    input_dim, latent_dim = components.shape
    limits = np.array([_limit(draw, components, num_batches, batch_size, seed) for seed in range(num_seeds)])
    limit = limits.mean(axis=0)
    table = [Ratio("limit", 0.0, float(limit[0]), float(limit[1]), 1.0, 1.0, 0.0, input_dim**2)]
    for name, rule in rules.items():
        rows = []
        for rate in rule.rates:
            found, seconds, held = [], 0.0, 0
            for seed in range(num_seeds):
                generator, state = np.random.default_rng(seed), rule.start(input_dim, latent_dim, seed)
                for batch in range(num_batches):
                    rows_drawn = draw(generator, batch_size).astype(np.float32)
                    falling = rate / largest_variance * DECAY ** (batch / num_batches)
                    began = time.perf_counter()
                    state = jax.block_until_ready(rule.step(state, rows_drawn, falling))
                    seconds += (time.perf_counter() - began) * (batch > 0)  # the first one compiles
                found.append(_distances(rule.directions(state), components))
                held = _numbers(state)
                on_batches(name, num_batches)
            alignment, distance = np.nan_to_num(np.mean(found, axis=0), nan=np.inf).tolist()
            each = seconds / (num_seeds * max(num_batches - 1, 1))
            rows.append(Ratio(name, rate, alignment, distance, alignment / limit[0], distance / limit[1], each, held))
        table.append(min(rows, key=lambda row: row.axis_alignment))
    return table


def _limit(draw: Draw, components: np.ndarray, num_batches: int, batch_size: int, seed: int) -> tuple[float, float]:
    """Distances of the eigenvectors of the covariance of all the samples that the rules see."""
    generator, total = np.random.default_rng(seed), np.zeros((len(components),) * 2)
    for _ in range(num_batches):
        rows = draw(generator, batch_size).astype(np.float32).astype(np.float64)
        total += rows.T @ rows
    return _distances(np.linalg.eigh(total)[1][:, ::-1][:, : components.shape[1]], components)


def drifting_stream(
    input_dim: int, num_batches: int, batch_size: int, variances: np.ndarray, turns: float, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Gaussian batches whose axes turn steadily in random planes, and the components (m, m) at each.

    Args:
        input_dim: m, even.
        num_batches: how many.
        batch_size: samples in each.
        variances: d (m,), descending.
        turns: by how many radians every plane turns from first to last.
        seed: of planes and samples.
    """
    generator = np.random.default_rng(seed)
    planes = np.linalg.qr(generator.standard_normal((input_dim, input_dim)))[0]
    batches, components = [], []
    for angle in np.linspace(0, turns, num_batches):
        turned = planes.copy()
        first, second = planes[:, : input_dim // 2], planes[:, input_dim // 2 : input_dim // 2 * 2]
        turned[:, : input_dim // 2] = np.cos(angle) * first + np.sin(angle) * second
        turned[:, input_dim // 2 : input_dim // 2 * 2] = np.cos(angle) * second - np.sin(angle) * first
        components.append(turned)
        batches.append((generator.standard_normal((batch_size, input_dim)) * np.sqrt(variances)) @ turned.T)
    return batches, components
