"""Hessian spectra at the global optimum: closed forms at any size, with the blocks and modes behind them.

At the ordered optimum the Hessian decouples in the eigenbasis of C into 2x2 blocks (latent i with its own
component, latent i with component l > k) and 4x4 blocks (latents i < j with each other's components), so all
2 k m eigenvalues cost O(k m). The closed forms are numpy in float64 and go beyond the paper; they are in the
scale of `objectives` (nested dropout is twice Eq. (6)). `theory.eigenvalues` has the same numbers under jit and vmap.

Legend: P_ij and Q_ij encoder's and decoder's entry of latent i at component j; d_i variances; l_i penalties;
w_i^2 = 1 - l_i / d_i; e_i = d_i (1 - w_i^2); c_i = P(b >= i); s2 noise variance; t_i^2 = d_i - s2;
k latent dimension, m input dimension. Blocks are ordered (P_ij, Q_ij, P_ji, Q_ji).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_beta, checked_penalties, checked_prior, checked_variances
from lae_jax.params import LAEParams, VAEParams
from lae_jax.theory import eigenvalues
from lae_jax.theory.blocks import (
    Block,
    assemble,
    block_matrices,
    combinations,
    entry_positions,
)
from lae_jax.theory.blocks import Spectrum as Spectrum
from lae_jax.theory.blocks import condition_number as condition_number
from lae_jax.theory.blocks import mode as mode
from lae_jax.theory.landscape import noise_variance


def _lae_spectrum(
    input_dim: int, latent_dim: int, values: eigenvalues.Eigenvalues, matrices: Sequence[np.ndarray], null: str
) -> Spectrum:
    """The spectrum of an LAE from its blocks, whose latents have 2x2 blocks of their own."""
    latents = np.arange(latent_dim)
    block = Block(matrices[0], entry_positions(input_dim, latent_dim, latents, latents), values.own)
    shapes = LAEParams((latent_dim, input_dim), (input_dim, latent_dim))  # type: ignore[arg-type] # shapes
    return assemble(shapes, block, (matrices[1], values.pairs), (matrices[2], values.tail), null)


# The closed forms.


def non_uniform_l2_spectrum(variances: ArrayLike, penalties: ArrayLike) -> Spectrum:
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
    own = 2 * block_matrices([diagonal, off], [off, diagonal])

    i, j = np.triu_indices(k, 1)
    d_i, d_j, l_i, l_j, w_i, w_j, e_i, e_j = (value[index] for value in (d, lam, w, e) for index in (i, j))
    pairs = 2 * block_matrices(
        [d_j * w_i**2 + l_i, -e_j, 0, d_j * w_i * w_j],
        [-e_j, d_i * w_i**2 + l_i, d_i * w_i * w_j, 0],
        [0, d_i * w_i * w_j, d_i * w_j**2 + l_j, -e_i],
        [d_j * w_i * w_j, 0, -e_i, d_j * w_j**2 + l_j],
    )
    (d_i, d_l), (l_i, _), (held, _) = (combinations(value, variances[k:]) for value in (d, lam, active))
    first, second = np.where(held, d_l * (d_i - l_i) / d_i + l_i, l_i), np.where(held, d_i, l_i)
    tail = 2 * block_matrices([first, -d_l], [-d_l, second])
    values = eigenvalues.non_uniform_l2(variances, lam)
    null = "rotations of latents with equal penalties"
    return _lae_spectrum(variances.size, k, values, (own, pairs, tail), null)


def uniform_l2_spectrum(variances: ArrayLike, penalty: float, latent_dim: int) -> Spectrum:
    """Eq. (2) at any of its optima, from all m variances: they differ by a rotation of the latents, left out."""
    return non_uniform_l2_spectrum(variances, np.full(latent_dim, penalty, np.float64))


def _nested_matrices(variances: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The blocks of nested dropout (1/n) at W1 = W2^T = U^T, from c (k,)."""
    k, d = kept.size, variances[: kept.size]
    energy = 2 * kept * d
    i, j = np.triu_indices(k, 1)
    d_i, d_j, c_i, c_j = d[i], d[j], kept[i], kept[j]
    delta = c_i - c_j
    pairs = 2 * block_matrices(
        [d_j * c_i, -d_j * delta, 0, d_j * c_j],
        [-d_j * delta, d_i * c_i, d_i * c_j, 0],
        [0, d_i * c_j, d_i * c_j, 0],
        [d_j * c_j, 0, 0, d_j * c_j],
    )
    (d_i, d_l), (c_i, _) = combinations(d, variances[k:]), combinations(kept, variances[k:])
    tail = 2 * c_i[:, None, None] * block_matrices([d_l, -d_l], [-d_l, d_i])
    return block_matrices([energy, energy], [energy, energy]), pairs, tail


def deterministic_nested_dropout_spectrum(variances: ArrayLike, prior: ArrayLike) -> Spectrum:
    """Twice Eq. (6) at its balanced optimum W1 = W2^T = U^T, from all m variances and p_B (k,).

    Left out: the scale of each latent, and where some p_i = 0 the invertible maps among latents that are
    always kept together. The spectrum differs at unbalanced optima. InputError where p_k = 0: the last
    latents would never be used.
    """
    prior = checked_prior(prior)
    variances, kept = checked_variances(variances, prior.size), np.cumsum(prior[::-1])[::-1]
    values = eigenvalues.nested_dropout(variances, prior)
    null = "scales of latents" + (", maps among latents kept together" if np.any(prior[:-1] == 0) else "")
    return _lae_spectrum(variances.size, prior.size, values, _nested_matrices(variances, kept / kept[0]), null)


def reconstruction_spectrum(variances: ArrayLike, latent_dim: int) -> Spectrum:
    """Eq. (1) at W1 = W2^T = O U^T, any orthogonal O; the k^2 invertible maps of the latents are left out."""
    variances = checked_variances(variances, latent_dim)
    values, matrices = (
        eigenvalues.reconstruction(variances, latent_dim),
        _nested_matrices(variances, np.ones(latent_dim)),
    )
    return _lae_spectrum(variances.size, latent_dim, values, matrices, "invertible maps of the latents")


def rag_spectrum(variances: ArrayLike, latent_dim: int, rotation_gain: float = 1.0) -> Spectrum:
    """Minus the Jacobian of Algorithm 1's field at W1 = W2^T = U^T: decay rates, all real.

    `rotation_gain` multiplies A; 1 is Algorithm 1. Left out: the k (k + 1) / 2 ways of unbalancing
    encoder and decoder, along which there are other fixed points.
    """
    if not 0 < rotation_gain < np.inf:
        raise InputError(f"rotation_gain: {rotation_gain}, must be positive")
    variances = checked_variances(variances, latent_dim)
    own, pairs, tail = _nested_matrices(variances, np.ones(latent_dim))
    i, j = np.triu_indices(latent_dim, 1)
    signed: Iterator[list[ArrayLike]] = ([sign * variances[j], 0, sign * variances[i], 0] for sign in (1, 1, -1, -1))
    pairs = pairs - rotation_gain / 2 * block_matrices(*signed)
    values = eigenvalues.rag(variances, latent_dim, rotation_gain)
    null = "imbalances of encoder and decoder"
    return _lae_spectrum(variances.size, latent_dim, values, (own, pairs, tail), null)


def linear_vae_spectrum(variances: ArrayLike, latent_dim: int, beta: float = 1.0) -> Spectrum:
    """The linear VAE's negative ELBO at its ordered optimum, from all m variances; nothing inside is null.

    Of the beta-VAE where `beta` is not 1: where it equals one of `collapsing_betas` the eigenvalue 0 stays in.
    InputError unless the noise is positive.
    """
    variances = checked_variances(variances, latent_dim)
    used, noise = noise_variance(variances, latent_dim, float(checked_beta([beta])[0]))
    k, m, d, s = latent_dim, variances.size, variances[:latent_dim], beta * noise
    held = np.arange(k) < used
    t = np.sqrt(np.where(held, np.maximum(d - s, 0), 0))

    # One arrowhead: P_ii, Q_ii and log-variance v_i of every latent, and the noise's log-variance.
    latents, own = np.arange(k), np.zeros((3 * k + 1, 3 * k + 1))
    p, q, v, noise_entry = latents, k + latents, 2 * k + latents, 3 * k
    entries: list[tuple[np.ndarray | int, np.ndarray | int, ArrayLike]] = [
        (p, p, np.where(held, d**2 / s, d)),
        (q, q, 1 / s),
        (p, q, np.where(held, (d - s) / s - 1, -d / s)),
        (v, v, 0.5),
        (v, q, t / d),
        (noise_entry, noise_entry, m / beta / 2),
        (noise_entry, p, t),
        (noise_entry, v, -(t**2) / (2 * d)),
    ]
    for row, column, entry in entries:
        own[row, column] = own[column, row] = entry
    positions = np.concatenate([*entry_positions(m, k, latents, latents).T, 2 * k * m + np.arange(k + 1)])

    def alone(held: np.ndarray, d_i: np.ndarray, d_l: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entries P P and P Q of latents on components that no latent holds; Q Q is 1 / s."""
        return np.where(held, d_i * d_l / s, d_l), -d_l / s

    i, j = np.triu_indices(k, 1)
    first, first_off = alone(held[i], d[i], d[j])
    first_off = np.where(held[j], -1, first_off)
    second = np.where(held[j], d[i] * d[j] / s, d[i])
    second_off = np.where(held[i], -1, -d[i] / s)
    b, inverse = t[i] * t[j] / s, np.full(i.size, 1 / s)
    pairs = block_matrices(
        [first, first_off, 0, b], [first_off, inverse, b, 0], [0, b, second, second_off], [b, 0, second_off, inverse]
    )
    (d_i, d_l), (held_i, _) = combinations(d, variances[k:]), combinations(held, variances[k:])
    corner, off = alone(held_i, d_i, d_l)
    tail = block_matrices([corner, off], [off, 1 / s])
    values = eigenvalues.linear_vae(variances, k, beta)
    shapes = VAEParams((k, m), (m, k), (k,), ())  # type: ignore[arg-type] # shapes
    block = Block(beta * own[None], positions[None], values.own)
    return assemble(shapes, block, (beta * pairs, values.pairs), (beta * tail, values.tail), "none")
