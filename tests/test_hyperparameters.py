"""Variances, penalties and priors: what is refused, in one place, and what stands for none given."""

import numpy as np
import pytest

from lae_jax.errors import InputError
from lae_jax.hyperparameters import (
    HYPERPARAMETERS,
    checked_penalties,
    checked_prior,
    checked_uniform_prior,
    checked_variances,
    default_penalties,
)

VARIANCES = np.array([5.0, 3.0, 2.0, 1.0, 0.5])

BAD = [
    (checked_variances, ([3.0, 2.0, np.nan], 1), "variances: .*finite"),
    (checked_variances, (3.0, 1), "variances: .*m finite"),
    (checked_variances, ([[3.0, 2.0]], 1), "variances: .*m finite"),
    (checked_variances, ([3.0, 2.0], 0), "latent_dim: 0: must be from 1 to 1"),
    (checked_variances, ([3.0, 2.0], 2), "latent_dim: 2: must be from 1 to 1"),
    (checked_variances, ([2.0, 3.0, 1.0], 2), "must descend"),
    (checked_variances, ([3.0, 2.0, 2.0], 2), "first 3 strictly"),
    (checked_variances, ([3.0, 2.0, 0.0], 3 - 1), None),  # a tail without variance is fine
    (checked_variances, ([3.0, 0.0, 0.0], 2), "first 2 positive"),
    (checked_variances, ([3.0, 2.0, 1e-18], 2), None),
    (checked_variances, ([3.0, 2.0, 1.0, 1.0], 2), None),
    (checked_variances, ([3.0, 2.0, 1.0, -1.0], 2), "must descend to 0"),
    (checked_penalties, ([],), "of shape"),
    (checked_penalties, ([[0.1, 0.2]],), "of shape"),
    (checked_penalties, ([0.1, 0.2], 3), "takes 3"),
    (checked_penalties, (["a", "b"],), "must be numbers"),
    (checked_penalties, ([0.0, 0.2],), "positive"),
    (checked_penalties, ([0.1, np.inf],), "finite"),
    (checked_penalties, ([0.3, 0.2, 0.4],), r"number 2 \(0.2\) is below the one before \(0.3\); they must increase$"),
    (checked_penalties, ([0.2, 0.2],), None),  # Eq. (2)
    (checked_prior, ([0.5, 0.5], 3), "takes 3"),
    (checked_prior, ([0.5, 0.6, -0.1],), "not negative"),
    (checked_prior, ([0.5, 0.4],), "sums to 0.9"),
    (checked_prior, ([0.5, 0.6],), "sums to 1.1"),
    (checked_prior, ([0.5, np.nan],), "finite"),
    (checked_prior, ([1.0, 0.0],), "never used"),
    (checked_prior, ([0.0, 1.0],), None),  # the first two latents are always kept together
    (checked_uniform_prior, ([0.4, 0.6], 2), "every b the same"),
]


@pytest.mark.parametrize(
    ("check", "arguments", "message"), BAD, ids=lambda value: getattr(value, "__name__", str(value)[:40])
)
def test_each_check_in_one_line(check, arguments, message):
    if message is None:
        np.testing.assert_allclose(check(*arguments), arguments[0], atol=1e-15)
        return
    with pytest.raises(InputError, match=message) as raised:
        check(*arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("check", "values", "message"),
    [(checked_penalties, [0.2, 0.2], "increase strictly"), (checked_prior, [0.0, 1.0], "every entry must be positive")],
)
def test_what_leaves_rotations_free_is_refused_where_asked(check, values, message):
    with pytest.raises(InputError, match=message):
        check(values, strictly=True)


@pytest.mark.parametrize(
    ("check", "values", "wrong"),
    [
        (checked_penalties, [[0.1, 0.2], [0.3, 0.4]], [[0.1, 0.2], [0.4, 0.3]]),
        (checked_prior, [[0.5, 0.5], [0.1, 0.9]], [[0.5, 0.5], [0.1, 0.8]]),
        (lambda values, batched: checked_variances(values, 1, batched=batched), [[2, 1], [9, 0]], [[2, 1], [1, 2]]),
    ],
    ids=["penalties", "prior", "variances"],
)
def test_a_batch_is_checked_row_by_row_where_it_may_be_one(check, values, wrong):
    np.testing.assert_array_equal(check(values, batched=True), values)
    for given, batched in ((wrong, True), (values, False)):
        with pytest.raises(InputError):
            check(given, batched=batched)


@pytest.mark.parametrize("name", HYPERPARAMETERS)
@pytest.mark.parametrize("latent_dim", [1, 4])
def test_defaults_pass_their_own_check(name, latent_dim):
    kind = HYPERPARAMETERS[name]
    values = kind.default(VARIANCES, latent_dim)
    np.testing.assert_array_equal(kind.checked(values, latent_dim), values)
    np.testing.assert_array_equal(kind.checked(values.tolist(), latent_dim), values)


def test_default_penalties_are_in_the_unit_of_the_variances_and_collapse_nothing():
    values = default_penalties(VARIANCES, 3)
    np.testing.assert_allclose(default_penalties(100 * VARIANCES, 3), 100 * values)
    assert (values < VARIANCES[2]).all()
