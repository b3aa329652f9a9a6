"""The landscape of nested dropout against automatic derivatives: every point, its loss, its index, the minima."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

from lae_jax import objectives
from lae_jax.covariance import Diagonal
from lae_jax.errors import InputError
from lae_jax.params import LAEParams
from lae_jax.theory import nested_dropout
from lae_jax.theory.hessian import exact_hessian

VARIANCES = {3: [3.0, 1.2, 0.5], 4: [3.0, 2.2, 1.0, 0.0], 5: [4.0, 2.5, 1.6, 0.7, 0.2]}
PRIORS = {  # positive; with latents always kept together; with latents never used
    1: [[1.0]],
    2: [[0.3, 0.7], [0.0, 1.0], [1.0, 0.0]],
    3: [
        *([0.5, 0.2, 0.3], [0.4, 0.0, 0.6], [0.0, 0.4, 0.6], [0.0, 0.0, 1.0]),
        *([0.4, 0.6, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]),
    ],
}
SHAPES = [(3, 1), (3, 2), (4, 2), (5, 3)]  # (m, k)


def loss_of(variances, prior):
    return lambda params: objectives.deterministic_nested_dropout(params, Diagonal(variances), prior)


def derivatives(variances, cases, points):
    """Loss, gradient and Hessian at a batch of weights; one compilation for each shape."""

    def one(prior, params):
        loss = loss_of(jnp.asarray(variances), prior)
        return loss(params), ravel_pytree(jax.grad(loss)(params))[0], exact_hessian(loss, params)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
    return map(np.asarray, jax.jit(jax.vmap(one))(jnp.asarray([prior for prior, _ in cases]), stacked))


def mapped(rng, prior, params):
    """An invertible map among the latents of each group always kept together; any weights of those never used."""
    tails, latent_dim = np.cumsum(prior[::-1])[::-1], len(prior)
    among = (tails[:, None] == tails) & ~np.eye(latent_dim, dtype=bool)
    change = np.eye(latent_dim) + among * rng.uniform(-0.4, 0.4, (latent_dim,) * 2)
    encoder, decoder = change @ params.encoder, params.decoder @ np.linalg.inv(change)
    encoder[tails == 0] = rng.standard_normal(encoder[tails == 0].shape)
    decoder[:, tails == 0] = rng.standard_normal(decoder[:, tails == 0].shape)
    return LAEParams(encoder, decoder)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_point_is_stationary_with_this_loss_and_index(shape):
    """676 points in all, 510 of them with zeros in the prior, at random scales, signs and invertible maps.

    None of the three depends on these, nor on the weights of latents that are never used.
    """
    rng, variances = np.random.default_rng(0), VARIANCES[shape[0]]
    cases = [
        (prior, point) for prior in PRIORS[shape[1]] for point in nested_dropout.stationary_points(variances, prior)
    ]
    scales = rng.choice([-1, 1], (len(cases), shape[1])) * rng.uniform(0.5, 2.0, (len(cases), shape[1]))
    points = [
        mapped(rng, prior, nested_dropout.stationary_params(variances, prior, point, scales=scale))
        for (prior, point), scale in zip(cases, scales, strict=True)
    ]
    losses, gradients, hessians = derivatives(variances, cases, points)
    assert np.abs(gradients).max() < 1e-13
    np.testing.assert_allclose(losses, [nested_dropout.stationary_loss(variances, *case) for case in cases], rtol=1e-13)
    negative = (np.linalg.eigvalsh(hessians) < -1e-9).sum(1)
    np.testing.assert_array_equal(negative, [nested_dropout.morse_index(variances, *case) for case in cases])
    least = {tuple(prior): min(loss for (p, _), loss in zip(cases, losses, strict=True) if p == prior)
             for prior in PRIORS[shape[1]]}  # fmt: skip
    minima = {tuple(prior): nested_dropout.local_minima(variances, prior) for prior in PRIORS[shape[1]]}
    for (prior, point), loss in zip(cases, losses, strict=True):
        is_minimum = point in minima[tuple(prior)]
        assert is_minimum == (loss < least[tuple(prior)] + 1e-9), (prior, point)


def test_on_permutations_the_index_is_the_number_of_inversions():
    variances, prior = VARIANCES[5], PRIORS[3][0]
    for point in itertools.permutations(range(5), 3):
        sequence = [*point, *sorted(set(range(5)) - {*point})]
        inversions = sum(a > b for a, b in itertools.combinations(sequence, 2))
        assert nested_dropout.morse_index(variances, prior, point) == inversions


def test_a_positive_prior_has_the_ordered_components_as_its_only_minimum():
    """Section 3, in the general case; not where latents are always kept together."""
    for prior, minima in (
        ([0.5, 0.2, 0.3], [(0, 1, 2)]),
        ([0.0, 0.4, 0.6], [(0, 1, 2), (1, 0, 2)]),
        ([0.4, 0.6, 0.0], [(0, 1, -1)]),
        ([0.0, 1.0, 0.0], [(0, 1, -1), (1, 0, -1)]),
    ):
        assert nested_dropout.local_minima(VARIANCES[5], prior) == minima


def test_idle_latents_have_weights_that_nothing_fixes_and_stay_saddles():
    """One weight of an idle latent in the span of what latents before it hold: still stationary, same loss."""
    variances, prior, rng = np.array(VARIANCES[5]), jnp.array(PRIORS[3][0]), np.random.default_rng(1)
    encoder, decoder = map(np.array, nested_dropout.stationary_params(variances, prior, (2, 0, -1)))
    moved = [decoder.copy(), encoder.copy()]
    moved[0][[2, 0], 2] = rng.standard_normal(2)
    moved[1][2, [2, 0]] = rng.standard_normal(2)  # C of it is in the span as well
    loss = loss_of(jnp.asarray(variances), prior)
    for point in (LAEParams(encoder, jnp.asarray(moved[0])), LAEParams(jnp.asarray(moved[1]), decoder)):
        assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(jax.grad(loss)(point))) < 1e-14
        assert loss(point) == pytest.approx(nested_dropout.stationary_loss(variances, prior, (2, 0, -1)), rel=1e-14)
        assert np.linalg.eigvalsh(exact_hessian(loss, jax.tree.map(jnp.asarray, point)))[0] < -0.1
        found = nested_dropout.examine(point, variances, prior)
        assert found.assignment == (2, 0, -1) and found.gradient < 1e-14 and found.distance < 1e-7


def test_wherever_the_gradient_is_zero_the_point_is_one_of_them():
    """Roots of the gradient from random starts: the enumeration misses none."""
    variances, found = np.array([*VARIANCES[4][:3], 0.4]), set()
    _, unravel = ravel_pytree(LAEParams(jnp.zeros((2, 4)), jnp.zeros((4, 2))))
    for prior in ([0.3, 0.7], [0.0, 1.0], [1.0, 0.0]):
        loss = loss_of(jnp.asarray(variances), jnp.asarray(prior))
        gradient = jax.jit(lambda x, loss=loss: ravel_pytree(jax.grad(loss)(unravel(x)))[0])
        jacobian = jax.jit(jax.jacfwd(gradient))
        for seed in range(30):
            start = np.random.default_rng(seed).standard_normal(16)
            root = scipy.optimize.least_squares(gradient, start, jacobian, xtol=1e-15, ftol=1e-15, gtol=1e-15)
            verdict = nested_dropout.examine(unravel(jnp.asarray(root.x)), variances, prior)
            if verdict.gradient < 1e-9:
                assert verdict.distance < 1e-5, verdict  # degenerate points are roots of higher order
                found.add(verdict.assignment)
    assert len(found) > 5


def test_examine_reads_scales_and_blames_what_is_not_stationary():
    variances, prior = VARIANCES[5], PRIORS[3][0]
    point = nested_dropout.stationary_params(variances, prior, (0, 1, 2), scales=[1.0, -2.0, 0.5])
    verdict = nested_dropout.examine(point, variances, prior)
    assert verdict.assignment == (0, 1, 2) and verdict.gradient < 1e-14 and verdict.distance < 1e-7
    np.testing.assert_allclose(verdict.scales, [1.0, 4.0, 0.25])
    rotated = jax.tree.map(np.array, point)
    rotated.encoder[:2] = [[0.6, 0.8, 0, 0, 0], [-0.8, 0.6, 0, 0, 0]]
    rotated.decoder[:, :2] = rotated.encoder[:2].T
    verdict = nested_dropout.examine(rotated, variances, prior)
    assert verdict.gradient > 0.1 and verdict.distance > 0.1
    together = nested_dropout.examine(rotated, variances, [0.0, 0.4, 0.6])  # there the rotation is free
    assert together.gradient < 1e-14 and together.distance < 1e-7


@pytest.mark.parametrize(
    ("prior", "assignment", "message"),
    [
        ([-0.1, 1.1], (0, 1), "prior: .* probabilities are not negative"),
        ([1.0, 0.0], (0, 1), "assignment: .* must be -1 for latents that are never used"),
        ([0.5, 0.5], (0, 0), "must be different components"),
        ([0.5, 0.5], (0, 3), "a component without variance"),
        ([0.5, 0.5], (0, 1, 2), "must be 2 integers"),
    ],
)
def test_bad_input_is_one_clear_line(prior, assignment, message):
    with pytest.raises(InputError, match=message):
        nested_dropout.morse_index(VARIANCES[4], prior, assignment)
