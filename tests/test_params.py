"""Weights: their start, padding and change of basis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax.covariance import Dense
from lae_jax.errors import InputError
from lae_jax.objectives import reconstruction
from lae_jax.params import (
    INITIALISERS,
    LAEParams,
    VAEParams,
    balanced,
    change_basis,
    crop_latents,
    gaussian,
    pad_latents,
    stack_latents,
    unstack_latents,
    with_variances,
)
from tests.helpers import assert_close, normal, orthogonal, random_params, random_vae

K, M = 3, 7


@pytest.mark.parametrize("params", [random_params(0, K, M), random_vae(0, K, M)], ids=["LAE", "VAE"])
def test_crop_undoes_pad_and_padding_is_zero(params):
    padded = pad_latents(params, K + 2)
    assert type(padded) is type(params)
    assert padded.encoder.shape == (K + 2, M) and padded.decoder.shape == (M, K + 2)
    back = crop_latents(padded, K)
    assert type(back) is type(params)
    assert all(np.array_equal(*pair) for pair in zip(back, params, strict=True))
    assert not padded.encoder[K:].any() and not padded.decoder[:, K:].any()
    # Nothing else was added: every sum is what it was.
    assert all(np.isclose(jnp.sum(wide), jnp.sum(narrow)) for wide, narrow in zip(padded, params, strict=True))


def test_padded_vae_has_zero_log_variances_and_the_same_noise():
    params = random_vae(1, K, M)
    padded = pad_latents(params, K + 2)
    assert padded.latent_log_variance.shape == (K + 2,) and not padded.latent_log_variance[K:].any()
    assert padded.noise_log_variance.shape == () and padded.noise_log_variance == params.noise_log_variance


def test_padding_to_the_same_size_changes_nothing():
    params = random_params(2, K, M)
    assert all(np.array_equal(*pair) for pair in zip(pad_latents(params, K), params, strict=True))


@pytest.mark.parametrize("params", [random_params(3, K, M), random_vae(3, K, M)], ids=["LAE", "VAE"])
def test_change_of_basis_conjugates_the_map_and_keeps_the_loss(params):
    basis = jnp.asarray(orthogonal(4, M))
    moved = change_basis(params, basis)
    assert_close(moved.decoder @ moved.encoder, basis.T @ params.decoder @ params.encoder @ basis)
    root = jnp.asarray(normal(5, M, M))
    matrix = root @ root.T
    assert_close(
        reconstruction(moved, Dense(basis.T @ matrix @ basis)), reconstruction(params, Dense(matrix)), factor=1000
    )
    assert_close(change_basis(moved, basis.T), params)


def test_balanced_start_is_balanced():
    params = balanced(jax.random.key(0), K, M, 0.1)
    assert np.array_equal(params.decoder, params.encoder.T)
    assert_close(params.encoder @ params.encoder.T, params.decoder.T @ params.decoder)
    assert jnp.linalg.norm(params.encoder) > 0.1


@pytest.mark.parametrize("name", INITIALISERS)
def test_one_seed_names_one_start_in_both_precisions(name):
    def start(seed):
        return INITIALISERS[name](jax.random.key(seed), K, M, 1e-4)

    with jax.enable_x64(False):
        single = jax.tree.map(np.asarray, start(3))
    double = start(3)
    assert isinstance(double, LAEParams)
    assert double.encoder.shape == (K, M) and double.decoder.shape == (M, K)
    assert all(np.array_equal(*pair) for pair in zip(single, double, strict=True))
    assert not np.array_equal(start(4).encoder, double.encoder)


def test_gaussian_entries_are_independent_and_of_the_given_deviation():
    params = gaussian(jax.random.key(5), 50, 400, 0.01)
    encoder, decoder = (np.asarray(weight) / 0.01 for weight in params)
    n = encoder.size
    for values in (encoder, decoder):
        # Five standard errors of the mean, the variance and the fourth moment of N(0, 1).
        assert abs(values.mean()) < 5 / n**0.5
        assert abs((values**2).mean() - 1) < 5 * (2 / n) ** 0.5
        assert abs((values**4).mean() - 3) < 5 * (96 / n) ** 0.5
    # One key for both would repeat the numbers in the order in which they are stored.
    for other in (decoder.T, decoder.reshape(encoder.shape)):
        assert abs((encoder * other).mean()) < 5 / n**0.5


def test_vae_starts_with_both_log_variances_at_zero():
    params = random_params(6, K, M)
    lifted = with_variances(params)
    assert isinstance(lifted, VAEParams)
    assert np.array_equal(lifted.encoder, params.encoder) and np.array_equal(lifted.decoder, params.decoder)
    assert lifted.latent_log_variance.shape == (K,) and lifted.noise_log_variance.shape == ()
    assert not lifted.latent_log_variance.any() and not lifted.noise_log_variance
    assert {leaf.dtype for leaf in lifted} == {params.encoder.dtype}


@pytest.mark.parametrize("make", [random_params, random_vae], ids=["LAE", "VAE"])
def test_stacked_weights_come_back_and_a_loss_over_them_is_that_of_each(make):
    sizes = (1, 4, 2)
    each = [make(seed, size, M) for seed, size in enumerate(sizes)]
    stacked = stack_latents(each)
    assert type(stacked) is type(each[0]) and stacked.encoder.shape == (3, 4, M) and stacked.decoder.shape == (3, M, 4)
    for back, params in zip(unstack_latents(stacked, sizes), each, strict=True):
        assert type(back) is type(params) and all(np.array_equal(*pair) for pair in zip(back, params, strict=True))
    root = jnp.asarray(normal(5, M, M))
    losses = jax.vmap(reconstruction, (0, None))(stacked, root @ root.T)
    assert_close(losses, jnp.array([reconstruction(params, root @ root.T) for params in each]), factor=1000)


def test_what_does_not_stack_is_refused():
    for mixed in (
        [],
        [random_params(0, 2, M), random_params(0, 2, M + 1)],
        [random_params(0, 2, M), random_vae(0, 2, M)],
    ):
        with pytest.raises(
            InputError, match=r"^params: must be at least one, all of one kind and one input dimension$"
        ):
            stack_latents(mixed)
