"""Each objective against the sum over samples that it stands for, and at its known optimum."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lae_jax import objectives
from lae_jax.covariance import Dense, Diagonal, Samples, gram, latent_moments
from lae_jax.params import LAEParams, VAEParams, crop_latents, pad_latents
from tests.helpers import assert_close, cast, normal, orthogonal, random_params, random_vae, rows_with

K, M, N = 3, 5, 12
ROWS = jnp.asarray(normal(0, N, M) @ np.diag([2.0, 1.5, 1.0, 0.7, 0.3]) @ orthogonal(1, M))
PENALTIES = jnp.array([0.1, 0.3, 0.7])
PRIOR = jnp.array([0.2, 0.5, 0.3])
KEPT = jnp.asarray(np.arange(K) <= np.random.default_rng(2).integers(0, K, (N, 1)), float)
PREFIXES = jnp.tril(jnp.ones((K, K)))  # row b - 1 keeps the first b latents

# Data whose second moment is exactly diag(VARIANCES): the eigenbasis, for what is known in closed form.
VARIANCES = jnp.array([9.0, 6.0, 4.0, 1.5, 0.5])
EIGENBASIS = Diagonal(VARIANCES)
U = jnp.eye(M, K)


def residual(params, rows, kept):
    """(1/n) sum_x ||x - W2 (kept * W1 x)||^2 as it is written."""
    latents = rows @ params.encoder.T
    return jnp.sum((rows - (jnp.broadcast_to(kept, latents.shape) * latents) @ params.decoder.T) ** 2) / len(rows)


def plain_l2(params, rows, penalties):
    return residual(params, rows, 1.0) + jnp.sum(
        penalties * jnp.array([jnp.sum(params.encoder[i] ** 2) + jnp.sum(params.decoder[:, i] ** 2) for i in range(K)])
    )


def plain_product_l2(params, rows, penalty):
    return residual(params, rows, 1.0) + penalty * jnp.sum((params.decoder @ params.encoder) ** 2)


def plain_nested_dropout_mean(params, rows, prior):
    return sum(prior[b] * residual(params, rows, PREFIXES[b]) for b in range(K))


def plain_vae(params, rows, _):
    """-E_q log p(x | z) + KL(q || N(0, I)), averaged over samples.

    What is averaged is quadratic in z, so the mean over the points mu +- sqrt(k) sigma_i e_i is exact.
    """
    means, deviations = rows @ params.encoder.T, jnp.exp(params.latent_log_variance / 2)
    offsets = jnp.sqrt(K) * jnp.concatenate([jnp.diag(deviations), -jnp.diag(deviations)])
    points = means[:, None, :] + offsets[None]
    squares = jnp.sum((rows[:, None, :] - points @ params.decoder.T) ** 2, axis=-1)
    noise = jnp.exp(params.noise_log_variance)
    log_likelihood = -0.5 * squares / noise - 0.5 * M * jnp.log(2 * jnp.pi * noise)
    divergence = 0.5 * (jnp.sum(deviations**2 - 1 - params.latent_log_variance) + jnp.sum(means**2, axis=1))
    return jnp.mean(divergence) - jnp.mean(log_likelihood)


class Case(NamedTuple):
    loss: object  # (params, covariance, hyperparameter)
    plain: object  # (params, rows, hyperparameter)
    hyperparameter: object = None
    padded: object = None  # the hyperparameter for K + 2 latents
    make: object = random_params


CASES = {
    "reconstruction": Case(
        lambda params, data, _: objectives.reconstruction(params, data),
        lambda params, rows, _: residual(params, rows, 1.0),
    ),
    "uniform l2": Case(objectives.l2, plain_l2, jnp.array(0.4), jnp.array(0.4)),
    "non-uniform l2": Case(objectives.l2, plain_l2, PENALTIES, jnp.pad(PENALTIES, (0, 2), constant_values=3.0)),
    "product l2": Case(objectives.product_l2, plain_product_l2, jnp.array(0.4), jnp.array(0.4)),
    "deterministic nested dropout": Case(
        objectives.deterministic_nested_dropout, plain_nested_dropout_mean, PRIOR, jnp.pad(PRIOR, (0, 2))
    ),
    "nested dropout": Case(
        lambda params, data, kept: objectives.nested_dropout(params, data.rows, kept),
        residual,
        KEPT,
        jnp.pad(KEPT, ((0, 0), (0, 2))),
    ),
    "linear VAE": Case(lambda params, data, _: objectives.linear_vae(params, data), plain_vae, make=random_vae),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


@every_case
def test_value_gradient_and_hessian_are_those_of_the_sum_over_samples(case):
    flat, unravel = ravel_pytree(case.make(3, K, M))
    data = Samples(ROWS)

    def derivatives(function):
        return jax.jit(lambda values: (function(values), jax.grad(function)(values), jax.hessian(function)(values)))

    ours = derivatives(lambda values: case.loss(unravel(values), data, case.hyperparameter))(flat)
    plain = derivatives(lambda values: case.plain(unravel(values), ROWS, case.hyperparameter))(flat)
    assert_close(ours, plain, factor=1000)
    assert_close(ours[2], ours[2].T)


@every_case
def test_padded_latents_change_neither_value_nor_gradient(case):
    params = case.make(4, K, M)
    value_and_grad = jax.jit(jax.value_and_grad(case.loss))
    value, gradient = value_and_grad(params, Samples(ROWS), case.hyperparameter)
    padded_value, padded_gradient = value_and_grad(pad_latents(params, K + 2), Samples(ROWS), case.padded)
    assert_close(padded_value, value)
    active = crop_latents(padded_gradient, K)
    assert_close(active, gradient)
    assert all(np.array_equal(*pair) for pair in zip(padded_gradient, pad_latents(active, K + 2), strict=True))


@every_case
def test_float32_stays_float32(case):
    arguments = cast((case.make(5, K, M), Samples(ROWS), case.hyperparameter), jnp.float32)
    shapes = jax.eval_shape(jax.value_and_grad(case.loss), *arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", [name for name in CASES if name != "nested dropout"])
def test_every_form_of_the_covariance_gives_the_same_loss(name):
    case = CASES[name]
    rows = jnp.asarray(rows_with(np.asarray(VARIANCES), N))
    forms = (Samples(rows), Dense(jnp.diag(VARIANCES)), EIGENBASIS)
    losses = jax.jit(lambda params: [case.loss(params, data, case.hyperparameter) for data in forms])(
        case.make(6, K, M)
    )
    assert_close(losses[1:], [losses[0]] * 2)


def at_optimum(loss, params):
    """The value there, where the gradient has to vanish."""
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert_close(gradient, jax.tree.map(jnp.zeros_like, gradient))
    return value


def test_reconstruction_of_the_leading_components_leaves_the_other_variances():
    value = at_optimum(lambda params: objectives.reconstruction(params, EIGENBASIS), LAEParams(U.T, U))
    assert_close(value, jnp.sum(VARIANCES[K:]))


def test_reconstruction_keeps_its_value_under_invertible_maps_of_the_latents():
    params, mixing = random_params(7, K, M), jnp.asarray(normal(8, K, K)) + 3 * jnp.eye(K)
    moved = LAEParams(mixing @ params.encoder, params.decoder @ jnp.linalg.inv(mixing))
    for loss in (objectives.reconstruction, functools.partial(objectives.product_l2, penalty=0.4)):
        assert_close(loss(moved, EIGENBASIS), loss(params, EIGENBASIS), factor=1000)


def test_l2_optimum_of_theorem_2():
    weights = jnp.sqrt(1 - PENALTIES / VARIANCES[:K])[None, :] * U
    value = at_optimum(lambda params: objectives.l2(params, EIGENBASIS, PENALTIES), LAEParams(weights.T, weights))
    assert_close(value, jnp.sum(VARIANCES) - jnp.sum((VARIANCES[:K] - PENALTIES) ** 2 / VARIANCES[:K]))


def test_uniform_l2_keeps_its_value_under_rotations_of_the_latents_and_non_uniform_does_not():
    params, rotation = random_params(9, K, M), jnp.asarray(orthogonal(10, K))
    moved = LAEParams(rotation @ params.encoder, params.decoder @ rotation.T)
    uniform = [objectives.l2(each, EIGENBASIS, jnp.array(0.4)) for each in (params, moved)]
    non_uniform = [objectives.l2(each, EIGENBASIS, PENALTIES) for each in (params, moved)]
    assert_close(uniform[1], uniform[0])
    assert abs(non_uniform[1] - non_uniform[0]) > 1e-3


def test_product_l2_optimum_shrinks_each_component():
    penalty = 0.4
    params = LAEParams((VARIANCES[:K] / (VARIANCES[:K] + penalty))[:, None] * U.T, U)
    value = at_optimum(lambda params: objectives.product_l2(params, EIGENBASIS, penalty), params)
    assert_close(value, jnp.sum(penalty * VARIANCES[:K] / (penalty + VARIANCES[:K])) + jnp.sum(VARIANCES[K:]))


def test_nested_dropout_optimum_keeps_each_component_as_often_as_its_latent():
    kept = jnp.array([1.0, 0.8, 0.3])  # of PRIOR
    value = at_optimum(
        lambda params: objectives.deterministic_nested_dropout(params, EIGENBASIS, PRIOR), LAEParams(U.T, U)
    )
    assert_close(value, jnp.sum(VARIANCES) - jnp.sum(kept * VARIANCES[:K]))


def test_uniform_prior_is_the_sum_over_prefixes_of_oftadeh_et_al():
    params = random_params(11, K, M)
    prefixes = sum(residual(params, ROWS, PREFIXES[b]) for b in range(K))
    assert_close(K * objectives.deterministic_nested_dropout(params, Samples(ROWS), jnp.full(K, 1 / K)), prefixes)


def test_deterministic_nested_dropout_is_the_mean_of_nested_dropout_over_the_prior():
    params = random_params(12, K, M)
    draws = [objectives.nested_dropout(params, ROWS, jnp.tile(PREFIXES[b], (N, 1))) for b in range(K)]
    mean = jnp.sum(PRIOR * jnp.stack(draws))
    assert_close(objectives.deterministic_nested_dropout(params, Samples(ROWS), PRIOR), mean)


def test_expected_nested_dropout_is_the_mean_over_prefixes_through_any_decoder():
    params = random_params(4, K, M)
    latents = jnp.tanh(ROWS @ params.encoder.T)

    def nonlinear(latents):
        return jnp.mean(jnp.sum((ROWS - jnp.sin(latents @ params.decoder.T)) ** 2, axis=1))

    by_kept = objectives.losses_by_kept(nonlinear, latents)
    assert_close(by_kept, jnp.stack([nonlinear(latents * prefix[None, :]) for prefix in PREFIXES]))
    assert_close(objectives.expected_nested_dropout(nonlinear, latents, PRIOR), PRIOR @ by_kept)


def test_expected_linear_nested_dropout_is_the_mean_over_prefixes_and_that_of_the_linear_model():
    params = random_params(5, K, M)

    def linear(latents):
        return jnp.sum((ROWS - latents @ params.decoder.T) ** 2) / N

    for encode in (lambda rows: rows @ params.encoder.T, lambda rows: jnp.tanh(rows @ params.encoder.T) + 1):
        closed = objectives.expected_linear_nested_dropout(ROWS, encode(ROWS), params.decoder, PRIOR)
        assert_close(closed, objectives.expected_nested_dropout(linear, encode(ROWS), PRIOR))
    closed = objectives.expected_linear_nested_dropout(ROWS, ROWS @ params.encoder.T, params.decoder, PRIOR)
    assert_close(closed, objectives.deterministic_nested_dropout(params, Samples(ROWS), PRIOR))


def test_a_prior_is_divided_by_its_sum_wherever_it_is_taken():
    params = random_params(5, K, M)
    latents = ROWS @ params.encoder.T

    def linear(latents):
        return jnp.sum((ROWS - latents @ params.decoder.T) ** 2) / N

    for prior in (PRIOR, 7 * PRIOR):
        assert_close(
            [
                objectives.deterministic_nested_dropout(params, Samples(ROWS), prior),
                objectives.expected_linear_nested_dropout(ROWS, latents, params.decoder, prior),
                objectives.expected_nested_dropout(linear, latents, prior),
            ],
            [PRIOR @ objectives.losses_by_kept(linear, latents)] * 3,
        )


def test_a_mean_of_squares_is_never_negative_and_its_gradient_is_untouched():
    """At a perfect fit of data of rank K, in float32, where Eq. (1) is nothing but rounding."""
    variances = jnp.pad(jnp.array([2.7, 1.3, 0.9], jnp.float32), (0, 17))
    full = jnp.ones((4, K), jnp.float32)  # no latent is dropped

    @jax.jit
    def values(basis):
        params = LAEParams(basis.T, basis)
        rows = 2 * jnp.sqrt(variances[:4])[:, None] * jnp.eye(4, 20, dtype=jnp.float32)
        return jnp.stack(
            [
                objectives.reconstruction(params, Diagonal(variances)),
                objectives.deterministic_nested_dropout(params, Diagonal(variances), jnp.eye(K, dtype=jnp.float32)[2]),
                objectives.nested_dropout(params, rows, full),
            ]
        ), jax.grad(objectives.reconstruction)(params, Diagonal(variances))

    def plain(params):
        moment, overlap = latent_moments(*params, Diagonal(variances))
        return jnp.sum(variances) - 2 * jnp.sum(overlap) + jnp.sum(gram(params.decoder) * moment)

    bases = [np.pad(orthogonal(seed, K), ((0, 17), (0, 0))).astype(np.float32) for seed in range(20)]
    found = np.array([values(jnp.asarray(basis))[0] for basis in bases])
    assert (found >= 0).all() and (found == 0).any(axis=0).all() and found.max() < 1e-5
    at_zero = jnp.asarray(bases[int(np.argmin(found[:, 0]))])
    assert_close(values(at_zero)[1], jax.jit(jax.grad(plain))(LAEParams(at_zero.T, at_zero)))


@every_case
def test_derivatives_in_the_samples_are_those_of_the_sum_over_samples(case):
    params = case.make(3, K, M)
    ours = jax.jit(jax.grad(lambda rows: case.loss(params, Samples(rows), case.hyperparameter)))(ROWS)
    assert_close(ours, jax.jit(jax.grad(lambda rows: case.plain(params, rows, case.hyperparameter)))(ROWS), factor=1000)


def test_tail_probabilities_sum_the_prior_from_the_end():
    assert_close(objectives.tail_probabilities(PRIOR), jnp.array([1.0, 0.8, 0.3]))
    # Sums of many small numbers do not end at 1 exactly; the first latent is kept always all the same.
    rounded = objectives.tail_probabilities(jnp.full(999, 1 / 999, jnp.float32))
    assert rounded[0] == 1 and rounded.dtype == jnp.float32
    assert (jnp.diff(rounded) < 0).all()


def test_masks_keep_prefixes_as_often_as_the_prior_says():
    num_samples, prior = 20_000, jnp.array([0.1, 0.0, 0.6, 0.3, 0.0])
    kept = np.asarray(objectives.sample_kept(jax.random.key(13), prior, num_samples))
    assert kept.shape == (num_samples, 5) and set(np.unique(kept)) == {0.0, 1.0}
    assert kept[:, 0].all(), "the first latent is never dropped"
    assert (np.diff(kept, axis=1) <= 0).all(), "what is kept is a prefix"
    lengths = np.bincount(kept.sum(axis=1).astype(int), minlength=6)[1:] / num_samples
    deviations = np.sqrt(np.asarray(prior * (1 - prior)) / num_samples)
    assert (np.abs(lengths - np.asarray(prior)) <= 5 * deviations).all()
    neighbours = np.corrcoef(kept[:-1, 3], kept[1:, 3])[0, 1]
    assert abs(neighbours) < 5 / num_samples**0.5, "each sample has a draw of its own"


def test_masks_of_a_padded_prior_are_the_same_and_never_keep_the_padding():
    key = jax.random.key(14)
    kept = objectives.sample_kept(key, PRIOR, 500)
    assert np.array_equal(objectives.sample_kept(key, jnp.pad(PRIOR, (0, 2)), 500), jnp.pad(kept, ((0, 0), (0, 2))))
    assert not np.array_equal(objectives.sample_kept(jax.random.key(15), PRIOR, 500), kept)


def marginal(decoder, noise):
    """The covariance of x under the linear VAE, W2 W2^T + e^t I."""
    return decoder @ decoder.T + noise * np.eye(M)


def negative_log_likelihood(decoder, noise, rows):
    model = marginal(decoder, noise)
    quadratic = np.einsum("ni,ij,nj->n", rows, np.linalg.inv(model), rows)
    return 0.5 * (M * np.log(2 * np.pi) + np.linalg.slogdet(model)[1] + quadratic.mean())


def test_vae_bound_is_likelihood_plus_divergence_from_the_posterior():
    params = random_vae(16, K, M)
    encoder, decoder, log_variance, log_noise = map(np.asarray, params)
    rows, noise = np.asarray(ROWS), np.exp(log_noise)
    precision = np.eye(K) + decoder.T @ decoder / noise
    gaps = rows @ encoder.T - rows @ decoder @ np.linalg.inv(precision) / noise
    divergence = 0.5 * (
        np.trace(precision @ np.diag(np.exp(log_variance))) - K - np.linalg.slogdet(precision)[1] - log_variance.sum()
    ) + 0.5 * np.mean(np.einsum("ni,ij,nj->n", gaps, precision, gaps))
    expected = negative_log_likelihood(decoder, noise, rows) + divergence
    assert_close(objectives.linear_vae(params, Samples(ROWS)), expected)


def test_vae_optimum_is_probabilistic_pca():
    leading, noise = VARIANCES[:K], jnp.mean(VARIANCES[K:])
    lengths = jnp.sqrt(leading - noise)
    weights = LAEParams((lengths / leading)[:, None] * U.T, lengths[None, :] * U)
    params = VAEParams(*weights, jnp.log(noise / leading), jnp.log(noise))
    value = at_optimum(lambda params: objectives.linear_vae(params, EIGENBASIS), params)
    logarithms = M * jnp.log(2 * jnp.pi) + jnp.sum(jnp.log(leading)) + (M - K) * jnp.log(noise)
    assert_close(value, 0.5 * (logarithms + M))
    rows = rows_with(np.asarray(VARIANCES), N)
    assert_close(value, negative_log_likelihood(np.asarray(params.decoder), float(noise), rows))
