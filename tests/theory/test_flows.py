"""Continuous time against closed forms, and discrete rates against predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lae_jax import METHODS, metrics
from lae_jax.covariance import Diagonal, second_moment
from lae_jax.errors import InputError
from lae_jax.objectives import reconstruction
from lae_jax.params import LAEParams, gaussian
from lae_jax.theory import closed_form, flows, rates

VARIANCES = jnp.array([9.0, 6.5, 4.2, 2.1, 1.5, 0.8, 0.4, 0.1])
COVARIANCE = Diagonal(VARIANCES)
LATENT_DIM, INPUT_DIM = 5, 8


def orthogonal(seed, size=LATENT_DIM):
    return jnp.linalg.qr(jax.random.normal(jax.random.key(seed), (size, size)))[0]


def on_subspace(rotation, input_dim=INPUT_DIM):
    """W1 = W2^T = O U^T in the eigenbasis."""
    encoder = jnp.pad(rotation, ((0, 0), (0, input_dim - rotation.shape[0])))
    return LAEParams(encoder, encoder.T)


def random_params(seed, scale=0.5):
    drawn = gaussian(jax.random.key(seed), LATENT_DIM, INPUT_DIM, scale)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), drawn)


def moment(params):
    return second_moment(params.encoder, COVARIANCE)


# Theorem 4


@pytest.mark.parametrize("seed", range(3))
def test_rag_flow_is_the_qr_flow(seed):
    start = on_subspace(orthogonal(seed))
    times = jnp.array([1.0, 6.0])
    integrated = flows.flow(METHODS["rag"], start, COVARIANCE, times)
    exact = flows.qr_flow(start.decoder, VARIANCES, times)
    assert jnp.max(jnp.abs(integrated.decoder - exact)) < 1e-8
    assert jnp.max(jnp.abs(integrated.encoder - exact.mT)) < 1e-8


def test_qr_flow_composes_and_ends_in_ordered_axes():
    start = on_subspace(orthogonal(7)).decoder
    in_one = flows.qr_flow(start, VARIANCES, jnp.array([2.0]))[-1]
    in_two = flows.qr_flow(start, VARIANCES, jnp.array([0.7, 2.0]))[-1]
    assert jnp.max(jnp.abs(in_one - in_two)) < 1e-13
    end = flows.qr_flow(start, VARIANCES, jnp.linspace(5.0, 200.0, 40))[-1]
    assert jnp.max(jnp.abs(jnp.abs(end) - jnp.eye(INPUT_DIM, LATENT_DIM))) < 1e-12


# Theorem 5


def test_non_diagonality_decays_at_half_the_printed_rate():
    start = on_subspace(orthogonal(1))
    times = jnp.linspace(25.0, 40.0, 2)
    decoders = flows.qr_flow(start.decoder, VARIANCES, times)
    first, last = (metrics.non_diagonality(second_moment(decoder.T, COVARIANCE)) for decoder in decoders)
    measured = jnp.log(first / last) / (times[1] - times[0])
    predicted = flows.alignment_rate(jnp.diag(VARIANCES[:LATENT_DIM]))
    assert predicted == pytest.approx(0.6 / 2)
    assert measured == pytest.approx(float(predicted), rel=1e-2)


def test_the_integrated_flow_decays_at_that_rate_too():
    generator = jax.random.normal(jax.random.key(2), (LATENT_DIM, LATENT_DIM))
    start = on_subspace(jax.scipy.linalg.expm(0.01 * (generator - generator.T)))
    times = jnp.array([20.0, 30.0])
    run = flows.flow(METHODS["rag"], start, COVARIANCE, times)
    first, last = (metrics.non_diagonality(second_moment(encoder, COVARIANCE)) for encoder in run.encoder)
    rate = flows.alignment_rate(moment(LAEParams(run.encoder[-1], run.decoder[-1])))
    assert jnp.log(first / last) / 10 == pytest.approx(float(rate), rel=1e-2)


# Section 6.2 and the balance


def test_rotation_conserves_the_reconstruction_along_the_whole_flow():
    start, times = random_params(3), jnp.array([0.3, 4.0])
    with_rotation = flows.flow(METHODS["rag"], start, COVARIANCE, times)
    without = flows.flow(METHODS["lae"], start, COVARIANCE, times)
    products = [jnp.einsum("tmk,tkn->tmn", run.decoder, run.encoder) for run in (with_rotation, without)]
    assert jnp.max(jnp.abs(products[0] - products[1])) < 1e-9
    assert jnp.max(jnp.abs(with_rotation.encoder - without.encoder)) > 1e-2  # the rotation does act


def test_rotation_does_not_change_the_loss_at_any_weights():
    params = random_params(4)
    fields = [flows.velocity(METHODS[name], COVARIANCE)(params) for name in ("rag", "lae")]
    slopes = [jax.jvp(lambda p: reconstruction(p, COVARIANCE), (params,), (field,))[1] for field in fields]
    assert slopes[0] == pytest.approx(float(slopes[1]), rel=1e-12)


def test_gradient_flow_conserves_the_balance():
    start = random_params(5)
    end = flows.flow(METHODS["lae"], start, COVARIANCE, jnp.array([0.2, 3.0]))
    before, drift = flows.balance(start), jax.vmap(flows.balance)(end)
    assert jnp.max(jnp.abs(drift - before)) < 1e-9 < 1e-2 < jnp.max(jnp.abs(before))


def test_rag_moves_the_balance_isospectrally():
    params = random_params(6)
    field = flows.velocity(METHODS["rag"], COVARIANCE)(params)
    moved = jax.jvp(flows.balance, (params,), (field,))[1]
    predicted = flows.balance_velocity(params, COVARIANCE)
    assert jnp.max(jnp.abs(moved - predicted)) < 1e-12 < 1e-2 < jnp.max(jnp.abs(predicted))
    end = flows.flow(METHODS["rag"], params, COVARIANCE, jnp.array([0.5, 5.0]))
    spectra = jax.vmap(lambda p: jnp.linalg.eigvalsh(flows.balance(p)))(end)
    assert jnp.max(jnp.abs(spectra - jnp.linalg.eigvalsh(flows.balance(params)))) < 1e-9


def test_balanced_weights_stay_balanced_but_not_tied():
    start = random_params(8)
    start = LAEParams(start.encoder, start.encoder.T)
    end = jax.tree.map(lambda leaf: leaf[-1], flows.flow(METHODS["rag"], start, COVARIANCE, jnp.array([1.0, 3.0])))
    assert metrics.imbalance(end) < 1e-9
    assert metrics.transpose_gap(end) > 1e-2


# Non-aligned fixed points


def test_unbalanced_fixed_points_rest_unaligned_and_attract():
    latent_variances = jnp.array([5.0, 4.0, 2.5, 1.5, 0.5])
    point = flows.unbalanced_fixed_point(VARIANCES, orthogonal(9), latent_variances)
    field = flows.velocity(METHODS["rag"], COVARIANCE)
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in field(point)) < 1e-13
    assert metrics.axis_alignment(point.decoder) > 0.1
    assert metrics.imbalance(point) > 0.1
    np.testing.assert_allclose(moment(point), jnp.diag(latent_variances), atol=1e-12)

    flat, unravel = ravel_pytree(point)
    jacobian = jax.jacfwd(lambda vector: ravel_pytree(field(unravel(vector)))[0])(flat)
    eigenvalues = np.linalg.eigvals(jacobian)
    free = LATENT_DIM + LATENT_DIM * (LATENT_DIM - 1) // 2
    assert np.sum(np.abs(eigenvalues) < 1e-9) == free
    assert np.sum(eigenvalues.real < -1e-3) == eigenvalues.size - free

    nudged = jax.tree.map(lambda leaf: leaf + 1e-3 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)), point)
    end = jax.tree.map(lambda leaf: leaf[-1], flows.flow(METHODS["rag"], nudged, COVARIANCE, jnp.array([30.0, 60.0])))
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in field(end)) < 1e-6
    assert metrics.axis_alignment(end.decoder) > 0.1


def test_fixed_points_with_unordered_latents_repel():
    point = flows.unbalanced_fixed_point(VARIANCES, orthogonal(9), jnp.array([0.5, 1.5, 2.5, 4.0, 5.0]))
    field = flows.velocity(METHODS["rag"], COVARIANCE)
    flat, unravel = ravel_pytree(point)
    jacobian = jax.jacfwd(lambda vector: ravel_pytree(field(unravel(vector)))[0])(flat)
    assert np.max(np.linalg.eigvals(jacobian).real) > 0.1


# The limit and the discrete rates


@pytest.mark.parametrize("name", ["lae", "rag", "non_uniform_l2", "deterministic_nested_dropout"])
def test_small_steps_approach_the_flow(name):
    method, start = METHODS[name], random_params(10)
    hyperparameter = {"penalties": jnp.linspace(0.1, 0.5, LATENT_DIM), "prior": jnp.full(LATENT_DIM, 1 / LATENT_DIM)}
    chosen = hyperparameter.get(method.hyperparameter)
    field = flows.velocity(method, COVARIANCE, chosen)
    limit = flows.flow(method, start, COVARIANCE, jnp.array([0.1, 0.5]), chosen)

    def error(num_steps):
        step = 0.5 / num_steps
        euler = jax.lax.fori_loop(
            0, num_steps, lambda _, p: jax.tree.map(lambda w, v: w + step * v, p, field(p)), start
        )
        return jnp.max(jnp.abs(euler.decoder - limit.decoder[-1]))

    coarse, fine = error(1000), error(2000)
    assert fine < 2e-2
    assert coarse / fine == pytest.approx(2, rel=0.05)


def problem(name):
    """A method near its optimum: hyperparameter, optimum, closed-form curvatures that are not zero."""
    variances = VARIANCES[:LATENT_DIM]
    if name == "non_uniform_l2":
        penalties = jnp.linspace(0.15, 1.2, LATENT_DIM)
        optimum = on_subspace(jnp.diag(jnp.sqrt(1 - penalties / variances)))
        return penalties, optimum, closed_form.non_uniform_l2_spectrum(np.asarray(VARIANCES), np.asarray(penalties))
    if name == "deterministic_nested_dropout":
        prior = jnp.array([0.3, 0.25, 0.2, 0.15, 0.1])
        spectrum = closed_form.deterministic_nested_dropout_spectrum(np.asarray(VARIANCES), np.asarray(prior))
        return prior, on_subspace(jnp.eye(LATENT_DIM)), spectrum
    return None, on_subspace(jnp.eye(LATENT_DIM)), closed_form.rag_spectrum(np.asarray(VARIANCES), LATENT_DIM)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", ["non_uniform_l2", "deterministic_nested_dropout", "rag"])
def test_predicted_rates_are_the_measured_ones(name, momentum):
    """From the closed form of the slowest mode, for steps of a tenth of the stable size."""
    method = METHODS[name]
    chosen, optimum, spectrum = problem(name)
    curvature, mode = closed_form.mode(spectrum, tail=True)
    rate = rates.largest_learning_rate(closed_form.mode(spectrum, -1, tail=True)[0], momentum) / 10
    predicted = -np.log(rates.convergence_factor(curvature, rate, momentum))
    measured = -np.log(
        rates.measured_factor(method, optimum, mode, COVARIANCE, chosen, learning_rate=rate, momentum=momentum)
    )
    assert measured == pytest.approx(predicted, rel=1e-2)


def test_nesterov_is_stable_up_to_the_largest_learning_rate():
    for momentum in (0.0, 0.5, 0.9):
        edge = rates.largest_learning_rate(2.0, momentum)
        assert rates.convergence_factor(2.0, edge, momentum) == pytest.approx(1.0)
        assert (
            rates.convergence_factor(2.0, 0.99 * edge, momentum)
            < 1
            < rates.convergence_factor(2.0, 1.01 * edge, momentum)
        )
    np.testing.assert_allclose(rates.convergence_factor(np.array([0.5, 3.0]), 0.5), [0.75, 0.5])


def test_bad_input_is_one_clear_line():
    start = on_subspace(orthogonal(0))
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), start)
    with pytest.raises(InputError, match="float32, flows need float64"):
        flows.flow(METHODS["rag"], single, COVARIANCE, jnp.array([1.0]))
    with pytest.raises(InputError, match="stochastic"):
        flows.flow(METHODS["nested_dropout"], start, COVARIANCE, jnp.array([1.0]))
    for times in ([], [-1.0, 1.0], [1.0, 1.0]):
        with pytest.raises(InputError, match="times"):
            flows.flow(METHODS["rag"], start, COVARIANCE, jnp.array(times))
    with pytest.raises(InputError, match="positive"):
        flows.unbalanced_fixed_point(VARIANCES, orthogonal(0), jnp.array([1.0, 1.0, 1.0, 1.0, 0.0]))
    with pytest.raises(InputError, match="shape"):
        flows.unbalanced_fixed_point(VARIANCES, orthogonal(0), jnp.ones(4))
