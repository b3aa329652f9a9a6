"""Full batch at the Krylov rate: over-relaxed alternation of the two least-squares problems of Eq. (1).

With W2 held, Eq. (1) is least in W1 at pinv(W2); with W1 held, in W2 at C W1^T M^-1. A step goes omega times the
way to either, and takes one product with C. Both problems are quadratic, so Eq. (1) never rises for omega in [0, 2]:
what is left of each is (1 - omega)^2 of what there was. omega = 1 is orthogonal iteration. Near the optimum the
iteration is successive over-relaxation of a 2-cyclic matrix with eigenvalues +-sqrt(d_l / d_i), i <= k < l, so that
Young's theory gives the best omega, and with it the rate of Chebyshev-accelerated subspace iteration.

Legend: W1 encoder (k, m), W2 decoder (m, k); C covariance; M = W1 C W1^T; d_1 >= d_2 >= ... variances; p spare latents.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import optax

from lae_jax.covariance import CovarianceLike, gram
from lae_jax.params import Array, LAEParams, Number, Tree, TwoLayers
from lae_jax.transformations import covariance_given, require_params

# Steps at omega = 1 before the first estimate of the best.
_PLAIN_STEPS = 3
# Spare latents where nothing is said: half as many as are wanted, or this where that is less; at most as many. Products
# of a few columns more cost next to nothing, and flat spectra need them: 20 of 2,000 equal steps take 60 steps with 10.
_LEAST_SPARE = 20
# Above this ratio of d_(k+1) to d_k omega grows no further: it is 1.98 here.
_LARGEST_RATIO = 1 - 1e-4


class AlternationState(NamedTuple):
    """What the next step needs beside the weights."""

    step: Array  # int32 ()
    relaxation: Array  # omega of the next step, ()
    product: Array  # C W1^T (m, k + p) at the weights; before the first step, noise as large as rounding
    shown: Array  # how many of the latents are those of the weights, (): k without padding
    trained: Array  # how many are not padding, (): k + p
    weights: LAEParams  # of all k + p latents, padding last


def best_relaxation(ratio: Number) -> Array:
    """Omega = 2 / (1 + sqrt(1 - ratio)) for ratio = d_(k+1) / d_k. Young 1954."""
    return 2 / (1 + jnp.sqrt(1 - ratio))


def convergence_rate(relaxation: Number, ratio: Number) -> Array:
    """The factor by which errors along component l in latent i shrink per step, ratio = d_l / d_i. Young 1954.

    The larger root, in size, of (z + omega - 1)^2 = z omega^2 ratio.
    """
    half = relaxation**2 * ratio / 2 - (relaxation - 1)
    discriminant = half**2 - (relaxation - 1) ** 2
    return jnp.where(discriminant > 0, half + jnp.sqrt(jnp.maximum(discriminant, 0)), jnp.abs(relaxation - 1))


def _orthonormaliser(moments: Array, active: Array) -> tuple[Array, Array]:
    """(T, T^-T), both (r, r), with V T orthonormal for V^T V = `moments` (r, r): Cholesky of the correlations of V.

    A shift of some roundings keeps it finite where columns depend on each other: rounding then fills their place.
    """
    lengths = jnp.sqrt(jnp.diagonal(moments))
    lengths = jnp.where(lengths > 0, lengths, 1)
    size, dtype = moments.shape[0], moments.dtype
    identity = jnp.eye(size, dtype=dtype)
    correlations = moments / jnp.outer(lengths, lengths)
    correlations = jnp.where(jnp.outer(active, active), correlations, 0)
    shift = 10 * size * float(jnp.finfo(dtype).eps)
    factor = jnp.linalg.cholesky(correlations + jnp.diag(jnp.where(active, shift, 1)))
    factor /= (1 + shift) ** 0.5  # exact where the columns are orthogonal, as they are in the end
    inverse = jsl.solve_triangular(factor, identity, lower=True)
    return inverse.T / lengths[:, None], lengths[:, None] * factor


def principal(moment: Array, active: Array) -> tuple[Array, Array]:
    """Eigenvalues (r,) of M, descending, and eigenvectors (r, r) as columns; padding stays last and apart."""
    scale = jnp.max(jnp.abs(jnp.diagonal(moment)))
    symmetric = (moment + moment.T) / 2
    values, vectors = jnp.linalg.eigh(symmetric - jnp.diag(jnp.where(active, 0, scale + 1)))
    values, vectors = values[::-1], vectors[:, ::-1]
    # The largest entry of each is positive: signs of latents do not flip from step to step.
    largest = jnp.take_along_axis(vectors, jnp.argmax(jnp.abs(vectors), axis=0)[None], axis=0)
    return values, jnp.where(jnp.outer(active, active), vectors * jnp.sign(largest), 0)


def _spare_count(spare: int | None, latent_dim: int | Array) -> Array | int:
    """How many latents are trained beside k: as said, or half as many, at least 20 and at most k."""
    if spare is not None:
        return spare
    if isinstance(latent_dim, int):
        return min(max(latent_dim // 2, _LEAST_SPARE), latent_dim)
    return jnp.minimum(jnp.maximum(latent_dim // 2, _LEAST_SPARE), latent_dim)


def noise_columns(first: int | Array, count: int, input_dim: int, dtype: Any) -> Array:
    """Columns number `first`, `first` + 1, ... of one matrix of standard normal noise, (m, count)."""
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(first + jnp.arange(count))
    return jax.vmap(lambda key: jax.random.normal(key, (input_dim,), jnp.float32))(keys).T.astype(dtype)


def alternation(spare: int | None = None, relaxation: Number | None = None) -> optax.GradientTransformationExtraArgs:
    """Over-relaxed alternation, a whole rule for Eq. (1): gradients and optimisers are not read.

    After each step W1 has orthonormal rows and M is diagonal and descending. Zero latents are padding and stay so;
    any other start will do, of any scale, unbalanced or of low rank.

    Args:
      spare: p latents that are trained beside the k of the weights and not shown. The rate is then that of
        d_(k+p+1) / d_k, so that flat spectra cost no more than others. None: half as many as are wanted, at least
        20 and at most k. They start at W1^T - W2, and where there are more than k, at noise.
      relaxation: omega in (0, 2); None finds it on the way. The change of latent k since the last step, less
        what lies in the span of the latents, tends to component k + p + 1 as long as omega is too small, and its
        Rayleigh quotient, which costs no product since C of either end is known, to d_(k+p+1) from below.

    Returns:
      A transformation whose `update` reads `params` and the keyword `covariance`.

    Source: Young 1954 (over-relaxation); math as in Eq. (1).
    """

    def init(params: TwoLayers) -> AlternationState:
        input_dim, latent_dim = params.decoder.shape
        dtype, first, second = params.encoder.dtype, params.encoder.T, params.decoder
        size = _spare_count(spare, latent_dim)
        shown = jnp.sum(jnp.any(first != 0, axis=0) | jnp.any(second != 0, axis=0))
        wanted = jnp.minimum(_spare_count(spare, shown), input_dim - shown)
        trained, index = jnp.where(shown > 0, shown + wanted, 0), jnp.arange(latent_dim + size)
        noise = noise_columns(0, latent_dim + size, input_dim, dtype)
        tiny = 10 * float(jnp.finfo(dtype).eps) * noise
        # Spare latents begin where W1 and W2 differ; at noise where they do not, or there are more of them than others.
        across = _unit(first, latent_dim) - _unit(second, latent_dim)
        moved = jnp.take(across, index - shown, axis=1, mode="clip") + tiny
        more = jnp.where((index < 2 * shown)[None, :], moved, noise) * (index < trained)[None, :]
        return AlternationState(
            jnp.zeros((), jnp.int32),
            jnp.ones((), dtype) if relaxation is None else jnp.asarray(relaxation, dtype),
            tiny * (index < trained)[None, :],
            shown,
            trained,
            LAEParams(more.T, more),
        )

    def update(
        updates: Tree,
        state: AlternationState,
        params: TwoLayers | None = None,
        *,
        covariance: CovarianceLike | None = None,
        **_: object,
    ) -> tuple[Tree, AlternationState]:
        require_params(params)
        known = covariance_given(covariance)
        latent_dim, index = params.encoder.shape[0], jnp.arange(state.product.shape[1])
        active, behind = index < state.trained, ((0, 0), (0, len(index) - latent_dim))
        shown = (index < state.shown)[None, :]
        # W1^T and W2, (m, k + p)
        first = jnp.where(shown, jnp.pad(params.encoder.T, behind), state.weights.encoder.T)
        second = jnp.where(shown, jnp.pad(params.decoder, behind), state.weights.decoder)
        omega = state.relaxation
        is_start = state.step == 0
        # Either of the two matrices may be zero or of low rank: begin with both, and with a little noise.
        second = jnp.where(is_start, _unit(first, latent_dim) + _unit(second, latent_dim) + state.product, second)
        factor = _orthonormaliser(gram(second), active)[0]
        # The first step is W1 = pinv(W2) whatever omega, since W1 is in no relation to W2 yet.
        way = jnp.where(is_start, 1, omega)
        moved = (1 - way) * first + second @ (way * factor @ factor.T)
        through = known @ moved
        straight, back = _orthonormaliser(gram(moved), active)
        variances, rotation = principal(straight.T @ (moved.T @ through) @ straight, active)
        gauge = straight @ rotation
        encoder, product = moved @ gauge, through @ gauge
        inverse = jnp.where(active, 1 / jnp.maximum(variances, _smallest(variances)), 0)
        decoder = (1 - way) * (second @ (back @ rotation)) + way * product * inverse[None, :]
        if relaxation is None:
            ratio, seen = _outside_ratio(first, state.product, encoder, product, variances, state.shown - 1)
            seen &= state.step >= _PLAIN_STEPS
            omega = jnp.where(seen, best_relaxation(jnp.clip(ratio, 0, _LARGEST_RATIO)), omega)
        following = params._replace(
            encoder=(encoder * shown)[:, :latent_dim].T, decoder=(decoder * shown)[:, :latent_dim]
        )
        after = state._replace(
            step=state.step + 1, relaxation=omega, product=product, weights=LAEParams(encoder.T, decoder)
        )
        return jax.tree.map(jnp.subtract, following, params), after

    return optax.GradientTransformationExtraArgs(init, update)


def _unit(matrix: Array, latent_dim: int) -> Array:
    """The matrix (m, k + p) over the root mean square length of its first k columns."""
    length = jnp.sqrt(jnp.mean(jnp.sum((matrix[:, :latent_dim]) ** 2, axis=0)))
    return matrix / jnp.where(length > 0, length, 1)


def _smallest(variances: Array) -> Array:
    """What counts as no variance, so that nothing divides by it."""
    eps = float(jnp.finfo(variances.dtype).eps)
    return jnp.maximum(eps * jnp.max(variances), float(jnp.finfo(variances.dtype).tiny))


def _outside_ratio(
    before: Array, product_before: Array, after: Array, product: Array, variances: Array, last: Array
) -> tuple[Array, Array]:
    """d_(k+p+1) / d_k as the last step shows it, and whether the step was more than rounding.

    The Rayleigh quotient of the change of latent k without what either span holds of it.
    """
    change, through = after[:, last], product[:, last]
    for span, image in ((before, product_before), (after, product)):
        coordinates = span.T @ change
        change, through = change - span @ coordinates, through - image @ coordinates
    square = jnp.sum(change**2)
    ratio = (
        jnp.sum(change * through)
        / jnp.where(square > 0, square, 1)
        / jnp.maximum(variances[last], _smallest(variances))
    )
    return ratio, square > (1e3 * float(jnp.finfo(square.dtype).eps)) ** 2
