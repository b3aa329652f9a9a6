"""docs/theory.md: every function, command and test that its table names exists; statements that no room has."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lae_jax import baselines, metrics, objectives
from lae_jax.covariance import Dense, Diagonal, second_moment
from lae_jax.methods import METHODS
from lae_jax.params import LAEParams
from lae_jax.rotation import skew_rotation
from lae_jax.theory import landscape
from tests import launching
from tests.helpers import orthogonal, random_params

PAGE = (launching.ROOT / "docs" / "theory.md").read_text()
ROWS = [re.split(r" ?\| ?", line)[1:-1] for line in PAGE.splitlines() if line.startswith("| ") and "`" in line]


def test_the_table_has_rows_of_five_cells():
    assert len(ROWS) > 30 and all(len(row) == 5 for row in ROWS)


@pytest.mark.parametrize("name", sorted({name for row in ROWS for name in re.findall(r"`([^`]+)`", row[2])}))
def test_its_functions_exist(name):
    if name.startswith("METHODS"):
        assert eval(name, vars(importlib.import_module("lae_jax.methods")))
        return
    path = name if name.startswith("lae_jax.") else f"lae_jax.theory.{name}"
    try:
        importlib.import_module(path)
    except ImportError:
        module, _, function = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))


def test_its_commands_and_tests_exist():
    commands = {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[3])}
    assert commands <= set(launching.NAMES)
    for name in {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[4])}:
        file, _, test = name.partition("::")
        assert f"def {test}(" in (launching.ROOT / "tests" / file).read_text(), name


# Section 4: the sketches.


def test_eq_3_is_a_cosine_of_twice_the_angle():
    params, covariance = random_params(0, 3, 5), Diagonal(jnp.arange(5.0, 0.0, -1.0))
    angles = 2 * np.pi * np.arange(16) / 16
    losses = []
    for angle in angles:
        turn = np.eye(3)
        turn[:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        rotated = LAEParams(turn @ params.encoder, params.decoder @ turn.T)
        losses.append(float(objectives.l2(rotated, covariance, jnp.array([0.1, 0.5, 0.9]))))
    spectrum = np.abs(np.fft.rfft(losses))
    assert spectrum[2] > 0.1 and np.delete(spectrum, [0, 2]).max() < 1e-12


def test_rows_that_descend_in_length_can_be_a_saddle():
    """d = (6, 5) and penalties (1, 4), with lambda_2 < d_2: the two latents exchanged."""
    variances, penalties = np.array([6.0, 5.0, 1.0]), np.array([1.0, 4.0])
    swapped = landscape.stationary_params(variances, penalties, (1, 0))
    assert landscape.examine(swapped, variances, penalties).gradient < 1e-14
    assert np.all(np.diff(np.linalg.norm(swapped.encoder, axis=1)) < 0)

    def loss(latents, inputs):
        turns = [np.array([[np.cos(x), np.sin(x)], [-np.sin(x), np.cos(x)]]) for x in (latents, inputs)]
        encoder = turns[0] @ swapped.encoder @ np.pad(turns[1], (0, 1))
        return float(
            objectives.l2(LAEParams(jnp.asarray(encoder), jnp.asarray(encoder.T)), Diagonal(variances), penalties)
        )

    assert min(loss(x, 0.0) for x in (-0.1, 0.1)) > loss(0.0, 0.0) + 1e-4  # rotating the latents leads up
    assert min(loss(0.1, x) for x in np.linspace(-0.3, 0.3, 61)) < loss(0.0, 0.0) - 1e-4  # and both at once down
    assert landscape.morse_index(variances, penalties, (1, 0)) == 1


# Section 7


def test_adam_stalls_under_rag_and_not_with_the_balancing_term():
    """Adam does not conserve Z, and at Z != 0 RAG rests at weights that are not aligned."""
    basis = jnp.asarray(orthogonal(0, 6))
    covariance = Dense(basis @ jnp.diag(jnp.array([5.0, 3.5, 2.0, 1.2, 0.6, 0.3])) @ basis.T)
    start = random_params(1, 3, 6, 0.01)

    def ended(method, steps):
        rule = METHODS[method].update_rule(optax.adam(1e-3))

        def step(carry, _):
            params, state = carry
            gradients = jax.grad(objectives.reconstruction)(params, covariance)
            updates, state = rule.update(gradients, state, params, covariance=covariance)
            params = optax.apply_updates(params, updates)
            return (params, state), metrics.axis_alignment(params.decoder, basis[:, :3])

        (params, _), found = jax.lax.scan(step, (start, rule.init(start)), None, steps)
        return found[steps // 2], found[-1], metrics.imbalance(params)

    half, end, imbalance = ended("rag", 8000)
    assert end > 0.9 * half > 1e-3 and imbalance > 0.1
    assert ended("balanced_rag", 8000)[1] < 1e-12


# Appendix G


def test_brockett_turns_as_rag_does_but_for_weights():
    """On the subspace V^T V' is skew: Brockett's is [M, N], with N_i - N_j = (j - i) / k, and RAG's is -A."""
    decoder, covariance = jnp.asarray(np.pad(orthogonal(1, 4), ((0, 2), (0, 0)))), Diagonal(jnp.arange(6.0, 0.0, -1.0))
    turning = decoder.T @ baselines.brockett_direction(decoder, covariance)
    rank = jnp.arange(4)
    weights = jnp.abs(rank[:, None] - rank[None, :]) / 4
    expected = -2 * weights * skew_rotation(second_moment(decoder.T, covariance))
    np.testing.assert_allclose(turning, expected, atol=1e-13)
