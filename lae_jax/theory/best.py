"""The penalties and the prior of the smallest condition number within the span: what "optimally chosen" buys.

What is chosen are shares that sum to 1: the increments of the penalties, as parts of d_k, or the prior. Every
curvature is exact, and so is its derivative, so a minimax problem remains: the least ratio of the largest to the
smallest. Sequential quadratic programming solves it nearly always, and stops anywhere at times, by rounding alone;
sequential linear programming goes on from there and ends where nothing is to be gained. Beyond the paper.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike

from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_variances
from lae_jax.theory.bounds import mixed_rotation_quotient, nested_dropout_mixed_quotient
from lae_jax.theory.eigenvalues import active_pair, dropout_pair

LEAST = 4e-15  # no share is less: neighbouring penalties have to differ in double precision
_TOLERANCE, _LEAST_RADIUS = 1e-5, 1e-6  # of the logarithm of the condition number, and of logits
TINY = 1e-100  # f(x + i h) = f(x) + i h f'(x) up to h^2: with such a step the derivative is exact


class _Curvatures(NamedTuple):
    """The curvatures at the optimum as functions of shares (s,)."""

    pair: Callable[..., np.ndarray]  # (d_i, d_j, first number, second number) -> eigenvalues (..., 4) of latents i < j
    numbers: np.ndarray  # (n, 2, s), the numbers of a pair are sums of shares
    variances: np.ndarray  # (n, 2), d_i and d_j
    own: np.ndarray  # (q, s), curvatures of latents on their own components are own @ shares + constants
    constants: np.ndarray  # (q,)


def _of_penalties(leading: np.ndarray) -> _Curvatures:
    """Eq. (3), whose penalties are d_k times the sums of the first shares, k + 1 in all."""
    k, (first, second) = leading.size, np.triu_indices(leading.size, 1)
    sums = leading[-1] * np.tri(k, k + 1)
    own = 4 * np.concatenate([sums, leading[-1] - sums])
    constants = np.concatenate([np.zeros(k), 4 * (leading - leading[-1])])
    numbers, variances = (np.stack([each[first], each[second]], 1) for each in (sums, leading))
    return _Curvatures(active_pair, numbers, variances, own, constants)


def _of_prior(leading: np.ndarray) -> _Curvatures:
    """Twice Eq. (6), whose prior are the shares."""
    k, (first, second) = leading.size, np.triu_indices(leading.size, 1)
    tails = np.tri(k).T
    numbers = np.stack([tails[second], tails[first] - tails[second]], 1)
    variances = np.stack([leading[first], leading[second]], 1)
    return _Curvatures(dropout_pair, numbers, variances, 4 * leading[:, None] * tails, np.zeros(k))


def _logarithms(curvatures: _Curvatures, shares: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms (q + 2 n,) of every own and of the smallest and largest curvature of pairs (n,), and their Jacobian.

    The Jacobian (q + 2 n, s) is with respect to logarithms of shares.
    """
    own = curvatures.constants + curvatures.own @ shares
    parts = curvatures.numbers[pairs] * shares
    numbers = parts.sum(-1)
    stepped = numbers * (1 + 1j * TINY * np.eye(2)[:, None])
    found = np.sort(curvatures.pair(*curvatures.variances[pairs].T, stepped[..., 0], stepped[..., 1]), -1)[..., [0, -1]]
    slopes = found.imag / found.real / TINY
    ends = np.einsum("cne,ncs->ens", slopes, parts / numbers[..., None])
    logs = np.concatenate([np.log(own), *np.log(found.real[0].T)])
    return logs, np.concatenate([curvatures.own * shares / own[:, None], *ends])


def _normalised(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - np.max(logits))
    shares = np.maximum(shares / shares.sum(), LEAST)
    return shares / shares.sum()


def _ratio(curvatures: _Curvatures, shares: np.ndarray) -> float:
    """The logarithm of the condition number."""
    return float(np.ptp(_logarithms(curvatures, shares, np.arange(len(curvatures.variances)))[0]))


def _by_logits(curvatures: _Curvatures, shares: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`_logarithms` and their Jacobian with respect to logits, of which shares are the softmax."""
    logs, jacobian = _logarithms(curvatures, shares, pairs)
    return logs, jacobian - np.outer(jacobian.sum(1), shares)


def _by_quadratic_models(curvatures: _Curvatures, shares: np.ndarray) -> np.ndarray:
    """Shares (s,) where sequential quadratic programming ends: fast, and seldom the minimum."""
    size = shares.size
    logs, _ = _logarithms(curvatures, shares, np.arange(len(curvatures.variances)))
    # Few pairs come to be the slowest or the steepest: of all others nothing is asked.
    slow, steep = np.split(logs[len(curvatures.own) :], 2)
    pairs = np.union1d(np.argsort(slow)[: 2 * size], np.argsort(steep)[-4:])
    cost = np.concatenate([np.zeros(size), [1.0, -1.0]])

    @functools.lru_cache(maxsize=1)  # values and slopes are asked for at the same point
    def at(point: bytes) -> tuple[np.ndarray, np.ndarray]:
        return _by_logits(curvatures, _normalised(np.frombuffer(point)[:-2]), pairs)

    def between(point: np.ndarray) -> np.ndarray:
        logs, _ = at(point.tobytes())
        return np.concatenate([point[-2] - logs, logs - point[-1]])

    def slopes(point: np.ndarray) -> np.ndarray:
        _, jacobian = at(point.tobytes())
        one, none = np.ones((len(jacobian), 1)), np.zeros((len(jacobian), 1))
        return np.block([[-jacobian, one, none], [jacobian, none, -one]])

    found = scipy.optimize.minimize(
        lambda point: cost @ point, np.concatenate([np.log(shares), [logs.max(), logs.min()]]),
        jac=lambda point: cost, method="SLSQP",
        constraints={"type": "ineq", "fun": between, "jac": slopes}, options={"maxiter": 60, "ftol": 1e-9},
    )  # fmt: skip
    return _normalised(found.x[:-2])


def _by_linear_models(curvatures: _Curvatures, shares: np.ndarray) -> np.ndarray:
    """Shares (s,) from which no step improves the ratio, to first order, by more than _TOLERANCE.

    A step solves the problem with every curvature linear in the logits, none of which moves by more than a radius: a
    linear program, whose solution depends on no line search and no approximate second derivative.
    """
    everything, size, radius = np.arange(len(curvatures.variances)), shares.size, 1.0
    logs, jacobian = _by_logits(curvatures, shares, everything)
    while radius > _LEAST_RADIUS:
        ratio, reach = np.ptp(logs), 1 + 4 * radius
        high, low = logs > logs.max() - reach, logs < logs.min() + reach
        ends = np.repeat(np.eye(2), [high.sum(), low.sum()], 0) * [-1, 1]  # of the largest and the smallest curvature
        rows = np.hstack([np.concatenate([jacobian[high], -jacobian[low]]), ends])
        bounds = [(-radius, radius)] * size + [(None, None)] * 2
        limits = np.concatenate([-logs[high], logs[low]])
        step = scipy.optimize.linprog(np.repeat([0.0, 1, -1], [size, 1, 1]), rows, limits, bounds=bounds)
        if step.x is None or (promised := ratio - step.fun) < _TOLERANCE:
            break
        candidate = _normalised(np.log(shares) + step.x[:size])
        after = _by_logits(curvatures, candidate, everything)
        kept = (ratio - np.ptp(after[0])) / promised
        if kept > 0.1:
            shares, (logs, jacobian) = candidate, after
        radius = radius / 3 if kept < 0.1 else min(2 * radius, 4.0) if kept > 0.7 else radius
    return shares


def _best(curvatures: _Curvatures, shares: np.ndarray) -> np.ndarray:
    """Shares (s,) of the smallest condition number that is found from these."""
    quick = _by_quadratic_models(curvatures, shares)
    start = min((shares, quick), key=functools.partial(_ratio, curvatures))
    return _by_linear_models(curvatures, start)


def _leading(variances: ArrayLike, latent_dim: int) -> np.ndarray:
    if latent_dim < 2:
        raise InputError(f"latent_dim: {latent_dim}, must be at least 2: one latent has nothing to choose")
    return checked_variances(variances, latent_dim, tail=0)[:latent_dim]


def optimal_penalties(variances: ArrayLike, latent_dim: int) -> np.ndarray:
    """Penalties of Eq. (3) with the smallest condition number.

    Args:
        variances: d (m,), descending.
        latent_dim: k, at least 2.

    Returns:
        Penalties (k,), ascending and below d_k.

    Raises:
        InputError: unless the first k variances are positive and strictly decreasing.
    """
    leading = _leading(variances, latent_dim)
    shares, neighbours = np.full(latent_dim + 1, 1 / (latent_dim + 1)), np.stack([leading[:-1], leading[1:]], -1)
    for _ in range(50):  # at the best the quotients of neighbours are nearly equal
        current = leading[-1] * np.cumsum(shares)[:-1]
        rotations = mixed_rotation_quotient(neighbours, np.stack([current[:-1], current[1:]], -1))[:, 0]
        # Each share moves the quotients next to its own as well, hence the damping power.
        quotients = np.concatenate([4 * current[:1], rotations, 4 * leading[-1] * shares[-1:]])
        shares = _normalised(np.log(shares) - 0.4 * np.log(quotients))
    return leading[-1] * np.cumsum(_best(_of_penalties(leading), shares))[:-1]


def optimal_prior(variances: ArrayLike, latent_dim: int) -> np.ndarray:
    """The prior of Eq. (6) with the smallest condition number; arguments and errors as `optimal_penalties`.

    Returns:
        p_B (k,), which sums to 1.
    """
    leading = _leading(variances, latent_dim)
    # Where the quotients of neighbours, p_i mu(d_i, d_(i+1)), are equal.
    neighbours = np.stack([leading[:-1], leading[1:]], -1)
    mu = 2 * nested_dropout_mixed_quotient(neighbours, np.full((latent_dim - 1, 2), 0.5))[:, 0]
    return _best(_of_prior(leading), _normalised(-np.log(np.append(mu / 2, leading[-1] / 4))))
