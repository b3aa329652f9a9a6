"""Trajectories of the authors' PyTorch code in float64, followed step by step.

The file holds ten runs on scikit-learn's digits (k = 6) and one draw of stochastic nested dropout.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax import METHODS, OPTIMIZERS, LAEParams, objectives
from lae_jax.covariance import Dense, Diagonal, Samples
from lae_jax.params import change_basis
from lae_jax.training import loop

RUNS = {
    "uniform_l2": "uniform_sum",
    "non_uniform_l2": "non_uniform_sum",
    "rag": "rotation",
    "deterministic_nested_dropout": "nd_exp",
    "linear_vae": "vae",
}
STORED = {"nesterov": "SGD", "adam": "Adam"}
FIELDS = {
    "encoder": "encoder",
    "decoder": "decoder",
    "latent_log_variance": "logvar",
    "noise_log_variance": "log_sigma_sq",
}
TOLERANCE = 1e-9


@functools.cache
def golden():
    with np.load(Path(__file__).parent / "golden" / "official_digits_k6.npz") as stored:
        return dict(stored)


@functools.cache
def data():
    samples = golden()["x"] / 16.0
    samples = samples - samples.mean(axis=0)
    covariance = samples.T @ samples / len(samples)
    variances, basis = np.linalg.eigh(covariance)
    return samples, covariance, variances[::-1].copy(), basis[:, ::-1].copy()


def hyperparameter(method):
    roots = golden()["reg"]
    prior = 0.9 ** np.arange(6) * 0.1
    prior[-1] = 0.9**5
    values = {"uniform_l2": roots.mean() ** 2, "non_uniform_l2": roots**2, "deterministic_nested_dropout": prior}
    return jnp.asarray(values[method]) if method in values else None


@functools.cache
def trajectory(method, optimizer, representation, scale=1.0):
    """Weights in input coordinates, and the row of history, at each stored step."""
    samples, covariance, variances, basis = data()
    operator = {
        "samples": lambda: Samples(jnp.asarray(samples)),
        "dense": lambda: Dense(jnp.asarray(covariance)),
        "eigenbasis": lambda: Diagonal(jnp.asarray(variances)),
    }[representation]()
    turned = representation == "eigenbasis"
    weights = LAEParams(jnp.asarray(scale * golden()["encoder_0"]), jnp.asarray(golden()["decoder_0"]))
    recipe = loop.Recipe(METHODS[method], OPTIMIZERS[optimizer].build)
    problem = loop.Problem(
        data=operator,
        learning_rate=golden()[f"{RUNS[method]}/{STORED[optimizer]}/lr"],
        key=jax.random.key(0),
        hyperparameter=hyperparameter(method),
        components=None if turned else jnp.asarray(basis[:, :6]),
    )
    params = METHODS[method].lift(change_basis(weights, basis) if turned else weights)
    state = loop.initial_state(recipe, problem, params)
    row = loop.first_row(recipe, problem, state)
    points = {}
    for step in golden()["steps"]:
        for state, row in loop.train(recipe, problem, state, int(step), record_every=1000):
            pass
        points[int(step)] = (change_basis(state.params, basis.T) if turned else state.params, row)
    return points


def distance(params, other):
    """The largest relative error over the weight arrays."""
    errors = []
    for field, expected in other.items():
        error = np.linalg.norm(np.asarray(getattr(params, field)) - expected)
        errors.append(error / (np.linalg.norm(expected) or 1.0))
    return max(errors)


def stored_weights(method, optimizer, step):
    prefix = f"{RUNS[method]}/{STORED[optimizer]}"
    names = {field: f"{prefix}/{name}_{step}" for field, name in FIELDS.items()}
    return {field: golden()[name] for field, name in names.items() if name in golden()}


CASES = [
    (method, optimizer, representation)
    for method in RUNS
    for optimizer in STORED
    for representation in ("samples", "dense", "eigenbasis")
    if representation != "eigenbasis" or OPTIMIZERS[optimizer].rotation_equivariant
]


@pytest.mark.parametrize(("method", "optimizer", "representation"), CASES)
def test_follows_the_authors_code(method, optimizer, representation):
    points = trajectory(method, optimizer, representation)
    tolerance = dict.fromkeys(points, TOLERANCE)
    if optimizer == "adam" and method != "deterministic_nested_dropout":
        # Adam near an optimum amplifies rounding: by step 1000 a start 2 ulp away is 1e-2 away for
        # the VAE. No implementation but the very same bits can be held to less than that.
        twin = trajectory(method, optimizer, representation, scale=1 + 4.5e-16)
        for step, (params, _) in twin.items():
            sensitivity = distance(params, {k: np.asarray(v) for k, v in points[step][0]._asdict().items()})
            if step > 100:
                tolerance[step] = max(TOLERANCE, 1e3 * sensitivity)
    for step, (params, _) in points.items():
        assert distance(params, stored_weights(method, optimizer, step)) <= tolerance[step], step


@pytest.mark.parametrize("method", RUNS)
def test_metrics_agree_with_the_authors_code(method):
    prefix = f"{RUNS[method]}/SGD"
    for index, (_, row) in enumerate(trajectory(method, "nesterov", "dense").values()):
        assert row["loss"][-1] == pytest.approx(golden()[f"{prefix}/loss"][index], rel=1e-9)
        # The authors add 1e-8 to the norms of the columns, and so do not count columns of that size.
        assert row["axis_alignment"][-1] == pytest.approx(golden()[f"{prefix}/axis_alignment"][index], abs=1e-3)


def test_stochastic_nested_dropout_for_the_stored_draws():
    samples, *_ = data()
    kept = (np.arange(6) <= golden()["nd/last_kept"][:, None]).astype(float)
    params = LAEParams(jnp.asarray(golden()["encoder_0"]), jnp.asarray(golden()["decoder_0"]))
    loss, gradient = jax.value_and_grad(objectives.nested_dropout)(params, jnp.asarray(samples), kept)
    assert abs(loss - golden()["nd/loss"]) <= 1e-12
    np.testing.assert_allclose(gradient.encoder, golden()["nd/grad_encoder"], atol=1e-12, rtol=0)
    np.testing.assert_allclose(gradient.decoder, golden()["nd/grad_decoder"], atol=1e-12, rtol=0)
