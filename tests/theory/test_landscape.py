"""Stationary points, their loss and Morse index, and every optimum, against automatic derivatives."""

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
from lae_jax.theory import landscape
from lae_jax.theory.hessian import exact_hessian

SHAPES = [(3, 1), (4, 2), (5, 3)]  # (m, k)
VARIANCES = np.array([6.0, 4.0, 2.5, 1.0, 0.3])


def problems(input_dim, latent_dim):
    """Variances and penalties: generic, with penalties above d_k, with all above d_1, with an empty component."""
    rng = np.random.default_rng(input_dim)
    for top, last in ((0.9, 0.2), (2.5, 0.2), (0.9, 0.0), (20.0, 0.2)):
        variances = np.sort(rng.uniform(0.4, 3, input_dim))[::-1]
        variances[-1] = last
        lowest = 4.0 if top == 20.0 else 0.05
        yield variances, np.sort(rng.uniform(lowest, max(top * variances[latent_dim - 1], 2 * lowest), latent_dim))


def gradient_and_hessian(variances, penalties, points):
    """Both, and the loss, of Eq. (3) at a batch of weights; one compilation for each shape."""

    def one(d, lam, params):
        def loss(p):
            return objectives.l2(p, Diagonal(d), lam)

        return loss(params), ravel_pytree(jax.grad(loss)(params))[0], exact_hessian(loss, params)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
    return map(np.asarray, jax.jit(jax.vmap(one))(jnp.stack(variances), jnp.stack(penalties), stacked))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_stationary_point_is_one_with_this_loss_and_index(shape):
    rng = np.random.default_rng(1)
    cases = []
    for variances, penalties in problems(*shape):
        assignments = list(landscape.stationary_points(variances, penalties))
        assert len(set(assignments)) == len(assignments)
        assert landscape.local_minima(variances, penalties) == [landscape.optimal_assignment(variances, penalties)]
        cases += [(variances, penalties, assignment) for assignment in assignments]
    points = [landscape.stationary_params(*case, signs=rng.choice([-1, 1], shape[1])) for case in cases]
    variances, penalties, _ = zip(*cases, strict=True)
    losses, gradients, hessians = gradient_and_hessian(variances, penalties, points)
    assert np.abs(gradients).max() < 1e-13
    np.testing.assert_allclose(losses, [landscape.stationary_loss(*case) for case in cases], rtol=1e-13)
    eigenvalues = np.linalg.eigvalsh(hessians)
    assert np.abs(eigenvalues).min() > 1e-9  # isolated: no index depends on rounding
    np.testing.assert_array_equal((eigenvalues < 0).sum(1), [landscape.morse_index(*case) for case in cases])
    for (d, lam, assignment), loss in zip(cases, losses, strict=True):
        assert loss >= landscape.stationary_loss(d, lam, landscape.optimal_assignment(d, lam)) - 1e-12, assignment


def test_all_penalties_below_give_every_injective_choice():
    """sum_r C(3, r) 5! / (5 - r)! points; where latents cannot hold the small components, fewer."""
    assert len(list(landscape.stationary_points(VARIANCES, [0.05, 0.1, 0.2]))) == 1 + 15 + 60 + 60
    assert len(list(landscape.stationary_points(VARIANCES, [0.05, 0.1, 5.0]))) == (1 + 10 + 20) + (1 + 8 + 12)


def test_theorem_2_as_printed_is_not_stationary():
    """P (I - Lambda S^-2)^(1/2) U^T with a cyclic P moves the penalties to other latents."""
    penalties, permutation = np.array([0.1, 0.5, 1.5]), np.roll(np.eye(3), 1, axis=0)
    lengths = np.diag(np.sqrt(1 - penalties / VARIANCES[:3]))
    encoder = permutation @ np.pad(lengths, ((0, 0), (0, 2)))
    printed = landscape.examine(LAEParams(encoder, encoder.T), VARIANCES, penalties)
    assert printed.gradient > 0.5
    corrected = landscape.stationary_params(VARIANCES, penalties, np.argmax(permutation, axis=1))
    assert landscape.examine(corrected, VARIANCES, penalties).gradient < 1e-13


def test_the_printed_sketch_of_theorem_3_misses_this_saddle():
    """Rows sorted by length and no descent by rotating latents, yet a saddle."""
    variances, penalties, swapped = np.array([20.0, 5.0, 0.0]), np.array([1.0, 10.0]), (1, 0)
    saddle = landscape.stationary_params(variances, penalties, swapped)
    lengths = np.linalg.norm(saddle.decoder, axis=0)
    assert lengths[0] > lengths[1]
    assert landscape.morse_index(variances, penalties, swapped) == 1
    covariance, angle = Diagonal(jnp.asarray(variances)), 0.1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rotated = LAEParams(turn @ saddle.encoder, saddle.decoder @ turn.T)
    assert objectives.l2(rotated, covariance, penalties) > landscape.stationary_loss(variances, penalties, swapped)


@pytest.mark.parametrize("penalties", [np.array([0.2, 0.7]), np.array([0.2, 4.5])])
def test_root_finding_meets_no_other_stationary_point(penalties):
    """Theorems 1 and 2: every root of the gradient from random starts is tied and on the list."""
    covariance = Diagonal(jnp.asarray(VARIANCES[:4]))
    template = landscape.l2_optimum(VARIANCES[:4], penalties)
    unravel = ravel_pytree(template)[1]

    def loss(vector):
        return objectives.l2(unravel(vector), covariance, jnp.asarray(penalties))

    gradient, curvature = jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    rng = np.random.default_rng(0)
    known, found = set(landscape.stationary_points(VARIANCES[:4], penalties)), set()
    for _ in range(60):
        start = rng.normal(scale=0.6, size=ravel_pytree(template)[0].size)
        root = scipy.optimize.root(gradient, start, jac=curvature, method="hybr", options={"xtol": 1e-13})
        verdict = landscape.examine(unravel(jnp.asarray(root.x)), VARIANCES[:4], penalties)
        if verdict.gradient < 1e-11:
            assert verdict.transpose_gap < 1e-9 and verdict.distance < 1e-9
            found.add(verdict.assignment)
    assert found <= known and len(found) > 5


def test_examine_finds_the_nearest_point():
    penalties, assignment, signs = np.array([0.1, 0.5, 1.5]), (2, -1, 0), np.array([-1, 1, 1])
    point = landscape.stationary_params(VARIANCES, penalties, assignment, signs)
    assert point.encoder[0, 2] < 0 < point.encoder[2, 0]
    at = landscape.examine(point, VARIANCES, penalties)
    assert at == (at.gradient, 0.0, assignment, 0.0) and at.gradient < 1e-13
    rng = np.random.default_rng(0)
    step = LAEParams(*(0.01 * rng.normal(size=leaf.shape) for leaf in point))
    moved = LAEParams(point.encoder + step.encoder, point.decoder + step.decoder)
    near = landscape.examine(moved, VARIANCES, penalties)
    expected = jax.grad(objectives.l2)(
        jax.tree.map(jnp.asarray, moved), Diagonal(jnp.asarray(VARIANCES)), jnp.asarray(penalties)
    )
    assert near.gradient == pytest.approx(max(float(jnp.abs(leaf).max()) for leaf in expected), rel=1e-12)
    assert near.assignment == assignment
    assert near.distance == pytest.approx(np.sqrt(sum(np.sum(leaf**2) for leaf in step)), rel=1e-12)
    assert near.transpose_gap == pytest.approx(np.abs(step.encoder - step.decoder.T).max(), rel=1e-12)


# Optima


def total_of_vae(d, k):
    noise, m = np.mean(d[k:]), d.size
    return 0.5 * (m * np.log(2 * np.pi) + np.sum(np.log(d[:k])) + (m - k) * np.log(noise) + m)


PRIOR = np.array([0.2, 0.5, 0.3])
OPTIMA = {
    # objective, optimum, its value
    "l2": (
        lambda p, c: objectives.l2(p, c, jnp.array([0.1, 0.5, 1.5])),
        lambda d: landscape.l2_optimum(d, [0.1, 0.5, 1.5]),
        lambda d: d.sum() - np.sum((d[:3] - [0.1, 0.5, 1.5]) ** 2 / d[:3]),
    ),
    "l2 with collapsed latents": (
        lambda p, c: objectives.l2(p, c, jnp.array([0.1, 4.5, 5.0])),
        lambda d: landscape.l2_optimum(d, [0.1, 4.5, 5.0]),
        lambda d: d.sum() - (d[0] - 0.1) ** 2 / d[0],
    ),
    "uniform l2": (
        lambda p, c: objectives.l2(p, c, 0.5),
        lambda d: landscape.l2_optimum(d, [0.5] * 3),
        lambda d: d.sum() - np.sum((d[:3] - 0.5) ** 2 / d[:3]),
    ),
    "product l2": (
        lambda p, c: objectives.product_l2(p, c, 0.5),
        lambda d: landscape.product_l2_optimum(d, 0.5, 3),
        lambda d: d[3:].sum() + np.sum(0.5 * d[:3] / (0.5 + d[:3])),
    ),
    "reconstruction": (
        objectives.reconstruction,
        lambda d: landscape.principal_components(d, 3),
        lambda d: d[3:].sum(),
    ),
    "nested dropout": (
        lambda p, c: objectives.deterministic_nested_dropout(p, c, jnp.asarray(PRIOR)),
        lambda d: landscape.principal_components(d, 3),
        lambda d: d.sum() - np.sum(np.cumsum(PRIOR[::-1])[::-1] * d[:3]),
    ),
    "linear VAE": (
        objectives.linear_vae,
        lambda d: landscape.linear_vae_optimum(d, 3),
        lambda d: total_of_vae(d, 3),
    ),
}


@pytest.mark.parametrize("name", OPTIMA)
def test_optima_are_minima_with_the_known_value(name):
    objective, optimum, value = OPTIMA[name]
    params, covariance = jax.tree.map(jnp.asarray, optimum(VARIANCES)), Diagonal(jnp.asarray(VARIANCES))

    def loss(p):
        return objective(p, covariance)

    assert loss(params) == pytest.approx(value(VARIANCES), rel=1e-14)
    assert np.abs(ravel_pytree(jax.grad(loss)(params))[0]).max() < 1e-13
    eigenvalues = np.linalg.eigvalsh(exact_hessian(loss, params))
    assert eigenvalues[0] > -1e-13 * eigenvalues[-1]


@pytest.mark.parametrize("name", OPTIMA)
def test_descent_from_random_weights_ends_no_lower(name):
    """The global value: reached, and never passed."""
    objective, optimum, value = OPTIMA[name]
    params, covariance = optimum(VARIANCES), Diagonal(jnp.asarray(VARIANCES))
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))
    descend = jax.jit(jax.value_and_grad(lambda vector: objective(unravel(vector), covariance)))
    rng = np.random.default_rng(0)
    ends = [
        scipy.optimize.minimize(descend, rng.normal(scale=0.3, size=flat.size), jac=True, method="L-BFGS-B").fun
        for _ in range(3)
    ]
    assert min(ends) == pytest.approx(value(VARIANCES), abs=1e-4)
    assert min(ends) > value(VARIANCES) - 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: landscape.l2_optimum([3.0, 2.0], [0.1, 0.2]), "latent_dim: 2: must be from 1 to 1"),
        (lambda: landscape.l2_optimum([3.0, 3.0, 1.0], [0.1, 0.2]), "variances: .*strictly decreasing"),
        (lambda: landscape.l2_optimum([3.0, 0.0, 0.0], [0.1, 0.2]), "variances: .*positive"),
        (lambda: landscape.l2_optimum([3.0, 2.0, 1.0], [0.2, 0.1]), "penalties: .*must increase"),
        (lambda: landscape.l2_optimum([3.0, 2.0, 1.0], [[0.1]]), "penalties: of shape"),
        (lambda: landscape.l2_optimum([3.0, 2.0, 1.0], [0.1, np.inf]), "penalties: .*finite"),
        (lambda: landscape.product_l2_optimum([3.0, 2.0, 1.0], -1.0, 2), "penalty: -1.0"),
        (lambda: landscape.linear_vae_optimum([3.0, 2.0, 0.0], 2), "variances: .*noise"),
        (lambda: landscape.morse_index([3.0, 2.0, 1.0], [0.1, 0.2], (0, 0)), "assignment: .*different"),
        (lambda: landscape.morse_index([3.0, 2.0, 1.0], [0.1, 0.2], (0, 3)), "assignment: .*below 3"),
        (lambda: landscape.morse_index([3.0, 2.0, 1.0], [0.1, 0.2], (0,)), "assignment: .*2 integers"),
        (lambda: landscape.stationary_params([3.0, 2.0, 1.0], [0.1, 1.5], (0, 2)), "assignment: .*exceeds"),
        (
            lambda: landscape.examine(LAEParams(np.zeros((2, 4)), np.zeros((4, 2))), [3.0, 2.0, 1.0], [0.1, 0.2]),
            r"params: encoder \(2, 4\), must be \(2, 3\)",
        ),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(InputError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
