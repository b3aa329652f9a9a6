"""The table of ratios: the limit is what theory says, every rule runs, and ours reaches it."""

import numpy as np
import pytest

from lae_jax.training import limits, low_rank
from lae_jax.training.limits import RULES, drifting_stream, ratios_to_limit
from tests.helpers import orthogonal

M, K, BATCHES, SIZE = 10, 2, 15, 64
VARIANCES = np.array([8.0, 5.0, 2.5, 2.0, 1.5, 1.0, 0.8, 0.6, 0.4, 0.2])
BASIS = orthogonal(0, M)


def draw(generator, size):
    return (generator.standard_normal((size, M)) * np.sqrt(VARIANCES)) @ BASIS.T


def test_the_limit_is_what_perturbation_theory_says():
    """E d_align = sum_i sum_j d_i d_j / (d_i - d_j)^2 / (k n) for Gaussian samples."""
    gaps = VARIANCES[:K, None] - VARIANCES
    terms = np.where(gaps != 0, VARIANCES[:K, None] * VARIANCES / np.where(gaps != 0, gaps, 1) ** 2, 0)
    found = [limits._limit(draw, BASIS[:, :K], BATCHES, SIZE, seed)[0] for seed in range(40)]
    assert np.mean(found) == pytest.approx(terms.sum() / (K * BATCHES * SIZE), rel=0.2)


def test_every_rule_has_a_row_beside_the_limit_and_the_history_is_at_it():
    told = []
    rules = {name: rule._replace(rates=rule.rates[-2:]) for name, rule in RULES.items()}
    rows = ratios_to_limit(
        draw, BASIS[:, :K], VARIANCES[0], num_batches=BATCHES, batch_size=SIZE, num_seeds=3, rules=rules,
        on_batches=lambda rule, batches: told.append(batches),
    )  # fmt: skip
    assert told == [BATCHES] * (3 * sum(len(rule.rates) for rule in rules.values()))
    table = {row.rule: row for row in rows}
    assert list(table) == ["limit", *RULES] and table["limit"].ratio == table["limit"].subspace_ratio == 1
    assert table["low_rank_history"].ratio < 1.05 and table["incremental_pca_2k"].ratio < 1.05
    assert all(0.95 < row.ratio < np.inf and row.seconds >= 0 for row in rows)
    assert table["generalized_hebbian"].rate in rules["generalized_hebbian"].rates and table["adaoja"].rate == 0
    assert table["low_rank_history"].numbers > M * (K + 8)


def test_a_drifting_stream_is_tracked_about_as_well_as_by_a_sliding_window():
    variances = np.array([9.0, 6.0, 3.0, *np.linspace(1.0, 0.1, M - 3)])
    batches, components = drifting_stream(M, 70, 64, variances, turns=0.6)
    rule = low_rank.stream_rule(3, M, forget=1 / 700, center=False)
    state, ours, window = low_rank.start(rule, M), [], []
    for index, (rows, truth) in enumerate(zip(batches, components, strict=True)):
        state, _ = low_rank.extend(rule, state, rows)
        if index >= 40 and index % 3 == 0:
            recent = np.concatenate(batches[index - 20 : index + 1])
            eigenvectors = np.linalg.eigh(recent.T @ recent)[1][:, ::-1][:, :3]
            ours.append(limits._distances(low_rank.finish(rule, state).vectors[:, :3], truth[:, :3])[0])
            window.append(limits._distances(eigenvectors, truth[:, :3])[0])
    assert np.mean(ours) < 1.4 * np.mean(window)
