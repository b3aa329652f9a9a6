"""Appendix F: the linear VAE is a regularised LAE, identically."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax import objectives
from lae_jax.covariance import Diagonal
from lae_jax.errors import InputError
from lae_jax.theory import landscape, linear_vae
from lae_jax.theory.hessian import exact_hessian
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


# The beta-VAE


def test_the_optimum_of_the_beta_vae_is_a_minimum_below_every_other_choice():
    """Where 3, 2, 1 and no latents are used: zero gradient, no direction down, the least of all subsets."""
    variances = np.array([4.0, 2.5, 1.0, 0.5, 0.3])
    ends = linear_vae.collapsing_betas(variances, 3)
    assert np.all(np.diff(ends) < 0)
    value = jax.jit(jax.value_and_grad(lambda p, beta: linear_vae.beta_vae(p, COVARIANCE, beta)))
    for beta in (0.5, 1.0, *(0.99 * ends), *(1.01 * ends)):
        optimum = jax.tree.map(jnp.asarray, linear_vae.beta_vae_optimum(variances, 3, beta))
        loss, gradient = value(optimum, beta)
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-12
        hessian = exact_hessian(lambda p, beta=beta: linear_vae.beta_vae(p, COVARIANCE, beta), optimum)
        assert np.linalg.eigvalsh(hessian)[0] > -1e-12 * np.linalg.eigvalsh(hessian)[-1]
        assert int(jnp.sum(jnp.any(optimum.decoder != 0, axis=0))) == int(np.sum(beta < ends))
        for held in itertools.chain.from_iterable(itertools.combinations(range(5), r) for r in range(4)):
            rest = np.sum(np.delete(variances, list(held)))
            noise = rest / (5 - beta * len(held))
            if noise > 0 and np.all(variances[list(held)] > beta * noise):
                other = beta / 2 * np.sum(np.log(variances[list(held)] / (beta * noise)))
                other += 2.5 * (1 + np.log(2 * np.pi * noise))
                assert loss <= other + 1e-12


def test_at_beta_one_it_is_the_linear_vae():
    for mine, other in zip(
        linear_vae.beta_vae_optimum(COVARIANCE.variances, 3),
        landscape.linear_vae_optimum(COVARIANCE.variances, 3),
        strict=True,
    ):
        np.testing.assert_allclose(mine, other, atol=1e-14)
    params = random_vae(0, 3, 5)
    np.testing.assert_allclose(
        linear_vae.beta_vae(params, COVARIANCE, 1.0), objectives.linear_vae(params, COVARIANCE), rtol=1e-15
    )
    with pytest.raises(InputError, match="beta: 0"):
        linear_vae.beta_vae_optimum(COVARIANCE.variances, 3, 0)
    with pytest.raises(InputError, match="nothing is left to be noise"):
        linear_vae.beta_vae_optimum([3.0, 2.0, 0.0], 2)
