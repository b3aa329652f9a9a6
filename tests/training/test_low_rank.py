"""The streaming rule: exact where it keeps every direction, at the statistical limit where it keeps 2 k."""

import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax.covariance import Diagonal
from lae_jax.errors import InputError
from lae_jax.training import low_rank
from lae_jax.training.low_rank import extend, finish, start, stream_rule
from tests.helpers import normal, orthogonal

M, K, N = 12, 3, 2500
BLOCK = stream_rule(K, M).block
VARIANCES = np.array([9.0, 7.0, 5.0, 3.0, 2.5, 2.0, 1.5, 1.0, 0.8, 0.6, 0.4, 0.2])
BASIS = orthogonal(0, M)
SAMPLES = (normal(1, N, M) * np.sqrt(VARIANCES)) @ BASIS.T + 10 * np.arange(M)


def run(rule, samples, cuts=(), seed=0):
    state, errors = start(rule, samples.shape[1], seed), []
    for batch in np.split(samples, cuts):
        state, found = extend(rule, state, batch)
        errors += found
    return finish(rule, state), errors


def covariance(state):
    """V L V^T in the units of the samples."""
    return (np.asarray(state.vectors) * np.asarray(state.variances)) @ np.asarray(state.vectors).T * state.unit**2


@pytest.mark.parametrize("center", [True, False], ids=["centred", "as is"])
@pytest.mark.parametrize("count", [5, BLOCK, N], ids=["less than a block", "a block", "blocks and a rest"])
def test_with_every_direction_kept_it_is_the_covariance(count, center):
    rule = stream_rule(K, M, spare=M, center=center, precision="float64")
    state, _ = run(rule, SAMPLES[:count])
    mean = SAMPLES[:count].mean(axis=0)
    wanted = SAMPLES[:count].T @ SAMPLES[:count] / count - (np.outer(mean, mean) if center else 0)
    np.testing.assert_allclose(covariance(state), wanted, atol=1e-12 * np.trace(wanted))
    np.testing.assert_allclose(state.mean, mean if center else 0, atol=1e-12)
    assert state.weight == state.num_rows == count and abs(float(state.outside)) < 1e-12 * np.trace(wanted)


def test_forgetting_weighs_the_past_down_and_keeps_the_mean_with_it():
    rule = stream_rule(K, M, spare=M, forget=1e-3, precision="float64")
    state, _ = run(rule, SAMPLES)
    # Samples of one block count alike, those of an earlier one by what came after it.
    ends = np.minimum((np.arange(N) // rule.block + 1) * rule.block, N)
    weights = (1 - 1e-3) ** (N - ends)
    mean = weights @ SAMPLES / weights.sum()
    wanted = (SAMPLES - mean).T @ ((SAMPLES - mean) * weights[:, None]) / weights.sum()
    np.testing.assert_allclose(state.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(covariance(state), wanted, atol=1e-11)
    assert state.weight == pytest.approx(weights.sum(), rel=1e-12)


def test_the_total_variance_is_that_of_all_directions_where_few_are_kept():
    state, errors = run(stream_rule(K, M, spare=2, precision="float64"), SAMPLES)
    total = np.trace(np.cov(SAMPLES.T, bias=True))
    assert (np.sum(state.variances) + state.outside) * state.unit**2 == pytest.approx(total, rel=1e-10)
    assert len(errors) == 2 and errors[-1] == pytest.approx(VARIANCES[K:].sum(), rel=0.2)


CUTS = {"1": 1, "7": 7, "k - 1": K - 1, "a block": BLOCK, "more than one": BLOCK + 88}


@pytest.mark.parametrize("size", CUTS.values(), ids=list(CUTS))
def test_how_a_stream_is_cut_changes_no_bit(size):
    rule = stream_rule(K, M)
    whole, errors = run(rule, SAMPLES)
    pieces, found = run(rule, SAMPLES, range(size, N, size))
    for got, wanted in zip(pieces, whole, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert found == errors


@pytest.mark.parametrize("power", [-100, -3, 100])
def test_any_unit_gives_the_same_bits(power):
    rule = stream_rule(K, M)
    state, errors = run(rule, SAMPLES)
    scaled, found = run(rule, SAMPLES * 2.0**power)
    np.testing.assert_array_equal(scaled.vectors, state.vectors)
    assert scaled.unit == state.unit * 2.0**power and found == [error * 4.0**power for error in errors]


def test_a_mean_far_from_zero_costs_no_digits():
    """Samples in float32 are centred by the device, those in float64 before: the same to the rounding of float32."""
    rows = (SAMPLES + 1e7).astype(np.float32)
    for dtype in (np.float32, np.float64):
        state, _ = run(stream_rule(K, M, spare=M), rows.astype(dtype))
        wanted = np.cov(rows.astype(np.float64).T, bias=True)
        np.testing.assert_allclose(covariance(state), wanted, atol=2e-6 * np.trace(wanted))
        np.testing.assert_allclose(state.mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-15)


def test_samples_near_the_largest_that_float32_holds_may_change_their_mean():
    rows = (1e36 * (SAMPLES - SAMPLES.mean(axis=0))).astype(np.float32)
    rows[BLOCK:] += np.float32(1e38)
    state, _ = run(stream_rule(K, M, spare=M), rows)
    wanted = np.cov(rows.astype(np.float64).T / state.unit, bias=True)
    np.testing.assert_allclose(covariance(state._replace(unit=1.0)), wanted, atol=2e-6 * np.trace(wanted))


def distance(vectors, components):
    return 1 - np.mean(np.sum(np.asarray(vectors)[:, :K] * components, axis=0) ** 2)


def ratio_to_the_limit(spare, seeds=12):
    """Mean distance from the components of the population, over that of the eigenvectors of the same draws."""
    rule, ours, limit = stream_rule(K, M, spare=spare), [], []
    for seed in range(seeds):
        samples = (np.random.default_rng(seed).standard_normal((3000, M)) * np.sqrt(VARIANCES)) @ BASIS.T
        ours.append(distance(run(rule, samples, seed=seed)[0].vectors, BASIS[:, :K]))
        limit.append(distance(np.linalg.eigh(np.cov(samples.T))[1][:, ::-1], BASIS[:, :K]))
    return np.mean(ours) / np.mean(limit)


def test_it_reaches_the_statistical_limit_and_needs_its_spare_directions_for_that():
    assert ratio_to_the_limit(spare=K) < 1.01
    assert ratio_to_the_limit(spare=0) > 1.05


def test_a_stream_that_turns_is_followed_where_the_past_is_forgotten():
    before, after = SAMPLES - SAMPLES.mean(axis=0), (SAMPLES - SAMPLES.mean(axis=0))[:, ::-1]
    components = np.linalg.eigh(np.cov(after.T))[1][:, ::-1][:, :K]

    def after_a_turn(forget):
        rule = stream_rule(K, M, forget=forget)
        return distance(run(rule, np.concatenate([before, after, after]))[0].vectors, components)

    assert after_a_turn(1 / 800) < 0.02 < 0.1 < after_a_turn(0.0)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"latent_dim": 0}, "latent_dim: 0 is outside 1..11"),
        ({"latent_dim": M}, "latent_dim: 12 is outside"),
        ({"spare": -1}, "spare: -1"),
        ({"forget": 1.0}, "forget: 1.0"),
        ({"forget": float("nan")}, "forget: nan"),
        ({"precision": "float16"}, "precision: 'float16'"),
    ],
)
def test_bad_options_are_named(options, line):
    with pytest.raises(InputError, match=f"^{line}"):
        stream_rule(**{"latent_dim": K, "input_dim": M} | options)


def test_wide_samples_are_taken_up_in_smaller_blocks():
    assert stream_rule(50, 20_000).block == 150 and stream_rule(5, 784).block == 668
    assert stream_rule(5, 2_000).block == 512 and BLOCK == 1024
    assert stream_rule(200, 784).block == 1200 and low_rank.stream_rule(9, 10).directions == 10


def test_the_nystrom_approximation_is_that_of_any_basis_of_the_same_span_and_padding_stays_zero():
    """(C V) (V^T C V)^-1 (C V)^T by its formula."""
    covariance, vectors = Diagonal(jnp.asarray(VARIANCES)), jnp.asarray(normal(3, M, K))
    through = VARIANCES[:, None] * vectors
    wanted = through @ np.linalg.inv(vectors.T @ through) @ through.T
    for mixed in (vectors, vectors @ normal(4, K, K)):
        padded = jnp.pad(mixed, ((0, 0), (0, 2)))
        basis, variances = low_rank.nystrom(covariance, padded, jnp.arange(K + 2) < K)
        np.testing.assert_allclose((basis * variances[None, :]) @ basis.T, wanted, atol=1e-10)
        np.testing.assert_allclose(basis.T @ basis, np.diag([1.0] * K + [0.0] * 2), atol=1e-10)
        assert not jnp.any(basis[:, K:]) and not jnp.any(variances[K:]) and np.all(np.diff(variances) <= 0)
