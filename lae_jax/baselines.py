"""The relatives of the rotation augmented gradient that the paper names, as update rules.

Every function named after an algorithm takes an optimiser and gives a whole rule, an ordinary
optax transformation whose `update` reads `params` and the keyword `covariance`. Rules with one
matrix V keep the weights tied, W1 = V^T and W2 = V, whatever gradient and encoder they are given,
so that every metric applies. A retraction is the last link of a chain and returns what leads from
the weights to retract(weights + updates). All leave zero-padded latents at zero.

Legend: V = W2 (m, k); C covariance; M = V^T C V; triu includes the diagonal, triu1 does not.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import optax

from lae_jax.covariance import Covariance, CovarianceLike, Known, gram
from lae_jax.metrics import unit_columns
from lae_jax.params import Array, Layers, Tree, TwoLayers
from lae_jax.transformations import FIELDS, covariance_given, from_direction, require_params, rotating_frame

# (V (m, k), covariance) -> the direction V' of ascent (m, k)
Direction = Callable[[Array, Covariance], Array]


def oja_direction(decoder: Array, covariance: Covariance) -> Array:
    """C V - V M: half the descent of Eq. (1) in W2 at W1 = W2^T. Finds the subspace, not the axes. Oja 1982."""
    product = covariance @ decoder
    return product - decoder @ (decoder.T @ product)


def generalized_hebbian_direction(decoder: Array, covariance: Covariance) -> Array:
    """C V - V triu(M). Sanger 1989; Section 6.1."""
    product = covariance @ decoder
    return product - decoder @ jnp.triu(decoder.T @ product)


def _tangent(decoder: Array, ascent: Array) -> Array:
    """G - V diag(V^T G): what leaves the length of every unit column alone."""
    return ascent - decoder * jnp.sum(decoder * ascent, axis=0, keepdims=True)


def eigengame_alpha_utility(decoder: Array, covariance: Covariance) -> Array:
    """Gradient of each player's utility, 2 C (V - V diag(M)^-1 triu1(M)), (m, k).

    u_j = v_j^T C v_j - sum_{i<j} (v_i^T C v_j)^2 / (v_i^T C v_i). Gemp et al. 2021.
    """
    product = covariance @ decoder
    moment = decoder.T @ product
    variances = jnp.diagonal(moment)[:, None]
    share = jnp.triu(moment, 1) / jnp.where(variances > 0, variances, 1)
    return 2 * (product - product @ share)


def eigengame_alpha_direction(decoder: Array, covariance: Covariance) -> Array:
    """Riemannian gradient of each player's utility on the sphere. Gemp et al. 2021."""
    return _tangent(decoder, eigengame_alpha_utility(decoder, covariance))


def eigengame_mu_direction(decoder: Array, covariance: Covariance) -> Array:
    """G - V diag(V^T G) with G = C V - V triu1(M); GHA on orthonormal V. Gemp et al. 2022."""
    product = covariance @ decoder
    return _tangent(decoder, product - decoder @ jnp.triu(decoder.T @ product, 1))


def _descending_weights(decoder: Array) -> Array:
    """N_i = (k - i + 1) / k over the k latents that are not padding, 0 for padding."""
    active = jnp.sum(jnp.any(decoder != 0, axis=0)).astype(decoder.dtype)
    return jnp.maximum(active - jnp.arange(decoder.shape[1], dtype=decoder.dtype), 0) / jnp.maximum(active, 1)


def brockett_direction(decoder: Array, covariance: Covariance) -> Array:
    """C V N - V N M, the gradient of tr(V^T C V N) / 2 on the Stiefel manifold, N_i = (k - i + 1) / k. Brockett 1991.

    In the canonical metric; that of the surrounding space turns the latents at half this rate.
    """
    ascent = (covariance @ decoder) * _descending_weights(decoder)[None, :]
    return ascent - decoder @ (ascent.T @ decoder)


def _cholesky(matrix: Array) -> Array:
    """L with L L^T = V^T V (k, k), columns and rows of padding replaced by those of the identity."""
    return jnp.linalg.cholesky(matrix + jnp.diag(jnp.where(jnp.diagonal(matrix) > 0, 0.0, 1.0).astype(matrix.dtype)))


def spectral_inference_direction(raw: Array, covariance: Covariance) -> Array:
    """2 (C Y D - Y triu(Y^T C Y D)), Y = V L^-T, L = chol(V^T V), D = diag(L)^-1, for raw V (m, k).

    Column i is the gradient of (Y^T C Y)_ii in v_i. Pfau et al. 2019 with exact averages.
    """
    functions, factor = _orthonormalised(raw)
    product = covariance @ functions
    inverse = 1 / jnp.diagonal(factor)[None, :]
    return 2 * (product * inverse - functions @ jnp.triu((functions.T @ product) * inverse))


def orthonormal_columns(decoder: Array) -> Array:
    """The Q of V = Q R with a positive diagonal of R; zero columns stay zero."""
    return jsl.solve_triangular(_cholesky(gram(decoder)), decoder.T, lower=True).T


def _orthonormalised(raw: Array) -> tuple[Array, Array]:
    """Q (m, k) and L = R^T (k, k) of any V = Q R, whose columns may be nearly dependent.

    What one Cholesky factor of V^T V loses by the square of V's condition number, a second one, of what the first has
    left, gives back: CholeskyQR2, Yamamoto et al. 2015.
    """
    rough = orthonormal_columns(raw)
    second = _cholesky(gram(rough))
    return jsl.solve_triangular(second, rough.T, lower=True).T, _cholesky(gram(raw)) @ second


def _tie(tree: TwoLayers, decoder: Array) -> TwoLayers:
    return tree._replace(encoder=decoder.T, decoder=decoder)


def retraction(retract: Callable[[Array], Array]) -> optax.GradientTransformationExtraArgs:
    """Last in a chain: ends the step at W2 = retract(W2 + its update), W1 = W2^T."""

    def update(
        updates: Tree, state: optax.EmptyState, params: Tree | None = None, *, layers: Layers = FIELDS, **_: object
    ) -> tuple[Tree, optax.EmptyState]:
        require_params(params)
        before = layers.get(params)
        landed = _tie(before, retract(before.decoder + layers.get(updates).decoder))
        return layers.put(updates, jax.tree.map(jnp.subtract, landed, before)), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _tied(
    direction: Direction, retract: Callable[[Array], Array], optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Ascend `direction` by `optimizer`, then retract."""
    ascent = from_direction(lambda updates, params, covariance: _tie(updates, -direction(params.decoder, covariance)))
    return optax.chain(ascent, optimizer, retraction(retract))


def oja(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Oja's subspace rule on tied weights; aligns with no axis."""
    return _tied(oja_direction, lambda decoder: decoder, optimizer)


def generalized_hebbian(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The Generalized Hebbian Algorithm on tied weights. Section 6.1."""
    return _tied(generalized_hebbian_direction, lambda decoder: decoder, optimizer)


def eigengame_alpha(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """EigenGame, all players at once; columns are renormalised after each step."""
    return _tied(eigengame_alpha_direction, unit_columns, optimizer)


def eigengame_mu(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """mu-EigenGame; columns are renormalised after each step."""
    return _tied(eigengame_mu_direction, unit_columns, optimizer)


def brockett(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Ascent of the Brockett cost on the Stiefel manifold, retracted by QR. Appendix G."""
    return _tied(brockett_direction, orthonormal_columns, optimizer)


class SpectralInferenceState(NamedTuple):
    """The raw V (m, k) that is trained, and the optimiser's state."""

    raw: Array
    optimizer: optax.OptState


def spectral_inference(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Spectral inference networks for linear functions; the weights are the eigenfunctions V L^-T.

    V itself is aligned with nothing and lives in the state; it starts as the decoder's columns scaled
    to unit length, a scale to which the rule's fixed points are blind but its steps are not.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Tree) -> SpectralInferenceState:
        return SpectralInferenceState(unit_columns(FIELDS.get(params).decoder), optimizer.init(params))

    def update(
        updates: Tree,
        state: SpectralInferenceState,
        params: Tree | None = None,
        *,
        covariance: CovarianceLike | None = None,
        **extra: object,
    ) -> tuple[Tree, SpectralInferenceState]:
        require_params(params)
        covariance = covariance_given(covariance)
        ascent = _tie(updates, -spectral_inference_direction(state.raw, covariance))
        move, inner = optimizer.update(ascent, state.optimizer, _tie(params, state.raw), covariance=covariance, **extra)
        raw = optax.apply_updates(_tie(params, state.raw), move).decoder
        functions = _tie(params, _orthonormalised(raw)[0])
        return jax.tree.map(jnp.subtract, functions, params), SpectralInferenceState(raw, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def goldstone(optimizer: optax.GradientTransformation, checked: bool = True) -> optax.GradientTransformationExtraArgs:
    """Goldstone descent with Newton's step in the rotation, for Eq. (3) with ascending penalties.

    Newton's angle G_ij / (G_ii - G_jj), G = W1 W1^T + W2^T W2, does not depend on the penalties; here
    it is damped and the rotation exact, as in `rotating_frame`, whose `checked` it is. Bamler and Mandt 2018.
    """

    def matrix(params: TwoLayers, _: Known) -> Array:
        return gram(params.encoder.T) + gram(params.decoder)

    return rotating_frame(optimizer, matrix=matrix, checked=checked)
