"""Appendix F: the linear VAE is a regularised LAE, identically."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax import objectives
from lae_jax.covariance import Diagonal
from lae_jax.theory import landscape, linear_vae
from tests.helpers import random_vae

COVARIANCE = Diagonal(jnp.array([4.0, 2.5, 1.0, 0.5, 0.3]))


@pytest.mark.parametrize("seed", range(5))
def test_twice_the_noise_times_the_negative_elbo_is_eq_1_with_penalties(seed):
    params = random_vae(seed, 3, 5)
    scale = 2 * jnp.exp(params.noise_log_variance)
    penalised = linear_vae.penalised_reconstruction(params, COVARIANCE)
    np.testing.assert_allclose(penalised, scale * objectives.linear_vae(params, COVARIANCE), rtol=1e-12)
    gradients = jax.grad(linear_vae.penalised_reconstruction)(params, COVARIANCE)
    expected = jax.grad(objectives.linear_vae)(params, COVARIANCE)
    np.testing.assert_allclose(gradients.encoder, scale * expected.encoder, atol=1e-12)
    np.testing.assert_allclose(gradients.decoder, scale * expected.decoder, atol=1e-12)


def test_at_its_optimum_the_penalties_ascend_with_the_latents():
    optimum = jax.tree.map(jnp.asarray, landscape.linear_vae_optimum(COVARIANCE.variances, 3))
    implied = linear_vae.implied_penalties(optimum)
    np.testing.assert_allclose(implied.decoder, 0.4 / COVARIANCE.variances[:3])
    assert implied.latent == pytest.approx(0.4)
