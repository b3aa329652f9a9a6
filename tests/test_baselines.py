from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lae_jax import metrics, objectives
from lae_jax.baselines import (
    brockett,
    brockett_direction,
    eigengame_alpha,
    eigengame_alpha_direction,
    eigengame_alpha_utility,
    eigengame_mu,
    eigengame_mu_direction,
    generalized_hebbian,
    generalized_hebbian_direction,
    goldstone,
    oja,
    oja_direction,
    orthonormal_columns,
    retraction,
    spectral_inference,
    spectral_inference_direction,
    unit_columns,
)
from lae_jax.covariance import Diagonal, gram, second_moment
from lae_jax.errors import InputError
from lae_jax.params import LAEParams, gaussian, pad_latents
from tests.helpers import assert_close, cast, normal, orthogonal, random_params

VARIANCES = np.array([5.0, 3.5, 2.0, 1.2, 0.6, 0.2])
COVARIANCE = Diagonal(jnp.asarray(VARIANCES))
M, K = 6, 3
HEAD, TAIL = VARIANCES[:K], VARIANCES[K:]
PENALTIES = jnp.array([0.1, 0.4, 0.9])
V = jnp.asarray(normal(0, M, K))
Q = orthonormal_columns(V)
OPTIMUM = jnp.eye(M, K)

# rule -> a learning rate for plain steps, in units of 1 / d_1
ALIGNING = {generalized_hebbian: 0.5, eigengame_alpha: 0.25, eigengame_mu: 0.5, brockett: 0.5, spectral_inference: 0.5}
TIED = {oja: 0.5, **ALIGNING}

every_tied_rule = pytest.mark.parametrize("rule", TIED, ids=lambda rule: rule.__name__)


def l2(params, covariance):
    return objectives.l2(params, covariance, PENALTIES)


@partial(jax.jit, static_argnames=("rule", "steps", "loss"))
def descend(rule, params, learning_rate, steps, loss=objectives.reconstruction):
    """Params and state after these plain steps."""
    rule = rule(optax.sgd(learning_rate))
    covariance = cast(COVARIANCE, params.decoder.dtype)

    def step(carry, _):
        params, state = carry
        gradients = jax.grad(loss)(params, covariance)
        updates, state = rule.update(gradients, state, params, covariance=covariance)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, rule.init(params)), None, length=steps)[0]


def eigenvalues(direction, at=OPTIMUM):
    jacobian = jax.jit(jax.jacfwd(lambda flat: direction(flat.reshape(M, K), COVARIANCE).ravel()))(at.ravel())
    return np.sort_complex(np.linalg.eigvals(np.asarray(jacobian)))


def assert_spectrum(direction, *parts):
    expected = np.concatenate([np.ravel(part) for part in parts])
    # Repeated eigenvalues of a matrix that is not symmetric are found to the square root of the precision or so.
    np.testing.assert_allclose(eigenvalues(direction), np.sort_complex(expected), atol=1e-6)


def gaps(first, last):
    return (np.asarray(first)[:, None] - np.asarray(last)[None, :]).ravel()


PAIRS = [(i, j) for i in range(K) for j in range(i + 1, K)]
INNER_GAPS = [HEAD[i] - HEAD[j] for i, j in PAIRS]
OUTER_GAPS = gaps(HEAD, TAIL)


# Identities.


def test_oja_is_half_the_descent_of_the_decoder_at_tied_weights():
    gradients = jax.grad(objectives.reconstruction)(LAEParams(V.T, V), COVARIANCE)
    assert_close(oja_direction(V, COVARIANCE), -gradients.decoder / 2)


def test_generalized_hebbian_is_oja_plus_the_lower_triangle():
    moment = second_moment(V.T, COVARIANCE)
    expected = oja_direction(V, COVARIANCE) + V @ jnp.tril(moment, -1)
    assert_close(generalized_hebbian_direction(V, COVARIANCE), expected)


def test_generalized_hebbian_rests_at_eigenvectors_and_at_zero():
    at_rest = jnp.stack([-OPTIMUM[:, 1], jnp.zeros(M), jnp.eye(M)[:, 4]], axis=1)
    assert_close(generalized_hebbian_direction(at_rest, COVARIANCE), jnp.zeros((M, K)))


def test_eigengame_alpha_is_the_gradient_of_each_players_utility():
    def utility(column, player):
        moment = second_moment(V.at[:, player].set(column).T, COVARIANCE)
        parents = moment[:player, player] ** 2 / jnp.diagonal(moment)[:player]
        return moment[player, player] - jnp.sum(parents)

    expected = jnp.stack([jax.grad(utility)(V[:, player], player) for player in range(K)], axis=1)
    assert_close(eigengame_alpha_utility(V, COVARIANCE), expected)


@pytest.mark.parametrize("direction", [eigengame_alpha_direction, eigengame_mu_direction])
def test_eigengame_is_tangent_to_the_spheres(direction):
    columns = unit_columns(V)
    assert_close(jnp.sum(columns * direction(columns, COVARIANCE), axis=0), jnp.zeros(K))


def test_eigengame_mu_is_generalized_hebbian_on_orthonormal_weights():
    assert_close(eigengame_mu_direction(Q, COVARIANCE), generalized_hebbian_direction(Q, COVARIANCE))


def test_brockett_is_the_gradient_on_the_stiefel_manifold():
    weights = jnp.arange(K, 0, -1) / K
    ascent = jax.grad(lambda basis: jnp.sum(second_moment(basis.T, COVARIANCE) @ jnp.diag(weights) * jnp.eye(K)) / 2)(Q)
    inner = Q.T @ ascent
    direction = brockett_direction(Q, COVARIANCE)
    assert_close(direction, ascent - Q @ inner.T)
    assert_close(Q.T @ direction + direction.T @ Q, jnp.zeros((K, K)))


def test_spectral_inference_is_the_masked_gradient_of_each_eigenvalue():
    def value(raw, index):
        functions = orthonormal_columns(raw)
        return second_moment(functions.T, COVARIANCE)[index, index]

    expected = jnp.stack([jax.grad(value)(V, index)[:, index] for index in range(K)], axis=1)
    assert_close(spectral_inference_direction(V, COVARIANCE), expected)


def test_spectral_inference_is_twice_generalized_hebbian_on_orthonormal_weights():
    assert_close(spectral_inference_direction(Q, COVARIANCE), 2 * generalized_hebbian_direction(Q, COVARIANCE))


def test_nearly_dependent_columns_keep_their_digits_in_single_precision():
    """Where one Cholesky factor loses them: it left spectral inference at 6e-2 of its own run in double precision."""
    raw = cast(V.at[:, 1].set(V[:, 0] + 2e-3 * V[:, 1]), jnp.float32)
    single, double = (
        spectral_inference_direction(cast(raw, dtype), COVARIANCE) for dtype in (jnp.float32, jnp.float64)
    )
    assert jnp.max(jnp.abs(single - double)) < 1e-3 * jnp.max(jnp.abs(double))


def test_orthonormal_columns_are_the_q_of_qr_with_a_positive_diagonal():
    basis, upper = np.linalg.qr(V)
    assert_close(Q, basis * np.sign(np.diagonal(upper)))


# Local spectra of the directions at V = U.


def test_spectrum_of_generalized_hebbian():
    inner = [np.full(i, HEAD[i]) for i in range(K)]
    later = [HEAD[i] - HEAD[j] for i, j in PAIRS]
    assert_spectrum(
        generalized_hebbian_direction, -2 * HEAD, -np.asarray(later), *(-part for part in inner), -OUTER_GAPS
    )


def test_spectrum_of_oja_has_the_rotations_as_zero_modes():
    symmetric = [HEAD[i] + HEAD[j] for i, j in PAIRS]
    assert_spectrum(oja_direction, -2 * HEAD, -np.asarray(symmetric), np.zeros(len(PAIRS)), -OUTER_GAPS)


@pytest.mark.parametrize(("direction", "factor"), [(eigengame_alpha_direction, 2), (eigengame_mu_direction, 1)])
def test_spectrum_of_eigengame(direction, factor):
    found = eigenvalues(lambda decoder, covariance: direction(unit_columns(decoder), covariance))
    # Renormalised: nothing happens along the length of a column.
    np.testing.assert_allclose(found[-K:], 0, atol=1e-6)
    slowest = -factor * min(INNER_GAPS + list(OUTER_GAPS))
    assert found[-K - 1].real == pytest.approx(slowest, abs=1e-6)


def test_spectrum_of_brockett_on_the_manifold():
    weights = np.arange(K, 0, -1) / K

    def direction(decoder, covariance):
        return brockett_direction(orthonormal_columns(decoder), covariance)

    inner = [(weights[i] - weights[j]) * (HEAD[i] - HEAD[j]) for i, j in PAIRS]
    outer = [weights[i] * (HEAD[i] - last) for i in range(K) for last in TAIL]
    # Off the manifold: orthonormalised away.
    off = np.zeros(K * (K + 1) // 2)
    assert_spectrum(direction, -np.asarray(inner), -np.asarray(outer), off)


def test_spectrum_of_spectral_inference_has_the_triangular_gauge_as_zero_modes():
    found = eigenvalues(spectral_inference_direction)
    zero = np.abs(found) < 1e-6
    assert zero.sum() == K * (K + 1) // 2
    expected = np.concatenate([-2 * np.asarray(INNER_GAPS), -2 * OUTER_GAPS])
    np.testing.assert_allclose(found[~zero], np.sort_complex(expected), atol=1e-6)


# Whole rules.


@every_tied_rule
def test_weights_are_tied_whatever_the_encoder(rule):
    params, _ = descend(rule, random_params(4, K, M), TIED[rule] / VARIANCES[0], 3)
    assert_close(params.encoder, params.decoder.T, factor=1.0)


@pytest.mark.parametrize("rule", ALIGNING, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize(("dtype", "goal"), [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_converges_to_the_ordered_axes(rule, dtype, goal):
    for seed in range(3):
        params = cast(gaussian(jax.random.key(seed), K, M), dtype)
        params, _ = descend(rule, params, ALIGNING[rule] / VARIANCES[0], 2000)
        assert params.decoder.dtype == dtype
        assert metrics.ordered_alignment(params.decoder) < goal
        assert metrics.subspace_distance(params.decoder) < goal
        assert metrics.imbalance(params) == 0


def test_oja_finds_the_subspace_and_no_axis():
    params = cast(gaussian(jax.random.key(0), K, M), np.float64)
    params, _ = descend(oja, params, 0.5 / VARIANCES[0], 2000)
    assert metrics.subspace_distance(params.decoder) < 1e-12
    assert metrics.axis_alignment(params.decoder) > 0.01


def test_spectral_inference_gives_eigenfunctions_where_its_matrix_is_not_aligned():
    params = cast(gaussian(jax.random.key(1), K, M), np.float64)
    params, state = descend(spectral_inference, params, 0.5 / VARIANCES[0], 2000)
    assert metrics.axis_alignment(state.raw) > 0.01
    assert_close(gram(params.decoder), jnp.eye(K))
    assert metrics.axis_alignment(params.decoder) < 1e-12


def test_goldstone_aligns_the_l2_objective_where_descent_has_not():
    params = random_params(5, K, M, 0.2)
    steps = 1500
    turned, _ = descend(goldstone, params, 0.1 / VARIANCES[0], steps, l2)
    plain, _ = descend(
        lambda optimizer: optax.with_extra_args_support(optimizer), params, 0.1 / VARIANCES[0], steps, l2
    )
    assert metrics.ordered_alignment(turned.decoder) < 1e-6
    assert metrics.ordered_alignment(plain.decoder) > 100 * metrics.ordered_alignment(turned.decoder)
    expected = np.sqrt(1 - PENALTIES / HEAD)
    np.testing.assert_allclose(jnp.linalg.norm(turned.decoder, axis=0), expected, atol=1e-3)


@pytest.mark.parametrize("rule", [*TIED, goldstone], ids=lambda rule: rule.__name__)
def test_padding_is_inert(rule):
    params = random_params(6, K, M, 0.3)
    short, _ = descend(rule, params, 0.2 / VARIANCES[0], 100)
    padded, _ = descend(rule, pad_latents(params, 5), 0.2 / VARIANCES[0], 100)
    assert_close(padded, pad_latents(short, 5), factor=1e5)
    assert not jnp.any(padded.encoder[K:])
    assert not jnp.any(padded.decoder[:, K:])


def test_directions_turn_with_the_inputs():
    basis = jnp.asarray(orthogonal(7, M))

    class Turned:
        def __matmul__(self, other):
            return basis @ (COVARIANCE @ (basis.T @ other))

    for direction in (
        oja_direction,
        generalized_hebbian_direction,
        eigengame_alpha_direction,
        eigengame_mu_direction,
        brockett_direction,
        spectral_inference_direction,
    ):
        assert_close(direction(basis @ V, Turned()), basis @ direction(V, COVARIANCE))


def test_missing_params_are_told():
    params = LAEParams(V.T, V)
    for rule in (retraction(unit_columns), generalized_hebbian(optax.sgd(0.1)), spectral_inference(optax.sgd(0.1))):
        with pytest.raises(InputError, match="params"):
            optax.with_extra_args_support(rule).update(params, rule.init(params), covariance=COVARIANCE)
