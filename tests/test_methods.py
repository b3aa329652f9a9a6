"""Laws that hold for every method and every optimiser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lae_jax import METHODS, OPTIMIZERS, hyperparameters, methods, objectives, rotation_augmented_gradient
from lae_jax.covariance import Dense, Samples, second_moment
from lae_jax.errors import InputError
from lae_jax.params import LAEParams, VAEParams, change_basis, crop_latents, pad_latents
from lae_jax.rotation import skew_rotation
from lae_jax.theory import closed_form, landscape
from lae_jax.training import claims
from lae_jax.training.loop import Problem, Recipe, initial_state, step
from tests.helpers import HYPERPARAMETERS, assert_close, cast, normal, orthogonal, random_params

K, WIDE, M, N, STEPS = 3, 5, 8, 30, 20
ROWS = normal(0, N, M) @ np.diag(np.sqrt([3.0, 2.0, 1.4, 1.0, 0.6, 0.3, 0.2, 0.1])) @ orthogonal(1, M)
BASIS = orthogonal(2, M)
LEARNING_RATES = {"sgd": 0.03, "nesterov": 0.01, "adam": 0.01}
PADDED = {None: None} | {
    name: np.pad(HYPERPARAMETERS[name], (0, WIDE - len(HYPERPARAMETERS[name])), mode=kind.pad)
    for name, kind in hyperparameters.HYPERPARAMETERS.items()
}

every_method = pytest.mark.parametrize("method", METHODS)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
compiled_step = jax.jit(step, static_argnums=0)


def start(method, latent_dim=K):
    return METHODS[method].lift(pad_latents(random_params(4, K, M, 0.4), latent_dim))


def problem(method, rows=ROWS, hyperparameters=HYPERPARAMETERS, learning_rate=0.01, key=3):
    hyperparameter = jax.tree.map(jnp.asarray, hyperparameters[METHODS[method].hyperparameter])
    return Problem(Samples(jnp.asarray(rows)), learning_rate, jax.random.key(key), hyperparameter)


def train(recipe, problem, params, num_steps=STEPS):
    state = initial_state(recipe, problem, params)
    for _ in range(num_steps):
        state = compiled_step(recipe, problem, state)
    return state.params


# Trajectories are shared by the laws below; a rotated one is the same program on other numbers.
@functools.cache
def trained(method, optimizer, rotated=False, padded=False):
    recipe = Recipe(METHODS[method], OPTIMIZERS[optimizer].build)
    params = start(method, WIDE if padded else K)
    return train(
        recipe,
        problem(
            method, ROWS @ BASIS if rotated else ROWS, PADDED if padded else HYPERPARAMETERS, LEARNING_RATES[optimizer]
        ),
        change_basis(params, jnp.asarray(BASIS)) if rotated else params,
    )


@every_optimizer
@every_method
def test_padded_latents_stay_zero_and_the_others_do_not_notice(method, optimizer):
    narrow, wide = trained(method, optimizer), trained(method, optimizer, padded=True)
    active = crop_latents(wide, K)
    assert all(np.array_equal(*pair) for pair in zip(wide, pad_latents(active, WIDE), strict=True))
    assert_close(active, narrow, factor=1000)


@every_optimizer
@every_method
def test_training_commutes_with_rotations_exactly_where_the_optimiser_is_flagged(method, optimizer):
    moved = change_basis(trained(method, optimizer), jnp.asarray(BASIS))
    rotated = trained(method, optimizer, rotated=True)
    if OPTIMIZERS[optimizer].rotation_equivariant or not METHODS[method].reads_optimizer:
        assert_close(rotated, moved, factor=10_000)
    else:
        assert jnp.max(jnp.abs(rotated.decoder - moved.decoder)) > 1e-3


@every_optimizer
@every_method
def test_training_lowers_what_the_method_descends(method, optimizer):
    expected = {"nested_dropout": "deterministic_nested_dropout"}.get(method, method)
    descended = jax.jit(METHODS[expected].loss)
    before, after = (
        descended(params, problem(method).data, None, problem(method).hyperparameter)
        for params in (start(method), trained(method, optimizer))
    )
    assert after < before - 0.1


@every_method
def test_rows_say_whether_an_optimiser_makes_a_difference(method):
    ends = [trained(method, optimizer).decoder for optimizer in ("sgd", "adam")]
    assert np.array_equal(*ends) != METHODS[method].reads_optimizer


def test_on_mini_batches_aligned_descent_turns_by_a_running_moment():
    row, params = METHODS["aligned"], random_params(4, K, M)
    moments = [row.update_rule(optax.sgd(0.1), batches).init(params)[1].moment for batches in (False, True)]
    assert moments[0] is None and moments[1].shape == (K, K)


def test_names_are_those_that_commands_and_files_use():
    pinned = [
        "lae",
        "uniform_l2",
        "non_uniform_l2",
        "nested_dropout",
        "deterministic_nested_dropout",
        "linear_vae",
        "rag",
    ]
    assert list(METHODS)[: len(pinned)] == pinned
    assert list(OPTIMIZERS)[:3] == ["sgd", "nesterov", "adam"]
    assert len({method.label for method in METHODS.values()}) == len(METHODS)


@every_method
def test_rows_of_the_table_say_what_the_loss_takes(method):
    row = METHODS[method]
    params = row.lift(random_params(4, K, M))
    assert type(params) is (VAEParams if method == "linear_vae" else LAEParams)
    if not row.needs_samples:
        data = Dense(jnp.asarray(ROWS.T @ ROWS / N))
        loss = row.loss(params, data, None, HYPERPARAMETERS[row.hyperparameter])
        assert_close(loss, row.loss(params, Samples(jnp.asarray(ROWS)), None, HYPERPARAMETERS[row.hyperparameter]))
    else:
        with pytest.raises(AttributeError):
            row.loss(params, Dense(jnp.eye(M)), jax.random.key(0), HYPERPARAMETERS[row.hyperparameter])


# What a row says of itself


def l1(params, data, key, hyperparameter):
    """A loss that a rotation of the inputs changes: by a little, where there are data."""
    return objectives.reconstruction(params, data) + 1e-5 * jnp.sum(jnp.abs(params.encoder))


def shifted(params, data, key, hyperparameter):
    """Eq. (1) under another name, and a constant that changes no gradient."""
    return objectives.reconstruction(params, data) + 3.0


@every_method
def test_rows_of_the_table_are_what_they_say(method):
    row = METHODS[method]
    claims.check_claims(row._replace(label="a copy, which is checked"), K, M)
    for wing, name in ((landscape, row.optimum), (closed_form, row.spectrum)):
        assert name is None or callable(getattr(wing, name))


def sign_descent(optimizer):
    return optax.chain(optax.scale_by_sign(), optimizer)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (METHODS["lae"]._replace(loss=l1), "rotation_invariant"),
        (methods.Method("l1", l1, rotation_invariant=True), "rotation_invariant"),
        (METHODS["lae"]._replace(rule=sign_descent), "rotation_invariant"),
        (METHODS["rag"]._replace(loss=l1), "rotation_invariant"),
        *((METHODS[name]._replace(loss=l1), "for another loss") for name in METHODS if METHODS[name].rule_for),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_a_row_that_is_not_what_it_says_is_refused_before_the_first_step(row, message):
    params = row.lift(random_params(4, K, M))
    with pytest.raises(InputError, match=message) as raised:
        row.update_rule(optax.sgd(0.1))
        initial_state(Recipe(row, OPTIMIZERS["sgd"].build), problem("lae"), params)
    assert str(raised.value).startswith("method: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "row",
    [
        methods.Method("l1", l1),
        METHODS["aligned"]._replace(label="mine", rule=METHODS["lae"].rule, rule_for=None, loss=shifted),
        *(METHODS[name]._replace(loss=shifted) for name in ("lae", "rag")),
    ],
)
def test_a_row_that_claims_what_is_true_trains(row):
    recipe, one = Recipe(row, OPTIMIZERS["sgd"].build), problem("lae")
    state = step(recipe, one, initial_state(recipe, one, row.lift(random_params(4, K, M))))
    assert int(state.step) == 1 and all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state.params))


def counting(method):
    """A method whose loss counts how often it is traced."""
    calls = []

    def loss(*arguments):
        calls.append(None)
        return method.loss(*arguments)

    return method._replace(loss=loss), calls


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [("nested_dropout", "sgd"), ("linear_vae", "sgd"), *(("rag", optimizer) for optimizer in OPTIMIZERS)],
)
def test_one_program_serves_every_learning_rate(method, optimizer):
    counted, calls = counting(METHODS[method])
    recipe = Recipe(counted, OPTIMIZERS[optimizer].build)
    params = start(method)

    def final(learning_rate):
        each = problem(method, learning_rate=learning_rate)
        return step(recipe, each, initial_state(recipe, each, params)).params

    batched = jax.jit(jax.vmap(final))
    ends = batched(jnp.array([0.001, 0.01, 0.03]))
    traces = len(calls)
    again = batched(jnp.array([0.03, 0.002, 0.001]))
    assert len(calls) == traces > 0
    assert_close(jax.tree.map(lambda leaf: leaf[0], again), jax.tree.map(lambda leaf: leaf[2], ends))
    alone = train(Recipe(METHODS[method], OPTIMIZERS[optimizer].build), problem(method, learning_rate=0.01), params, 1)
    assert_close(jax.tree.map(lambda leaf: leaf[1], ends), alone)


def test_a_plain_number_as_learning_rate_does_not_compile_again():
    counted, calls = counting(METHODS["rag"])
    recipe = Recipe(counted, OPTIMIZERS["nesterov"].build)
    claims.check_claims(counted, K, M)
    checked = len(calls)
    ends = [train(recipe, problem("rag", learning_rate=rate), start("rag"), 2) for rate in (0.01, 0.02)]
    assert len(calls) == checked + 1
    assert not np.array_equal(ends[0].decoder, ends[1].decoder)


def test_nested_dropout_is_random_by_its_key_alone():
    recipe = Recipe(METHODS["nested_dropout"], OPTIMIZERS["sgd"].build)

    def end(key):
        each = problem("nested_dropout", learning_rate=LEARNING_RATES["sgd"], key=key)
        return train(recipe, each, start("nested_dropout")).decoder

    assert np.array_equal(end(3), trained("nested_dropout", "sgd").decoder)
    assert not np.allclose(end(4), end(3), atol=1e-3)


def test_nested_dropout_draws_new_masks_each_step():
    """Two steps from one start differ by the masks, so a loss of one key is not that of the other."""
    recipe = Recipe(METHODS["nested_dropout"], OPTIMIZERS["sgd"].build)
    each = problem("nested_dropout")
    state = initial_state(recipe, each, start("nested_dropout"))
    later = state._replace(step=state.step + 1)
    ends = [compiled_step(recipe, each, which).params.decoder for which in (state, later)]
    assert not np.allclose(*ends, atol=1e-6)


def test_nested_dropout_loss_is_that_of_the_masks_of_its_key():
    key, prior, params = jax.random.key(5), HYPERPARAMETERS["prior"], random_params(6, K, M)
    kept = objectives.sample_kept(key, prior, N)
    direct = jnp.sum((ROWS - (kept * (ROWS @ params.encoder.T)) @ params.decoder.T) ** 2) / N
    assert_close(METHODS["nested_dropout"].loss(params, Samples(jnp.asarray(ROWS)), key, prior), direct)


# Algorithm 1


MATRIX = ROWS.T @ ROWS / N


def rag_directions(params):
    """(dW1 - A W1, dW2 + W2 A) with everything written out."""
    encoder, decoder = map(np.asarray, params)
    error = np.eye(M) - decoder @ encoder
    moment = encoder @ MATRIX @ encoder.T
    rotation = np.array([[np.sign(j - i) * moment[i, j] / 2 for j in range(K)] for i in range(K)])
    return LAEParams(
        -2 * decoder.T @ error @ MATRIX - rotation @ encoder, -2 * error @ MATRIX @ encoder.T + decoder @ rotation
    )


def test_rag_goes_before_momentum():
    """Two steps of Algorithm 1 under Nesterov momentum, by hand."""
    rate, momentum = 0.01, 0.8
    params = random_params(7, K, M)
    each = Problem(Dense(jnp.asarray(MATRIX)), rate, jax.random.key(0), momentum=momentum)
    end = train(Recipe(METHODS["rag"], OPTIMIZERS["nesterov"].build), each, params, 2)
    velocity = jax.tree.map(np.zeros_like, params)
    for _ in range(2):
        direction = rag_directions(params)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, direction)
        params = jax.tree.map(lambda w, g, v: w - rate * (g + momentum * v), params, direction, velocity)
    assert_close(end, params)


def l1_penalty(params):
    return 0.05 * (jnp.sum(jnp.abs(params.encoder)) + 2 * jnp.sum(jnp.abs(params.decoder)))


@pytest.mark.parametrize("method", ["rag", "balanced_rag"])
def test_a_row_whose_loss_is_replaced_trains_that_loss(method):
    """Algorithm 1 on Eq. (1) plus an l1 penalty, by hand."""
    row = METHODS[method]
    changed = row._replace(
        loss=lambda params, *rest: row.loss(params, *rest) + l1_penalty(params), rotation_invariant=False
    )
    each = Problem(Dense(jnp.asarray(MATRIX)), 0.02, jax.random.key(0))
    end = train(Recipe(changed, OPTIMIZERS["sgd"].build), each, random_params(7, K, M), 3)
    encoder, decoder = map(np.asarray, random_params(7, K, M))
    for _ in range(3):
        down = rag_directions(LAEParams(encoder, decoder))
        if method == "balanced_rag":
            moment = encoder @ MATRIX @ encoder.T
            rotation = np.triu(moment, 1) / 2 - np.tril(moment, -1) / 2
            imbalance = encoder @ encoder.T - decoder.T @ decoder
            more = 3 * rotation - 0.5 * moment.diagonal().max() * imbalance  # gain 4 beside the 1 in `down`
            down = LAEParams(down.encoder - more @ encoder, down.decoder + decoder @ more)
        encoder, decoder = (
            encoder - 0.02 * (down.encoder + 0.05 * np.sign(encoder)),
            decoder - 0.02 * (down.decoder + 0.1 * np.sign(decoder)),
        )
    assert_close(end, LAEParams(encoder, decoder))


def test_the_rotation_is_skew_and_moves_the_map_by_second_order_only():
    params = random_params(8, K, M)
    rotation = skew_rotation(second_moment(params.encoder, Dense(jnp.asarray(MATRIX))))
    assert_close(rotation, -rotation.T)
    assert jnp.linalg.norm(rotation) > 0.1
    no_gradient = jax.tree.map(jnp.zeros_like, params)
    transform = rotation_augmented_gradient()
    turned, _ = transform.update(no_gradient, transform.init(params), params, covariance=Dense(jnp.asarray(MATRIX)))

    # (W1, W2) <- ((I + h A) W1, W2 (I - h A)), so that E becomes E - h^2 W2 A^2 W1.
    size = 0.1
    encoder, decoder = (weight - size * update for weight, update in zip(params, turned, strict=True))
    expected = params.decoder @ (jnp.eye(K) - size**2 * rotation @ rotation) @ params.encoder
    assert_close(decoder @ encoder, expected)


def test_rag_leaves_other_fields_and_precisions_alone():
    params = cast(VAEParams(*random_params(9, K, M), jnp.ones(K), jnp.ones(())), jnp.float32)
    transform = rotation_augmented_gradient()
    updates, _ = transform.update(params, transform.init(params), params, covariance=cast(Dense(MATRIX), jnp.float32))
    assert np.array_equal(updates.latent_log_variance, params.latent_log_variance)
    assert np.array_equal(updates.noise_log_variance, params.noise_log_variance)
    assert {leaf.dtype for leaf in updates} == {jnp.dtype(jnp.float32)}
