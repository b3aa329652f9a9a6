"""Appendix F: the linear VAE is a regularised LAE, identically."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax import objectives
from lae_jax.covariance import Diagonal
from lae_jax.data import datasets
from lae_jax.errors import InputError
from lae_jax.hyperparameters import collapsing_betas, unused_latents
from lae_jax.theory import eigenvalues, landscape, linear_vae
from lae_jax.theory.closed_form import condition_number, linear_vae_spectrum, mode
from lae_jax.training import settings, units
from tests.helpers import random_vae, rows_with

COVARIANCE = Diagonal(jnp.array([4.0, 2.5, 1.0, 0.5, 0.3]))


PENALISED = jax.jit(jax.value_and_grad(linear_vae.penalised_reconstruction))
NEGATIVE_ELBO = jax.jit(jax.value_and_grad(objectives.linear_vae))


@pytest.mark.parametrize(("seed", "beta"), [(0, 1.0), (1, 1.0), (2, 0.3), (3, 1.7), (4, 20.0)])
def test_twice_the_noise_times_the_negative_elbo_is_eq_1_with_penalties(seed, beta):
    """Appendix F, of the beta-VAE as well."""
    params = random_vae(seed, 3, 5)
    scale = 2 * jnp.exp(params.noise_log_variance)
    penalised, gradients = PENALISED(params, COVARIANCE, beta)
    loss, expected = NEGATIVE_ELBO(params, COVARIANCE, beta)
    np.testing.assert_allclose(penalised, scale * loss, rtol=1e-12)
    np.testing.assert_allclose(gradients.encoder, scale * expected.encoder, atol=1e-12)
    np.testing.assert_allclose(gradients.decoder, scale * expected.decoder, atol=1e-12)


def test_at_its_optimum_the_penalties_ascend_with_the_latents():
    optimum = jax.tree.map(jnp.asarray, landscape.linear_vae_optimum(COVARIANCE.variances, 3))
    implied = linear_vae.implied_penalties(optimum)
    np.testing.assert_allclose(implied.decoder, 0.4 / COVARIANCE.variances[:3])
    assert implied.latent == pytest.approx(0.4)


def test_every_order_of_the_latents_is_as_good():
    """The linear VAE does not order its components: Section 7."""
    optimum = jax.tree.map(jnp.asarray, landscape.linear_vae_optimum(COVARIANCE.variances, 3))
    least = NEGATIVE_ELBO(optimum, COVARIANCE, 1.0)[0]
    for order in itertools.permutations(range(3)):
        latents = np.array(order)
        moved = optimum._replace(
            encoder=optimum.encoder[latents],
            decoder=optimum.decoder[:, latents],
            latent_log_variance=optimum.latent_log_variance[latents],
        )
        loss, gradients = NEGATIVE_ELBO(moved, COVARIANCE, 1.0)
        assert float(loss) == pytest.approx(float(least), rel=1e-14)
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients)) < 1e-13


# The beta-VAE


def test_the_optimum_of_the_beta_vae_is_a_minimum_below_every_other_choice():
    """Where 3, 2, 1 and no latents are used: zero gradient, no direction down, the least of all subsets."""
    variances = np.array([4.0, 2.5, 1.0, 0.5, 0.3])
    ends = collapsing_betas(variances, 3)
    assert np.all(np.diff(ends) < 0)
    for beta in (0.5, 1.0, *(0.99 * ends), *(1.01 * ends)):
        optimum = jax.tree.map(jnp.asarray, landscape.linear_vae_optimum(variances, 3, beta))
        loss, gradient = NEGATIVE_ELBO(optimum, COVARIANCE, beta)
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-12
        assert condition_number(linear_vae_spectrum(variances, 3, beta), tail=True).smallest > 0
        unused = unused_latents(beta, variances, 3)
        assert unused == [i + 1 for i in range(3) if beta >= ends[i]]
        np.testing.assert_array_equal(np.flatnonzero(~jnp.any(optimum.decoder != 0, axis=0)) + 1, unused)
        for held in itertools.chain.from_iterable(itertools.combinations(range(5), r) for r in range(4)):
            rest = np.sum(np.delete(variances, list(held)))
            noise = rest / (5 - beta * len(held))
            if noise > 0 and np.all(variances[list(held)] > beta * noise):
                other = beta / 2 * np.sum(np.log(variances[list(held)] / (beta * noise)))
                other += 2.5 * (1 + np.log(2 * np.pi * noise))
                assert loss <= other + 1e-12


def test_no_eigenvalue_exceeds_the_bound_of_the_curvature():
    """In any unit, with used and unused latents; within a factor of 3."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        input_dim = int(rng.integers(3, 12))
        variances = np.sort(10 ** rng.uniform(-3, rng.choice([0, 2]), input_dim))[::-1]
        latent_dim, beta = int(rng.integers(1, input_dim)), float(rng.choice([1.0, 10 ** rng.uniform(-1, 1)]))
        if landscape.used_latents(beta, variances, latent_dim) * beta >= input_dim:
            continue
        bound = units.curvature_bound(variances, latent_dim, beta)
        largest = eigenvalues.extremes(eigenvalues.linear_vae(variances, latent_dim, beta), True).largest
        assert bound / 3 < largest <= bound


def test_the_smallest_eigenvalue_goes_to_zero_where_a_latent_collapses():
    """From both sides, and is 0 there: a pitchfork, along the weights of that latent on its component."""
    variances = np.array([4.0, 2.5, 1.0, 0.5, 0.3])
    for latent, end in enumerate(collapsing_betas(variances, 3)):
        slack = [condition_number(linear_vae_spectrum(variances, 3, end * (1 + x))).smallest for x in (-1e-6, 0, 1e-6)]
        assert 0 < slack[0] < 1e-5 and abs(slack[1]) < 1e-14 and 0 < slack[2] < 1e-5
        _, direction = mode(linear_vae_spectrum(variances, 3, end * (1 + 1e-6)))
        assert abs(direction.decoder[latent, latent]) > 0.1


def test_beta_reaches_the_loss_of_a_run_which_says_what_is_unused():
    variances = np.array([4.0, 2.5, 1.0, 0.5, 0.3])
    data = datasets.from_samples("rows", rows_with(variances, 40), center=False)
    chosen, notes = settings.resolve(settings.Settings("linear_vae", 3, beta=(1.9,), unit=1), data)
    assert any(note.startswith("beta: ") and "latent 2, 3" in note for note in notes)
    run = settings.build(chosen, data)
    optimum = jax.tree.map(jnp.asarray, landscape.linear_vae_optimum(variances, 3, 1.9))
    loss = run.recipe.method.loss(optimum, run.problem.data, None, run.problem.hyperparameter)
    assert float(loss) == pytest.approx(float(NEGATIVE_ELBO(optimum, COVARIANCE, 1.9)[0]), rel=1e-6)
    with pytest.raises(InputError, match=r"beta: .*one positive number"):
        settings.resolve(settings.Settings("linear_vae", 3, beta=(-1.0,)), data)
    with pytest.raises(InputError, match="variances: the VAE's noise"):
        landscape.linear_vae_optimum([3.0, 2.0, 0.0], 2)
