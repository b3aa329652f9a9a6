from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

from lae_jax import metrics, objectives
from lae_jax.covariance import Dense, Diagonal, Samples, gram, second_moment
from lae_jax.data import datasets
from lae_jax.data.representations import represent
from lae_jax.errors import InputError
from lae_jax.params import LAEParams, gaussian, pad_latents
from lae_jax.rotation import (
    aligned_descent,
    augmented_reconstruction_gradient,
    least_squares_gradient,
    rotation_augmented_gradient,
    skew_rotation,
)
from lae_jax.transformations import cayley, jacobi_angles, jacobi_rotation, rotating_frame
from tests.helpers import assert_close, cast, normal, orthogonal, random_params, rows_with

VARIANCES = np.array([5.0, 3.5, 2.0, 1.2, 0.6, 0.0])
LATENT_DIM = 3
COVARIANCE = Diagonal(jnp.asarray(VARIANCES))


def nesterov(learning_rate):
    return optax.sgd(learning_rate, 0.9, nesterov=True)


def train(build, params, covariance, learning_rate, steps, loss=objectives.reconstruction):
    """Params and d_align after these steps; the learning rate in units of 1 / d_1."""
    rule = build(learning_rate / covariance.variances[0])

    def step(carry, _):
        params, state = carry
        gradients = jax.grad(loss)(params, covariance)
        updates, state = rule.update(gradients, state, params, covariance=covariance)
        params = optax.apply_updates(params, updates)
        return (params, state), metrics.axis_alignment(params.decoder)

    (params, _), alignment = jax.lax.scan(step, (params, rule.init(params)), None, length=steps)
    return params, alignment


descend = jax.jit(train, static_argnames=("build", "loss", "steps"))
descend_on_data = jax.jit(train, static_argnames=("build", "loss", "steps"))
gradient = jax.jit(jax.grad(objectives.reconstruction))


def aligned(learning_rate):
    return aligned_descent(nesterov(learning_rate), checked=False)


def optimum():
    encoder = jnp.eye(LATENT_DIM, len(VARIANCES))
    return LAEParams(encoder, encoder.T)


def jacobian_eigenvalues(field, params):
    """Eigenvalues, sorted by real part, of the derivative of field(params) -> a tree like params."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    jacobian = jax.jacfwd(lambda vector: jax.flatten_util.ravel_pytree(field(unravel(vector)))[0])
    return np.sort_complex(np.linalg.eigvals(np.asarray(jax.jit(jacobian)(flat))))


def outer_eigenvalues(matrix):
    """Those of matrix(d_i, d_l) for each latent i and each component l > k."""
    pairs = [(first, last) for first in VARIANCES[:LATENT_DIM] for last in VARIANCES[LATENT_DIM:]]
    return np.concatenate([np.linalg.eigvals(matrix(*pair)) for pair in pairs])


def directions(transformation, params, covariance=COVARIANCE):
    """What one update makes of the gradient of Eq. (1)."""

    def update(params):
        gradients = jax.grad(objectives.reconstruction)(params, covariance)
        return transformation.update(gradients, transformation.init(params), params, covariance=covariance)[0]

    return jax.jit(update)(params)


PAIRS = [(i, j) for i in range(LATENT_DIM) for j in range(i + 1, LATENT_DIM)]


# The family inside the gradient.


def test_without_arguments_it_is_algorithm_1():
    params = random_params(0, LATENT_DIM, len(VARIANCES))
    moment = params.encoder * VARIANCES[None, :] @ params.encoder.T
    rotation = 0.5 * (np.triu(moment, 1) - np.tril(moment, -1))
    gradients = gradient(params, COVARIANCE)
    assert_close(
        directions(rotation_augmented_gradient(), params),
        LAEParams(gradients.encoder - rotation @ params.encoder, gradients.decoder + params.decoder @ rotation),
    )


def test_balancing_descends_the_squared_imbalance_without_rotating():
    params = random_params(1, LATENT_DIM, len(VARIANCES))
    strength = 0.7 * jnp.max(jnp.diagonal(second_moment(params.encoder, COVARIANCE)))

    def penalised(params, covariance):
        imbalance = gram(params.encoder.T) - gram(params.decoder)
        return objectives.reconstruction(params, covariance) + strength / 4 * jnp.sum(imbalance**2)

    assert_close(
        directions(rotation_augmented_gradient(gain=0.0, balance=0.7), params),
        jax.jit(jax.grad(penalised))(params, COVARIANCE),
    )


@pytest.mark.parametrize(("gain", "balance"), [(1.0, None), (4.0, 0.5)])
@pytest.mark.parametrize("form", ["eigenbasis", "dense", "samples"])
def test_of_eq_1_it_takes_one_product_less(form, gain, balance):
    rows = rows_with(VARIANCES, 9)
    data = {"eigenbasis": COVARIANCE, "dense": Dense(rows.T @ rows / 9), "samples": Samples(rows)}[form]
    params = random_params(4, LATENT_DIM, len(VARIANCES))
    fused = augmented_reconstruction_gradient(gain, balance)
    assert_close(directions(fused, params, data), directions(rotation_augmented_gradient(gain, balance), params, data))


@pytest.mark.parametrize(("gain", "balance"), [(1.0, None), (4.0, 0.5)])
def test_spectrum_of_the_augmented_gradient_at_the_optimum(gain, balance):
    transformation = rotation_augmented_gradient(gain, balance)
    found = jacobian_eigenvalues(lambda params: directions(transformation, params), optimum())
    inner = np.concatenate(
        [
            np.repeat(4 * VARIANCES[:LATENT_DIM], LATENT_DIM),
            np.full(LATENT_DIM * (LATENT_DIM + 1) // 2, 4 * (balance or 0) * VARIANCES[0]),
            [gain * (VARIANCES[i] - VARIANCES[j]) / 2 for i, j in PAIRS],
        ]
    )
    outer = outer_eigenvalues(lambda first, last: 2 * np.array([[last, -last], [-last, first]]))
    np.testing.assert_allclose(found, np.sort_complex(np.concatenate([inner, outer])), atol=1e-10)


def test_missing_params_are_told():
    for rule in (rotation_augmented_gradient(), rotating_frame(optax.sgd(0.1)), least_squares_gradient()):
        params = optimum()
        with pytest.raises(InputError, match="params"):
            rule.update(params, rule.init(params), covariance=COVARIANCE)


# Rotations.


def moment_of(seed, size):
    basis = orthogonal(seed, size)
    return jnp.asarray(basis * np.abs(normal(seed + 1, size)) @ basis.T)


@pytest.mark.parametrize("size", [2, 7, 40])
def test_jacobi_angles_are_a_positive_multiple_of_the_rotation_of_algorithm_1(size):
    moment = moment_of(size, size)
    angles = np.asarray(jax.jit(jacobi_angles)(moment))
    assert_close(angles, -angles.T)
    assert np.max(np.abs(angles)) <= 1
    assert np.all((angles * jax.jit(skew_rotation)(moment))[np.triu_indices(size, 1)] > 0)
    # d/dt of M_11 + ... + M_rr under M' = theta M - M theta, for every r.
    moment = np.asarray(moment)
    growth = np.cumsum(np.diagonal(angles @ moment - moment @ angles))
    assert np.all(growth[:-1] > 0)


@pytest.mark.parametrize("size", [2, 7, 40])
def test_the_rotation_is_exact_and_bounded(size):
    rotation = np.asarray(jax.jit(jacobi_rotation)(moment_of(size, size), 1.0))
    assert_close(rotation @ rotation.T, np.eye(size))
    assert np.min(np.linalg.eigvals(rotation).real) > -1e-12  # no plane turns by more than a right angle


def test_cayley_is_the_exponential_to_second_order():
    upper = np.triu(normal(3, 5, 5), 1)
    skew = 1e-4 * (upper - upper.T)
    turn = jax.jit(cayley)
    assert_close(turn(skew), scipy.linalg.expm(skew), factor=1e5)
    assert_close(turn(1e3 * skew) @ turn(-1e3 * skew), np.eye(5))


@pytest.mark.parametrize("gap", [1.0, 1e-3])
def test_jacobi_rotations_sort_and_diagonalise_whatever_the_gaps(gap):
    size = 8
    variances = 1 + gap * np.arange(size)[::-1]
    basis = orthogonal(5, size)
    moment = jnp.asarray(basis * variances @ basis.T)

    def turn(moment, _):
        rotation = jacobi_rotation(moment, 1.0)
        return rotation @ moment @ rotation.T, None

    moment, _ = jax.jit(lambda start: jax.lax.scan(turn, start, None, length=40))(moment)
    assert_close(moment, jnp.diag(jnp.asarray(variances)))


# The rotating frame.


def arbitrary_turn(moment, share):
    upper = jnp.triu(jnp.asarray(normal(9, LATENT_DIM, LATENT_DIM)), 1)
    return cayley(upper - upper.T)


@pytest.mark.parametrize(
    ("loss", "optimizer", "turn"),
    [
        (objectives.reconstruction, nesterov, jacobi_rotation),
        (objectives.reconstruction, optax.adam, arbitrary_turn),
        (partial(objectives.l2, penalties=0.3), nesterov, jacobi_rotation),
    ],
)
def test_the_map_goes_exactly_as_without_the_frame(loss, optimizer, turn):
    params = random_params(2, LATENT_DIM, len(VARIANCES), 0.3)
    run = partial(descend, params=params, covariance=COVARIANCE, learning_rate=0.05, steps=60, loss=loss)
    still, _ = run(lambda rate: optax.with_extra_args_support(optimizer(rate)))
    turning, _ = run(lambda rate: rotating_frame(optimizer(rate), rotation=turn))
    assert_close(turning.decoder @ turning.encoder, still.decoder @ still.encoder, factor=1e5)
    assert jnp.max(jnp.abs(turning.decoder - still.decoder)) > 0.1


def test_the_rate_is_a_number_or_a_schedule():
    params = random_params(3, LATENT_DIM, len(VARIANCES), 0.3)

    def run(rate):
        return descend(lambda _: rotating_frame(optax.sgd(0.0), rate), params, COVARIANCE, 1.0, 4)[0]

    assert_close(run(0.0), params)
    assert_close(
        run(lambda step: jnp.where(step < 3, 0.0, 0.5)),
        descend(lambda _: rotating_frame(optax.sgd(0.0), 0.5), params, COVARIANCE, 1.0, 1)[0],
    )
    assert jnp.max(jnp.abs(run(0.5).decoder - params.decoder)) > 0.01


# The recommended rule.


def test_least_squares_gradient_is_the_gradient_scaled_by_the_curvatures():
    covariance = Diagonal(jnp.asarray([4.0, 3.0, 2.0, 1.0, 0.5]))
    params = random_params(4, 2, 5, 0.1)
    gradients = gradient(params, covariance)
    moment = second_moment(params.encoder, covariance)
    variances = jnp.diagonal(moment)
    unit = jnp.max(variances / jnp.sum(params.encoder**2, axis=1))
    expected = LAEParams(
        unit * gradients.encoder / covariance.variances[None, :],
        jnp.max(variances) * gradients.decoder @ jnp.linalg.inv(moment),
    )
    # 1e-7: the damping of M.
    assert_close(directions(least_squares_gradient(balance=0.0), params, covariance), expected, factor=1e9)


@pytest.mark.parametrize("seed", range(3))
def test_least_squares_gradient_descends_and_turns_with_the_latents(seed):
    params = random_params(seed, LATENT_DIM, len(VARIANCES))
    transformation = least_squares_gradient(balance=0.0)
    direction = directions(transformation, params)
    gradients = gradient(params, COVARIANCE)
    rotation = orthogonal(seed, LATENT_DIM)

    def turn(tree):
        return LAEParams(rotation @ tree.encoder, tree.decoder @ rotation.T)

    for along, turned in zip(turn(direction), directions(transformation, turn(params)), strict=True):
        # Each matrix up to a positive factor; 1e-6: the damping of M.
        assert_close(along / jnp.linalg.norm(along), turned / jnp.linalg.norm(turned), factor=1e10)
    assert sum(jnp.sum(one * other) for one, other in zip(direction, gradients, strict=True)) > 0


@pytest.mark.parametrize("seed", range(3))
def test_least_squares_gradient_rests_at_every_rotation_of_the_optimum(seed):
    rotation = orthogonal(seed, LATENT_DIM)
    best = LAEParams(rotation @ optimum().encoder, optimum().decoder @ rotation.T)
    assert_close(directions(least_squares_gradient(), best), jax.tree.map(jnp.zeros_like, best), factor=1e4)


def test_spectrum_of_a_step_at_the_optimum_has_no_neutral_direction():
    learning_rate = 0.06
    rule = aligned_descent(optax.sgd(learning_rate))

    def step(params):
        return optax.apply_updates(params, directions(rule, params))

    found = jacobian_eigenvalues(step, optimum())
    unit, damping = VARIANCES[0], np.finfo(np.float64).eps ** 0.5
    shrink = VARIANCES[:LATENT_DIM] / (VARIANCES[:LATENT_DIM] + damping * unit)
    inner = np.concatenate(
        [
            np.repeat(2 * unit * (1 + shrink), LATENT_DIM),
            np.full(LATENT_DIM * (LATENT_DIM + 1) // 2, 2 * unit),  # 4 gamma
        ]
    )

    def pair(first, last):
        damped = first + damping * unit
        return 2 * unit * np.array([[1, -1], [-last / damped, first / damped]])

    eigenvalues = 1 - learning_rate * np.concatenate([inner, outer_eigenvalues(pair)])
    rotations = np.zeros(len(PAIRS))  # a rotation is undone in one step
    np.testing.assert_allclose(found, np.sort_complex(np.concatenate([eigenvalues, rotations])), atol=1e-10)
    assert np.max(np.abs(found)) < 1 - 0.5 * learning_rate * unit * (1 - np.sqrt(VARIANCES[3] / VARIANCES[2]))


@pytest.mark.parametrize(("dtype", "goal"), [(np.float32, 1e-9), (np.float64, 1e-20)])
@pytest.mark.parametrize("learning_rate", [0.1, 0.3])
@pytest.mark.parametrize("scale", [1e-4, 0.3])
def test_converges_from_small_and_from_unbalanced_weights(scale, learning_rate, dtype, goal):
    covariance = cast(COVARIANCE, dtype)
    for seed in range(3):
        params = cast(gaussian(jax.random.key(seed), LATENT_DIM, len(VARIANCES), scale), dtype)
        params, alignment = descend(aligned, params, covariance, learning_rate, 400)
        assert alignment[-1] < goal
        assert params.decoder.dtype == dtype
        assert metrics.imbalance(params) < 100 * jnp.finfo(dtype).eps


def test_converges_under_adam():
    params = gaussian(jax.random.key(0), LATENT_DIM, len(VARIANCES))
    _, alignment = descend(
        lambda rate: aligned_descent(optax.adam(rate)), cast(params, np.float64), COVARIANCE, 0.05, 2000
    )
    assert alignment[-1] < 1e-6


def test_large_unbalanced_weights_do_not_diverge():
    covariance = Diagonal(jnp.asarray(np.linspace(10, 0.5, 200)))
    params = cast(gaussian(jax.random.key(0), 5, 200, 0.3), np.float64)
    _, alignment = descend(aligned, params, covariance, 0.3, 1000)
    assert alignment[-1] < 1e-6


@pytest.mark.parametrize(
    "build", [aligned, lambda rate: optax.chain(rotation_augmented_gradient(4.0, 0.5), nesterov(rate))]
)
def test_padding_is_inert(build):
    params = random_params(6, LATENT_DIM, len(VARIANCES), 0.3)
    short, _ = descend(build, params, COVARIANCE, 0.03, 100)
    padded, _ = descend(build, pad_latents(params, 5), COVARIANCE, 0.03, 100)
    assert_close(padded, pad_latents(short, 5), factor=1e5)
    assert not jnp.any(padded.encoder[LATENT_DIM:])
    assert not jnp.any(padded.decoder[:, LATENT_DIM:])


def test_zero_weights_give_no_nan():
    zeros = jax.tree.map(jnp.zeros_like, optimum())
    params, _ = descend(aligned, zeros, COVARIANCE, 0.1, 3)
    assert_close(params, zeros)


def test_commutes_with_a_rotation_of_the_inputs():
    basis = jnp.asarray(orthogonal(7, len(VARIANCES)))
    params = random_params(8, LATENT_DIM, len(VARIANCES), 0.1)

    turned_covariance = Dense(basis * VARIANCES[None, :] @ basis.T)
    turned = LAEParams(params.encoder @ basis.T, basis @ params.decoder)
    rule = aligned(0.02)

    @jax.jit
    def walk(params, covariance):
        def step(carry, _):
            params, state = carry
            gradients = jax.grad(objectives.reconstruction)(params, covariance)
            updates, state = rule.update(gradients, state, params, covariance=covariance)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, rule.init(params)), None, length=10)[0][0]

    there = walk(turned, turned_covariance)
    assert_close(LAEParams(there.encoder @ basis, basis.T @ there.decoder), walk(params, COVARIANCE), factor=1e5)


def test_runs_over_learning_rates_in_one_program():
    params = cast(gaussian(jax.random.key(0), LATENT_DIM, len(VARIANCES)), np.float64)
    rates = jnp.asarray([0.03, 0.1, 0.3])
    _, together = jax.vmap(lambda rate: descend_on_data(aligned, params, COVARIANCE, rate, 400))(rates)
    assert_close(together[1, :20], descend(aligned, params, COVARIANCE, 0.1, 400)[1][:20], factor=1e6)
    assert jnp.all(together[:, -1] < 1e-12)


# What it does on data, in the eigenbasis and in float32.


def first_step(alignment, goal):
    reached = np.asarray(alignment) <= goal
    assert reached.any(), np.min(alignment)
    return np.argmax(reached) + 1


@pytest.fixture(scope="module")
def mnist():
    return represent(datasets.mnist(), "eigenbasis", np.float32)


def test_mnist(mnist):
    for seed in range(3):
        params = gaussian(jax.random.key(seed), 20, len(mnist.variances))
        for learning_rate, steps in ((0.1, 120), (0.3, 80)):
            _, alignment = descend_on_data(aligned, params, mnist, learning_rate, 120)
            assert first_step(alignment, 0.001) <= steps
    params = gaussian(jax.random.key(0), 100, len(mnist.variances))
    _, alignment = descend_on_data(aligned, params, mnist, 0.1, 150)
    assert first_step(alignment, 0.01) <= 150


@pytest.mark.parametrize("latent_dim", [2, 50])
def test_a_flat_spectrum(latent_dim):
    spectrum = Diagonal(jnp.linspace(100, 1, 300, dtype=jnp.float32))
    params = gaussian(jax.random.key(0), latent_dim, 300)
    for learning_rate in (0.1, 0.3):
        _, alignment = descend_on_data(aligned, params, spectrum, learning_rate, 300)
        assert first_step(alignment, 0.3) <= 300


def test_rag_says_that_it_needs_the_weights():
    transform = rotation_augmented_gradient()
    with pytest.raises(ValueError, match="params"):
        transform.update(random_params(9, 3, 4), optax.EmptyState(), covariance=Dense(jnp.eye(4)))
