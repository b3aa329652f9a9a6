"""The streaming rule: components from samples that are seen once, at the statistical limit, with no learning rate.

Nothing aligns better after n independent samples than the eigenvectors of their covariance. This rule keeps r = k +
spare directions V of what it has seen with their variances L, takes C = V L V^T and the block at hand as one operator
that is never formed, and goes on with the Nystrom approximation (C V) (V^T C V)^-1 (C V)^T = V' L' V'^T, which takes
one product with C (Tropp et al. 2017). The k leading directions then stay within a few percent of that limit where r
is 1.5 k and at least k + 20; with no spare directions they do not.

Samples are taken up in blocks of a fixed number of rows, so that how a stream is cut into batches changes no bit.
The mean is exact, as in incremental PCA (Ross et al. 2008): a block counts about its own mean, with one more row
sqrt(n0 b / n) (its mean - the mean before), n0 samples before it, b in it, n = n0 + b.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np

from lae_jax.covariance import Covariance, LowRankHistory
from lae_jax.data import hosts, layouts
from lae_jax.errors import InputError
from lae_jax.params import Array, Numbers
from lae_jax.training.alternation import principal

# Directions kept beside the k that are wanted, where nothing is said: half as many, and no fewer than this.
LEAST_SPARE = 20
# A block has so many samples, or twice as many where that is no more than the usual numbers; never more than the last.
_BLOCK_ROWS, _USUAL_NUMBERS, _BLOCK_NUMBERS = 512, 1 << 19, 1 << 21
# Between this and its inverse, float32 holds scales, samples of unit scale by them, and sums of these.
_SMALLEST = 1e-30
# Steps on the first block, which has no past to start from.
FIRST_STEPS = 12


class StreamRule(NamedTuple):
    """What decides the numbers of a stream, but the data."""

    latent_dim: int  # k
    directions: int  # r = k + spare
    block: int  # samples taken up at a time
    forget: float = 0.0  # the part of its weight that a sample loses with each one after it
    center: bool = True
    precision: str = "float32"


class StreamState(NamedTuple):
    """What the next block needs; arrays and numbers alone, in units of `unit`."""

    vectors: Numbers  # V (m, r), orthonormal, by falling variance
    variances: Numbers  # L (r,)
    outside: Numbers  # (): the variance outside the span of V
    mean: np.ndarray  # (m,) float64, of what has been taken up; zeros if not centred
    weight: float  # of what has been taken up, in samples
    unit: float  # a power of two near the deviation of the first samples; 0 before
    num_rows: int  # samples seen, those that wait included
    waiting: np.ndarray  # (w, m), w < block: seen and not taken up


def default_spare(latent_dim: int) -> int:
    """Directions that are kept beside k where nothing is said."""
    return max(latent_dim // 2, LEAST_SPARE)


def stream_rule(
    latent_dim: int,
    input_dim: int,
    *,
    spare: int | None = None,
    forget: float = 0.0,
    center: bool = True,
    precision: str = "float32",
) -> StreamRule:
    """The rule for k latents of m inputs, with every choice made.

    Args:
      latent_dim: k, at most m - 1.
      input_dim: m.
      spare: directions kept beside those k; by default half as many, and at least 20.
      forget: in [0, 1). With 0 all samples count alike; else a sample has lost the part 1 - (1 - forget)^n of its
        weight n samples later, so that about the last 1 / forget samples count: for data that drift.
      center: whether the mean is subtracted.
      precision: "float32" or "float64".

    Raises:
      InputError: naming what is out of range.
    """
    if not 1 <= latent_dim <= input_dim - 1:
        raise InputError(f"latent_dim: {latent_dim} is outside 1..{input_dim - 1} for samples of {input_dim} inputs")
    if spare is not None and spare < 0:
        raise InputError(f"spare: {spare}: must not be negative")
    if not 0 <= forget < 1:
        raise InputError(f"forget: {forget}: must be in [0, 1); 1 / forget is about how many samples count")
    dtype = {"float32": jnp.float32, "float64": jnp.float64}.get(precision)
    if dtype is None or jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise InputError(
            f"precision: {precision!r}: is float32, or float64 with jax.config.update('jax_enable_x64', True)"
        )
    directions = min(input_dim, latent_dim + (default_spare(latent_dim) if spare is None else spare))
    # Within a block nothing is forgotten: it is short beside what counts.
    counted = int(1 / (4 * forget)) if forget else _BLOCK_NUMBERS
    rows = min(max(_BLOCK_ROWS, _USUAL_NUMBERS // input_dim), 2 * _BLOCK_ROWS)
    block = max(2 * directions, min(max(rows, 4 * directions), _BLOCK_NUMBERS // input_dim, counted))
    return StreamRule(latent_dim, directions, block, forget, center, precision)


def start(rule: StreamRule, input_dim: int, seed: int = 0, column_parts: int = 1) -> StreamState:
    """The state before the first sample: random directions, which the first block replaces.

    Their inputs are cut into `column_parts`, each on a device of its own of every process. Raises InputError where
    there are no such devices.
    """
    noise = np.random.default_rng(abs(seed)).standard_normal((input_dim, rule.directions), np.float32)
    zeros = np.zeros((), rule.precision)
    vectors = np.linalg.qr(noise)[0].astype(rule.precision)
    mesh = layouts.mesh_of(hosts.devices_each(column_parts), input_dim, column_parts)
    return StreamState(
        layouts.place(vectors, mesh, input_dim), np.zeros(rule.directions, rule.precision), zeros,
        np.zeros(input_dim), 0.0, 0.0, 0, np.zeros((0, input_dim), np.float32),
    )  # fmt: skip


def nystrom(covariance: Covariance, vectors: Array, active: Array) -> tuple[Array, Array]:
    """V' (m, r), orthonormal, and L' (r,), descending, of (C V) (V^T C V)^-1 (C V)^T = V' L' V'^T.

    Whatever the columns of V (m, r) are, this is the same and lies below C; `active` (r,) says which are not padding,
    and those have to come first. Where C V has lower rank the last directions are rounding and their variances are 0.
    """
    through = covariance @ vectors
    moment = vectors.T @ through
    size, tiny = len(moment), jnp.finfo(moment.dtype)
    shift = jnp.maximum(size * float(tiny.eps) * jnp.max(jnp.diagonal(moment)), float(tiny.tiny))
    factor = jnp.linalg.cholesky((moment + moment.T) / 2 + jnp.diag(jnp.where(active, shift, 1)))
    inverse = jsl.solve_triangular(factor, jnp.eye(size, dtype=moment.dtype), lower=True)
    root = (through + shift * vectors) @ inverse.T  # of the approximation of C + shift I
    values, turn = principal(root.T @ root, active)
    values = jnp.where(active, jnp.maximum(values, shift), 1)
    return root @ (turn / jnp.sqrt(values)[None, :]), jnp.where(active, values - shift, 0)


class _Frame(NamedTuple):
    """How samples are centred and scaled: float32 holds no mean exactly, so it is two numbers."""

    high: Numbers  # (m,)
    low: Numbers  # (m,): the mean, in units of the samples, is high + low
    shifted: Numbers  # (b,): 1 for a sample, 0 for the row of the mean and for rows of zeros
    scale: Numbers  # ()

    def of(self, rows: Array) -> Array:
        """The rows about the mean, as exact as by float64: where the first difference rounds, `low` is small."""
        shifted = self.shifted[:, None]
        return (rows - shifted * self.high[None, :] - shifted * self.low[None, :]) * self.scale


@functools.partial(jax.jit, static_argnames="latent_dim")
def _advance(
    history: LowRankHistory, frame: _Frame, steps: Array, latent_dim: int
) -> tuple[Array, Array, Array, Array]:
    """V, L, the variance outside, and the squared distance of all the rows from the k first directions before."""
    history = dataclasses.replace(history, rows=frame.of(history.rows))
    # The first step is outside of the loop, where it shares this product: most blocks take no other.
    projected = (history.rows @ history.vectors)[:, :latent_dim]
    error = jnp.sum(history.rows**2) - jnp.sum(projected**2)
    active = jnp.ones(len(history.variances), bool)

    def step(_: int, found: tuple[Array, Array]) -> tuple[Array, Array]:
        return nystrom(history, found[0], active)

    vectors, variances = jax.lax.fori_loop(1, steps, step, nystrom(history, history.vectors, active))
    return vectors, variances, jnp.maximum(history.trace - jnp.sum(variances), 0), error


def _unit_of(rows: np.ndarray, center: np.ndarray, count: float) -> float:
    """The power of two nearest to the length of `count` samples about the centre, 0 where all lie there."""
    size = np.sqrt(hosts.summed(np.asarray(np.sum(np.square(rows - center), dtype=np.float64))) / count)
    return float(2.0 ** np.round(np.log2(size))) if size else 0.0


def _take_up(rule: StreamRule, state: StreamState, *parts: np.ndarray) -> tuple[StreamState, float]:
    """The state after at most a block of samples, in parts (n_i, m), and their mean squared error before it.

    Of several processes each gives the rows that it has, which may be none.
    """
    input_dim, here = len(state.mean), sum(map(len, parts))
    count = int(hosts.summed(np.asarray(here)))
    if not count:
        return state, np.nan
    before = state.weight * (1 - rule.forget) ** count
    weight, mean, center = before + count, state.mean, np.zeros(input_dim)
    # One shape whatever the count, compiled once: rows of zeros, and the last for the mean, are below.
    rows = np.concatenate([*parts, np.zeros((_share(rule) + 1 - here, input_dim), parts[-1].dtype)])
    if rule.center:
        center = hosts.summed(rows[:here].sum(axis=0, dtype=np.float64)) / count
    unit = state.unit or _unit_of(rows[:here], center, count)
    scale, precision = 1 / (unit or 1.0), np.dtype(rule.precision)
    if not _SMALLEST < scale < 1 / _SMALLEST:
        rows = rows.astype(np.float64)
    shifted = np.arange(len(rows)) < here
    if rule.center and hosts.is_first():
        rows[-1] = np.sqrt(before * count / weight) * (center - mean)
    if rule.center:
        mean = mean + (center - mean) * (count / weight)
    wide = rows.dtype.itemsize > precision.itemsize
    if jax.process_count() > 1 or wide:
        # Numbers that the device's precision does not hold are centred and scaled before they lose their own; and those
        # of several processes, which do not know what precision, and how many samples, the others have.
        rows = (rows - shifted[:, None] * center) * np.float64(scale)
        center, scale = np.zeros(input_dim), 1.0
    high = center.astype(precision)
    shifted = np.tile(shifted.astype(precision), jax.process_count())  # as many as the rows below
    frame = _Frame(high, (center - high).astype(precision), shifted, precision.type(scale))
    past, each = (np.asarray(part, precision) for part in (before / weight, 1 / weight))
    block = layouts.stacked_rows(rows.astype(precision, copy=False), layouts.mesh_under(state.vectors))
    history = LowRankHistory(state.vectors, state.variances, state.outside, past, block, each)  # type: ignore[arg-type] # numpy
    steps = 1 if state.weight else FIRST_STEPS
    vectors, variances, outside, error = _advance(history, frame, steps, rule.latent_dim)
    return state._replace(
        vectors=vectors, variances=variances, outside=outside, mean=mean, weight=weight, unit=unit
    ), float(error) / count * unit**2


def _share(rule: StreamRule) -> int:
    """How many samples of a block one process gives."""
    return -(-rule.block // jax.process_count())


def extend(rule: StreamRule, state: StreamState, rows: np.ndarray) -> tuple[StreamState, list[float]]:
    """Take up samples (n, m), finite, float32 or float64, block by block; those of an unfinished block wait.

    Of several processes each has samples of its own and an equal part of every block; where its samples do not suffice
    it has no part in that one.

    Returns the state and, for each block, (1/b) sum ||x - V_k V_k^T x||^2 of its samples before they were taken up.
    """
    state, errors = state._replace(num_rows=state.num_rows + len(rows)), []
    while hosts.any_of(full := len(state.waiting) + len(rows) >= _share(rule))[0]:
        block: tuple[np.ndarray, ...] = (rows[:0],)
        if full:
            missing = _share(rule) - len(state.waiting)
            block = state.waiting, rows[:missing]
            state, rows = state._replace(waiting=rows[:0]), rows[missing:]
        state, error = _take_up(rule, state, *block)
        errors.append(error)
    return state._replace(waiting=np.concatenate([state.waiting, rows])), errors


def finish(rule: StreamRule, state: StreamState) -> StreamState:
    """The state with the samples that wait taken up, to read results from; the stream goes on from the one before."""
    return _take_up(rule, state._replace(waiting=state.waiting[:0]), state.waiting)[0]
