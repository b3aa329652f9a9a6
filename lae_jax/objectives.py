"""The paper's objectives as pure functions of (params, covariance).

Legend: W1 encoder (k, m), W2 decoder (m, k); C covariance; M = W1 C W1^T; G = W2^T W2; c_i = P(b >= i)
the tail probabilities of nested dropout's prior, p_B(b) for b = 1..k. Every reconstruction carries 1/n as
Eq. (1) does, nested dropout included (twice Eq. (6), as in the authors' code, so that their learning rates
apply). A prior need not sum to 1: it is divided by its sum. All are differentiable twice, in the data too, and
leave zero-padded latents at zero; arrays of the wrong shape raise AssertionError.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from lae_jax.covariance import Covariance, CovarianceLike, as_covariance, gram, latent_moments
from lae_jax.params import Array, LAEParams, Number, VAEParams, Weights


def _moments(params: Weights, covariance: Covariance) -> tuple[Array, Array, Array]:
    """M, the diagonal of W1 C W2, and G: with tr C, everything that a deterministic loss reads."""
    chex.assert_shape(params.decoder, params.encoder.shape[::-1])
    return *latent_moments(params.encoder, params.decoder, covariance), gram(params.decoder)


def _mean_of_squares(value: Array) -> Array:
    """0 where rounding has left a mean of squares below it; derivatives are those of `value`, exactly.

    Near a perfect fit the terms of Eq. (1) cancel, and what is left of them is of the size of their rounding.
    """
    return value + jax.lax.stop_gradient(jnp.maximum(-value, 0))


def reconstruction(params: Weights, covariance: CovarianceLike) -> Array:
    """||(I - W2 W1) C^(1/2)||_F^2 = (1/n) ||X - W2 W1 X||_F^2. Eq. (1)."""
    covariance = as_covariance(covariance)
    moment, overlap, decoder_gram = _moments(params, covariance)
    return _mean_of_squares(covariance.trace - 2 * jnp.sum(overlap) + jnp.sum(decoder_gram * moment))


def l2(params: LAEParams, covariance: CovarianceLike, penalties: Number) -> Array:
    """Eq. (1) plus sum_i lambda_i (||W1[i, :]||^2 + ||W2[:, i]||^2).

    `penalties` is the diagonal of Lambda, shape (k,): Eq. (3); or one number: Eq. (2).
    """
    chex.assert_is_broadcastable(jnp.shape(penalties), params.encoder.shape[:1])
    weights = jnp.sum(params.encoder**2, axis=1) + jnp.sum(params.decoder**2, axis=0)
    return reconstruction(params, covariance) + jnp.sum(penalties * weights)


def product_l2(params: LAEParams, covariance: CovarianceLike, penalty: Number) -> Array:
    """Eq. (1) plus penalty ||W2 W1||_F^2 (Kunin et al. 2019); keeps the GL(k) symmetry."""
    return reconstruction(params, covariance) + penalty * jnp.sum(gram(params.decoder) * gram(params.encoder.T))


def tail_probabilities(prior: Array) -> Array:
    """The tail probabilities c_i = P(b >= i), shape (k,), from p_B (k,), divided by its sum; c_1 is exactly 1."""
    tail = jnp.flip(jnp.cumsum(jnp.flip(prior)))
    return tail / tail[0]


def _expected_error(total: Array, overlap: Array, decoder_gram: Array, moment: Array, prior: Array) -> Array:
    """E_b (1/n) sum ||x - W2 pi_b z||^2, from its mean of ||x||^2 (), of z_i (W2^T x)_i (k,) and of z z^T (k, k)."""
    tail = tail_probabilities(prior)
    # P(both latents i and j are kept) = c_max(i, j); c is non-increasing, so this is the smaller of the two.
    both = jnp.minimum(tail[:, None], tail[None, :])
    return _mean_of_squares(total - 2 * jnp.sum(tail * overlap) + jnp.sum(both * decoder_gram * moment))


def deterministic_nested_dropout(params: LAEParams, covariance: CovarianceLike, prior: Array) -> Array:
    """E_b (1/n) ||X - W2 pi_b(W1 X)||_F^2 with b ~ prior (k,): twice Eq. (6)."""
    chex.assert_shape(prior, params.encoder.shape[:1])
    covariance = as_covariance(covariance)
    moment, overlap, decoder_gram = _moments(params, covariance)
    return _expected_error(covariance.trace, overlap, decoder_gram, moment, prior)


# Nested dropout of the latents of any autoencoder: `sample_kept` draws masks to multiply latents by; below, the
# expectation over them.


def losses_by_kept(loss: Callable[[Array], Array], latents: Array) -> Array:
    """loss(the first b latents, zeros after them) for b = 1..k, (k,), of latents (..., k) of any autoencoder.

    `loss` maps latents to a number through any decoder; the k passes run as one batch.
    """
    prefixes = jnp.tri(latents.shape[-1], dtype=latents.dtype)
    return jax.vmap(lambda kept: loss(jnp.broadcast_to(kept, latents.shape) * latents))(prefixes)


def expected_nested_dropout(loss: Callable[[Array], Array], latents: Array, prior: Array) -> Array:
    """E_b loss(pi_b z) with b ~ prior (k,), exact for any decoder at the cost of k passes through it."""
    chex.assert_shape(prior, latents.shape[-1:])
    return jnp.sum(prior / jnp.sum(prior) * losses_by_kept(loss, latents))


def expected_linear_nested_dropout(rows: Array, latents: Array, decoder: Array, prior: Array) -> Array:
    """(1/n) sum_x E_b ||x - W2 pi_b z||^2, b ~ prior (k,), for any encoder and a decoder that is W2 (m, k) alone.

    In closed form, at the cost of one pass: samples in rows (n, m) less the decoder's bias, latents (n, k).
    """
    chex.assert_shape(prior, latents.shape[-1:])
    count = rows.shape[0]
    overlap = jnp.sum(latents * (rows @ decoder), axis=0) / count
    return _expected_error(jnp.sum(rows**2) / count, overlap, gram(decoder), gram(latents) / count, prior)


def sample_kept(key: Array, prior: Array, num_samples: int) -> Array:
    """A draw of nested dropout's mask: 1 for the first b latents of each sample, (n, k)."""
    threshold = jax.random.uniform(key, (num_samples, 1), prior.dtype)
    return (threshold < tail_probabilities(prior)[None, :]).astype(prior.dtype)


def nested_dropout(params: LAEParams, rows: Array, kept: Array) -> Array:
    """(1/n) sum_x ||x - W2 (kept * W1 x)||^2 for samples in rows (n, m), mask (n, k).

    Rippel et al. 2014, with one draw per sample. Written without the residual (n, m): the
    products with the samples are the whole cost, one pass forward and one back.
    """
    latent_dim = params.encoder.shape[0]
    chex.assert_shape(kept, (rows.shape[0], latent_dim))
    products = rows @ jnp.concatenate([params.encoder.T, params.decoder], axis=1)
    latents, scores = kept * products[:, :latent_dim], products[:, latent_dim:]
    cross = jnp.sum(latents * scores)
    error = jnp.sum(rows**2) - 2 * cross + jnp.sum(gram(params.decoder) * gram(latents))
    return _mean_of_squares(error / rows.shape[0])


def linear_vae(params: VAEParams, covariance: CovarianceLike, beta: Number = 1.0) -> Array:
    """Negative ELBO per sample of the linear VAE, in closed form (Lucas et al. 2019).

    beta/2 (sum_i (e^v_i - v_i - 1) + tr M) + e^-t/2 (sum_i e^v_i ||W2[:, i]||^2 + Eq. (1)) + m/2 (log 2 pi + t).
    Another `beta` than 1 weighs the divergence from the prior: the beta-VAE (Kumar and Poole 2020).
    """
    variance = jnp.exp(params.latent_log_variance)
    covariance = as_covariance(covariance)
    moment, overlap, decoder_gram = _moments(params, covariance)
    divergence = 0.5 * beta * (jnp.sum(variance - params.latent_log_variance - 1) + jnp.trace(moment))
    error = _mean_of_squares(
        covariance.trace
        - 2 * jnp.sum(overlap)
        + jnp.sum(decoder_gram * moment)
        + jnp.sum(variance * jnp.diagonal(decoder_gram))
    )
    input_dim = params.decoder.shape[0]
    return (
        divergence
        + 0.5 * jnp.exp(-params.noise_log_variance) * error
        + 0.5 * input_dim * (jnp.log(2 * jnp.pi) + params.noise_log_variance)
    )
