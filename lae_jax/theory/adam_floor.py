"""Where stochastic nested dropout stops under Adam: a fixed point, for Adam divides by its own fluctuations.

Once a run has settled, Adam's running mean of squared gradients v hardly changes, and its step is that of momentum with
a learning rate a / sqrt(v) for each weight. Given v the linearised run has a stationary covariance S of weights about
the optimum; given S the squared gradients are on average diag(H S H) and the noise of the masks at such weights. The
encoder has no noise at the optimum itself, so that there v is made of the fluctuations alone: v and S are found
together, by iteration. Beyond the paper, and to first order in the learning rate.

Legend: H Hessian of twice Eq. (6); N = 2 k m weights, encoder before decoder; a learning rate; k latent dimension;
m input dimension; n number of samples. In float64, in the coordinates in which the run is.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike

from lae_jax import objectives
from lae_jax.covariance import Diagonal
from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_prior
from lae_jax.params import LAEParams
from lae_jax.theory import noise
from lae_jax.theory.hessian import exact_hessian
from lae_jax.theory.noise import NoiseFloor

MOMENTUM, EPSILON = 0.9, 1e-8  # Adam's b1 and eps, as optax has them
CLOSE = 1e-3  # of the logarithms of v between two iterations
MOST_ROWS = 500  # over which the noise of the masks is averaged: every so many-th sample of more


class AdamFloor(NamedTuple):
    """Where a run under Adam settles, on average over its steps."""

    axis_alignment: float  # Def. 7.1
    subspace_distance: float  # Def. 7.2
    variances: np.ndarray  # (m, k) of the decoder's entries about the optimum
    second_moments: LAEParams  # v, Adam's mean of squared gradients, in the shapes of the weights


@jax.jit
def _mask_noise(points: jax.Array, rows: jax.Array, prior: jax.Array) -> jax.Array:
    """Covariance (N, N) of one sample's gradient over its mask, averaged over samples and weights (s, N)."""
    k, m = prior.size, rows.shape[1]
    masks = jnp.tri(k)

    def gradients(point: jax.Array) -> jax.Array:
        """Of every sample under every mask, (n, k, N)."""
        encoder, decoder = point[: k * m].reshape(k, m), point[k * m :].reshape(m, k)
        kept = masks[None] * (rows @ encoder.T)[:, None]  # (n, b, k)
        residual = kept @ decoder.T - rows[:, None]
        into = 2 * masks[None] * (residual @ decoder)
        parts = into[..., :, None] * rows[:, None, None], residual[..., :, None] * (2 * kept)[..., None, :]
        return jnp.concatenate([part.reshape(*part.shape[:2], k * m) for part in parts], -1)

    def covariance(point: jax.Array) -> jax.Array:
        each = gradients(point)
        apart = (each - jnp.einsum("b,nbp->np", prior, each)[:, None]) * jnp.sqrt(prior)[None, :, None]
        flat = apart.reshape(-1, apart.shape[-1])
        return flat.T @ flat / len(rows)

    return jax.lax.map(covariance, points).mean(0)


@jax.jit
def _stationary(hessian: jax.Array, noise: jax.Array, rates: jax.Array, null: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Covariance S (N, N) of weights with momentum at these rates (N,), null directions (N, q) still; and the radius.

    (w, u) -> (w - a u', u') with u' = b u + (1 - b) (H w + noise).
    """
    identity = jnp.eye(len(hessian))
    along = jnp.linalg.solve(
        null.T @ (null / rates[:, None]), null.T / rates[None]
    )  # rates times a gradient has none of it
    still = identity - null @ along
    enters = (1 - MOMENTUM) * jnp.concatenate([-still * rates[None], identity])
    step = enters @ jnp.concatenate([hessian, MOMENTUM / (1 - MOMENTUM) * identity], 1)
    step = step.at[: len(hessian), : len(hessian)].add(still)

    def double(_: int, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        total, power = pair
        return total + power @ total @ power.T, power @ power

    total, power = jax.lax.fori_loop(0, 30, double, (enters @ noise @ enters.T, step))
    return total[: len(hessian), : len(hessian)], jnp.max(jnp.abs(power))


def adam_noise_floor(
    rows: ArrayLike,
    prior: ArrayLike,
    *,
    learning_rate: float,
    scales: ArrayLike = 1.0,
    iterations: int = 60,
) -> AdamFloor:
    """The distances at which full-batch nested dropout under Adam settles (beyond the paper); needs x64.

    Args:
        rows: samples in the eigenbasis of their covariance, less their mean (n, m).
        prior: p_B (k,), positive.
        learning_rate: Adam's.
        scales: D, one number or (k,): the square roots of ||W2[:, i]|| / ||W1[i, :]||, which drift.
        iterations: at most, each halving the way to the next v in its logarithm.

    Raises:
        InputError: where the iteration does not settle: the learning rate is too large for a linear theory.
    """
    probabilities = checked_prior(prior, strictly=True)
    samples, k = jnp.asarray(rows, jnp.float64), probabilities.size
    m, given = samples.shape[1], jnp.asarray(probabilities)
    stretch = np.broadcast_to(np.asarray(scales, np.float64), (k,))
    optimum = LAEParams(jnp.eye(k, m) / stretch[:, None], jnp.eye(m, k) * stretch[None])
    flat, unravel = ravel_pytree(optimum)
    covariance = Diagonal(jnp.mean(samples**2, axis=0))
    loss = functools.partial(objectives.deterministic_nested_dropout, covariance=covariance, prior=given)
    hessian = exact_hessian(lambda params: loss(params), optimum)
    # The scale of each latent: W1[i, i] and W2[i, i] against each other.
    places = np.arange(k) * (m + 1), k * m + np.arange(k) * (k + 1)
    null = np.zeros((flat.size, k))
    null[places[0], range(k)], null[places[1], range(k)] = 1 / stretch, -stretch
    count, radius, some = len(samples), np.sqrt(flat.size), samples[:: max(1, -(-len(samples) // MOST_ROWS))]
    masks = _mask_noise(flat[None], some, given) / count
    moments = jnp.diagonal(masks) + 1e-3 * jnp.max(jnp.diagonal(masks))
    for _ in range(iterations):
        spread, left = _stationary(hessian, masks, learning_rate / (jnp.sqrt(moments) + EPSILON), jnp.asarray(null))
        if not left < 1e-6:  # too steep for these rates
            moments = 2 * moments
            continue
        values, vectors = jnp.linalg.eigh(spread)
        away = radius * (vectors * jnp.sqrt(jnp.maximum(values, 0))[None]).T  # of these points S is the covariance
        masks = _mask_noise(flat[None] + jnp.concatenate([away, -away]), some, given) / count
        found = jnp.diagonal(hessian @ spread @ hessian) + jnp.diagonal(masks)
        change = float(jnp.max(jnp.abs(jnp.log(found / moments))))
        moments = jnp.sqrt(moments * found)
        if change < CLOSE:
            break
    else:
        raise InputError(f"learning_rate: {learning_rate:g}: no fixed point is found; a smaller one is needed")
    variances = np.diagonal(spread)[k * m :].reshape(m, k)
    off = np.where(np.eye(m, k), 0, variances / stretch**2)
    return AdamFloor(float(off.sum() / k), float(off[k:].sum() / k), variances, unravel(moments))


def _descent(
    rows: np.ndarray, prior: ArrayLike, learning_rate: float, momentum: float, scales: ArrayLike
) -> NoiseFloor:
    k = np.size(prior)
    return noise.nested_dropout_noise_floor(
        np.mean(rows**2, axis=0), prior, noise.fourth_moments(rows, np.eye(rows.shape[1]), k), len(rows),
        learning_rate=learning_rate, momentum=momentum, scales=scales,
    )  # fmt: skip


def _adam(rows: np.ndarray, prior: ArrayLike, learning_rate: float, momentum: float, scales: ArrayLike) -> AdamFloor:
    return adam_noise_floor(rows, prior, learning_rate=learning_rate, scales=scales)


# Row of OPTIMIZERS -> its floor: (rows in the eigenbasis (n, m), prior (k,), learning rate, momentum, scales (k,)).
FLOORS: dict[str, Callable[[np.ndarray, ArrayLike, float, float, ArrayLike], NoiseFloor | AdamFloor]] = {
    "sgd": _descent,
    "nesterov": _descent,
    "adam": _adam,
}
