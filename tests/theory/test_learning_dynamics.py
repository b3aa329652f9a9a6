"""Co-diagonal starts: closed curves against the integrated flow and against descent on whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax import METHODS, metrics, objectives
from lae_jax.covariance import Diagonal
from lae_jax.errors import InputError
from lae_jax.params import LAEParams
from lae_jax.theory import flows, learning_dynamics
from tests.helpers import orthogonal

VARIANCES = np.array([3.0, 1.4, 0.6, 0.2, 0.1])
ENCODER, DECODER = np.array([0.02, 0.3, -0.4]), np.array([0.01, -0.1, -1.9])  # balanced, opposed, nearly learned
ROTATION = orthogonal(0, 3)


def weights(encoder, decoder):
    """W1 = R diag(a) U^T, W2 = U diag(b) R^T."""
    placed = np.pad(ROTATION, ((0, 0), (0, 2)))
    return LAEParams(jnp.asarray(placed * np.r_[encoder, 0, 0]), jnp.asarray((placed * np.r_[decoder, 0, 0]).T))


def test_the_flow_is_the_sigmoid_in_closed_form():
    times = np.array([0.05, 0.7, 3.0])
    run = flows.flow(METHODS["lae"], weights(ENCODER, DECODER), Diagonal(jnp.asarray(VARIANCES)), times)
    for index, (a, b) in enumerate(
        zip(*learning_dynamics.codiagonal_flow(VARIANCES, ENCODER, DECODER, times), strict=True)
    ):
        expected = weights(a, b)
        np.testing.assert_allclose(run.encoder[index], expected.encoder, atol=1e-9)
        np.testing.assert_allclose(run.decoder[index], expected.decoder, atol=1e-9)


def test_equal_starts_are_saxe_s_curve_and_imbalance_is_conserved():
    times, start = np.linspace(0, 6, 7), np.array([0.01, 0.02, 0.03])
    a, b = learning_dynamics.codiagonal_flow(VARIANCES, start, start, times)
    sigmoid = 1 / (1 + (start**-2 - 1) * np.exp(-4 * VARIANCES[:3] * times[:, None]))
    np.testing.assert_allclose(a * b, sigmoid, rtol=1e-12)
    a, b = learning_dynamics.codiagonal_flow(VARIANCES, ENCODER, DECODER, times)
    np.testing.assert_allclose(a**2 - b**2, np.tile(ENCODER**2 - DECODER**2, (7, 1)), rtol=1e-12)
    np.testing.assert_allclose([a[0], b[0]], [ENCODER, DECODER], rtol=1e-12)


def test_descent_on_matrices_is_descent_on_pairs_of_numbers():
    rate, params, covariance = 0.05, weights(ENCODER, DECODER), Diagonal(jnp.asarray(VARIANCES))
    gradient = jax.jit(jax.grad(lambda p: objectives.reconstruction(p, covariance)))
    a, b = learning_dynamics.codiagonal_descent(VARIANCES, ENCODER, DECODER, rate, 60)
    for _ in range(60):
        params = jax.tree.map(lambda w, g: w - rate * g, params, gradient(params))
    np.testing.assert_allclose(params.encoder, weights(a[-1], b[-1]).encoder, atol=1e-14)
    np.testing.assert_allclose(params.decoder, weights(a[-1], b[-1]).decoder, atol=1e-14)
    # The rotation R is never unlearned: learned latents are as far from the axes as it is.
    decoder = weights(a[-1], b[-1]).decoder
    assert metrics.axis_alignment(decoder) > 0.1 and np.all((a * b)[-1, :2] > 0.99)


def test_times_are_those_of_the_flows():
    times = learning_dynamics.learning_times(VARIANCES, 3, 1e-4, 0.9)
    start = np.full(3, 1e-2)
    a, b = learning_dynamics.codiagonal_flow(VARIANCES, start, start, times)
    np.testing.assert_allclose(np.diagonal(a * b), 0.9)

    angle = 0.7
    turned = np.eye(5, 3)
    turned[1:3, 1:3] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    needed = learning_dynamics.rotation_times(VARIANCES, 3, angle, 0.05)[1]
    end = flows.qr_flow(jnp.asarray(turned), jnp.asarray(VARIANCES), jnp.array([needed]))[0]
    assert np.arctan2(abs(end[2, 1]), abs(end[1, 1])) == pytest.approx(0.05)


def test_bad_input_is_one_clear_line():
    with pytest.raises(InputError, match="sum to 0"):
        learning_dynamics.codiagonal_flow(VARIANCES, [1.0, -0.5], [1.0, 0.5], [1.0])
    with pytest.raises(InputError, match="k finite numbers each"):
        learning_dynamics.codiagonal_descent(VARIANCES, [1.0, 0.5], [1.0], 0.1, 3)
    with pytest.raises(InputError, match="must ascend between 0 and 1"):
        learning_dynamics.learning_times(VARIANCES, 3, 0.5, 0.4)
    with pytest.raises(InputError, match="must descend"):
        learning_dynamics.rotation_times(VARIANCES, 3, 0.1, 0.4)
