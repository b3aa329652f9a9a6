"""The linear VAE, and the beta-VAE with it, as a regularised LAE: Appendix F, Section 3.

Legend: d_i variances; s2 noise variance; k latent dimension; m input dimension.
"""

from typing import NamedTuple

import jax.numpy as jnp

from lae_jax.covariance import Covariance, second_moment
from lae_jax.objectives import reconstruction
from lae_jax.params import Array, Number, VAEParams


class Implied(NamedTuple):
    """What a linear VAE of fixed variances penalises."""

    decoder: Array  # (k,) of ||W2[:, i]||^2: the variance e^v_i of latent i given its input
    latent: Array  # () of tr(W1 C W1^T), the total variance of the mean latents: beta e^t, e^t the noise variance
    constant: Array  # () what does not depend on the weights


def implied_penalties(params: VAEParams, beta: Number = 1.0) -> Implied:
    """The penalties that the variances of a linear VAE imply. Appendix F, made exact.

    At its optimum e^v_i = beta s2 / d_i ascends as the penalties of Eq. (3) have to: that orders nothing, since
    each latent chooses its own, but it tells the latents apart.

    Args:
        params: of which only the two log-variances are read.
        beta: weight of the divergence; 1 is the linear VAE.

    Returns:
        What `penalised_reconstruction` adds to Eq. (1).
    """
    variance, noise = jnp.exp(params.latent_log_variance), jnp.exp(params.noise_log_variance)
    divergence = beta * jnp.sum(variance - params.latent_log_variance - 1)
    constant = noise * (divergence + params.decoder.shape[0] * (jnp.log(2 * jnp.pi) + params.noise_log_variance))
    return Implied(variance, beta * noise, constant)


def penalised_reconstruction(params: VAEParams, covariance: Covariance, beta: Number = 1.0) -> Array:
    """Eq. (1) + sum_i e^v_i ||W2[:, i]||^2 + beta e^t tr M + constant: 2 e^t times `linear_vae`'s loss. Appendix F.

    An identity at all weights, and the losses of both have the same gradients in W1 and W2 up to that factor.

    Args:
        params: weights and log-variances.
        covariance: C, in any form.
        beta: weight of the divergence; 1 is the linear VAE.

    Returns:
        The sum, ().
    """
    implied = implied_penalties(params, beta)
    decoder = jnp.sum(implied.decoder * jnp.sum(params.decoder**2, axis=0))
    latents = implied.latent * jnp.trace(second_moment(params.encoder, covariance))
    return reconstruction(params, covariance) + decoder + latents + implied.constant
