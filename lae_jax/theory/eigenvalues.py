"""Every eigenvalue of every objective's Hessian at its optimum, as pure functions of variances and hyperparameter.

At the ordered optimum the Hessian decouples in the eigenbasis of C: latent i with its own component, pairs of latents
with each other's components, latent i with component l > k. Each block is written as a sum of squares, so that no
difference of nearly equal numbers is taken but those of the variances and penalties given: the eigenvalues keep their
digits at any condition number. Numpy arrays, or JAX's under jit, vmap and derivatives; leading batch dimensions.
Nothing is checked here: `closed_form` has the checks, the matrices and the modes.

Legend: P_ij and Q_ij encoder's and decoder's entry of latent i at component j; d_i variances; l_i penalties;
w_i^2 = 1 - l_i / d_i; c_i = P(b >= i); s noise variance; t_i^2 = d_i - s; k latent dimension, m input dimension.
"""

from typing import NamedTuple

import numpy as np

from lae_jax.hyperparameters import used_latents
from lae_jax.params import Numbers
from lae_jax.theory.graded import (
    gram_eigenvalues,
    matrix,
    namespace,
    pivoted_factor,
    rotated,
    secular_roots,
    two_by_two,
)


class Eigenvalues(NamedTuple):
    """Eigenvalues by block, each ascending; NaN for null directions."""

    own: Numbers  # (..., k, 2), latents with their own components; (..., 1, 3 k + 1) for the linear VAE
    pairs: Numbers  # (..., k (k - 1) / 2, 4), pairs of latents i < j in the order of triu_indices
    tail: Numbers  # (..., k (m - k), 2), latents with components l > k


class Extremes(NamedTuple):
    """Smallest and largest eigenvalue on the complement of the null directions, (...)."""

    smallest: Numbers
    largest: Numbers

    @property
    def condition_number(self) -> Numbers:
        """Their ratio."""
        return self.largest / self.smallest


def extremes(values: Eigenvalues, tail: bool = False) -> Extremes:
    """Within the span of the leading k components, or with `tail` of all modes."""
    xp = namespace(values.pairs)
    blocks = values if tail else values[:2]
    flat = xp.concatenate([block.reshape(*block.shape[:-2], -1) for block in blocks], -1)
    return Extremes(xp.nanmin(flat, -1), xp.nanmax(flat, -1))


def _pairs(*values: Numbers) -> tuple[Numbers, ...]:
    """Entries i and j of each value (..., k), for all pairs i < j: (..., k (k - 1) / 2)."""
    first, second = np.triu_indices(values[0].shape[-1], 1)
    return tuple(value[..., index] for value in values for index in (first, second))


def _with_tail(leading: Numbers, tail: Numbers) -> tuple[Numbers, Numbers]:
    """Values of latents (..., k) and of components (..., m - k) in all combinations, each (..., k (m - k))."""
    xp = namespace(leading, tail)
    both = xp.broadcast_arrays(leading[..., :, None], tail[..., None, :])
    return tuple(each.reshape(*each.shape[:-2], -1) for each in both)


def _null(values: Numbers, where: Numbers, count: int = 1) -> Numbers:
    """The first `count` of each row of eigenvalues (..., n, s) replaced by NaN."""
    xp = namespace(values, where)
    first = xp.broadcast_to(xp.arange(values.shape[-1]) < count, values.shape)
    return xp.where(where[..., None] & first, xp.nan, values)


def non_uniform_l2(variances: Numbers, penalties: Numbers) -> Eigenvalues:
    """Eq. (3) at the ordered optimum, from variances (..., m) and ascending penalties (..., k)."""
    xp, k = namespace(variances, penalties), penalties.shape[-1]
    d, lam = variances[..., :k], penalties
    active = lam < d
    shrunk, gone = xp.stack([4 * lam, 4 * (d - lam)], -1), 2 * xp.stack([lam - d, lam + d], -1)
    own = xp.sort(xp.where(active[..., None], shrunk, gone), -1)
    d_i, d_j, l_i, l_j, held, both = _pairs(d, lam, active)  # penalties ascend: where latent j is active, i is
    turned = xp.where(held, l_i, d_i)
    mixed = [2 * _against(d_i, d_j, l_i, held), 2 * xp.stack([l_j - turned, l_j + turned], -1)]
    turning = active_pair(d_i, d_j, xp.where(both, l_i, d_j / 4), xp.where(both, l_j, d_j / 2))
    pairs = xp.where(both[..., None], turning, xp.concatenate(mixed, -1))
    d_t, d_l = _with_tail(d, variances[..., k:])
    l_t, _ = _with_tail(lam, variances[..., k:])
    tail = 2 * _against(d_t, d_l, l_t, l_t < d_t)
    return Eigenvalues(own, _null(xp.sort(pairs, -1), held & (l_i == l_j)), tail)


def _against(d_i: Numbers, d_l: Numbers, l_i: Numbers, held: Numbers) -> Numbers:
    """Half the eigenvalues (..., 2) of a latent, active or not, on a component that no latent holds."""
    xp = namespace(d_i, l_i)
    first = xp.where(held, d_l * (d_i - l_i) / d_i + l_i, l_i)
    determinant = xp.where(held, (d_i - d_l) * (d_l + l_i), (l_i - d_l) * (l_i + d_l))
    return two_by_two(first, xp.where(held, d_i, l_i), -d_l, determinant)


def active_pair(d_i: Numbers, d_j: Numbers, l_i: Numbers, l_j: Numbers) -> Numbers:
    """Eigenvalues (..., 4) of two active latents of Eq. (3) and each other's components, not sorted.

    With a, b = P_ij +- Q_ij and c, g = P_ji +- Q_ji, x = l_j - l_i, y = w_i^2 - w_j^2, T = d_i + d_j the form is
    T/4 (w_j g - w_i b + (d_i - d_j) / T (w_i a + w_j c))^2 + x/(2y) (w_j a + w_i c)^2
    + d_i d_j (d_i - d_j) (l_i + l_j) / (2 T (l_j d_i - l_i d_j)) (w_i a + w_j c)^2 + (l_i + l_j)/2 (b^2 + g^2):
    one eigenvalue is 2 (l_i + l_j), and the rest the factor below of the combinations of b and g, a + c and a - c.
    """
    xp = namespace(d_i, l_i)
    total, gap, sum_, step = d_i + d_j, d_i - d_j, l_i + l_j, l_j - l_i
    crossed = step * d_i + l_i * gap  # l_j d_i - l_i d_j
    w_i, w_j = xp.sqrt((d_i - l_i) / d_i), xp.sqrt((d_j - l_j) / d_j)
    square = (w_i + w_j) ** 2  # twice that of the coefficient of a + c
    lean = crossed / (d_i * d_j) / square  # (w_i - w_j) / (w_i + w_j)
    norm = (d_i - l_i) / d_i + (d_j - l_j) / d_j
    energy = d_j * (d_i - l_i) + d_i * (d_j - l_j)
    first = total * norm + 2 * sum_
    minor = square * (2 * energy + sum_ * total)
    along = gap * xp.sqrt(norm * square / 2) / first
    ratio = (l_i * d_i - l_j * d_j) / crossed
    across = lean * (2 * energy * ratio + sum_ * (gap**2 / total + 4 * d_i * d_j / total * ratio))
    across = across / (2 * energy + sum_ * total)
    scales = xp.sqrt(first), xp.sqrt(minor / first), xp.sqrt(8 * gap * step * sum_ / minor)
    factor = matrix(
        [scales[0], 0, 0],
        [scales[0] * along, scales[1], 0],
        [scales[0] * along * lean, scales[1] * across, scales[2]],
    )
    return xp.concatenate([gram_eigenvalues(factor), 2 * sum_[..., None]], -1)


def prior_sums(prior: Numbers) -> tuple[Numbers, Numbers]:
    """c_i = P(b >= i) (..., k), and c_i - c_j = P(i <= b < j) for all pairs i < j, by sums alone."""
    xp, k = namespace(prior), prior.shape[-1]
    sums = xp.cumsum(xp.triu(xp.broadcast_to(prior[..., None, :], (*prior.shape, k))), -1)
    first, second = np.triu_indices(k, 1)
    total = sums[..., :1, -1]
    return sums[..., -1] / total, sums[..., first, second - 1] / total


def nested_dropout(variances: Numbers, prior: Numbers) -> Eigenvalues:
    """Twice Eq. (6) at W1 = W2^T = U^T, from variances (..., m) and p_B (..., k), of any positive sum."""
    xp, k = namespace(variances, prior), prior.shape[-1]
    d = variances[..., :k]
    kept, lost = prior_sums(prior)
    own = xp.stack([xp.full_like(d * kept, xp.nan), 4 * kept * d], -1)
    (d_i, d_j), (_, c_j) = _pairs(d), _pairs(kept)
    pairs = _null(dropout_pair(d_i, d_j, c_j, lost), lost == 0, 2)
    d_t, d_l = _with_tail(d, variances[..., k:])
    c_t, _ = _with_tail(kept, variances[..., k:])
    tail = 2 * c_t[..., None] * two_by_two(d_l, d_t, -d_l, d_l * (d_t - d_l))
    return Eigenvalues(own, pairs, _null(tail, d_l == 0))


def dropout_pair(d_i: Numbers, d_j: Numbers, c_j: Numbers, lost: Numbers) -> Numbers:
    """Eigenvalues (..., 4), ascending, of two latents and each other's components; lost = c_i - c_j.

    The form is c_j d_j (P_ij + Q_ji)^2 + c_j d_i (Q_ij + P_ji)^2 + lost (d_j (P_ij - Q_ij)^2 + (d_i - d_j) Q_ij^2).
    """
    xp = namespace(d_i, c_j)
    s, u, v, w = (xp.sqrt(2 * square) for square in (c_j * d_j, c_j * d_i, lost * d_j, lost * (d_i - d_j)))
    return gram_eigenvalues(matrix([s, 0, v, 0], [0, u, -v, w], [0, u, 0, 0], [s, 0, 0, 0]))


def reconstruction(variances: Numbers, latent_dim: int) -> Eigenvalues:
    """Eq. (1) at W1 = W2^T = O U^T for any orthogonal O, from variances (..., m)."""
    xp = namespace(variances)
    d = variances[..., :latent_dim]
    d_i, d_j = _pairs(d)
    nothing = xp.full_like(d_i, xp.nan)
    d_t, d_l = _with_tail(d, variances[..., latent_dim:])
    tail = 2 * two_by_two(d_l, d_t, -d_l, d_l * (d_t - d_l))
    return Eigenvalues(
        xp.stack([xp.full_like(d, xp.nan), 4 * d], -1),
        xp.stack([nothing, nothing, 4 * d_j, 4 * d_i], -1),
        _null(tail, d_l == 0),
    )


def rag(variances: Numbers, latent_dim: int, rotation_gain: Numbers = 1.0) -> Eigenvalues:
    """Minus the Jacobian of Algorithm 1's field, its A multiplied by `rotation_gain`; the pairs are not sorted."""
    xp = namespace(variances)
    own, pairs, tail = reconstruction(variances, latent_dim)
    d_i, d_j = _pairs(variances[..., :latent_dim])
    rotation = rotation_gain * (d_i - d_j) / 2
    return Eigenvalues(own, xp.stack([pairs[..., 0], rotation, pairs[..., 2], pairs[..., 3]], -1), tail)


def linear_vae(variances: Numbers, latent_dim: int, beta: Numbers = 1.0) -> Eigenvalues:
    """The negative ELBO at its ordered optimum, from variances (..., m); of the beta-VAE from beta (...) as well.

    Latent i with its own component, log-variance v and the noise's log-variance n is a sum of squares: y, z = Q +- d P,
    (z + t/2 (v - n))^2 / d + t^2/(s d) (y + s/(2t) (v + n))^2 + (v - n)^2 / 4, to which (m - k) n^2 / 2 is added once.

    The beta-VAE is beta times a linear VAE of noise s = beta e^t in which (m / beta - r) n^2 / 2 is added, with r
    latents used. The others are apart from n: d_l P^2 - 2 d_l P Q / s + Q^2 / s on a component l that no latent holds,
    d_j P^2 - 2 P Q + Q^2 / s on that of a used latent j, and v^2 / 2; used ones have a block with each that is not.
    """
    xp, k, m = namespace(variances, beta), latent_dim, variances.shape[-1]
    d, rest = variances[..., :k], variances[..., k:]
    beta = xp.asarray(beta)[..., None] + xp.zeros_like(d[..., :1])
    used = used_latents(beta[..., 0], variances, k)[..., None]
    held, free = xp.arange(k) < used, xp.arange(m) >= used
    left = m - beta * used
    s = beta * xp.sum(xp.where(free, variances, 0), -1, keepdims=True) / left
    # d - s without cancellation at beta 1
    beyond = xp.where(free[..., None, :], variances[..., :, None] - variances[..., None, :], 0)
    excess = (beta * xp.sum(beyond, -1) + m * (1 - beta) * variances) / left
    square = xp.where(held, excess[..., :k], s)
    given, d = d, xp.where(held, d, 2 * s)  # of unused latents anything: what they lead to is replaced below
    t, zero, half = xp.sqrt(square), xp.zeros_like(d), xp.full_like(d, 0.5)
    swing = (square - s) / s
    symmetric = matrix([d**2 / s, swing, zero], [swing, 1 / s + zero, t / d], [zero, t / d, half])
    adjugate = matrix(
        [(square**2 + s**2) / (2 * s * d**2), -swing / 2, t * swing / d],
        [-swing / 2, d**2 / (2 * s), -d * t / s],
        [t * swing / d, -d * t / s, 4 * square / s],
    )
    border = xp.stack([t, zero, -square / (2 * d)], -1)
    unbordered = xp.stack([s / (2 * t * d), s / (2 * t), -xp.ones_like(d)], -1)
    factor, border = pivoted_factor(symmetric, adjugate, square / s, border, unbordered)
    columns, along = rotated(factor, border[..., None, :])
    poles, weights = (xp.where(held[..., None], each, 0) for each in (xp.sum(columns**2, -2), along[..., 0, :] ** 2))
    remaining = left[..., 0] / beta[..., 0] / 2
    # Poles above every root for what unused latents have of their own, so that the first 3 r + 1 roots are the others.
    top = xp.max(poles, (-2, -1)) + remaining + xp.sum(weights, (-2, -1))
    poles = xp.where(held[..., None], poles, 2 * top[..., None, None])
    flat = [each.reshape(*each.shape[:-2], -1) for each in (poles, weights)]
    idle = xp.concatenate([_unused(given, s, -excess[..., :k]), half[..., None]], -1)
    idle = xp.concatenate([top[..., None], idle.reshape(*idle.shape[:-2], -1)], -1)
    own = xp.sort(xp.where(xp.arange(3 * k + 1) <= 3 * used, secular_roots(remaining, *flat), idle), -1)[..., None, :]

    d_i, d_j, t_i, t_j, g_i, g_j, held_i, held_j = _pairs(d, t, given, held)
    below_i, below_j = _pairs(-excess[..., :k])
    a, b, inverse = d_i * d_j / s, t_i * t_j / s, 1 / s + xp.zeros_like(d_i)
    apart = (d_i - d_j) / (t_i + t_j)  # t_i - t_j
    both = [two_by_two(a, inverse, b + sign, x**2 / s) for sign, x in ((1, apart), (-1, t_i + t_j))]
    one = [_used(g_i, g_j, s), two_by_two(g_i, inverse, -xp.ones_like(g_i), -below_i / s)]
    none = [_unused(g_j, s, below_j), _unused(g_i, s, below_i)]
    pairs = [xp.concatenate(each, -1) for each in (both, one, none)]
    pairs = xp.where(held_j[..., None], pairs[0], xp.where(held_i[..., None], pairs[1], pairs[2]))
    d_t, d_l = _with_tail(given, rest)
    held_t, below_l = _with_tail(held, -excess[..., k:])
    tail = xp.where(held_t[..., None], _used(d_t, d_l, s), _unused(d_l, s, below_l))
    return Eigenvalues(*(beta[..., None] * each for each in (own, xp.sort(pairs, -1), _null(tail, d_l == 0))))


def _used(d_i: Numbers, d_l: Numbers, s: Numbers) -> Numbers:
    """Eigenvalues (..., 2) of a latent of a VAE that is used, on a component that no latent holds."""
    return two_by_two(d_i * d_l, namespace(d_i).ones_like(d_i), d_l, d_l * (d_i - d_l)) / s[..., None]


def _unused(d_l: Numbers, s: Numbers, below: Numbers) -> Numbers:
    """Eigenvalues (..., 2) of an unused latent of a VAE on a component that no latent holds; below = s - d_l."""
    return two_by_two(d_l, 1 / s + namespace(d_l).zeros_like(d_l), d_l / s, d_l * below / s**2)
