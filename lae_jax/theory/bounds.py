"""Condition numbers at the global optimum: lower bounds, the quotients behind them, the best choices.

Everything is numpy in float64 and takes leading batch dimensions: variances (..., m) of C, penalties
(..., k), prior (..., k). Quotients are in the scale of `objectives` (nested dropout is twice Eq. (6)).
The l2 bounds are for 0 < lambda_1 < ... < lambda_k < d_k, those of nested dropout for positive priors.
A bound on the condition number within the span of the leading components holds with the tail as well.

Legend: d_i variances; l_i penalties; f_i = l_i / d_i = 1 - w_i^2; c_i = P(b >= i); k latent dimension;
mu(x, y) the smaller eigenvalue of [[y, -y], [-y, x]].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import lambertw, logsumexp, softmax

from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_penalties, checked_prior, checked_variances
from lae_jax.theory import closed_form

Array = np.ndarray


def _leading(variances: Any, latent_dim: int) -> Array:
    """The first k variances (..., k), checked; k at least 2, for the bounds are over pairs of latents."""
    if latent_dim < 2:
        raise InputError(f"latent_dim: {latent_dim}, must be at least 2 for a bound, which is over pairs of latents")
    return checked_variances(variances, latent_dim, tail=0, batched=True)[..., :latent_dim]


def _fractions(variances: Any, penalties: Any) -> tuple[Array, Array, Array]:
    """d, l and f = l / d (..., k), checked."""
    penalties = checked_penalties(penalties, strictly=True, batched=True)
    leading = _leading(variances, penalties.shape[-1])
    if not np.all(penalties[..., -1] < leading[..., -1]):
        raise InputError("penalties: the last must be below the variance of its component, or latents collapse")
    return leading, penalties, penalties / leading


def _kept(prior: Any) -> Array:
    """c_i = P(b >= i) (..., k), checked."""
    prior = checked_prior(prior, strictly=True, batched=True)
    kept = np.flip(np.cumsum(np.flip(prior, -1), -1), -1)
    return kept / kept[..., :1]


def _pairs(values: Array) -> tuple[Array, Array]:
    """Entries i and j of all pairs i < j, each (..., k (k - 1) / 2)."""
    first, second = np.triu_indices(values.shape[-1], 1)
    return values[..., first], values[..., second]


def _mu(x: Array, y: Array) -> Array:
    return y * (x - y) / ((x + y) / 2 + np.sqrt((x - y) ** 2 / 4 + y**2))


# Rayleigh quotients: of rotations, by pair, above the smallest eigenvalue; radial ones, below the largest.


def radial_quotient(variances: Any, penalties: Any) -> Array:
    """Quotient of rescaling latent i, 4 (d_i - l_i), (..., k). Section 4.3."""
    leading, penalties, _ = _fractions(variances, penalties)
    return 4 * (leading - penalties)


def _rotations(variances: Any, penalties: Any) -> tuple[Array, Array, Array, Array]:
    """The quotients of latent and input rotation, w_i w_j and w_i^2 + w_j^2, by pair."""
    (d_i, d_j), (l_i, l_j), (f_i, f_j) = map(_pairs, _fractions(variances, penalties))
    norm, gap = 2 - f_i - f_j, f_j - f_i
    inputs = gap * (f_i + f_j) * (d_i - d_j) / norm
    return 2 * (l_j - l_i) * gap / norm, inputs, np.sqrt((1 - f_i) * (1 - f_j)), norm


def latent_rotation_quotient(variances: Any, penalties: Any) -> Array:
    """Quotient of rotating latents i and j: W1 -> R W1, W2 -> W2 R^T. Section 4.3."""
    return _rotations(variances, penalties)[0]


def input_rotation_quotient(variances: Any, penalties: Any) -> Array:
    """Quotient of rotating components i and j: W1 -> W1 R, W2 -> R^T W2; small where d_i is near d_j."""
    return _rotations(variances, penalties)[1]


def mixed_rotation_quotient(variances: Any, penalties: Any) -> Array:
    """The smallest quotient among mixtures of the latent and the input rotation (beyond the paper).

    A 2x2 Ritz value, for the two are orthogonal under the Hessian; mostly within a percent of the true minimum.
    """
    latent, inputs, overlap, norm = _rotations(variances, penalties)
    cosine = 2 * overlap / norm
    total, product = latent + inputs, latent * inputs
    return 2 * product / (total + np.sqrt(np.maximum(total**2 - 4 * product * (1 - cosine**2), 0)))


def mixed_rotation_limit(variances: Any, penalties: Any) -> Array:
    """U_ij, a rational upper bound on `mixed_rotation_quotient` (beyond the paper)."""
    (d_i, d_j), (l_i, l_j), (f_i, f_j) = map(_pairs, _fractions(variances, penalties))
    return 4 * (l_j - l_i) * (d_i - d_j) * (f_i + f_j) / ((d_i + d_j) * (4 - f_i - 3 * f_j))


def nested_dropout_rotation_quotient(variances: Any, prior: Any) -> Array:
    """Quotient of rotating latents i and j under nested dropout, (c_i - c_j) (d_i - d_j) / 2. Section 5."""
    lost, d_i, d_j = _dropout_pairs(variances, prior)
    return lost * (d_i - d_j) / 2


def nested_dropout_mixed_quotient(variances: Any, prior: Any) -> Array:
    """(c_i - c_j) mu(d_i, d_j), the smallest quotient at fixed W2 W1 (beyond the paper)."""
    lost, d_i, d_j = _dropout_pairs(variances, prior)
    return lost * _mu(d_i, d_j)


def _dropout_pairs(variances: Any, prior: Any) -> tuple[Array, Array, Array]:
    (c_i, c_j), (d_i, d_j) = _pairs(_kept(prior)), _pairs(_leading(variances, np.shape(prior)[-1]))
    return c_i - c_j, d_i, d_j


# Bounds on the condition number for given penalties or prior: a quotient of a fast direction over slow ones.


def _l2_over(slow: Callable[[Any, Any], Array]) -> Callable[[Any, Any], Array]:
    # 2 d_1 is the Hessian's entry for any decoder weight on u_1: the better one where l_1 > d_1 / 2.
    def largest(variances: Any, penalties: Any) -> Array:
        return np.maximum(radial_quotient(variances, penalties)[..., 0], 2 * np.asarray(variances)[..., 0])

    return lambda variances, penalties: largest(variances, penalties) / slow(variances, penalties).min(-1)


def _slowest(variances: Any, penalties: Any) -> Array:
    leading, penalties, _ = _fractions(variances, penalties)
    ends = np.minimum(4 * penalties[..., 0], 4 * (leading - penalties)[..., -1])
    return np.minimum(ends, mixed_rotation_quotient(leading, penalties).min(-1))[..., None]


def _nested_dropout_over(slow: Callable[[Any, Any], Array]) -> Callable[[Any, Any], Array]:
    return lambda variances, prior: 4 * np.asarray(variances)[..., 0] / slow(variances, prior).min(-1)


# Bounds on the condition number for every choice of penalties or prior.


def l2_printed_bound(variances: Any, latent_dim: int) -> Array:
    """2 (k - 1) (d_1 - d_k) sum_(1<i<k) (d_i - d_k) / (d_1 d_k): true, never tight, 0 at k = 2. Section 4.3."""
    leading = _leading(variances, latent_dim)
    first, last = leading[..., 0], leading[..., -1]
    excess = np.sum(leading[..., 1:-1] - leading[..., -1:], -1)
    return 2 * (latent_dim - 1) * (first - last) * excess / (first * last)


def l2_universal_bound(variances: Any, latent_dim: int) -> Array:
    """(1 + sqrt(2) (k - 1))^2, whatever the spectrum (beyond the paper)."""
    return np.full(_leading(variances, latent_dim).shape[:-1], (1 + np.sqrt(2) * (latent_dim - 1)) ** 2)


def l2_spread_bound(variances: Any, latent_dim: int) -> Array:
    """The sum of `mixed_rotation_limit` over neighbours telescoped; sharp on spread spectra (beyond the paper).

    (d_1 - d_k) / d_k^2 sum_(i<k) d_j (d_i + d_j) (4 - d_k / d_i - 3 d_k / d_j) / (d_i - d_j), j = i + 1.
    """
    leading = _leading(variances, latent_dim)
    first, last, d_i, d_j = leading[..., :1], leading[..., -1:], leading[..., :-1], leading[..., 1:]
    terms = d_j * (d_i + d_j) * (4 - last / d_i - 3 * last / d_j) / (d_i - d_j)
    return np.sum((first - last) / last**2 * terms, -1)


def l2_flat_bound(variances: Any, latent_dim: int) -> Array:
    """The kappa with kappa ln kappa = 2 d_1 max(sum_(i<k) 1 / (d_i - d_(i+1)), (k - 1)^2 / d_k).

    Best on flat spectra: up to a logarithm, no penalties beat nested dropout's rate (beyond the paper).
    """
    leading = _leading(variances, latent_dim)
    harmonic = np.sum(1 / -np.diff(leading), -1)
    target = 2 * leading[..., 0] * np.maximum(harmonic, (latent_dim - 1) ** 2 / leading[..., -1])
    return np.exp(lambertw(target).real)


def nested_dropout_printed_bound(variances: Any, latent_dim: int) -> Array:
    """8 d_1 (k - 1)^2 / (d_1 - d_k): true, tight for small equal gaps. Section 5."""
    leading = _leading(variances, latent_dim)
    return 8 * leading[..., 0] * (latent_dim - 1) ** 2 / (leading[..., 0] - leading[..., -1])


def nested_dropout_harmonic_bound(variances: Any, latent_dim: int) -> Array:
    """8 d_1 sum_(i<k) 1 / (d_i - d_(i+1)): Section 5 before its last inequality."""
    leading = _leading(variances, latent_dim)
    return 8 * leading[..., 0] * np.sum(1 / -np.diff(leading), -1)


def nested_dropout_mu_bound(variances: Any, latent_dim: int) -> Array:
    """4 d_1 sum_(i<k) 1 / mu(d_i, d_(i+1)) (beyond the paper)."""
    leading = _leading(variances, latent_dim)
    return 4 * leading[..., 0] * np.sum(1 / _mu(leading[..., :-1], leading[..., 1:]), -1)


def nested_dropout_tail_bound(variances: Any, latent_dim: int) -> Array:
    """2 d_1 (sum_(i<k) 2 / mu(d_i, d_(i+1)) + max over l > k of 1 / mu(d_k, d_l)), with the tail (beyond the paper).

    InputError unless all m variances are positive: a component of no variance is a null direction.
    """
    leading = _leading(variances, latent_dim)
    tail = np.asarray(variances, float)[..., latent_dim:]
    if not (np.all(tail > 0) and np.all(tail < leading[..., -1:])):
        raise InputError(f"variances: those after the first {latent_dim} must be positive and below them")
    outside = np.max(1 / _mu(leading[..., -1:], tail), -1, initial=0.0)
    return nested_dropout_mu_bound(leading, latent_dim) + 2 * leading[..., 0] * outside


class Bound(NamedTuple):
    """One lower bound on a condition number; a row of BOUNDS."""

    objective: str  # the name in METHODS
    function: Callable[[Any, Any], Array]  # (variances, latent_dim), or (variances, penalties or prior)
    source: str
    every_choice: bool = True  # whether it holds for all penalties or priors and so takes only `latent_dim`
    tail: bool = False  # whether it bounds only the condition number that counts the tail

    def value(self, variances: Any, hyperparameter: Any) -> Array:
        """The bound (...,) at these variances (..., m) and penalties or prior (..., k)."""
        return self.function(variances, np.shape(hyperparameter)[-1] if self.every_choice else hyperparameter)


_L2, _ND = "non_uniform_l2", "deterministic_nested_dropout"
BOUNDS: dict[str, Bound] = {
    "l2_printed": Bound(_L2, l2_printed_bound, "Section 4.3"),
    "l2_universal": Bound(_L2, l2_universal_bound, "beyond the paper"),
    "l2_spread": Bound(_L2, l2_spread_bound, "beyond the paper"),
    "l2_flat": Bound(_L2, l2_flat_bound, "beyond the paper"),
    "l2_latent_rotation": Bound(_L2, _l2_over(latent_rotation_quotient), "Section 4.3, before optimising", False),
    "l2_rotation": Bound(_L2, _l2_over(_slowest), "beyond the paper", False),
    "nested_dropout_printed": Bound(_ND, nested_dropout_printed_bound, "Section 5"),
    "nested_dropout_harmonic": Bound(_ND, nested_dropout_harmonic_bound, "Section 5, before its last step"),
    "nested_dropout_mu": Bound(_ND, nested_dropout_mu_bound, "beyond the paper"),
    "nested_dropout_tail": Bound(_ND, nested_dropout_tail_bound, "beyond the paper", tail=True),
    "nested_dropout_rotation": Bound(
        _ND, _nested_dropout_over(nested_dropout_rotation_quotient), "Section 5, before optimising", False
    ),
    "nested_dropout_mixed": Bound(_ND, _nested_dropout_over(nested_dropout_mixed_quotient), "beyond the paper", False),
}


# The penalties and the prior of the smallest condition number within the span: what "optimally chosen" buys.


def optimal_penalties(variances: Any, latent_dim: int) -> Array:
    """Penalties (k,) of the smallest condition number for variances (m,), to about a percent (beyond the paper).

    Equalises the quotients of neighbours, then descends on the exact spectrum; O(k^3) a step, k up to about 40.
    """
    leading = _leading(variances, latent_dim)
    shares = np.full(latent_dim + 1, 1 / (latent_dim + 1))

    def penalties(shares: Array) -> Array:
        return leading[-1] * np.cumsum(shares)[:-1]

    def neighbours(values: Array) -> Array:
        return np.stack([values[:-1], values[1:]], -1)

    for _ in range(200):
        current = penalties(shares)
        rotations = mixed_rotation_quotient(neighbours(leading), neighbours(current))[:, 0]
        # Each share moves the quotients next to its own as well, hence the damping power.
        shares = shares * np.r_[4 * current[0], rotations, 4 * (leading - current)[-1]] ** -0.4
        shares = shares / shares.sum()
    return penalties(_descend(closed_form.non_uniform_l2_spectrum, leading, penalties, shares))


def optimal_prior(variances: Any, latent_dim: int) -> Array:
    """Prior (k,), as `optimal_penalties`; starts where the quotients of neighbours are equal."""
    leading = _leading(variances, latent_dim)
    weights = np.append(2 / _mu(leading[:-1], leading[1:]), 4 / leading[-1])
    return _descend(closed_form.deterministic_nested_dropout_spectrum, leading, np.asarray, weights / weights.sum())


def _descend(
    spectrum: Callable[[Array, Array], closed_form.Spectrum], leading: Array, choose: Any, shares: Array
) -> Array:
    """Shares (s,), summing to 1, whose choice has a small condition number within the span.

    Norms of growing power stand in for maximum and minimum, so that the objective is smooth.
    """
    variances = np.append(leading, leading[-1] / 2)  # no tail changes what is inside

    def ratio(logits: Array, power: float) -> float:
        eigenvalues = spectrum(variances, choose(softmax(logits))).inside
        logs = np.log(np.maximum(eigenvalues, np.finfo(float).tiny))
        return (logsumexp(power * logs) + logsumexp(-power * logs)) / power

    stages = [np.log(shares)]
    for power in (10.0, 40.0, 160.0, 640.0):
        stages.append(minimize(ratio, stages[-1], (power,), "L-BFGS-B", options={"maxiter": 60, "eps": 1e-7}).x)
    return softmax(min(stages, key=lambda logits: ratio(logits, 1e6)))
