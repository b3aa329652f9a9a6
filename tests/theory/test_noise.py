"""The noise floor of nested dropout against runs, and in limits that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_digits

from lae_jax import objectives
from lae_jax.errors import InputError
from lae_jax.params import LAEParams
from lae_jax.theory import adam_floor, noise
from lae_jax.theory.closed_form import deterministic_nested_dropout_spectrum

PRIOR = np.array([0.4, 0.3, 0.3])
LATENT_DIM, INPUT_DIM = 3, 6


def digits(num_samples):
    """Leading principal components of digits, in units of sigma_1: samples (n, m), variances (m,)."""
    rows = load_digits().data[:num_samples]
    rows = rows - rows.mean(axis=0)
    variances, components = np.linalg.eigh(rows.T @ rows / num_samples)
    leading = variances[::-1][:INPUT_DIM]
    return rows @ components[:, ::-1][:, :INPUT_DIM] / np.sqrt(leading[0]), leading / leading[0]


@pytest.mark.parametrize(("learning_rate", "momentum"), [(0.3, 0.0), (0.02, 0.9)])
def test_a_run_settles_where_predicted(learning_rate, momentum):
    """Within 10 % in both distances, at the scales of the latents that the run itself drifts to."""
    rows, variances = digits(300)
    options = {"learning_rate": learning_rate, "momentum": momentum}
    run = noise.settled(rows, PRIOR, **options, num_steps=4000, stretches=4, runs=5)
    moments = noise.fourth_moments(rows, np.eye(INPUT_DIM), LATENT_DIM)
    floors = [
        noise.nested_dropout_noise_floor(variances, PRIOR, moments, len(rows), **options, scales=scales)
        for scales in run.scales
    ]
    for name in ("axis_alignment", "subspace_distance"):
        predicted = np.mean([getattr(floor, name) for floor in floors])
        assert getattr(run, name).mean() == pytest.approx(predicted, rel=0.1), name
    if momentum == 0:
        grown = np.diff((run.scales**2 - run.scales**-2)[[0, -1]], axis=0)[0] / 3000
        drift = np.mean([floor.drift for floor in floors], axis=0)
        np.testing.assert_allclose(grown, drift, rtol=0.25)


def test_under_adam_the_squared_gradients_and_the_floor_are_found_together():
    """Within 10 % at a small learning rate, though no coefficient of the linearised run is known beforehand."""
    rows = digits(200)[0][:, :6]
    run = noise.settled(rows, [0.5, 0.5], learning_rate=4e-4, optimizer="adam", num_steps=9000, stretches=2, runs=12)
    floor = adam_floor.adam_noise_floor(rows, [0.5, 0.5], learning_rate=4e-4, scales=run.scales.mean(axis=0))
    assert run.axis_alignment.mean() == pytest.approx(floor.axis_alignment, rel=0.1)
    assert run.subspace_distance.mean() == pytest.approx(floor.subspace_distance, rel=0.1)
    # The encoder's are made of fluctuations alone.
    assert floor.second_moments.encoder.max() < 1e-3 * floor.second_moments.decoder[1, 0]
    with pytest.raises(InputError, match="learning_rate: 1: no fixed point"):
        adam_floor.adam_noise_floor(rows, [0.5, 0.5], learning_rate=1.0, iterations=3)


def test_the_noise_of_masks_is_what_draws_of_them_have():
    rows, prior, rng = digits(60)[0][:, :4], np.array([0.3, 0.7]), np.random.default_rng(0)
    weights = LAEParams(*(jnp.asarray(rng.standard_normal(shape)) for shape in ((2, 4), (4, 2))))
    flat, _ = ravel_pytree(weights)
    covariance = np.asarray(adam_floor._mask_noise(flat[None], jnp.asarray(rows), jnp.asarray(prior)))

    def gradient(key):
        kept = objectives.sample_kept(key, jnp.asarray(prior), len(rows))
        return ravel_pytree(jax.grad(objectives.nested_dropout)(weights, jnp.asarray(rows), kept))[0]

    drawn = jax.vmap(gradient)(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(np.cov(drawn.T) * len(rows), covariance, atol=0.03 * np.abs(covariance).max())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_covariance_solves_the_lyapunov_equation(momentum):
    """Of weights and trace together, by scipy, without blocks or modes; at scales that are not 1."""
    variances, scales, rate, n, m, k = np.array([3.0, 2.0, 1.1, 0.4]), np.array([0.8, 1.5]), 0.02, 50, 4, 2
    prior, size = np.array([0.4, 0.6]), 2 * m * k
    moments = np.outer(variances[:k], variances) * np.array([[3, 1.5, 2, 1], [1.5, 3, 1, 0.7]])
    spectrum = deterministic_nested_dropout_spectrum(variances, prior)
    hessian = np.zeros((size, size))
    for block in spectrum.blocks:
        for matrix, where in zip(block.matrices, block.positions, strict=True):
            hessian[np.ix_(where, where)] = matrix
    stretch = np.concatenate([np.repeat(scales, m), np.tile(1 / scales, m)])
    hessian *= stretch[:, None] * stretch
    strength = np.zeros(size)
    for latent, component, split in ((0, 1, 0.4), (0, 2, 1.0), (0, 3, 1.0), (1, 2, 0.6), (1, 3, 0.6)):
        power = 4 * moments[latent, component] * split * (1 - split) / n
        strength[m * k + component * k + latent] = power / scales[latent] ** 2
    identity = np.eye(size)
    step = np.block(
        [
            [identity - rate * (1 + momentum) * hessian, -rate * momentum**2 * identity],
            [hessian, momentum * identity],
        ]
    )
    enters = np.vstack([-rate * (1 + momentum) * identity, identity])
    # The scales themselves are not moved by noise to this order: contract those directions.
    null = scipy.linalg.null_space(hessian, rcond=1e-10)
    step -= 0.5 * scipy.linalg.block_diag(null @ null.T, 0 * identity)
    covariance = scipy.linalg.solve_discrete_lyapunov(step, enters @ np.diag(strength) @ enters.T)
    expected = np.diag(covariance)[m * k : size].reshape(m, k)
    found = noise.nested_dropout_noise_floor(
        variances, prior, moments, n, learning_rate=rate, momentum=momentum, scales=scales
    )
    np.testing.assert_allclose(found.variances, expected, atol=1e-12)
    assert found.axis_alignment == pytest.approx(np.sum(expected / scales**2) / k)


def test_the_floor_falls_with_learning_rate_and_samples_and_is_there_without_masks_only_in_batches():
    variances = np.array([3.0, 2.0, 1.1, 0.4, 0.0])  # a component without variance adds nothing
    moments = np.outer(variances[:2], variances)

    def floor(rate, samples, **options):
        return noise.nested_dropout_noise_floor(
            variances, [0.4, 0.6], moments, samples, learning_rate=rate, **options
        ).axis_alignment

    assert floor(1e-4, 100) / floor(1e-5, 100) == pytest.approx(10, rel=1e-2)
    assert floor(1e-4, 100) / floor(1e-4, 1000) == pytest.approx(10)
    assert floor(1e-4, 100, batch_size=100) > floor(1e-4, 100)
    single = noise.nested_dropout_noise_floor(variances, [1.0], moments[:1], 10, learning_rate=1e-3)
    assert single.axis_alignment == 0  # every mask keeps the one latent: no noise


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 1.0}, "learning_rate: 1: must be above 0 and below"),
        ({"moments": np.ones((2, 3))}, r"moments: of shape \(2, 3\), must be \(2, 4\)"),
        ({"prior": [0.0, 1.0]}, "prior: .* every entry must be positive"),
    ],
)
def test_bad_input_is_one_clear_line(fields, message):
    given = {"variances": [3.0, 2.0, 1.0, 0.5], "prior": [0.5, 0.5], "moments": np.ones((2, 4)), "num_samples": 10}
    with pytest.raises(InputError, match=message):
        noise.nested_dropout_noise_floor(**{**given, "learning_rate": 0.01, **fields})
