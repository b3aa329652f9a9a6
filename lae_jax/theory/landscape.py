"""The loss landscape in closed form: stationary points, their loss and Morse index, every optimum.

Everything is numpy in float64, in the eigenbasis of C (`params.change_basis` leads back). A stationary
point of Eq. (3) is named by its `assignment`, ints (k,): the component that each latent holds, -1 where
the latent is zero. This is the form that Theorem 2 should print: penalties stay with their latents,
and a latent can hold component j only if its penalty is below d_j.

Legend: d_i variances; l_i penalties; w_i = sqrt(1 - l_i / d_i) the length of latent i; k latent dimension;
m input dimension; s2 the noise variance of the VAE.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike

from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_beta, checked_penalties, checked_variances, used_latents
from lae_jax.params import LAEParams, VAEParams, numpy_weights


def noise_variance(variances: np.ndarray, latent_dim: int, beta: float = 1.0) -> tuple[int, float]:
    """How many latents r the VAE uses at its optimum, and its noise there: sum_(l>r) d_l / (m - beta r).

    No other r fits the noise that it leads to: d_i > beta s2 for i <= r alone. At beta 1 all are used, and the noise is
    the mean of the tail. InputError unless it is positive.
    """
    used = int(used_latents(beta, variances, latent_dim))
    noise = float(np.sum(variances[used:]) / (variances.size - beta * used))
    if not noise > 0:
        raise InputError(
            f"variances: the VAE's noise is made of those after the first {used}, which are 0; one must be positive"
        )
    return used, noise


# Stationary points of Eq. (3).


def _representable(variances: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """Whether latent i can hold component j, (k, m)."""
    return penalties[:, None] < variances


def stationary_points(variances: ArrayLike, penalties: ArrayLike) -> Iterator[tuple[int, ...]]:
    """All assignments with a stationary point, up to signs: some (m + 1)^k of them. Theorem 2, corrected.

    Complete where penalties and positive variances all differ.
    """
    penalties = checked_penalties(penalties)
    allowed = _representable(checked_variances(variances, penalties.size), penalties)
    for assignment in itertools.product(*([-1, *np.flatnonzero(row)] for row in allowed)):
        held = [component for component in assignment if component >= 0]
        if len(set(held)) == len(held):
            yield tuple(map(int, assignment))


def _held(
    variances: ArrayLike, penalties: ArrayLike, assignment: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Checked variances, penalties and assignment, and which latents are active."""
    penalties = checked_penalties(penalties)
    variances = checked_variances(variances, penalties.size)
    assignment = np.asarray(assignment)
    if assignment.shape != penalties.shape or assignment.dtype.kind != "i":
        raise InputError(f"assignment: {assignment}, must be {penalties.size} integers, one for each latent")
    active = assignment >= 0
    held = assignment[active]
    if np.any(assignment < -1) or np.any(held >= variances.size) or len(set(held.tolist())) < held.size:
        raise InputError(f"assignment: {assignment}, must be different components below {variances.size}, or -1")
    if np.any(penalties[active] >= variances[held]):
        raise InputError(f"assignment: {assignment}, gives a latent a component whose variance its penalty exceeds")
    return variances, penalties, assignment, active


def _placed(
    rows: np.ndarray, columns: np.ndarray, encoder: np.ndarray, decoder: np.ndarray, shape: tuple[int, int]
) -> LAEParams:
    """Weights (k, m) = `shape` with these entries and zeros elsewhere."""
    first, second = np.zeros(shape), np.zeros(shape[::-1])
    first[rows, columns], second[columns, rows] = encoder, decoder
    return numpy_weights(first, second)


def stationary_params(
    variances: ArrayLike, penalties: ArrayLike, assignment: ArrayLike, signs: ArrayLike = 1.0
) -> LAEParams:
    """The stationary point of this assignment (k,) and these signs (k,), in the eigenbasis. Theorem 2, corrected.

    InputError where the assignment repeats a component or names one that cannot be held.
    """
    variances, penalties, assignment, active = _held(variances, penalties, assignment)
    held, shape = assignment[active], (penalties.size, variances.size)
    lengths = np.sqrt((variances[held] - penalties[active]) / variances[held])
    lengths = lengths * np.broadcast_to(signs, penalties.shape)[active]
    return _placed(np.flatnonzero(active), held, lengths, lengths, shape)


def stationary_loss(variances: ArrayLike, penalties: ArrayLike, assignment: ArrayLike) -> float:
    """Eq. (3) there: tr C - sum over active latents of (d - l)^2 / d, d the variance held."""
    variances, penalties, assignment, active = _held(variances, penalties, assignment)
    d = variances[assignment[active]]
    return float(np.sum(variances) - np.sum((d - penalties[active]) ** 2 / d))


def morse_index(variances: ArrayLike, penalties: ArrayLike, assignment: ArrayLike) -> int:
    """The number of negative eigenvalues of the Hessian of Eq. (3) there (beyond the paper)."""
    variances, penalties, assignment, active = _held(variances, penalties, assignment)
    d, l_active, l_idle = variances[assignment[active]], penalties[active], penalties[~active]
    free = np.delete(variances, assignment[active])
    swapped = (l_active[:, None] - l_active) * (d[:, None] - d) > 0  # each pair twice
    count = np.sum(free > d[:, None]) + np.sum(swapped) // 2
    return int(count + np.sum(l_idle[:, None] < l_active) + np.sum(free > l_idle[:, None]))


def optimal_assignment(variances: ArrayLike, penalties: ArrayLike) -> tuple[int, ...]:
    """The global minimum: latent i holds component i, or nothing where its penalty is not below d_i. Theorem 3."""
    penalties = checked_penalties(penalties)
    leading = checked_variances(variances, penalties.size)[: penalties.size]
    return tuple(int(i) if below else -1 for i, below in enumerate(penalties < leading))


def local_minima(variances: ArrayLike, penalties: ArrayLike) -> list[tuple[int, ...]]:
    """The assignments of all local minima, by going through every stationary point.

    Theorem 3 holds at these variances and penalties if there is one, `optimal_assignment`.
    """
    points = stationary_points(variances, penalties)
    return [point for point in points if morse_index(variances, penalties, point) == 0]


class Verdict(NamedTuple):
    """What `examine` finds."""

    gradient: float  # largest entry of the gradient of Eq. (3)
    transpose_gap: float  # largest entry of W1 - W2^T
    assignment: tuple[int, ...]  # the nearest stationary point, over all signs
    distance: float  # to it, Frobenius


def examine(params: LAEParams, variances: ArrayLike, penalties: ArrayLike) -> Verdict:
    """Theorems 1 and 2 at weights in the eigenbasis: where the gradient is 0, gap and distance must be too."""
    penalties = checked_penalties(penalties)
    variances = checked_variances(variances, penalties.size)
    encoder, decoder = np.asarray(params.encoder, np.float64), np.asarray(params.decoder, np.float64).T
    if encoder.shape != (penalties.size, variances.size) or decoder.shape != encoder.shape:
        raise InputError(f"params: encoder {encoder.shape}, must be ({penalties.size}, {variances.size})")
    through = encoder * variances
    pull = penalties[:, None]
    gradients = (
        (decoder @ decoder.T) @ through - decoder * variances + pull * encoder,
        (encoder @ through.T) @ decoder - through + pull * decoder,
    )
    allowed = _representable(variances, penalties)
    lengths = np.sqrt(np.where(allowed, 1 - pull / np.where(allowed, variances, 1), 0))
    # Cost of giving latent i component j: squared distance from it, less that from zero. The last k columns are zero.
    excess = np.where(allowed, 2 * lengths**2 - 2 * lengths * np.abs(encoder + decoder), np.inf)
    cost = np.hstack([excess, np.zeros((penalties.size,) * 2)])
    columns = scipy.optimize.linear_sum_assignment(cost)[1]
    assignment = np.where(columns < variances.size, columns, -1)
    signs = np.sign((encoder + decoder)[np.arange(penalties.size), assignment])
    nearest = stationary_params(variances, penalties, assignment, np.where(signs == 0, 1, signs))
    return Verdict(
        2 * max(float(np.max(np.abs(gradient))) for gradient in gradients),
        float(np.max(np.abs(encoder - decoder))),
        tuple(map(int, assignment)),
        float(np.hypot(np.linalg.norm(encoder - nearest.encoder), np.linalg.norm(decoder - nearest.decoder.T))),
    )


# Global optima of every objective, in the eigenbasis, with positive signs.


def _ordered(variances: np.ndarray, encoder: np.ndarray, decoder: np.ndarray) -> LAEParams:
    latents = np.arange(encoder.size)
    return _placed(latents, latents, encoder, decoder, (encoder.size, variances.size))


def principal_components(variances: ArrayLike, latent_dim: int) -> LAEParams:
    """W1 = W2^T = U^T: the optimum of nested dropout and RAG, and one of the many of Eq. (1)."""
    return _ordered(checked_variances(variances, latent_dim), np.ones(latent_dim), np.ones(latent_dim))


def l2_optimum(variances: ArrayLike, penalties: ArrayLike) -> LAEParams:
    """The minimum of Eq. (3), collapsed latents included; with equal penalties one of those of Eq. (2). Theorem 3."""
    return stationary_params(variances, penalties, optimal_assignment(variances, penalties))


def product_l2_optimum(variances: ArrayLike, penalty: float, latent_dim: int) -> LAEParams:
    """One minimum of Eq. (1) plus penalty ||W2 W1||_F^2: W2 W1 = U diag(d_i / (d_i + penalty)) U^T."""
    variances = checked_variances(variances, latent_dim)
    if not 0 <= penalty < np.inf:
        raise InputError(f"penalty: {penalty}, must be 0 or above")
    lengths = np.sqrt(variances[:latent_dim] / (variances[:latent_dim] + penalty))
    return _ordered(variances, lengths, lengths)


def linear_vae_optimum(variances: ArrayLike, latent_dim: int, beta: float = 1.0) -> VAEParams:
    """The ordered minimum of the linear VAE's negative ELBO; any order of the latents is as good.

    W2 = U diag(t_i), W1 = diag(t_i / d_i) U^T, e^v_i = s2 / d_i with t_i^2 = d_i - s2 (Lucas et al. 2019). For the
    beta-VAE beta s2 takes the place of s2 in t_i and v_i, for the latents with d_i > beta s2; the others are zero, with
    v_i = 0 (beyond the paper). InputError unless the noise s2 of `noise_variance` is positive.
    """
    variances = checked_variances(variances, latent_dim)
    used, s2 = noise_variance(variances, latent_dim, float(checked_beta([beta])[0]))
    d = variances[:latent_dim]
    fraction = np.where(np.arange(latent_dim) < used, beta * s2 / d, 1.0)
    t = np.sqrt(d * (1 - fraction))
    noise = np.log(fraction), np.log(s2)
    return VAEParams(*_ordered(variances, t / d, t), *noise)  # type: ignore[arg-type] # numpy
