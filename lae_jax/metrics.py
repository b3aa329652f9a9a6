"""How far the weights are from the ordered principal components.

Legend: U (m, k) principal components, W1 encoder (k, m), W2 decoder (m, k), C covariance, M = W1 C W1^T,
Z = W1 W1^T - W2^T W2 the imbalance, c_ij = squared cosine between component i and column j of W2.

The distances take `components` U, orthogonal columns of any length; without them the weights are taken to be in the
eigenbasis of C, where U is the first k columns of the identity. With `latent_dim` only that many latents count and
the rest are zero padding. A distance is a sum of what is left over, never 1 - c, so that float32 resolves it far
below its rounding. Every metric has a finite derivative, zero in columns that are zero; NaN stays NaN.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lae_jax.covariance import CovarianceLike, as_covariance, gram, latent_moments
from lae_jax.errors import InputError
from lae_jax.params import Array, TwoLayers, Weights

Columns = TypeVar("Columns", jax.Array, np.ndarray)

# A latent whose decoder column is no longer than this fraction of the longest has collapsed.
NULL_FRACTION = 1e-8
# A unit column with no more than this many roundings outside the span of those before it depends on them.
DEPENDENT_ROUNDINGS = 32

# What `measure` gives, in the order of a history's columns.
NAMES = (
    "axis_alignment",
    "ordered_alignment",
    "subspace_distance",
    "imbalance",
    "transpose_gap",
    "non_diagonality",
)


def _scaled(columns: Columns) -> tuple[Columns, Columns, Columns]:
    """Columns (m, k) over their largest entries, the sums of their squares (1, k), and those entries (1, k).

    Without the scaling the squares of short columns would underflow and those of long ones overflow.
    """
    xp = np if isinstance(columns, np.ndarray) else jnp
    largest = xp.max(xp.abs(columns), axis=0, keepdims=True)
    if isinstance(largest, jax.Array):
        largest = jax.lax.stop_gradient(largest)  # what is made of the three together does not depend on it
    scaled = columns / xp.where(largest == 0, 1, largest)
    return scaled, xp.sum(scaled**2, axis=0, keepdims=True), largest


def unit_columns(columns: Columns) -> Columns:
    """Columns scaled to length 1; zero columns stay zero.

    Args:
        columns: of NumPy or JAX, (m, k), from the smallest to the largest numbers of their precision.

    Returns:
        The same kind of array, (m, k).
    """
    xp = np if isinstance(columns, np.ndarray) else jnp
    scaled, squares, _ = _scaled(columns)
    return scaled / xp.sqrt(xp.where(squares == 0, 1, squares))


def collapsed(columns: Columns) -> Columns:
    """Which columns (m, k), of NumPy or JAX, are at most NULL_FRACTION times as long as the longest, (k,) of bool."""
    xp = np if isinstance(columns, np.ndarray) else jnp
    _, squares, largest = _scaled(columns)
    lengths = (xp.sqrt(squares) * largest)[0]
    return lengths <= NULL_FRACTION * xp.max(lengths)


def _unit_components(components: Array, decoder: Array) -> Array:
    """U at unit length. Raises InputError where it does not fit the decoder or, if its values are known, is oblique."""
    if jnp.ndim(components) != 2 or jnp.shape(components)[0] != jnp.shape(decoder)[0]:
        raise InputError(
            f"components: of shape {jnp.shape(components)}; need (m, k) with m = {jnp.shape(decoder)[0]} as the decoder"
        )
    unit = unit_columns(jnp.asarray(components))
    if not isinstance(unit, jax.core.Tracer):
        oblique = float(jnp.max(jnp.abs(jnp.triu(gram(unit), 1))))
        if oblique > jnp.finfo(unit.dtype).eps ** 0.5:
            raise InputError(f"components: columns have a cosine of {oblique:.2g}; principal components are orthogonal")
    return unit


def _split(columns: Array, components: Array | None) -> tuple[Array, Array]:
    """U^T columns (k, k), and what lies outside span(U) (rows in any coordinates)."""
    if components is None:
        latent_dim = columns.shape[1]
        return columns[:latent_dim], columns[latent_dim:]
    head = components.T @ columns
    return head, columns - components @ head


def _misalignment(decoder: Array, components: Array | None) -> Array:
    """1 - c_ij for component i (row) and latent j (column), (k, k); 1 for collapsed latents."""
    if components is not None:
        components = _unit_components(components, decoder)
    head, tail = _split(unit_columns(decoder), components)
    others = 1 - jnp.eye(head.shape[0], dtype=head.dtype)
    return jnp.where(collapsed(decoder)[None, :], 1, others @ head**2 + jnp.sum(tail**2, axis=0, keepdims=True))


def _mean_over_latents(values: Array, latent_dim: Array | int | None) -> Array:
    """Mean of the first `latent_dim` entries of values (k,)."""
    if latent_dim is None:
        return jnp.mean(values)
    return jnp.sum(jnp.where(jnp.arange(values.shape[0]) < latent_dim, values, 0)) / latent_dim


def axis_alignment(decoder: Array, components: Array | None = None, latent_dim: Array | int | None = None) -> Array:
    """d_align(W2, U) = 1 - (1/k) sum_i max_j c_ij in [0, 1]. Def. 7.1.

    Args:
        decoder: W2 (m, k).
        components: U (m, k), orthogonal columns of any length; None in the eigenbasis.
        latent_dim: how many latents count, all if None.

    Returns:
        The distance, a scalar.

    Raises:
        InputError: components of another height than the decoder, or not orthogonal.
    """
    return _mean_over_latents(jnp.min(_misalignment(decoder, components), axis=1), latent_dim)


def ordered_alignment(decoder: Array, components: Array | None = None, latent_dim: Array | int | None = None) -> Array:
    """1 - (1/k) sum_i c_ii in [0, 1]: as `axis_alignment`, but latent i has to be component i."""
    return _mean_over_latents(jnp.diagonal(_misalignment(decoder, components)), latent_dim)


@jax.custom_jvp
def span_basis(columns: Array) -> Array:
    """An orthonormal basis of the span of columns (m, k), as columns (m, k) in their order.

    Gram and Schmidt, twice over, which is orthogonal to rounding. A column that depends on those before it becomes
    zero: QR would invent a direction for it, and turn the columns after it away from that.
    """
    dependent = DEPENDENT_ROUNDINGS * jnp.finfo(columns.dtype).eps

    def append(index: Array, basis: Array) -> Array:
        rest = rows[index]
        for _ in range(2):
            rest = rest - (basis @ rest) @ basis
        length = jnp.sqrt(jnp.sum(rest**2))
        return basis.at[index].set(jnp.where(length <= dependent, 0, rest / length))

    rows = unit_columns(columns).T
    return jax.lax.fori_loop(0, rows.shape[0], append, jnp.zeros_like(rows)).T


@span_basis.defjvp
def _span_basis_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """(I - B B^T) dV (B^T V)^-1: how the span moves, without turning the basis within it."""
    (columns,), (tangent,) = primals, tangents
    basis = span_basis(columns)
    null = ~jnp.any(basis != 0, axis=0)
    either = null[:, None] | null[None, :]
    coordinates = jnp.where(either, jnp.eye(null.size, dtype=columns.dtype), basis.T @ columns)
    outwards = jnp.where(null[None, :], 0, tangent - basis @ (basis.T @ tangent))
    return basis, jnp.linalg.solve(coordinates.T, outwards.T).T


def subspace_distance(decoder: Array, components: Array | None = None, latent_dim: Array | int | None = None) -> Array:
    """d_sub(W2, U) = 1 - (1/k) tr(U U^T Q Q^T) in [0, 1], Q an orthonormal basis of span(W2). Def. 7.2.

    A latent that has collapsed or whose column depends on the others spans nothing, and so adds 1/k. Arguments of
    `axis_alignment`.
    """
    if components is not None:
        components = _unit_components(components, decoder)
    basis = span_basis(jnp.where(collapsed(decoder)[None, :], 0, unit_columns(decoder)))
    head, tail = _split(basis, components)
    width = head.shape[0] if latent_dim is None else latent_dim
    outside = jnp.where(jnp.arange(head.shape[0])[:, None] < width, 0, head)
    missing = width - jnp.sum(jnp.any(basis != 0, axis=0))
    return (jnp.sum(outside**2) + jnp.sum(tail**2) + missing) / width


def non_diagonality(matrix: Array) -> Array:
    """Nd(M) = sum of abs(M_ij) over i != j for M (k, k). Def. 6.1."""
    return jnp.sum(jnp.abs(matrix - jnp.diag(jnp.diagonal(matrix))))


def _frobenius(matrix: Array) -> Array:
    """||matrix||_F, with derivative 0 where the matrix is 0."""
    squares = jnp.sum(matrix**2)
    return jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))


def transpose_gap(params: TwoLayers) -> Array:
    """||W1 - W2^T||_F: zero at every stationary point of the l2 objectives. Theorem 1."""
    return _frobenius(params.encoder - params.decoder.T)


def imbalance_matrix(params: TwoLayers) -> Array:
    """Z = W1 W1^T - W2^T W2 (k, k): the flow of gradient descent on Eq. (1) conserves it, RAG's its eigenvalues."""
    return gram(params.encoder.T) - gram(params.decoder)


def imbalance(params: TwoLayers) -> Array:
    """||Z||_F, Z = W1 W1^T - W2^T W2: has to vanish for RAG to align the latents."""
    return _frobenius(imbalance_matrix(params))


def measure(
    params: Weights,
    covariance: CovarianceLike,
    components: Array | None = None,
    latent_dim: Array | int | None = None,
) -> dict[str, Array]:
    """Every metric of this module at these weights, by name.

    Args:
        params: weights W1 (k, m) and W2 (m, k).
        covariance: C, in any form.
        components: U (m, k), orthogonal columns; None in the eigenbasis.
        latent_dim: how many latents count, all if None.

    Returns:
        A scalar for each of NAMES, in that order.
    """
    where = (params.decoder, components, latent_dim)
    values = (
        axis_alignment(*where),
        ordered_alignment(*where),
        subspace_distance(*where),
        imbalance(params),
        transpose_gap(params),
        non_diagonality(latent_moments(params.encoder, params.decoder, as_covariance(covariance))[0]),
    )
    return dict(zip(NAMES, values, strict=True))
