"""Condition numbers at the global optimum: lower bounds, and the quotients behind them.

Numpy arrays, lists, or JAX's arrays under jit, vmap and derivatives; all take leading batch dimensions: variances
(..., m) of C, penalties (..., k), prior (..., k). Values are checked where they are known, so not under a trace.
Quotients are in the scale of `objectives` (nested dropout is twice Eq. (6)).
The l2 bounds are for 0 < lambda_1 < ... < lambda_k < d_k, those of nested dropout for positive priors.
A bound on the condition number within the span of the leading components holds with the tail as well.

Legend: d_i variances; l_i penalties; f_i = l_i / d_i = 1 - w_i^2; c_i = P(b >= i); k latent dimension;
mu(x, y) the smaller eigenvalue of [[y, -y], [-y, x]].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_penalties, checked_prior, checked_variances
from lae_jax.params import Numbers
from lae_jax.theory.eigenvalues import prior_sums
from lae_jax.theory.graded import namespace


def _checked(check: Callable[..., np.ndarray], given: ArrayLike, *arguments: int, **options: bool | int) -> Numbers:
    """What was given, checked where its values are known; JAX's arrays as they are."""
    if isinstance(given, jax.core.Tracer):
        return given
    checked = check(given, *arguments, batched=True, **options)
    return given if isinstance(given, jax.Array) else checked


def _leading(variances: ArrayLike, latent_dim: int) -> Numbers:
    """The first k variances (..., k), checked; k at least 2, for the bounds are over pairs of latents."""
    if latent_dim < 2:
        raise InputError(f"latent_dim: {latent_dim}, must be at least 2 for a bound, which is over pairs of latents")
    return _checked(checked_variances, variances, latent_dim, tail=0)[..., :latent_dim]


def _fractions(variances: ArrayLike, penalties: ArrayLike) -> tuple[Numbers, Numbers, Numbers]:
    """d, l and f = l / d (..., k), checked."""
    values = _checked(checked_penalties, penalties, strictly=True)
    leading = _leading(variances, values.shape[-1])
    below = (values[..., -1] < leading[..., -1]).all()
    if not (isinstance(below, jax.core.Tracer) or below):
        raise InputError("penalties: the last must be below the variance of its component, or latents collapse")
    return leading, values, values / leading


def _pairs(values: Numbers) -> tuple[Numbers, Numbers]:
    """Entries i and j of all pairs i < j, each (..., k (k - 1) / 2)."""
    first, second = np.triu_indices(values.shape[-1], 1)
    return values[..., first], values[..., second]


def _gaps(leading: Numbers) -> Numbers:
    """d_i - d_(i+1), (..., k - 1)."""
    return leading[..., :-1] - leading[..., 1:]


def _first(variances: ArrayLike) -> Numbers:
    """d_1 (...)."""
    return (variances if isinstance(variances, jax.Array) else np.asarray(variances, float))[..., 0]


def _mu(x: Numbers, y: Numbers) -> Numbers:
    return y * (x - y) / ((x + y) / 2 + namespace(x, y).sqrt((x - y) ** 2 / 4 + y**2))


# Rayleigh quotients: of rotations, by pair, above the smallest eigenvalue; radial ones, below the largest.


def radial_quotient(variances: ArrayLike, penalties: ArrayLike) -> Numbers:
    """Quotient of rescaling latent i, 4 (d_i - l_i), (..., k). Section 4.3."""
    leading, values, _ = _fractions(variances, penalties)
    return 4 * (leading - values)


def _rotations(variances: ArrayLike, penalties: ArrayLike) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """The quotients of latent and input rotation, w_i w_j and w_i^2 + w_j^2, by pair."""
    (d_i, d_j), (l_i, l_j), (f_i, f_j) = map(_pairs, _fractions(variances, penalties))
    w_i, w_j = (d_i - l_i) / d_i, (d_j - l_j) / d_j  # squares: 1 - f without cancellation
    norm, gap = w_i + w_j, ((l_j - l_i) * d_i + l_i * (d_i - d_j)) / (d_i * d_j)
    inputs = gap * (f_i + f_j) * (d_i - d_j) / norm
    return 2 * (l_j - l_i) * gap / norm, inputs, namespace(w_i, w_j).sqrt(w_i * w_j), norm


def latent_rotation_quotient(variances: ArrayLike, penalties: ArrayLike) -> Numbers:
    """Quotient of rotating latents i and j: W1 -> R W1, W2 -> W2 R^T. Section 4.3."""
    return _rotations(variances, penalties)[0]


def input_rotation_quotient(variances: ArrayLike, penalties: ArrayLike) -> Numbers:
    """Quotient of rotating components i and j: W1 -> W1 R, W2 -> R^T W2; small where d_i is near d_j."""
    return _rotations(variances, penalties)[1]


def mixed_rotation_quotient(variances: ArrayLike, penalties: ArrayLike) -> Numbers:
    """The smallest quotient among mixtures of the latent and the input rotation (beyond the paper).

    A 2x2 Ritz value, for the two are orthogonal under the Hessian. Above the true minimum, by less than a percent
    where penalties are small beside the variances or neighbours differ little, by a factor of 2 and more elsewhere.
    """
    latent, inputs, overlap, norm = _rotations(variances, penalties)
    cosine = 2 * overlap / norm
    total, product = latent + inputs, latent * inputs
    # The squared cosine takes the larger part where the two are near: a sum of squares.
    spread = (latent - inputs) ** 2 + 4 * product * cosine**2
    return 2 * product / (total + namespace(spread).sqrt(spread))


def mixed_rotation_limit(variances: ArrayLike, penalties: ArrayLike) -> Numbers:
    """U_ij, a rational upper bound on `mixed_rotation_quotient` (beyond the paper)."""
    (d_i, d_j), (l_i, l_j), (f_i, f_j) = map(_pairs, _fractions(variances, penalties))
    return 4 * (l_j - l_i) * (d_i - d_j) * (f_i + f_j) / ((d_i + d_j) * (4 - f_i - 3 * f_j))


def nested_dropout_rotation_quotient(variances: ArrayLike, prior: ArrayLike) -> Numbers:
    """Quotient of rotating latents i and j under nested dropout, (c_i - c_j) (d_i - d_j) / 2. Section 5."""
    lost, d_i, d_j = _dropout_pairs(variances, prior)
    return lost * (d_i - d_j) / 2


def nested_dropout_mixed_quotient(variances: ArrayLike, prior: ArrayLike) -> Numbers:
    """(c_i - c_j) mu(d_i, d_j), the smallest quotient at fixed W2 W1 (beyond the paper)."""
    lost, d_i, d_j = _dropout_pairs(variances, prior)
    return lost * _mu(d_i, d_j)


def _dropout_pairs(variances: ArrayLike, prior: ArrayLike) -> tuple[Numbers, Numbers, Numbers]:
    _, lost = prior_sums(_checked(checked_prior, prior, strictly=True))
    return lost, *_pairs(_leading(variances, np.shape(prior)[-1]))


Slow = Callable[[ArrayLike, ArrayLike], Numbers]  # (variances, penalties or prior) -> quotients

# Bounds on the condition number for given penalties or prior: a quotient of a fast direction over slow ones.


def _l2_over(slow: Slow) -> Slow:
    # 2 d_1 is the Hessian's entry for any decoder weight on u_1: the better one where l_1 > d_1 / 2.
    def largest(variances: ArrayLike, penalties: ArrayLike) -> Numbers:
        radial = radial_quotient(variances, penalties)[..., 0]
        return namespace(radial).maximum(radial, 2 * _first(variances))

    return lambda variances, penalties: largest(variances, penalties) / slow(variances, penalties).min(-1)


def _slowest(variances: ArrayLike, penalties: ArrayLike) -> Numbers:
    leading, values, _ = _fractions(variances, penalties)
    mixed = mixed_rotation_quotient(leading, values)
    xp = namespace(mixed)
    ends = xp.minimum(4 * values[..., 0], 4 * (leading - values)[..., -1])
    return xp.minimum(ends, mixed.min(-1))[..., None]


def _nested_dropout_over(slow: Slow) -> Slow:
    return lambda variances, prior: 4 * _first(variances) / slow(variances, prior).min(-1)


# Bounds on the condition number for every choice of penalties or prior.


def l2_printed_bound(variances: ArrayLike, latent_dim: int) -> Numbers:
    """2 (k - 1) (d_1 - d_k) sum_(1<i<k) (d_i - d_k) / (d_1 d_k): true, never tight, 0 at k = 2. Section 4.3."""
    leading = _leading(variances, latent_dim)
    first, last = leading[..., 0], leading[..., -1]
    excess = (leading[..., 1:-1] - leading[..., -1:]).sum(-1)
    return 2 * (latent_dim - 1) * (first - last) * excess / (first * last)


def l2_universal_bound(variances: ArrayLike, latent_dim: int) -> Numbers:
    """(1 + sqrt(2) (k - 1))^2, whatever the spectrum (beyond the paper)."""
    first = _leading(variances, latent_dim)[..., 0]
    return namespace(first).full_like(first, (1 + np.sqrt(2) * (latent_dim - 1)) ** 2)


def l2_spread_bound(variances: ArrayLike, latent_dim: int) -> Numbers:
    """The sum of `mixed_rotation_limit` over neighbours telescoped; sharp on spread spectra (beyond the paper).

    (d_1 - d_k) / d_k^2 sum_(i<k) d_j (d_i + d_j) (4 - d_k / d_i - 3 d_k / d_j) / (d_i - d_j), j = i + 1.
    """
    leading = _leading(variances, latent_dim)
    first, last, d_i, d_j = leading[..., :1], leading[..., -1:], leading[..., :-1], leading[..., 1:]
    terms = d_j * (d_i + d_j) * (4 - last / d_i - 3 * last / d_j) / (d_i - d_j)
    return ((first - last) / last**2 * terms).sum(-1)


def l2_flat_bound(variances: ArrayLike, latent_dim: int) -> Numbers:
    """The kappa with kappa ln kappa = 2 d_1 max(sum_(i<k) 1 / (d_i - d_(i+1)), (k - 1)^2 / d_k).

    Best on flat spectra: up to a logarithm, no penalties beat nested dropout's rate (beyond the paper).
    """
    leading = _leading(variances, latent_dim)
    xp, harmonic = namespace(leading), (1 / _gaps(leading)).sum(-1)
    log_target = xp.log(2 * leading[..., 0] * xp.maximum(harmonic, (latent_dim - 1) ** 2 / leading[..., -1]))
    log_kappa = xp.maximum(log_target, 1.0)
    for _ in range(6):  # Newton's method on x + ln x = ln target, concave: from above it comes down to rounding
        log_kappa = log_kappa * (1 + log_target - xp.log(log_kappa)) / (1 + log_kappa)
    return xp.exp(log_kappa)


def nested_dropout_printed_bound(variances: ArrayLike, latent_dim: int) -> Numbers:
    """8 d_1 (k - 1)^2 / (d_1 - d_k): true, tight for small equal gaps. Section 5."""
    leading = _leading(variances, latent_dim)
    return 8 * leading[..., 0] * (latent_dim - 1) ** 2 / (leading[..., 0] - leading[..., -1])


def nested_dropout_harmonic_bound(variances: ArrayLike, latent_dim: int) -> Numbers:
    """8 d_1 sum_(i<k) 1 / (d_i - d_(i+1)): Section 5 before its last inequality."""
    leading = _leading(variances, latent_dim)
    return 8 * leading[..., 0] * (1 / _gaps(leading)).sum(-1)


def nested_dropout_mu_bound(variances: ArrayLike, latent_dim: int) -> Numbers:
    """4 d_1 sum_(i<k) 1 / mu(d_i, d_(i+1)) (beyond the paper)."""
    leading = _leading(variances, latent_dim)
    return 4 * leading[..., 0] * (1 / _mu(leading[..., :-1], leading[..., 1:])).sum(-1)


def nested_dropout_tail_bound(variances: ArrayLike, latent_dim: int) -> Numbers:
    """2 d_1 (sum_(i<k) 2 / mu(d_i, d_(i+1)) + max over l > k of 1 / mu(d_k, d_l)), with the tail (beyond the paper).

    InputError unless all m variances are positive: a component of no variance is a null direction.
    """
    leading = _leading(variances, latent_dim)
    tail = (variances if isinstance(variances, jax.Array) else np.asarray(variances, float))[..., latent_dim:]
    positive = ((tail > 0) & (tail < leading[..., -1:])).all()
    if not (isinstance(positive, jax.core.Tracer) or positive):
        raise InputError(f"variances: those after the first {latent_dim} must be positive and below them")
    outside = (1 / _mu(leading[..., -1:], tail)).max(-1, initial=0.0)
    return nested_dropout_mu_bound(leading, latent_dim) + 2 * leading[..., 0] * outside


class Bound(NamedTuple):
    """One lower bound on a condition number; a row of BOUNDS."""

    objective: str  # the name in METHODS
    # (variances, latent_dim) where it holds for every choice, else (variances, penalties or prior): hence `Any`.
    function: Callable[[ArrayLike, Any], Numbers]
    source: str
    every_choice: bool = True  # whether it holds for all penalties or priors and so takes only `latent_dim`
    tail: bool = False  # whether it bounds only the condition number that counts the tail

    def value(self, variances: ArrayLike, hyperparameter: ArrayLike) -> Numbers:
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
