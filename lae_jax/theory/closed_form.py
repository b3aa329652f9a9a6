"""Hessian spectra at the global optimum: closed forms at any size, exact and matrix-free checks.

At the ordered optimum the Hessian decouples in the eigenbasis of C into 2x2 blocks (latent i with its own
component, latent i with component l > k) and 4x4 blocks (latents i < j with each other's components), so all
2 k m eigenvalues cost O(k m). The closed forms are numpy in float64 and go beyond the paper; they are in the
scale of `objectives` (nested dropout is twice Eq. (6)).

Legend: P_ij and Q_ij encoder's and decoder's entry of latent i at component j; d_i variances; l_i penalties;
w_i^2 = 1 - l_i / d_i; e_i = d_i (1 - w_i^2); c_i = P(b >= i); s2 noise variance; t_i^2 = d_i - s2;
k latent dimension, m input dimension. Blocks are ordered (P_ij, Q_ij, P_ji, Q_ji).
"""

from typing import Any

import numpy as np

from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_penalties, checked_prior, checked_variances
from lae_jax.params import LAEParams, VAEParams
from lae_jax.theory.blocks import (
    Block,
    assemble,
    block_matrices,
    combinations,
    entry_positions,
    four_by_four,
    two_by_two,
    without_null,
)
from lae_jax.theory.blocks import Spectrum as Spectrum
from lae_jax.theory.blocks import condition_number as condition_number
from lae_jax.theory.blocks import mode as mode
from lae_jax.theory.landscape import noise_variance

Array = np.ndarray


def _lae_spectrum(input_dim: int, latent_dim: int, own: tuple[Array, Array], *others: Any) -> Spectrum:
    """The spectrum of an LAE, whose latents have 2x2 blocks of their own."""
    latents = np.arange(latent_dim)
    block = Block(own[0], entry_positions(input_dim, latent_dim, latents, latents), own[1])
    shapes = LAEParams((latent_dim, input_dim), (input_dim, latent_dim))  # type: ignore[arg-type]
    return assemble(shapes, block, *others)


# The closed forms.


def non_uniform_l2_spectrum(variances: Any, penalties: Any) -> Spectrum:
    """Eq. (3) at the ordered optimum, from all m variances (m,) and the penalties (k,), ascending.

    Penalties above the variance of their component are the collapsed case: those latents are zero. Where
    one equals it the eigenvalue 0 stays in (the loss is quartic there). Equal penalties leave rotations of
    their latents free, which are left out. Otherwise there are no null directions, in the tail neither.
    """
    lam = checked_penalties(penalties)
    variances = checked_variances(variances, lam.size)
    k, d = lam.size, variances[: lam.size]
    active = lam < d
    w, e = np.sqrt(np.where(active, (d - lam) / d, 0.0)), np.where(active, lam, d)

    diagonal, off = np.where(active, d, lam), np.where(active, d - 2 * lam, -d)
    determinant = np.where(active, 4 * lam * (d - lam), (lam - d) * (lam + d))
    own = 2 * block_matrices([diagonal, off], [off, diagonal]), 2 * two_by_two(diagonal, diagonal, off, determinant)

    i, j = np.triu_indices(k, 1)
    d_i, d_j, l_i, l_j, w_i, w_j, e_i, e_j = (value[index] for value in (d, lam, w, e) for index in (i, j))
    blocks = 2 * block_matrices(
        [d_j * w_i**2 + l_i, -e_j, 0, d_j * w_i * w_j],
        [-e_j, d_i * w_i**2 + l_i, d_i * w_i * w_j, 0],
        [0, d_i * w_i * w_j, d_i * w_j**2 + l_j, -e_i],
        [d_j * w_i * w_j, 0, -e_i, d_j * w_j**2 + l_j],
    )
    determinant = np.where(
        active[i],
        (d_i - d_j) * (l_j - l_i) * (l_i + e_j) * (l_i + l_j),
        (l_i - d_j) * (l_i + d_j) * (l_j - d_i) * (l_j + d_i),
    )
    pairs = blocks, without_null(four_by_four(blocks, 16 * determinant), active[i] & (l_i == l_j))

    (d_i, d_l), (l_i, _), (held, _) = (combinations(value, variances[k:]) for value in (d, lam, active))
    first, second = np.where(held, d_l * (d_i - l_i) / d_i + l_i, l_i), np.where(held, d_i, l_i)
    determinant = np.where(held, (d_i - d_l) * (d_l + l_i), (l_i - d_l) * (l_i + d_l))
    tail = 2 * block_matrices([first, -d_l], [-d_l, second]), 2 * two_by_two(first, second, -d_l, determinant)
    return _lae_spectrum(variances.size, k, own, pairs, tail, "rotations of latents with equal penalties")


def uniform_l2_spectrum(variances: Any, penalty: float, latent_dim: int) -> Spectrum:
    """Eq. (2) at any of its optima, from all m variances: they differ by a rotation of the latents, left out."""
    return non_uniform_l2_spectrum(variances, np.full(latent_dim, penalty, np.float64))


def _nested_spectrum(variances: Array, kept: Array, null: str) -> Spectrum:
    """Nested dropout (1/n) at W1 = W2^T = U^T, from c (k,)."""
    k, d = kept.size, variances[: kept.size]
    energy = 2 * kept * d
    own = block_matrices([energy, energy], [energy, energy]), np.stack([np.full(k, np.nan), 2 * energy], -1)

    i, j = np.triu_indices(k, 1)
    d_i, d_j, c_i, c_j = d[i], d[j], kept[i], kept[j]
    delta = c_i - c_j
    blocks = 2 * block_matrices(
        [d_j * c_i, -d_j * delta, 0, d_j * c_j],
        [-d_j * delta, d_i * c_i, d_i * c_j, 0],
        [0, d_i * c_j, d_i * c_j, 0],
        [d_j * c_j, 0, 0, d_j * c_j],
    )
    determinant = 16 * d_i * (d_j * c_j * delta) ** 2 * (d_i - d_j)
    pairs = blocks, without_null(four_by_four(blocks, determinant), 2 * (delta == 0))

    (d_i, d_l), (c_i, _) = combinations(d, variances[k:]), combinations(kept, variances[k:])
    scale = 2 * c_i
    values = scale[:, None] * two_by_two(d_l, d_i, -d_l, d_l * (d_i - d_l))
    tail = scale[:, None, None] * block_matrices([d_l, -d_l], [-d_l, d_i]), without_null(values, d_l == 0)
    return _lae_spectrum(variances.size, k, own, pairs, tail, null)


def deterministic_nested_dropout_spectrum(variances: Any, prior: Any) -> Spectrum:
    """Twice Eq. (6) at its balanced optimum W1 = W2^T = U^T, from all m variances and p_B (k,).

    Left out: the scale of each latent, and where some p_i = 0 the invertible maps among latents that are
    always kept together. The spectrum differs at unbalanced optima. InputError where p_k = 0: the last
    latents would never be used.
    """
    prior = checked_prior(prior)
    kept = np.cumsum(prior[::-1])[::-1]
    null = "scales of latents" + (", maps among latents kept together" if np.any(prior[:-1] == 0) else "")
    return _nested_spectrum(checked_variances(variances, prior.size), kept / kept[0], null)


def reconstruction_spectrum(variances: Any, latent_dim: int) -> Spectrum:
    """Eq. (1) at W1 = W2^T = O U^T, any orthogonal O; the k^2 invertible maps of the latents are left out."""
    variances = checked_variances(variances, latent_dim)
    return _nested_spectrum(variances, np.ones(latent_dim), "invertible maps of the latents")


def rag_spectrum(variances: Any, latent_dim: int, rotation_gain: float = 1.0) -> Spectrum:
    """Minus the Jacobian of Algorithm 1's field at W1 = W2^T = U^T: decay rates, all real.

    `rotation_gain` multiplies A; 1 is Algorithm 1. Left out: the k (k + 1) / 2 ways of unbalancing
    encoder and decoder, along which there are other fixed points.
    """
    if not 0 < rotation_gain < np.inf:
        raise InputError(f"rotation_gain: {rotation_gain}, must be positive")
    plain = reconstruction_spectrum(variances, latent_dim)
    own, pairs, tail = plain.blocks
    d, (i, j) = np.asarray(variances, np.float64), np.triu_indices(latent_dim, 1)
    rotation = rotation_gain / 2 * block_matrices(*([sign * d[j], 0, sign * d[i], 0] for sign in (1, 1, -1, -1)))
    rates = np.stack([np.full(i.size, np.nan), rotation_gain * (d[i] - d[j]) / 2, 4 * d[j], 4 * d[i]], -1)
    null = "imbalances of encoder and decoder"
    return assemble(plain.shapes, own, (pairs.matrices - rotation, rates), (tail.matrices, tail.eigenvalues), null)


def linear_vae_spectrum(variances: Any, latent_dim: int) -> Spectrum:
    """The linear VAE's negative ELBO at its ordered optimum, from all m variances; nothing inside is null.

    InputError unless the noise (the mean of the tail) is positive and below d_k.
    """
    variances = checked_variances(variances, latent_dim)
    s2 = noise_variance(variances, latent_dim)
    k, m, d = latent_dim, variances.size, variances[:latent_dim]
    t = np.sqrt(d - s2)

    # One arrowhead: P_ii, Q_ii and log-variance v_i of every latent, and the noise's log-variance.
    latents, own = np.arange(k), np.zeros((3 * k + 1, 3 * k + 1))
    p, q, v, noise = latents, k + latents, 2 * k + latents, 3 * k
    entries: list[tuple[Any, Any, Any]] = [
        (p, p, d**2 / s2),
        (q, q, 1 / s2),
        (p, q, (d - s2) / s2 - 1),
        (v, v, 0.5),
        (v, q, t / d),
        (noise, noise, m / 2),
        (noise, p, t),
        (noise, v, -(d - s2) / (2 * d)),
    ]
    for row, column, entry in entries:
        own[row, column] = own[column, row] = entry
    positions = np.concatenate([*entry_positions(m, k, latents, latents).T, 2 * k * m + np.arange(k + 1)])

    i, j = np.triu_indices(k, 1)
    a, b, inverse, total = d[i] * d[j] / s2, t[i] * t[j] / s2, np.full(i.size, 1 / s2), t[i] + t[j]
    difference = (d[i] - d[j]) / total  # t_i - t_j without cancellation
    values = [two_by_two(a, inverse, b + s, x**2 / s2) for s, x in ((1, difference), (-1, total))]
    pairs = (
        block_matrices([a, -1, 0, b], [-1, inverse, b, 0], [0, b, a, -1], [b, 0, -1, inverse]),
        np.concatenate(values, -1),
    )

    d_i, d_l = combinations(d, variances[k:])
    tail_values = two_by_two(d_i * d_l, np.ones(d_i.size), d_l, d_l * (d_i - d_l)) / s2
    tail = block_matrices([d_i * d_l, -d_l], [-d_l, 1]) / s2, without_null(tail_values, d_l == 0)
    shapes = VAEParams((k, m), (m, k), (k,), ())  # type: ignore[arg-type]
    return assemble(shapes, Block(own[None], positions[None], np.linalg.eigvalsh(own)[None]), pairs, tail, "none")
