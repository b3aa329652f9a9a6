"""Continuous time against closed forms, and discrete rates against predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from lae_jax import METHODS, metrics
from lae_jax.covariance import Diagonal, second_moment
from lae_jax.errors import InputError
from lae_jax.objectives import reconstruction
from lae_jax.params import LAEParams, gaussian
from lae_jax.rotation import rotation_augmented_gradient
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
    before, drift = metrics.imbalance_matrix(start), jax.vmap(metrics.imbalance_matrix)(end)
    assert jnp.max(jnp.abs(drift - before[None])) < 1e-9 < 1e-2 < jnp.max(jnp.abs(before))


def test_rag_moves_the_balance_isospectrally():
    params = random_params(6)
    field = flows.velocity(METHODS["rag"], COVARIANCE)(params)
    moved = jax.jvp(metrics.imbalance_matrix, (params,), (field,))[1]
    predicted = flows.balance_velocity(params, COVARIANCE)
    assert jnp.max(jnp.abs(moved - predicted)) < 1e-12 < 1e-2 < jnp.max(jnp.abs(predicted))
    end = flows.flow(METHODS["rag"], params, COVARIANCE, jnp.array([0.5, 5.0]))
    spectra = jax.vmap(lambda p: jnp.linalg.eigvalsh(metrics.imbalance_matrix(p)))(end)
    assert jnp.max(jnp.abs(spectra - jnp.linalg.eigvalsh(metrics.imbalance_matrix(params))[None, :])) < 1e-9


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


LIMITLESS = dict.fromkeys(("aligned", "goldstone"), "rotate the latents")
LIMITLESS |= dict.fromkeys(("alternation", "low_rank_history"), "no learning rate") | {"nested_dropout": "stochastic"}
CHOSEN = {
    "penalties": jnp.linspace(0.1, 0.5, LATENT_DIM),
    "penalty": jnp.array([0.3]),
    "prior": jnp.linspace(0.3, 0.1, LATENT_DIM),
    "uniform_prior": jnp.full(LATENT_DIM, 1 / LATENT_DIM),
}


def steps_of(method, rate, count, params):
    """The rule itself, from where a step of no length leads."""
    chosen, rule = CHOSEN.get(method.hyperparameter), method.update_rule(optax.sgd(rate))

    def step(_, carry):
        params, state = carry
        gradients = jax.grad(method.loss)(params, COVARIANCE, jax.random.key(0), chosen)
        updates, state = rule.update(gradients, state, params, covariance=COVARIANCE)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, count, step, (params, rule.init(params)))[0]


def landed(method):
    start = method.lift(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), random_params(10)))
    return jax.jit(lambda params: steps_of(method, 0.0, 1, params))(start)


def distance(first, second):
    return max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in LIMITLESS])
def test_the_velocity_is_the_limit_of_the_rule_s_own_steps(name):
    """Their difference quotient is off by a multiple of the step; half the step, half as much."""
    method = METHODS[name]
    start = landed(method)
    field = jax.jit(flows.velocity(method, COVARIANCE, CHOSEN.get(method.hyperparameter)))(start)
    advance = jax.jit(lambda rate: steps_of(method, rate, 1, start))
    coarse, fine = (
        distance(jax.tree.map(lambda new, old, rate=rate: (new - old) / rate, advance(rate), start), field)
        for rate in (2e-5, 1e-5)
    )
    assert fine < 1e-2 * max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(field))
    assert fine < 1e-8 or coarse / fine == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("name", ["rag", "non_uniform_l2", "brockett", "spectral_inference"])
def test_small_steps_of_the_rule_approach_the_flow(name):
    method = METHODS[name]
    start = landed(method)
    limit = flows.flow(method, start, COVARIANCE, [0.1, 0.5], CHOSEN.get(method.hyperparameter), tolerance=1e-10)
    run = jax.jit(lambda rate, count: steps_of(method, rate, count, start))
    coarse, fine = (
        distance(run(0.5 / count, count), jax.tree.map(lambda leaf: leaf[-1], limit)) for count in (1000, 2000)
    )
    assert fine < 2e-2
    assert coarse / fine == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("name", LIMITLESS)
def test_methods_without_a_limit_are_refused(name):
    with pytest.raises(InputError, match=LIMITLESS[name]):
        flows.velocity(METHODS[name], COVARIANCE)
    with pytest.raises(InputError, match=LIMITLESS[name]):
        flows.flow(METHODS[name], random_params(0), COVARIANCE, [1.0])


def test_a_rule_that_counts_its_steps_has_no_limit():
    scheduled = METHODS["lae"]._replace(
        rule=lambda inner: optax.with_extra_args_support(optax.chain(inner, optax.scale_by_schedule(lambda step: 1.0)))
    )
    with pytest.raises(InputError, match="counts steps"):
        flows.velocity(scheduled, COVARIANCE)


# Section 3: which fields are gradients. Sections 6.1 and 6.2: what the added terms do to the loss.


@pytest.mark.parametrize("name", ["lae", "non_uniform_l2", "deterministic_nested_dropout", "linear_vae", "product_l2"])
def test_objectives_have_no_curl(name):
    method = METHODS[name]
    field = flows.velocity(method, COVARIANCE, CHOSEN.get(method.hyperparameter))
    assert jnp.max(jnp.abs(flows.curl(field, method.lift(random_params(3))))) < 1e-12


@pytest.mark.parametrize("name", ["generalized_hebbian", "eigengame_alpha", "eigengame_mu"])
def test_rules_with_one_matrix_have_curl(name):
    field = flows.velocity(METHODS[name], COVARIANCE)
    for params in (landed(METHODS[name]), on_subspace(jnp.eye(LATENT_DIM))):
        assert jnp.max(jnp.abs(flows.curl(field, params, tied=True))) > 0.5


def test_rag_has_curl_but_for_the_weights_of_the_proof():
    field = flows.velocity(METHODS["rag"], COVARIANCE)
    at = jax.jit(lambda params: jnp.max(jnp.abs(flows.curl(field, params))))
    optimum = on_subspace(jnp.eye(LATENT_DIM))
    assert at(optimum) == pytest.approx((VARIANCES[0] + VARIANCES[1]) / 2)
    params = random_params(3)
    none = jax.tree.map(jnp.zeros_like, params)
    single = none._replace(encoder=none.encoder.at[2, 3].set(0.7))
    assert at(none._replace(decoder=params.decoder)) < 1e-14 and at(single) < 1e-14
    for other in (
        params,
        none._replace(encoder=params.encoder),  # several rows
        none._replace(encoder=single.encoder.at[2, 4].set(0.2)),  # along no component
        single._replace(decoder=params.decoder),
    ):
        assert at(other) > 1e-2
    one_latent = LAEParams(params.encoder[:1], params.decoder[:, :1])
    assert jnp.max(jnp.abs(flows.curl(field, one_latent))) < 1e-14


def test_rag_s_rotation_conserves_the_loss_where_that_of_the_hebbian_rule_does_not():
    def gap(params, *names):
        first, second = (flows.loss_velocity(METHODS[name], COVARIANCE)(params) for name in names)
        return abs(float(first - second))

    params = random_params(4)
    assert gap(params, "rag", "lae") < 1e-11 * abs(float(flows.loss_velocity(METHODS["lae"], COVARIANCE)(params)))
    tied = LAEParams(params.decoder.T, params.decoder)
    assert gap(tied, "generalized_hebbian", "oja") > 1


def test_section_6_1_holds_for_the_decoder_and_not_for_the_encoder():
    """At W1 = W2^T = W with the gradient of half Eq. (1); the encoder's differs by M W - W W^T W C."""
    weights = random_params(5).encoder
    tied = LAEParams(weights, weights.T)
    half = jax.grad(lambda params: reconstruction(params, COVARIANCE) / 2)(tied)
    rule = rotation_augmented_gradient()
    step = jax.tree.map(jnp.negative, rule.update(half, rule.init(tied), tied, covariance=COVARIANCE)[0])
    second = moment(tied)
    hebbian = flows.velocity(METHODS["generalized_hebbian"], COVARIANCE)(tied)
    printed = hebbian.encoder - (second - jnp.diag(jnp.diagonal(second))) @ weights / 2
    np.testing.assert_allclose(step.decoder.T, printed, atol=1e-12)
    missing = second @ weights - weights @ weights.T @ weights * VARIANCES[None, :]
    np.testing.assert_allclose(step.encoder, printed + missing, atol=1e-12)
    assert jnp.max(jnp.abs(missing)) > 0.1
    aligned_span = on_subspace(orthogonal(3)).encoder  # O U^T: there the two are one
    assert (
        jnp.max(jnp.abs(moment(LAEParams(aligned_span, None)) @ aligned_span - aligned_span * VARIANCES[None, :]))
        < 1e-13
    )


def test_theorem_4_needs_orthonormal_rows_and_not_balance_alone():
    tied = LAEParams(random_params(6).encoder, random_params(6).encoder.T)
    assert metrics.imbalance(tied) < 1e-14
    end = flows.flow(METHODS["rag"], tied, COVARIANCE, [0.5], tolerance=1e-8).decoder[0]
    assert jnp.max(jnp.abs(end - flows.qr_flow(tied.decoder, VARIANCES, jnp.array([0.5]))[0])) > 0.05


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
    with pytest.raises(InputError, match="float32 in JAX, flows need float64"):
        flows.flow(METHODS["rag"], single, COVARIANCE, jnp.array([1.0]))
    with jax.enable_x64(False), pytest.raises(InputError, match="float32 in JAX, flows need float64"):
        flows.flow(METHODS["rag"], LAEParams(np.eye(2, 8), np.eye(8, 2)), COVARIANCE, np.array([1.0]))
    for times in ([], [-1.0, 1.0], [1.0, 1.0]):
        with pytest.raises(InputError, match="times"):
            flows.flow(METHODS["rag"], start, COVARIANCE, jnp.array(times))
    with pytest.raises(InputError, match="positive"):
        flows.unbalanced_fixed_point(VARIANCES, orthogonal(0), jnp.array([1.0, 1.0, 1.0, 1.0, 0.0]))
    with pytest.raises(InputError, match="shape"):
        flows.unbalanced_fixed_point(VARIANCES, orthogonal(0), jnp.ones(4))
