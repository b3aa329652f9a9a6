"""The table of ratios: the limit is what theory says, every rule runs, and ours reaches it."""

import numpy as np
import pytest

from lae_jax.errors import InputError
from lae_jax.training import limits
from lae_jax.training.limits import RULES, ratios_to_limit, tracking
from lae_jax.training.populations import POPULATIONS, Population, drifting_stream, eigengame, gaussian, population
from tests.helpers import orthogonal

M, K, BATCHES, SIZE = 10, 2, 15, 64
VARIANCES = np.array([8.0, 5.0, 2.5, 2.0, 1.5, 1.0, 0.8, 0.6, 0.4, 0.2])
BASIS = orthogonal(0, M)
TURNED = Population(lambda generator, size: gaussian(VARIANCES).draw(generator, size) @ BASIS.T, BASIS, VARIANCES)


def test_the_limit_is_what_perturbation_theory_says():
    """E d_align = sum_i sum_j d_i d_j / (d_i - d_j)^2 / (k n) for Gaussian samples."""
    gaps = VARIANCES[:K, None] - VARIANCES
    terms = np.where(gaps != 0, VARIANCES[:K, None] * VARIANCES / np.where(gaps != 0, gaps, 1) ** 2, 0)
    (row,) = ratios_to_limit(TURNED, K, num_batches=BATCHES, batch_size=4 * SIZE, num_seeds=100, rules={})
    assert row.axis_alignment == pytest.approx(terms.sum() / (K * BATCHES * 4 * SIZE), rel=0.15)


def test_every_rule_has_a_row_beside_the_limit_and_the_history_is_at_it():
    told = []
    rules = {name: rule._replace(rates=rule.rates[-2:]) for name, rule in RULES.items()}
    rules["nested_dropout"] = limits.of_method("nested_dropout", (0.1,))
    rows = ratios_to_limit(
        TURNED, K, num_batches=BATCHES, batch_size=SIZE, num_seeds=3, rules=rules, on_batches=told.append
    )
    assert told == [1] * (3 * BATCHES)
    table = {row.rule: row for row in rows}
    assert list(table) == ["limit", *rules] and table["limit"].ratio == table["limit"].subspace_ratio == 1
    assert table["low_rank_history"].ratio < 1.05 and table["incremental_pca_2k"].ratio < 1.05
    assert all(0.95 < row.ratio < np.inf and row.microseconds >= 0 for row in rows)
    assert table["generalized_hebbian"].rate in rules["generalized_hebbian"].rates and table["adaoja"].rate == 0
    assert table["low_rank_history"].kibibytes > 4 * M * M / 1024


def test_rates_fall_to_a_hundredth_and_the_best_of_them_is_shown():
    """A rule that only remembers its rates, and is the farther from the components the farther they are from 0.3."""
    seen = []

    def directions(rates):
        seen.append(rates)
        tilt = np.abs(np.log(rates[0] * VARIANCES[0] / 0.3))
        return BASIS[:, :K] + tilt * BASIS[:, K : 2 * K]

    rule = limits.StreamingRule(
        "rates", lambda *_: (), lambda state, _, rate: (*state, rate), directions, (1.0, 0.3, 0.1)
    )
    rows = ratios_to_limit(TURNED, K, num_batches=4, batch_size=SIZE, num_seeds=1, rules={"rates": rule})
    assert rows[1].rate == 0.3 and rows[1].axis_alignment < 1e-6
    np.testing.assert_allclose(np.array(seen) * VARIANCES[0], np.outer(rule.rates, 0.01 ** (np.arange(4) / 4)))


def test_the_other_rules_step_as_their_papers_say():
    """Matrix Krasulina, Tang 2019: (I - V V^T) C V. AdaOja, Henriksen and Ward 2019: 1 / sqrt(sum of squares)."""
    decoder, rows = orthogonal(1, M)[:, :K].astype(np.float32), TURNED.draw(np.random.default_rng(0), SIZE)
    moment = rows.T @ rows / SIZE
    moved = decoder + 0.1 * (np.eye(M) - decoder @ decoder.T) @ moment @ decoder
    found = np.asarray(RULES["krasulina"].step(decoder, rows.astype(np.float32), 0.1))
    np.testing.assert_allclose(np.abs(found.T @ np.linalg.qr(moved)[0]), np.eye(K), atol=1e-5)
    state = RULES["adaoja"].step((decoder, np.full(K, 2.0, np.float32)), rows.astype(np.float32), 0.0)
    squares = 2 + np.sum((moment @ decoder) ** 2, axis=0)
    np.testing.assert_allclose(state[1], squares, rtol=1e-5)
    wanted = np.linalg.qr(decoder + moment @ decoder / np.sqrt(squares))[0]
    np.testing.assert_allclose(np.abs(np.asarray(state[0]).T @ wanted), np.eye(K), atol=1e-5)


def test_a_drifting_stream_is_tracked_about_as_well_as_by_a_sliding_window():
    variances = np.array([9.0, 6.0, 3.0, *np.linspace(1.0, 0.1, M - 3)])
    found = tracking(variances, 3, 700, num_batches=70, batch_size=64, turns=0.6)
    assert 0 < found.ratio < 1.4 and found.ratio == found.low_rank_history / found.sliding_window


def test_populations_have_the_covariance_that_they_say():
    for one in (POPULATIONS["power_law_200"](), population("digits")):
        rows = one.draw(np.random.default_rng(0), 4000)
        moments = one.components[:, :3].T @ (rows.T @ (rows @ one.components[:, :3])) / len(rows)
        np.testing.assert_allclose(moments, np.diag(one.variances[:3]), atol=0.1 * one.variances[0])
    np.testing.assert_allclose(POPULATIONS["power_law_200"]().variances[:3], [1, 1 / 2, 1 / 3])
    assert np.mean(eigengame(60).variances) == pytest.approx(np.sqrt(60), rel=0.1)
    with pytest.raises(InputError, match=r"^dataset: 'digit' is not known; did you mean 'digits'"):
        population("digit")


def test_a_drifting_stream_has_the_axes_and_variances_that_it_says():
    batches, components = drifting_stream(M, 3, 4000, VARIANCES, turns=1.0)
    for rows, axes in zip(batches, components, strict=True):
        np.testing.assert_allclose(axes.T @ axes, np.eye(M), atol=1e-12)
        np.testing.assert_allclose(axes.T @ (rows.T @ rows) @ axes / 4000, np.diag(VARIANCES), atol=0.6)
    assert components[0][:, 0] @ components[2][:, 0] == pytest.approx(np.cos(1.0))
