"""Every step has a lowering for accelerators: exported for CUDA and TPU from here, traced and lowered, not compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax.covariance import Dense, Diagonal, LowRankHistory, Samples
from lae_jax.data import datasets
from lae_jax.hyperparameters import HYPERPARAMETERS
from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.params import gaussian
from lae_jax.training import batch, loop, low_rank, settings
from lae_jax.training.settings import Settings

PLATFORMS = ("cuda", "tpu")
M, K = 6, 3
FORMS = {
    "eigenbasis": Diagonal(jnp.linspace(5.0, 1.0, M, dtype=jnp.float32)),
    "dense": Dense(jnp.eye(M, dtype=jnp.float32)),
    "samples": Samples(jnp.ones((10, M), jnp.float32)),
}


def assert_lowers(function, *arguments):
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS and exported.mlir_module_serialized


def step_of(method, optimizer, form):
    """A step in float32, as runs are trained, and what it is called with."""
    row = METHODS[method]
    values = {
        "penalties": [0.1, 0.2, 0.3],
        "penalty": [0.2],
        "prior": [0.3, 0.2, 0.5],
        "uniform_prior": [1 / 3] * 3,
        "beta": [1.0],
    }
    hyperparameter = jnp.asarray(values[row.hyperparameter], jnp.float32) if row.hyperparameter else None
    problem = loop.Problem(
        FORMS[form],
        jnp.float32(1e-3),
        jax.random.key(0),
        hyperparameter,
        jnp.float32(0.9),
        jnp.eye(M, K, dtype=jnp.float32),
    )
    recipe = loop.Recipe(row, OPTIMIZERS[optimizer].build, 4 if form == "samples" else 0)
    state = loop.initial_state(recipe, problem, row.lift(gaussian(jax.random.key(1), K, M, 0.1)))
    return recipe, problem, state


def forms_of(method):
    return ("samples",) if METHODS[method].needs_samples else ("eigenbasis",)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_every_step_lowers(method, optimizer):
    for form in forms_of(method):
        recipe, problem, state = step_of(method, optimizer, form)
        assert_lowers(functools.partial(loop.step, recipe), problem, state)


@pytest.mark.parametrize("form", FORMS)
def test_records_and_steps_of_every_form_lower(form):
    recipe, problem, state = step_of("aligned", "nesterov", form)

    def step_and_record(problem, state):
        state = loop.step(recipe, problem, state)
        return loop.record(recipe, problem, state)

    assert_lowers(step_and_record, problem, state)


def test_the_step_of_a_stream_lowers():
    history = LowRankHistory(
        jnp.eye(M, K, dtype=jnp.float32), jnp.ones(K, jnp.float32), jnp.float32(0), jnp.float32(0.5),
        jnp.ones((4, M), jnp.float32), jnp.float32(0.1),
    )  # fmt: skip
    frame = low_rank._Frame(*jnp.ones((2, M), jnp.float32), jnp.ones(4, jnp.float32), jnp.float32(2))
    assert_lowers(functools.partial(low_rank._advance, latent_dim=2), history, frame, 1)


@pytest.mark.parametrize("at_a_time", [1, 4])
def test_the_program_of_a_sweep_lowers(at_a_time):
    dataset = datasets.synthetic(input_dim=M, num_samples=20, largest=10.0)
    run = settings.resolve(Settings(method="aligned", latent_dim=2), dataset)[0]
    built, devices = settings.build(run, dataset), tuple(jax.devices()[:1])
    shared = batch.share(devices, batch.shared(built, dataset.components, K))
    runs = batch.stack(devices, 4 * [batch.padded(built, K)])
    program = functools.partial(batch.advance, built.recipe, devices, at_a_time)
    assert_lowers(program, shared, runs, np.full(4, 3, np.int32), 10, 0.3)


def test_an_operation_without_a_lowering_is_found():
    with pytest.raises(NotImplementedError):
        assert_lowers(lambda x: jnp.linalg.eig(x)[0].real, jnp.eye(2))


def test_every_hyperparameter_is_among_those_lowered():
    assert {row.hyperparameter for row in METHODS.values()} - {None} == set(HYPERPARAMETERS)
