"""The linear VAE as a regularised LAE, and the beta-VAE: Appendix F, Section 3.

Legend: d_i variances; s2 noise variance; k latent dimension; m input dimension.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from lae_jax.covariance import Covariance, second_moment
from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_variances
from lae_jax.objectives import linear_vae, reconstruction
from lae_jax.params import LAEParams, VAEParams

Array = jax.Array


class Implied(NamedTuple):
    """What a linear VAE of fixed variances penalises."""

    decoder: Array  # (k,) of ||W2[:, i]||^2: the variance e^v_i of latent i given its input
    latent: Array  # () of tr(W1 C W1^T), the total variance of the mean latents: the noise variance e^t
    constant: Array  # () what does not depend on the weights


def implied_penalties(params: VAEParams) -> Implied:
    """The penalties that the variances of a linear VAE imply. Appendix F, made exact.

    At its optimum e^v_i = s2 / d_i ascends as the penalties of Eq. (3) have to: that orders nothing, since
    each latent chooses its own, but it tells the latents apart.

    Args:
        params: of which only the two log-variances are read.

    Returns:
        What `penalised_reconstruction` adds to Eq. (1).
    """
    variance, noise = jnp.exp(params.latent_log_variance), jnp.exp(params.noise_log_variance)
    divergence = jnp.sum(variance - params.latent_log_variance - 1)
    constant = noise * (divergence + params.decoder.shape[0] * (jnp.log(2 * jnp.pi) + params.noise_log_variance))
    return Implied(variance, noise, constant)


def penalised_reconstruction(params: VAEParams, covariance: Covariance) -> Array:
    """Eq. (1) + sum_i e^v_i ||W2[:, i]||^2 + e^t tr(W1 C W1^T) + constant: 2 e^t times the negative ELBO. Appendix F.

    An identity at all weights, and the losses of both have the same gradients in W1 and W2 up to that factor.

    Args:
        params: weights and log-variances.
        covariance: C, in any form.

    Returns:
        The sum, ().
    """
    implied = implied_penalties(params)
    decoder = jnp.sum(implied.decoder * jnp.sum(params.decoder**2, axis=0))
    latents = implied.latent * jnp.trace(second_moment(params.encoder, covariance))
    return reconstruction(params, covariance) + decoder + latents + implied.constant


def beta_vae(params: VAEParams, covariance: Covariance, beta: float | Array) -> Array:
    """The linear VAE's negative ELBO with its divergence from the prior weighted by beta. Kumar and Poole 2020.

    Args:
        params: weights and log-variances.
        covariance: C, in any form.
        beta: 1 is the linear VAE.

    Returns:
        The loss per sample, ().
    """
    variance = params.latent_log_variance
    moment = jnp.trace(second_moment(params.encoder, covariance))
    divergence = 0.5 * (jnp.sum(jnp.exp(variance) - variance - 1) + moment)
    return linear_vae(params, covariance) + (beta - 1) * divergence


def collapsing_betas(variances: ArrayLike, latent_dim: int) -> np.ndarray:
    """The beta from which on latent i is unused, (k,), descending: m d_i / (i d_i + sum_(l>i) d_l).

    The last latent goes first; above m d_1 / tr C, which is at least 1, none is used.
    """
    d = checked_variances(variances, latent_dim)
    rest = (np.sum(d) - np.cumsum(d))[:latent_dim]
    return d.size * d[:latent_dim] / (np.arange(1, latent_dim + 1) * d[:latent_dim] + rest)


def beta_vae_optimum(variances: ArrayLike, latent_dim: int, beta: float = 1.0) -> VAEParams:
    """The ordered minimum of the beta-VAE; any order of the latents is as good (beyond the paper).

    As the linear VAE's with beta s2 in place of s2: W2 = U diag(t_i), W1 = diag(t_i / d_i) U^T, t_i^2 = d_i - beta s2,
    e^v_i = beta s2 / d_i, for the r latents with d_i > beta s2; the others are zero, with e^v_i = 1. The noise
    s2 = sum_(l>r) d_l / (m - beta r), which no second r fits.

    Args:
        variances: all m, descending.
        latent_dim: k.
        beta: above 0.

    Returns:
        The optimum in the eigenbasis, in numpy.

    Raises:
        InputError: where the noise would vanish, or equal variances leave the components open.
    """
    d = checked_variances(variances, latent_dim)
    if not 0 < beta < np.inf:
        raise InputError(f"beta: {beta}: must be above 0")
    used = int(np.sum(beta < collapsing_betas(d, latent_dim)))
    noise = np.sum(d[used:]) / (d.size - beta * used)
    if not noise > 0:
        raise InputError(f"variances: nothing is left to be noise after the first {used} components")
    leading = d[:latent_dim]
    lengths = np.sqrt(np.maximum(leading - beta * noise, 0))
    encoder = np.pad(np.diag(lengths / leading), ((0, 0), (0, d.size - latent_dim)))
    decoder = np.pad(np.diag(lengths), ((0, d.size - latent_dim), (0, 0)))
    latent = np.minimum(np.log(beta * noise / leading), 0)
    return VAEParams(*LAEParams(encoder, decoder), latent, np.log(noise))  # type: ignore[arg-type]  # numpy
