"""The noise floor of nested dropout against runs, and in limits that are known."""

import numpy as np
import pytest
import scipy.linalg
from sklearn.datasets import load_digits

from lae_jax.errors import InputError
from lae_jax.theory import noise
from lae_jax.theory.closed_form import deterministic_nested_dropout_spectrum

PRIOR = np.array([0.4, 0.3, 0.3])
LATENT_DIM, INPUT_DIM = 3, 10


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
    rows, variances = digits(1797)
    run = noise.settled(rows, PRIOR, learning_rate=learning_rate, momentum=momentum, num_steps=10_000, stretches=10)
    moments = noise.fourth_moments(rows, np.eye(INPUT_DIM), LATENT_DIM)
    predicted = noise.nested_dropout_noise_floor(
        variances, PRIOR, moments, len(rows),
        learning_rate=learning_rate, momentum=momentum, scales=run.scales.mean(axis=0),
    )  # fmt: skip
    assert run.axis_alignment.mean() == pytest.approx(predicted.axis_alignment, rel=0.1)
    assert run.subspace_distance.mean() == pytest.approx(predicted.subspace_distance, rel=0.1)
    if momentum == 0:
        grown = np.diff((run.scales**2 - run.scales**-2)[[0, -1]], axis=0)[0] / 9_000
        np.testing.assert_allclose(grown, predicted.drift, rtol=0.25)


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
