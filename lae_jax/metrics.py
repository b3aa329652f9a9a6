"""How far the weights are from the ordered principal components.

Legend: U (m, k) principal components, W2 decoder, c_ij = squared cosine between component i and
decoder column j. `components=None` means that the weights are given in the eigenbasis of the
covariance, where U is the first k columns of the identity. Distances are summed from what is
left over (the residual form), never as 1 - x, so float32 resolves them far below its epsilon.
"""

from typing import Any

import jax
import jax.numpy as jnp

from lae_jax.covariance import Covariance, gram, latent_moments

Array = jax.Array

# A latent whose decoder column is shorter than this share of the longest has collapsed.
NULL_SHARE = 1e-8

# What `measure` gives, in the order of a history's columns.
NAMES = (
    "axis_alignment",
    "ordered_alignment",
    "subspace_distance",
    "imbalance",
    "transpose_gap",
    "non_diagonality",
)


def _unit_columns(decoder: Array) -> tuple[Array, Array]:
    """Columns scaled to unit length, and which of them are null (those come back as zeros)."""
    largest = jnp.max(jnp.abs(decoder), axis=0)
    # Scaling by the largest entry first keeps the squares of tiny columns from underflowing.
    scaled = decoder / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.sum(scaled**2, axis=0))
    norms = length * largest
    null = norms <= NULL_SHARE * jnp.max(norms)
    return jnp.where(null, 0, scaled / jnp.where(length > 0, length, 1)), null


def _split(columns: Array, components: Array | None) -> tuple[Array, Array]:
    """U^T columns (k, k), and what lies outside span(U) (rows in any coordinates)."""
    if components is None:
        latent_dim = columns.shape[1]
        return columns[:latent_dim], columns[latent_dim:]
    head = components.T @ columns
    return head, columns - components @ head


def _misalignment(decoder: Array, components: Array | None) -> Array:
    """1 - c_ij for component i (row) and latent j (column), (k, k); 1 for null latents."""
    unit, null = _unit_columns(decoder)
    head, tail = _split(unit, components)
    others = 1 - jnp.eye(head.shape[0], dtype=head.dtype)
    return jnp.where(null, 1, others @ head**2 + jnp.sum(tail**2, axis=0))


def _mean_over_latents(values: Array, latent_dim: Array | int | None) -> Array:
    """Mean of the first `latent_dim` entries of values (k,)."""
    if latent_dim is None:
        return jnp.mean(values)
    return jnp.sum(jnp.where(jnp.arange(values.shape[0]) < latent_dim, values, 0)) / latent_dim


def axis_alignment(decoder: Array, components: Array | None = None, latent_dim: Array | int | None = None) -> Array:
    """d_align(W2, U) = 1 - (1/k) sum_i max_j c_ij in [0, 1]. Def. 7.1.

    `decoder` (m, k) and `components` (m, k); with `latent_dim` only that many latents count and
    the rest are zero padding.
    """
    return _mean_over_latents(jnp.min(_misalignment(decoder, components), axis=1), latent_dim)


def ordered_alignment(decoder: Array, components: Array | None = None, latent_dim: Array | int | None = None) -> Array:
    """1 - (1/k) sum_i c_ii: as Def. 7.1, but latent i has to be component i."""
    return _mean_over_latents(jnp.diagonal(_misalignment(decoder, components)), latent_dim)


def subspace_distance(decoder: Array, components: Array | None = None, latent_dim: Array | int | None = None) -> Array:
    """d_sub(W2, U) = 1 - (1/k) tr(U U^T Q Q^T), Q an orthonormal basis of span(W2). Def. 7.2.

    Null latents span nothing: each adds 1/k. Arguments as for `axis_alignment`.
    """
    unit, null = _unit_columns(decoder)
    # A null column would have QR invent a direction and turn the later ones away from it: put them last.
    order = jnp.argsort(null, stable=True)
    basis = jnp.where(null[order], 0, jnp.linalg.qr(unit[:, order])[0])
    head, tail = _split(basis, components)
    width = head.shape[0] if latent_dim is None else latent_dim
    outside = jnp.where(jnp.arange(head.shape[0])[:, None] < width, 0, head)
    missing = width - jnp.sum(~null)
    return (jnp.sum(outside**2) + jnp.sum(tail**2) + missing) / width


def non_diagonality(matrix: Array) -> Array:
    """Nd(M) = sum of |M_ij| over i != j for M (k, k). Def. 6.1."""
    return jnp.sum(jnp.abs(matrix - jnp.diag(jnp.diagonal(matrix))))


def transpose_gap(params: Any) -> Array:
    """||W1 - W2^T||_F: zero at every stationary point of the l2 objectives. Theorem 1."""
    return jnp.linalg.norm(params.encoder - params.decoder.T)


def imbalance(params: Any) -> Array:
    """||W1 W1^T - W2^T W2||_F: what has to vanish for RAG to align (conserved by gradient flow)."""
    return jnp.linalg.norm(gram(params.encoder.T) - gram(params.decoder))


def measure(
    params: Any, covariance: Covariance, components: Array | None = None, latent_dim: Array | int | None = None
) -> dict[str, Array]:
    """Every metric of this module at these weights, by name."""
    where = (params.decoder, components, latent_dim)
    values = (
        axis_alignment(*where),
        ordered_alignment(*where),
        subspace_distance(*where),
        imbalance(params),
        transpose_gap(params),
        non_diagonality(latent_moments(params.encoder, params.decoder, covariance)[0]),
    )
    return dict(zip(NAMES, values, strict=True))
