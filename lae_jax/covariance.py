"""The covariance C = X X^T / n (m, m) as an operator in three forms.

Everything deterministic reads the data only through `C @ (m, k)` and `C.trace`; the form
decides what a product costs: `Diagonal` O(mk), `Dense` O(m^2 k), `Samples` O(nmk).
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array


class Covariance(Protocol):
    """What every form offers."""

    def __matmul__(self, other: Array) -> Array:
        """C @ other for `other` of shape (m, ...)."""

    def pair(self, first: Array, second: Array) -> tuple[Array, Array]:
        """C @ first and C @ second, both (m, k), in one pass over the data."""

    @property
    def trace(self) -> Array:
        """The total variance, shape ()."""


def _side_by_side(covariance: "Covariance", first: Array, second: Array) -> tuple[Array, Array]:
    both = covariance @ jnp.concatenate([first, second], axis=1)
    return both[:, : first.shape[1]], both[:, first.shape[1] :]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense:
    """C itself."""

    matrix: Array  # (m, m)

    def __matmul__(self, other: Array) -> Array:
        return self.matrix @ other

    def pair(self, first: Array, second: Array) -> tuple[Array, Array]:
        """C @ first and C @ second."""
        return _side_by_side(self, first, second)

    @property
    def trace(self) -> Array:
        """The total variance."""
        return jnp.trace(self.matrix)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Diagonal:
    """C in its eigenbasis: the variances d_1 >= ... >= d_m."""

    variances: Array  # (m,)

    def __matmul__(self, other: Array) -> Array:
        return self.variances.reshape((-1,) + (1,) * (other.ndim - 1)) * other

    def pair(self, first: Array, second: Array) -> tuple[Array, Array]:
        """C @ first and C @ second."""
        return self @ first, self @ second

    @property
    def trace(self) -> Array:
        """The total variance."""
        return jnp.sum(self.variances)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """C through the samples, one per row (the paper's X transposed)."""

    rows: Array  # (n, m)

    def __matmul__(self, other: Array) -> Array:
        return self.rows.T @ (self.rows @ other) / self.rows.shape[0]

    def pair(self, first: Array, second: Array) -> tuple[Array, Array]:
        """C @ first and C @ second."""
        return _side_by_side(self, first, second)

    @property
    def trace(self) -> Array:
        """The total variance."""
        return jnp.sum(self.rows**2) / self.rows.shape[0]


def second_moment(encoder: Array, covariance: Covariance) -> Array:
    """Second moment of the latents, S = W1 C W1^T (k, k).

    Beside a gradient take it from `latent_moments`: the compiler then finds that it has been computed.
    """
    return encoder @ (covariance @ encoder.T)


# Below, forms whose derivative is written down. Autodiff does not know that the first result is
# symmetric, and spends a second product of the same size on it; nor that the products with C that
# the derivative needs can share one pass over C with those of the value. Each rule is linear in
# the tangents, so it transposes (grad) and differentiates again (hessian).


@jax.custom_jvp
def gram(matrix: Array) -> Array:
    """matrix^T matrix, (rows, k) -> (k, k)."""
    return matrix.T @ matrix


@gram.defjvp
def _gram_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (matrix,), (tangent,) = primals, tangents
    half = tangent.T @ matrix
    return gram(matrix), half + half.T


@jax.custom_jvp
def latent_moments(encoder: Array, decoder: Array, covariance: Any) -> tuple[Array, Array]:
    """S = W1 C W1^T (k, k) and the diagonal of W1 C W2 (k,): all that a loss reads of the data but tr C.

    The covariance is held constant under differentiation.
    """
    through_encoder, _ = covariance.pair(encoder.T, decoder)
    return encoder @ through_encoder, jnp.sum(through_encoder * decoder, axis=0)


@latent_moments.defjvp
def _latent_moments_jvp(
    primals: tuple[Array, Array, Any], tangents: tuple[Array, Array, Any]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    encoder, decoder, covariance = primals
    encoder_tangent, decoder_tangent, _ = tangents
    through_encoder, through_decoder = covariance.pair(encoder.T, decoder)
    half = encoder_tangent @ through_encoder
    overlap = jnp.sum(encoder_tangent.T * through_decoder + through_encoder * decoder_tangent, axis=0)
    return latent_moments(encoder, decoder, covariance), (half + half.T, overlap)
