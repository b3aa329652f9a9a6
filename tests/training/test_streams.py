"""Streams: the mean is the data's, the steps are those of `loop.step`, the components are found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lae_jax import METHODS, OPTIMIZERS
from lae_jax.covariance import Samples
from lae_jax.errors import InputError
from lae_jax.params import LAEParams, gaussian
from lae_jax.training import loop, streams
from lae_jax.training.loop import Recipe
from tests.helpers import HYPERPARAMETERS, compilations, normal, orthogonal

M, K = 6, 3
ROWS = normal(0, 60, M) * np.sqrt([4.0, 2.0, 1.0, 0.5, 0.25, 0.1]) + np.arange(M)
# One for each kind of objective, rule and state.
KINDS = ("nested_dropout", "linear_vae", "rag", "spectral_inference")
PARAMS = LAEParams(*(jnp.asarray(weight, jnp.float64) for weight in gaussian(jax.random.key(0), K, M, 0.1)))


def recipe_of(method, optimizer="nesterov"):
    return Recipe(METHODS[method], OPTIMIZERS[optimizer].build)


@pytest.mark.parametrize("method", KINDS)
def test_the_whole_batch_again_and_again_is_training_step(method):
    recipe, values = recipe_of(method), jax.tree.map(jnp.asarray, HYPERPARAMETERS[METHODS[method].hyperparameter])
    params = METHODS[method].lift(PARAMS)
    result = streams.train_stream(recipe, params, [ROWS] * 5, 0.01, hyperparameter=values, key=jax.random.key(7))
    data = Samples(jnp.asarray(ROWS - ROWS.mean(axis=0)))
    problem = loop.Problem(data, jnp.float64(0.01), jax.random.key(7), values)
    state = loop.initial_state(recipe, problem, params)
    step = jax.jit(loop.step, static_argnums=0)
    for _ in range(5):
        state = step(recipe, problem, state)
    for got, wanted in zip(jax.tree.leaves(result.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(got, wanted)
    if not METHODS[method].needs_samples:
        first = METHODS[method].loss(params, data, problem.key, values)
        assert result.losses[0] == pytest.approx(float(first), rel=1e-12)
    assert result.losses[-1] < result.losses[0]


def test_an_aligned_rule_finds_the_components_of_the_population():
    basis, generator = orthogonal(1, M), np.random.default_rng(2)
    deviations, offset = np.sqrt([4.0, 2.0, 1.0, 0.3, 0.2, 0.1]), 5 * np.arange(M)
    seen = []

    def batches():
        for index in range(1500):
            rows = (generator.standard_normal((40 if index < 1499 else 17, M)) * deviations) @ basis.T + offset
            seen.append(rows)
            yield rows

    count = compilations("_step")
    small = jax.tree.map(lambda weight: weight / 100, PARAMS)  # nearly balanced: Algorithm 1 aligns those
    result = streams.train_stream(recipe_of("rag"), small, batches(), optax.exponential_decay(0.003, 400, 0.4))
    assert compilations("_step") <= count + 2  # the last batch is ragged
    everything = np.concatenate(seen)
    np.testing.assert_allclose(result.mean, everything.mean(axis=0), atol=1e-12)
    assert result.num_rows == len(everything) and len(result.losses) == 1500
    directions = np.asarray(result.params.decoder) / np.linalg.norm(result.params.decoder, axis=0)
    components = np.linalg.eigh(np.cov(everything.T))[1][:, ::-1][:, :K]
    assert np.abs(np.sum(directions * components, axis=0)).min() > 0.999


def test_a_schedule_counts_the_batches():
    once = streams.train_stream(recipe_of("lae", "sgd"), PARAMS, [ROWS], 0.01)
    first_only = streams.train_stream(recipe_of("lae", "sgd"), PARAMS, [ROWS] * 3, lambda step: 0.01 * (step == 0))
    np.testing.assert_array_equal(once.params.encoder, first_only.params.encoder)
    assert not np.array_equal(once.params.encoder, PARAMS.encoder)


def test_without_centring_the_batches_are_taken_as_they_are():
    result = streams.train_stream(recipe_of("lae", "sgd"), PARAMS, [ROWS], 0.01, center=False)
    wanted = METHODS["lae"].loss(PARAMS, Samples(jnp.asarray(ROWS)), None, None)
    assert result.losses[0] == pytest.approx(float(wanted), rel=1e-12) and not result.mean.any()


@pytest.mark.parametrize("dtype", ["f2", "f4", "u1", "?"])
def test_batches_of_any_real_type_and_shape(dtype):
    images = (20 + 10 * ROWS).astype(dtype).reshape(len(ROWS), 2, 3)
    seen = []
    result = streams.train_stream(
        recipe_of("lae"), PARAMS, (images[start : start + 20] for start in range(0, 60, 20)), 1e-5,
        on_batch=lambda rows, loss: seen.append((rows, loss)),
    )  # fmt: skip
    np.testing.assert_allclose(result.mean, images.reshape(60, M).astype(float).mean(axis=0), rtol=1e-13)
    assert seen == list(zip([20, 40, 60], result.losses.tolist(), strict=True))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "there are none"),
        ([ROWS, ROWS[:, :5]], r"batch 1 has shape \(60, 5\); need \(n_i, 6\)"),
        ([ROWS[:0]], "batch 0 has shape"),
        ([3.0], "batch 0 has shape"),
        ([ROWS * 1j], "batch 0 holds complex128"),
        ([ROWS, np.where(np.arange(60)[:, None] == 7, np.nan, ROWS)], "row 7 of batch 1 is not finite"),
    ],
)
def test_bad_batches_are_named(batches, message):
    with pytest.raises(InputError, match=f"^batches: .*{message}"):
        streams.train_stream(recipe_of("lae"), PARAMS, batches, 0.01)


def test_divergence_tells_its_batch():
    with pytest.raises(loop.DivergenceError) as raised:
        streams.train_stream(recipe_of("lae", "sgd"), PARAMS, (ROWS for _ in range(1000)), 50.0)
    assert 1 < raised.value.step < 100


def test_a_recipe_with_batches_of_its_own_is_refused():
    with pytest.raises(InputError, match="batch_size: 4"):
        streams.train_stream(recipe_of("lae")._replace(batch_size=4), PARAMS, [ROWS], 0.01)
