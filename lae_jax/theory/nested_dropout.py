"""The landscape of deterministic nested dropout, Eq. (6): stationary points, their loss and Morse index, the minima.

As `landscape` has it of Eq. (3), with the same `assignment`, ints (k,): the component that each latent
holds, -1 where it is idle; in numpy and the eigenbasis, in the scale of `objectives` (twice Eq. (6)). For
a positive prior, a positive definite C and distinct variances a latent i that holds component j has

    W2[:, i] = s_i u_j,    W1[i, :] = u_j^T / s_i    for any scale s_i that is not 0,

and every stationary point is of this form up to the weights of idle latents (docs/theory.md has the
proofs): one of an idle latent's two weights is zero, and the other, C W1[i, :]^T or W2[:, i], lies in
the span of what latents before it hold. These change neither the loss nor that the point is a saddle.

A prior may hold zeros. Where p_i = 0 latents i and i + 1 are always kept together: every invertible map among the
latents of such a group, W1 -> A W1 and W2 -> W2 A^-1, leads to another stationary point of the same loss and index, and
every stationary point is that of an assignment up to such maps. Where the last p_i are 0 the latents after the last
positive one are never used: the loss does not read their weights, and they are idle in every assignment.

Legend: d_i variances; p_i prior; c_i = P(b >= i); k latent dimension; m input dimension.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike

from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_prior, checked_variances
from lae_jax.params import LAEParams, numpy_weights


def _checked(variances: ArrayLike, prior: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Variances (m,) and c (k,)."""
    values = checked_prior(prior, unused=True)
    return checked_variances(variances, values.size), np.cumsum(values[::-1])[::-1]


def _held(
    variances: ArrayLike, prior: ArrayLike, assignment: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Checked variances, c, the assignment and which latents are active."""
    variances, tails = _checked(variances, prior)
    assignment = np.asarray(assignment)
    if assignment.shape != tails.shape or assignment.dtype.kind != "i":
        raise InputError(f"assignment: {assignment}, must be {tails.size} integers, one for each latent")
    active = assignment >= 0
    held = assignment[active]
    if np.any(active & (tails == 0)):
        raise InputError(f"assignment: {assignment}, must be -1 for latents that are never used, as the prior has it")
    if np.any(assignment < -1) or np.any(held >= variances.size) or len(set(held.tolist())) < held.size:
        raise InputError(f"assignment: {assignment}, must be different components below {variances.size}, or -1")
    if np.any(variances[held] == 0):
        raise InputError(f"assignment: {assignment}, gives a latent a component without variance")
    return variances, tails, assignment, active


def stationary_points(variances: ArrayLike, prior: ArrayLike) -> Iterator[tuple[int, ...]]:
    """All assignments with a stationary point, up to scales and idle weights: some (m + 1)^k of them.

    Any different components of positive variance, or none. Where p_i = 0 each stands for its images under the
    invertible maps among latents that are always kept together; latents that are never used hold none.
    """
    variances, tails = _checked(variances, prior)
    used = int(np.count_nonzero(tails))
    for assignment in itertools.product(range(-1, int(np.count_nonzero(variances))), repeat=used):
        held = [component for component in assignment if component >= 0]
        if len(set(held)) == len(held):
            yield assignment + (-1,) * (tails.size - used)


def stationary_params(
    variances: ArrayLike, prior: ArrayLike, assignment: ArrayLike, scales: ArrayLike = 1.0
) -> LAEParams:
    """The stationary point of this assignment (k,) at these scales s (k,), idle latents zero, in the eigenbasis.

    Negative scales are the reflections. InputError where a scale is 0.
    """
    variances, tails, assignment, active = _held(variances, prior, assignment)
    chosen = np.broadcast_to(np.asarray(scales, np.float64), tails.shape)[active]
    if not (np.all(chosen != 0) and np.all(np.isfinite(chosen))):
        raise InputError(f"scales: {chosen}, must be finite and not 0")
    encoder, decoder = np.zeros((tails.size, variances.size)), np.zeros((variances.size, tails.size))
    encoder[np.flatnonzero(active), assignment[active]] = 1 / chosen
    decoder[assignment[active], np.flatnonzero(active)] = chosen
    return numpy_weights(encoder, decoder)


def stationary_loss(variances: ArrayLike, prior: ArrayLike, assignment: ArrayLike) -> float:
    """Twice Eq. (6) there: tr C - sum over active latents of c_i d, d the variance held."""
    variances, tails, assignment, active = _held(variances, prior, assignment)
    return float(np.sum(variances) - np.sum(tails[active] * variances[assignment[active]]))


def morse_index(variances: ArrayLike, prior: ArrayLike, assignment: ArrayLike) -> int:
    """The number of negative eigenvalues of the Hessian there: a number of inversions (beyond the paper).

    Write down the variances that the latents hold, 0 for idle ones, and after them those that nobody holds, in
    ascending order: the index is the number of pairs whose later one is larger, pairs of latents that are
    always kept together (c_i = c_j) and all of those that are never used (c_i = 0) left out.
    """
    variances, tails, assignment, active = _held(variances, prior, assignment)
    free, used = np.delete(variances, assignment[active]), tails > 0
    held, tails = np.where(active, variances[assignment], 0.0)[used], tails[used]
    before = tails[:, None] > tails  # i before j, and not always kept together with it
    return int(np.sum(before & (held > held[:, None])) + np.sum(free > held[:, None]))


def local_minima(variances: ArrayLike, prior: ArrayLike) -> list[tuple[int, ...]]:
    """The assignments whose index is 0, by going through every stationary point.

    For a positive prior that is (0, 1, ..., k - 1) alone: all local minima are global, and they are W2 = U D,
    W1 = D^-1 U^T with D diagonal and invertible (Section 3). Where p_i = 0 latents i and i + 1 may exchange
    components, and the axes are not found: the span of every group of latents is, with the groups in order. Latents
    that are never used stay anywhere. All local minima are global with zeros as well.
    """
    return [point for point in stationary_points(variances, prior) if morse_index(variances, prior, point) == 0]


class Verdict(NamedTuple):
    """What `examine` finds."""

    gradient: float  # largest entry of the gradient of twice Eq. (6)
    assignment: tuple[int, ...]  # the nearest stationary point, over all scales
    distance: float  # to it, in W2[:, i] W1[i, :], the map of each latent, Frobenius
    scales: (
        np.ndarray
    )  # (k,) ||W2[:, i]|| / ||W1[i, :]||, which the loss does not fix; NaN or infinite where one is zero


def examine(params: LAEParams, variances: ArrayLike, prior: ArrayLike) -> Verdict:
    """Where weights in the eigenbasis are in the landscape: at zero gradient the distance has to be 0 too.

    Maps of latents that are always kept together (equal c_i) are compared as their sum, and those of latents that are
    never used (c_i = 0) not at all, for what the loss leaves free is not a distance.
    """
    variances, tails = _checked(variances, prior)
    encoder, decoder = np.asarray(params.encoder, np.float64), np.asarray(params.decoder, np.float64)
    if encoder.shape != (tails.size, variances.size) or decoder.shape != encoder.shape[::-1]:
        raise InputError(f"params: encoder {encoder.shape}, must be ({tails.size}, {variances.size})")
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.linalg.norm(decoder, axis=0) / np.linalg.norm(encoder, axis=1)
    used, unused = tails > 0, (-1,) * int(np.count_nonzero(tails == 0))
    encoder, decoder, tails = encoder[used], decoder[:, used], tails[used]
    through, kept, code = encoder * variances, np.minimum(tails[:, None], tails), decoder.T @ decoder
    gradients = (
        (kept * code) @ through - tails[:, None] * (decoder.T * variances),
        decoder @ (kept * (encoder @ through.T)) - through.T * tails,
    )
    together = tails[:, None] == tails
    diagonals = together @ (encoder * decoder.T)  # of the map of each latent's group
    gain = 2 * diagonals - 1
    cost = np.hstack([np.where(variances > 0, -gain, np.inf), np.zeros((tails.size,) * 2)])
    columns = scipy.optimize.linear_sum_assignment(cost)[1]
    assignment = np.where(columns < variances.size, columns, -1)
    overlap = (encoder @ encoder.T) * code * together  # inner products of maps of one group
    squared = np.sum(overlap) - np.sum(gain[assignment >= 0, assignment[assignment >= 0]])
    return Verdict(
        2 * max(float(np.max(np.abs(gradient))) for gradient in gradients),
        tuple(map(int, assignment)) + unused,
        float(np.sqrt(max(squared, 0.0))),
        scales,
    )
