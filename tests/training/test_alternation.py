"""Over-relaxed alternation: what a step does exactly, Young's theory of its rate, and where it arrives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lae_jax import metrics, objectives
from lae_jax.covariance import Dense, Diagonal, gram
from lae_jax.data import datasets
from lae_jax.data.representations import represent
from lae_jax.params import LAEParams, gaussian, pad_latents
from lae_jax.training.alternation import alternation, best_relaxation, convergence_rate
from tests.helpers import assert_close, cast, orthogonal, random_params

VARIANCES = np.array([5.0, 3.5, 2.0, 1.2, 0.6, 0.3, 0.1])
COVARIANCE = Diagonal(jnp.asarray(VARIANCES))
K, M = 3, len(VARIANCES)


@functools.partial(jax.jit, static_argnames=("steps", "spare"))
def run(params, covariance, steps, spare=0, relaxation=None):
    """Params, state, and after each step the alignment, the loss and omega."""
    rule = alternation(spare, relaxation)

    def step(carry, _):
        params, state = carry
        updates, state = rule.update(params, state, params, covariance=covariance)
        params = optax.apply_updates(params, updates)
        row = metrics.axis_alignment(params.decoder), objectives.reconstruction(params, covariance), state.relaxation
        return (params, state), row

    return jax.lax.scan(step, (params, rule.init(params)), None, length=steps)


def reached(alignment, goal):
    steps = np.flatnonzero(np.asarray(alignment) <= goal)
    assert steps.size, np.min(alignment)
    return steps[0] + 1


# Identities.


@pytest.mark.parametrize("omega", [0.4, 1.0, 1.5, 1.9])
def test_each_half_of_a_step_leaves_the_square_of_1_minus_omega_of_what_there_was(omega):
    (start, state), _ = run(random_params(0, K, M), COVARIANCE, 1, relaxation=1.0)
    rule = alternation(relaxation=omega)
    updates, _ = rule.update(start, state._replace(relaxation=jnp.asarray(omega)), start, covariance=COVARIANCE)
    end = optax.apply_updates(start, updates)
    best = start._replace(encoder=jnp.linalg.pinv(start.decoder))
    half = start._replace(encoder=start.encoder + omega * (best.encoder - start.encoder))
    loss = functools.partial(objectives.reconstruction, covariance=COVARIANCE)
    left = (1 - omega) ** 2
    assert_close(loss(half) - loss(best), left * (loss(start) - loss(best)), factor=1e4)
    through = half.encoder @ (COVARIANCE @ half.encoder.T)
    fitted = half._replace(decoder=(COVARIANCE @ half.encoder.T) @ jnp.linalg.inv(through))
    assert_close(loss(end) - loss(fitted), left * (loss(half) - loss(fitted)), factor=1e4)
    # The map is that of the two half steps: what follows them is a change of coordinates of the latents.
    moved = half.decoder + omega * (fitted.decoder - half.decoder)
    assert_close(end.decoder @ end.encoder, moved @ half.encoder, factor=1e4)


def test_after_a_step_rows_are_orthonormal_and_latents_uncorrelated_and_sorted():
    (params, _), _ = run(random_params(1, K, M), COVARIANCE, 2)
    assert_close(gram(params.encoder.T), jnp.eye(K))
    moment = params.encoder @ (COVARIANCE @ params.encoder.T)
    assert_close(moment, jnp.diag(jnp.sort(jnp.diagonal(moment))[::-1]))


def test_it_rests_at_the_components():
    encoder = jnp.eye(K, M)
    (params, _), _ = run(LAEParams(encoder, encoder.T), COVARIANCE, 3, relaxation=1.4)
    assert_close(jnp.abs(params.decoder), encoder.T)
    assert_close(params.decoder.T, params.encoder)


def test_it_commutes_with_rotations_of_inputs_and_is_blind_to_those_of_latents():
    start = random_params(2, K, M)
    (params, _), (_, losses, _) = run(start, COVARIANCE, 8)
    basis, latent = jnp.asarray(orthogonal(3, M)), jnp.asarray(orthogonal(4, K))
    moved = LAEParams(start.encoder @ basis.T, basis @ start.decoder)
    (rotated, _), _ = run(moved, Dense(basis @ jnp.diag(VARIANCES) @ basis.T), 8)
    assert_close(basis.T @ rotated.decoder @ rotated.encoder @ basis, params.decoder @ params.encoder, factor=1e6)
    turned = LAEParams(latent @ start.encoder, start.decoder @ latent.T)
    assert_close(run(turned, COVARIANCE, 8)[1][1], losses, factor=1e6)


@pytest.mark.parametrize("omega", [1.0, 1.2, best_relaxation(1.2 / 2.0), 1.6, 1.9])
def test_the_jacobian_has_the_eigenvalues_of_youngs_theory(omega):
    """Of the map W2 W1 about the optimum: (z + omega - 1)^2 = z omega^2 d_l / d_i, and (1 - omega)^2 within."""
    rule = alternation(relaxation=omega)
    encoder = jnp.eye(K, M)
    (best, state), _ = run(LAEParams(encoder, encoder.T), COVARIANCE, 1, relaxation=1.0)
    state = state._replace(relaxation=jnp.asarray(omega))

    def tails(flat):
        """Components l > k of either matrix after a step from such, in the coordinates of the latents."""
        tail = flat.reshape(2, M - K, K)
        params = LAEParams(best.encoder.at[:, K:].set(tail[0].T), best.decoder.at[K:].set(tail[1]))
        updates, _ = rule.update(params, state, params, covariance=COVARIANCE)
        moved = optax.apply_updates(params, updates)
        return jnp.stack([moved.encoder[:, K:].T, moved.decoder[K:]]).ravel()

    found = np.linalg.eigvals(np.asarray(jax.jit(jax.jacfwd(tails))(jnp.zeros(2 * (M - K) * K))))
    ratios = (VARIANCES[K:, None] / VARIANCES[None, :K]).ravel()
    expected = np.concatenate([np.roots([1, 2 * (omega - 1) - omega**2 * ratio, (omega - 1) ** 2]) for ratio in ratios])
    for root in expected:  # double roots are found to the square root of the precision
        assert np.min(np.abs(found - root)) < 1e-6
    largest = float(jnp.max(convergence_rate(omega, jnp.asarray(ratios))))
    assert np.max(np.abs(found)) == pytest.approx(largest, abs=1e-6)


@pytest.mark.parametrize("omega", [1.0, 1.15])
def test_the_measured_rate_is_the_predicted_one(omega):
    """Below the best omega, where the root is real: the excess of the loss falls by its square a step."""
    _, (_, losses, _) = run(random_params(5, K, M), COVARIANCE, 60, relaxation=omega)
    excess = np.asarray(losses) - VARIANCES[K:].sum()
    first, last = (np.flatnonzero(excess < level)[0] for level in (1e-5, 1e-11))
    measured = (excess[last] / excess[first]) ** (0.5 / (last - first))
    assert measured == pytest.approx(float(convergence_rate(omega, VARIANCES[K] / VARIANCES[K - 1])), rel=0.02)


def test_omega_is_found_on_the_way():
    _, (_, _, omegas) = run(random_params(6, K, M), COVARIANCE, 40)
    assert omegas[0] == 1
    assert omegas[20] == pytest.approx(float(best_relaxation(VARIANCES[K] / VARIANCES[K - 1])), rel=0.02)
    assert np.all(np.asarray(omegas) < 2)


# Where it arrives.


def hard_start(name, dtype):
    start = random_params(7, K, M)
    encoder, decoder = start
    starts = {
        "tiny": LAEParams(1e-4 * encoder, 1e-4 * decoder),
        "large": LAEParams(10 * encoder, 10 * decoder),
        "unbalanced": LAEParams(1e-4 * encoder, 10 * decoder),
        "no decoder": LAEParams(encoder, 0 * decoder),
        "no encoder": LAEParams(0 * encoder, decoder),
        "latents alike": LAEParams(jnp.tile(encoder[:1], (K, 1)), jnp.tile(decoder[:, :1], (1, K))),
        "orthogonal to the first component": LAEParams(encoder.at[:, 0].set(0), decoder.at[0].set(0)),
    }
    return cast(starts[name], dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name",
    ["tiny", "large", "unbalanced", "no decoder", "no encoder", "latents alike", "orthogonal to the first component"],
)
def test_from_any_start_to_the_precision_and_the_loss_never_rises(name, dtype):
    (params, _), (_, losses, _) = run(hard_start(name, dtype), cast(COVARIANCE, dtype), 80)
    assert params.decoder.dtype == dtype
    assert metrics.ordered_alignment(params.decoder) < 1e-10
    assert np.max(np.diff(losses)) < 100 * np.finfo(dtype).eps * VARIANCES.sum()


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 10.0])
def test_twenty_random_starts(scale):
    starts = [cast(gaussian(jax.random.key(seed), K, M, scale), np.float64) for seed in range(20)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    _, (alignment, _, _) = jax.jit(jax.vmap(lambda start: run(start, COVARIANCE, 60)))(stacked)
    assert np.all(np.asarray(alignment)[:, -1] < 1e-10)


def test_padding_is_inert():
    start = random_params(8, K, M)
    (narrow, _), _ = run(start, COVARIANCE, 10)
    (wide, _), _ = run(pad_latents(start, 5), COVARIANCE, 10)
    assert_close(wide, pad_latents(narrow, 5), factor=1e6)
    assert not jnp.any(wide.encoder[K:]) and not jnp.any(wide.decoder[:, K:])


def test_spare_latents_are_trained_and_not_shown():
    start = random_params(9, K, M)
    (params, state), (spared, _, _) = run(start, COVARIANCE, 30, spare=2)
    assert params.encoder.shape == (K, M) and state.weights.encoder.shape == (K + 2, M)
    _, (alone, _, _) = run(start, COVARIANCE, 30)
    assert reached(spared, 1e-10) < reached(alone, 1e-10)
    assert_close(jnp.abs(state.weights.encoder[K:]), jnp.eye(M)[K : K + 2], factor=1e10)


def test_a_spectrum_that_ends_inside_the_spare_latents_divides_by_nothing():
    flat = Diagonal(jnp.asarray([3.0, 2.0, 1.0, 0.5, 0.0, 0.0, 0.0]))
    (params, state), _ = run(random_params(10, K, M), flat, 30, spare=3)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((params, state)))
    assert metrics.ordered_alignment(params.decoder) < 1e-10


@pytest.mark.parametrize(("latent_dim", "alone", "spared"), [(20, 20, 10), (50, 45, 10), (100, 25, 10)])
def test_mnist(latent_dim, alone, spared):
    data = represent(datasets.mnist(), "eigenbasis", np.float32)
    start = gaussian(jax.random.key(0), latent_dim, len(data.variances))
    for spare, most in ((0, alone), (latent_dim // 2, spared)):
        _, (alignment, _, _) = run(start, data, most, spare=spare)
        assert reached(alignment, 0.001) <= most
