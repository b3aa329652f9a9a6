"""The compiled loop: same bits however it is cut, rows where they belong, stops where it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax import METHODS, OPTIMIZERS, hyperparameters
from lae_jax.covariance import Diagonal, Samples
from lae_jax.params import gaussian, stack_latents, unstack_latents
from lae_jax.training import loop
from tests.helpers import HYPERPARAMETERS, assert_close, compilations, normal

# One for each kind of objective, rule and state.
KINDS = ("uniform_l2", "nested_dropout", "linear_vae", "rag", "aligned", "spectral_inference")
VARIANCES = jnp.array([4.0, 2.0, 1.0, 0.5, 0.25, 0.1])


def problem_of(method="rag", optimizer="nesterov", learning_rate=0.01, data=None, batch_size=0):
    recipe = loop.Recipe(METHODS[method], OPTIMIZERS[optimizer].build, batch_size)
    hyperparameter = HYPERPARAMETERS[METHODS[method].hyperparameter]
    problem = loop.Problem(
        data=Diagonal(VARIANCES) if data is None else data,
        learning_rate=learning_rate,
        key=jax.random.key(3),
        hyperparameter=jax.tree.map(jnp.asarray, hyperparameter),
    )
    params = METHODS[method].lift(gaussian(jax.random.key(0), 3, 6, 0.1))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    return recipe, problem, loop.initial_state(recipe, problem, params)


def samples():
    return Samples(jax.random.normal(jax.random.key(1), (50, 6)) * jnp.sqrt(VARIANCES)[None, :])


def finish(setting, num_steps, **options):
    state, histories = setting[2], []
    for state, history in loop.train(setting[0], setting[1], state, num_steps, **options):
        histories.append(history)
    return state, loop.concatenate(histories)


def assert_same_bits(left, right):
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
def test_the_same_bits_however_the_run_is_cut(method, optimizer):
    setting = problem_of(method, optimizer, data=samples())
    whole, history = finish(setting, 47, record_every=10)
    state = setting[2]
    cut = []
    for stop in (3, 20, 21, 47):
        for state, rows in loop.train(*setting[:2], state, stop, record_every=10, rows_per_chunk=lambda: 1):
            cut.append(rows)
    assert_same_bits(whole, state)
    assert history["step"].tolist() == [10, 20, 30, 40, 47]
    rows = {int(step): index for index, step in enumerate(loop.concatenate(cut)["step"])}
    for name, values in history.items():
        assert loop.concatenate(cut)[name][rows[30]] == values[2], name


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    first, _ = finish(problem_of("nested_dropout", data=samples()), 20)
    again, _ = finish(problem_of("nested_dropout", data=samples()), 20)
    assert_same_bits(first, again)
    recipe, problem, state = problem_of("nested_dropout", data=samples())
    other, _ = finish((recipe, problem._replace(key=jax.random.key(4)), state), 20)
    assert not np.array_equal(first.params.encoder, other.params.encoder)


def test_mini_batches_are_drawn_from_the_samples():
    data = Samples(jnp.tile(jnp.arange(1.0, 7.0), (50, 1)))  # every batch is the whole: all rows are equal
    full, _ = finish(problem_of("lae", data=data, learning_rate=1e-4), 5)
    batch, _ = finish(problem_of("lae", data=data, learning_rate=1e-4, batch_size=7), 5)
    np.testing.assert_allclose(full.params.encoder, batch.params.encoder, rtol=1e-12)
    varied, _ = finish(problem_of("lae", data=samples(), batch_size=7), 5)
    whole, _ = finish(problem_of("lae", data=samples()), 5)
    assert not np.allclose(varied.params.encoder, whole.params.encoder, rtol=1e-6)


def test_stops_at_the_target():
    _, history = finish(problem_of(), 5000, record_every=10, target=0.1)
    assert history["axis_alignment"][-1] <= 0.1 < history["axis_alignment"][-2]
    assert history["step"][-1] < 5000


def test_divergence_is_reported_with_its_step_and_the_rows_before_it():
    rows = []
    recipe, problem, state = problem_of("lae", "sgd", learning_rate=50.0)
    with pytest.raises(loop.DivergenceError) as raised:
        for _, history in loop.train(recipe, problem, state, 500, record_every=5):
            rows.append(history)
    history = loop.concatenate(rows)
    bad = history["step"][~np.isfinite(history["loss"])]
    assert raised.value.step == bad[0] == history["step"][-1]
    assert str(int(bad[0])) in str(raised.value)
    assert np.isfinite(history["loss"][:-1]).all()


def test_one_program_for_every_seed_rate_and_length():
    count = compilations("_advance")
    for rate, stop in ((0.01, 30), (0.02, 41), (0.005, 7)):
        recipe, problem, state = problem_of("lae", learning_rate=rate)
        finish((recipe, problem._replace(key=jax.random.key(int(stop))), state), stop)
    assert compilations("_advance") <= count + 1


def test_history_has_its_columns_in_order():
    recipe, problem, state = problem_of()
    row = loop.first_row(recipe, problem, state)
    assert tuple(row) == loop.COLUMNS
    assert row["step"].tolist() == [0]
    assert all(len(values) == 1 for values in row.values())


@pytest.mark.parametrize("method", KINDS)
def test_every_method_lowers_its_loss(method):
    setting = problem_of(method, learning_rate=0.01, data=samples())
    before = loop.first_row(*setting)["loss"][0]
    _, history = finish(setting, 300)
    assert history["loss"][-1] < before


@pytest.mark.parametrize("method", ["rag", "linear_vae", "nested_dropout"])
def test_a_batch_over_latent_sizes_seeds_and_rates_is_each_run(method):
    """One program; no loss, rule or metric knows of the padding."""
    sizes, rates, row = (1, 3), (0.01, 0.02), METHODS[method]
    recipe = loop.Recipe(row, OPTIMIZERS["nesterov"].build)
    kind = hyperparameters.HYPERPARAMETERS.get(row.hyperparameter)
    rows = jnp.asarray(normal(1, 30, 6) * np.sqrt([6.0, 4, 2, 1, 0.5, 0.2]))
    data, components = Samples(rows), jnp.linalg.eigh(rows.T @ rows)[1][:, ::-1]
    values = [kind and kind.default(np.arange(6.0, 0, -1), size) for size in sizes]
    padded = kind and jnp.stack([jnp.pad(value, (0, 3 - len(value)), mode=kind.pad) for value in values])
    each = [row.lift(gaussian(jax.random.key(seed), size, 6, 0.3)) for seed, size in enumerate(sizes)]
    each = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), each)
    keys, momenta = jax.random.split(jax.random.key(7)), jnp.full(2, 0.9)
    problems = loop.Problem(data, jnp.array(rates), keys, padded, momenta, components[:, :3], jnp.array(sizes))
    states, history = loop.train_batch(recipe, problems, stack_latents(each), 20, record_every=10)
    assert tuple(history) == tuple(sorted(loop.COLUMNS)) and history["loss"].shape == (2, 2)
    for i, params in enumerate(unstack_latents(states.params, sizes)):
        value = None if kind is None else jnp.asarray(values[i])
        alone = loop.Problem(data, rates[i], keys[i], value, 0.9, components[:, : sizes[i]])
        state = loop.initial_state(recipe, alone, each[i])
        for _ in range(20):
            state = one_step(recipe, alone, state)
        assert_close(params, state.params, factor=10_000)
        told = loop.record(recipe, alone, state)
        for name in loop.COLUMNS[2:]:
            np.testing.assert_allclose(history[name][i, -1], told[name], rtol=1e-8, atol=1e-10, err_msg=name)
    assert states.step.tolist() == [20, 20]


one_step = jax.jit(loop.step, static_argnums=0)
