"""The streaming rule: components from samples that are seen once, at the statistical limit, with no learning rate.

Nothing aligns better after n independent samples than the eigenvectors of their covariance. This rule keeps r = k +
spare directions V of what it has seen with their variances L, takes C = V L V^T and the block at hand as one operator
that is never formed, and goes on with V <- orth(C V), L <- V^T C V, both turned until L is diagonal. The k leading
directions then stay within a few percent of that limit where r is 2 k; with no spare directions they do not.

Samples are taken up in blocks of a fixed number of rows, so that how a stream is cut into batches changes no bit.
The mean is exact, as in incremental PCA (Ross et al. 2008): a block counts about its own mean, with one more row
sqrt(n0 b / n) (its mean - the mean before), n0 samples before it, b in it, n = n0 + b.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lae_jax.covariance import LowRankHistory
from lae_jax.errors import InputError

Array = jax.Array

# Directions kept beside the k that are wanted, where nothing is said: k, and no fewer than this.
_LEAST_SPARE = 8
_BLOCK_ROWS, _BLOCK_NUMBERS = 256, 1 << 22
# Steps on the first block, which has no past to start from.
_FIRST_STEPS = 12


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

    vectors: Any  # V (m, r), orthonormal, by falling variance
    variances: Any  # L (r,)
    outside: Any  # (): the variance outside the span of V
    mean: np.ndarray  # (m,) float64, of what has been taken up; zeros if not centred
    weight: float  # of what has been taken up, in samples
    unit: float  # a power of two near the deviation of the first samples; 0 before
    num_rows: int  # samples seen, those that wait included
    waiting: np.ndarray  # (w, m) float64, w < block: seen and not taken up


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
      spare: directions kept beside those k; by default as many again, and at least 8.
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
    directions = min(input_dim, latent_dim + (max(latent_dim, _LEAST_SPARE) if spare is None else spare))
    block = max(2 * directions, min(_BLOCK_ROWS, _BLOCK_NUMBERS // input_dim))
    return StreamRule(latent_dim, directions, block, forget, center, precision)


def start(rule: StreamRule, input_dim: int, seed: int = 0) -> StreamState:
    """The state before the first sample: random directions, which the first block replaces."""
    noise = jax.random.normal(jax.random.key(seed), (input_dim, rule.directions), rule.precision)
    zeros = np.zeros((), rule.precision)
    return StreamState(
        np.asarray(jnp.linalg.qr(noise)[0]), np.zeros(rule.directions, rule.precision), zeros,
        np.zeros(input_dim), 0.0, 0.0, 0, np.zeros((0, input_dim)),
    )  # fmt: skip


@jax.jit
def _advance(history: LowRankHistory) -> tuple[Array, Array, Array]:
    """V, L and the variance outside after one step of orthogonal iteration with C, in the eigenbasis of V^T C V."""
    basis, _ = jnp.linalg.qr(history @ history.vectors)
    moment = basis.T @ (history @ basis)
    variances, rotation = jnp.linalg.eigh((moment + moment.T) / 2)
    outside = jnp.maximum(history.trace - jnp.sum(variances), 0)
    return basis @ rotation[:, ::-1], jnp.maximum(variances[::-1], 0), outside


@functools.partial(jax.jit, static_argnames="latent_dim")
def _error(rows: Array, vectors: Array, latent_dim: int) -> Array:
    """The squared distance of all the rows from the span of the first k directions."""
    return jnp.sum(rows**2) - jnp.sum((rows @ vectors[:, :latent_dim]) ** 2)


def _take_up(rule: StreamRule, state: StreamState, rows: np.ndarray) -> tuple[StreamState, float]:
    """The state after at most a block of samples, and their mean squared error before it."""
    count, input_dim = rows.shape
    before = state.weight * (1 - rule.forget) ** count
    weight, mean = before + count, state.mean
    stacked = np.zeros((rule.block + 1, input_dim))  # one shape whatever the count: compiled once
    stacked[:count] = rows
    if rule.center:
        block_mean = rows.mean(axis=0)
        stacked[:count] -= block_mean
        stacked[-1] = np.sqrt(before * count / weight) * (block_mean - mean)
        mean = mean + (block_mean - mean) * (count / weight)
    unit = state.unit
    if not unit and (size := np.sqrt(np.sum(np.square(stacked)) / count)):
        unit = 2.0 ** np.round(np.log2(size))
    device = jnp.asarray(stacked / (unit or 1.0), rule.precision)
    error = float(_error(device, state.vectors, rule.latent_dim)) / count * unit**2
    vectors, variances, outside = state.vectors, state.variances, state.outside
    past, each = (jnp.asarray(part, rule.precision) for part in (before / weight, 1 / weight))
    for _ in range(1 if state.weight else _FIRST_STEPS):
        history = LowRankHistory(vectors, state.variances, state.outside, past, device, each)
        vectors, variances, outside = _advance(history)
    return state._replace(
        vectors=vectors, variances=variances, outside=outside, mean=mean, weight=weight, unit=unit
    ), error


def extend(rule: StreamRule, state: StreamState, rows: np.ndarray) -> tuple[StreamState, list[float]]:
    """Take up samples (n, m), finite and float64, block by block; those of an unfinished block wait.

    Returns the state and, for each block, (1/b) sum ||x - V_k V_k^T x||^2 of its samples before they were taken up.
    """
    queue = np.concatenate([state.waiting, rows])
    state, errors = state._replace(num_rows=state.num_rows + len(rows), waiting=queue[:0]), []
    whole = len(queue) - len(queue) % rule.block
    for first in range(0, whole, rule.block):
        state, error = _take_up(rule, state, queue[first : first + rule.block])
        errors.append(error)
    return state._replace(waiting=queue[whole:].copy()), errors


def finish(rule: StreamRule, state: StreamState) -> StreamState:
    """The state with the samples that wait taken up, to read results from; the stream goes on from the one before."""
    if not len(state.waiting):
        return state
    return _take_up(rule, state._replace(waiting=state.waiting[:0]), state.waiting)[0]
