"""The covariance C = X X^T / n (m, m) as an operator in four forms.

Everything deterministic reads the data only through `C @ (m, k)` and `C.trace`; the form
decides what a product costs: `Diagonal` O(mk), `Dense` O(m^2 k), `Samples` O(nmk), and `LowRankHistory`,
of a stream with r directions of its past and b samples at hand, O((b + r) mk).
"""

import dataclasses
import functools
from typing import NoReturn, Protocol, TypeGuard, cast

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from lae_jax.errors import InputError
from lae_jax.params import Array


class Covariance(Protocol):
    """What every form offers."""

    def __matmul__(self, other: Array) -> Array:
        """C @ other for `other` of shape (m, ...)."""

    def pair(self, first: Array, second: Array) -> tuple[Array, Array]:
        """C @ first and C @ second, both (m, k), in one pass over the data."""

    @property
    def trace(self) -> Array:
        """The total variance, shape ()."""


CovarianceLike = Covariance | ArrayLike  # an operator, or a plain matrix (m, m)
# Of two matrices and a covariance; what nothing is differentiated in is a symbolic zero.
Tangent = Array | jax.custom_derivatives.SymbolicZero
Tangents = tuple[Tangent, Tangent, Covariance]


def _side_by_side(covariance: Covariance, first: Array, second: Array) -> tuple[Array, Array]:
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


def as_covariance(covariance: CovarianceLike) -> Covariance:
    """C as an operator: a plain matrix (m, m) is taken as `Dense`. Raises InputError at another array."""
    if hasattr(covariance, "pair"):
        return cast(Covariance, covariance)
    matrix = jnp.asarray(covariance)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(
            f"covariance: of shape {matrix.shape}; must be (m, m), or of lae_jax.covariance: Samples(rows) for samples,"
            " Diagonal(variances)"
        )
    return Dense(matrix)


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
    """C through the samples, one per row (the paper's X transposed).

    Rows may be spread over devices (`data.layouts`); the compiler then sums over the devices.
    """

    rows: Array  # (n, m), and below them rows of zeros where `num_samples` says so
    num_samples: int = dataclasses.field(default=0, metadata={"static": True})  # 0: all rows

    @property
    def count(self) -> int:
        """The number of samples, n."""
        return self.num_samples or self.rows.shape[0]

    def __matmul__(self, other: Array) -> Array:
        return self.rows.T @ (self.rows @ other) / self.count

    def pair(self, first: Array, second: Array) -> tuple[Array, Array]:
        """C @ first and C @ second."""
        return _side_by_side(self, first, second)

    @property
    def trace(self) -> Array:
        """The total variance."""
        return jnp.sum(self.rows**2) / self.count


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRankHistory:
    """C of a stream, never formed: history_weight (V diag(L) V^T + what lies outside) + row_weight X^T X.

    What lies outside the span of V is known by its variance alone: it counts in the trace and in no product.
    """

    vectors: Array  # V (m, r), orthonormal: directions of the samples seen before
    variances: Array  # L (r,): their variances along these
    outside: Array  # (): their variance outside the span of V
    history_weight: Array  # ()
    rows: Array  # X (b, m): the samples at hand
    row_weight: Array  # (): of each

    def __matmul__(self, other: Array) -> Array:
        history = self.vectors @ (Diagonal(self.variances) @ (self.vectors.T @ other))
        return self.history_weight * history + self.row_weight * (self.rows.T @ (self.rows @ other))

    def pair(self, first: Array, second: Array) -> tuple[Array, Array]:
        """C @ first and C @ second."""
        return _side_by_side(self, first, second)

    @property
    def trace(self) -> Array:
        """The total variance."""
        return self.history_weight * (jnp.sum(self.variances) + self.outside) + self.row_weight * jnp.sum(self.rows**2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentMoment:
    """M (k, k) in place of a covariance, where only latents are known; rules that read C itself raise InputError."""

    matrix: Array

    def rotated(self, rotation: Array) -> "LatentMoment":
        """R M R^T: the moment of the latents R z."""
        return LatentMoment(rotation @ self.matrix @ rotation.T)

    def pair(self, *_: object) -> NoReturn:
        """C @ first and C @ second, which nobody knows here."""
        raise InputError(
            "latents: this rule reads the covariance of the inputs and is for the linear model x -> W2 W1 x alone:"
            " give covariance=, or take rotation_augmented_gradient or rotating_frame"
        )

    __matmul__ = pair


Known = Covariance | LatentMoment  # what a rule knows of the data


def second_moment(encoder: Array, covariance: Covariance) -> Array:
    """Second moment of the latents, M = W1 C W1^T (k, k).

    Beside a gradient call `latent_moments` instead: the gradient calls it too, and the compiler runs one of the two.
    """
    return encoder @ (covariance @ encoder.T)


# Below, the derivatives are written by hand. Autodiff does not know that W^T W and M are symmetric, and computes
# both halves of their derivatives; nor that the products with C in the derivative can share one pass over C with
# those in the value. Each rule is linear in the tangents, so JAX can transpose it (grad) and differentiate it
# again (hessian).


def largest_row_sum(matrix: Array) -> Array:
    """max_i sum_j |matrix_ij|, which no eigenvalue exceeds."""
    return jnp.max(jnp.sum(jnp.abs(matrix), axis=1))


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
def latent_moments(encoder: Array, decoder: Array, covariance: Covariance) -> tuple[Array, Array]:
    """M = W1 C W1^T (k, k) and the diagonal of W1 C W2 (k,): all that a loss reads of the data but tr C."""
    through_encoder, _ = covariance.pair(encoder.T, decoder)
    return encoder @ through_encoder, jnp.sum(through_encoder * decoder, axis=0)


def _is_zero(tangent: object) -> TypeGuard[jax.custom_derivatives.SymbolicZero]:
    """Whether it is known, before anything is computed, that nothing is differentiated in what this belongs to."""
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _as_numbers(tangents: Tangents) -> tuple[Array, Array, Covariance]:
    """A tree of tangents with zeros in place of what is known to be zero."""
    return jax.tree.map(
        lambda each: jnp.zeros(each.shape, each.dtype) if _is_zero(each) else each, tangents, is_leaf=_is_zero
    )


@functools.partial(latent_moments.defjvp, symbolic_zeros=True)
def _latent_moments_jvp(
    primals: tuple[Array, Array, Covariance], tangents: Tangents
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    encoder, decoder, covariance = primals
    encoder_tangent, decoder_tangent, covariance_tangent = _as_numbers(tangents)
    through_encoder, through_decoder = covariance.pair(encoder.T, decoder)
    half = encoder_tangent @ through_encoder
    overlap = jnp.sum(encoder_tangent.T * through_decoder + through_encoder * decoder_tangent, axis=0)
    moments, moved = latent_moments(encoder, decoder, covariance), (half + half.T, overlap)
    if all(map(_is_zero, jax.tree.leaves(tangents[2], is_leaf=_is_zero))):
        return moments, moved
    # The moments are linear in C, but what C is made of (samples, say) need not enter it linearly.
    through_data = jax.jvp(lambda data: data.pair(encoder.T, decoder)[0], (covariance,), (covariance_tangent,))[1]
    return moments, (moved[0] + encoder @ through_data, moved[1] + jnp.sum(through_data * decoder, axis=0))
