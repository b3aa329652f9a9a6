"""`verify` from a notebook: exact, by jax.hessian and as the bounds have it, without any global switch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lae_jax
from lae_jax.errors import InputError
from lae_jax.theory.bounds import BOUNDS
from lae_jax.theory.verify import OBJECTIVES, verify

VARIANCES = [5.0, 4.0, 2.5, 2.0, 1.0, 0.5]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_closed_form_is_what_jax_hessian_finds(objective):
    with jax.enable_x64(False):
        found = lae_jax.verify(objective, VARIANCES, 2)
        assert jnp.ones(1).dtype == jnp.float32
    assert found.violated == [] and found.autodiff_error < 1e-12
    for name in ("s_max", "s_min", "condition_number"):
        assert getattr(found, f"autodiff_{name}") == pytest.approx(getattr(found, name), rel=1e-10)
    expected = {name for name, bound in BOUNDS.items() if bound.objective == objective}
    assert found.bounds.keys() == expected


def test_own_penalties_and_priors_say_the_latent_size():
    penalties, prior = [0.1, 0.5, 1.0], np.array([0.5, 0.3, 0.2])
    found = verify("non_uniform_l2", VARIANCES, penalties=penalties, autodiff=False)
    assert found.latent_dim == 3 and found.autodiff_condition_number is None
    assert found.condition_number > found.bounds["l2_rotation"] > found.bounds["l2_printed"] > 0
    assert verify("deterministic_nested_dropout", VARIANCES, prior=prior, autodiff=False).hyperparameter is not None
    collapsed = verify("non_uniform_l2", VARIANCES, penalties=[0.1, 0.5, 3.0], autodiff=False)
    assert collapsed.collapsed_latents == [3] and collapsed.bounds == {}


def test_of_many_weights_those_on_the_leading_components_are_differentiated():
    """The condition number within the span needs no others; what ties the two sets together is looked at as well."""
    variances = np.linspace(7.0, 1.0, 70)
    found = verify("deterministic_nested_dropout", variances, 16)
    assert found.differentiated == "on leading components" and found.violated == []
    assert found.autodiff_error < 1e-12
    assert found.autodiff_condition_number == pytest.approx(found.condition_number, rel=1e-9)
    assert verify("lae", variances, 3).differentiated == "all weights"
    none = verify("lae", variances, 32)
    assert none.differentiated == "none" and none.autodiff_error is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "raag", "latent_dim": 2}, "did you mean 'rag'"),
        ({"objective": "rag"}, "latent_dim: None"),
        ({"objective": "rag", "prior": [0.5, 0.5]}, "prior: given, but method 'rag' takes none"),
        ({"objective": "non_uniform_l2", "prior": [0.5, 0.5]}, "prior: given, .* takes penalties"),
        ({"objective": "non_uniform_l2", "penalties": [1.0, 0.5]}, "penalties: .*must increase"),
        ({"objective": "lae", "latent_dim": 6}, "latent_dim: 6"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    with pytest.raises(InputError, match=message):
        verify(variances=VARIANCES, **arguments)
