"""Rules in models of one's own: the same as on bare weights, and blind to everything but the latents."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lae_jax import baselines, objectives
from lae_jax.covariance import Samples, second_moment
from lae_jax.errors import InputError
from lae_jax.latent_layers import LAYOUTS, in_model, latent_covariance
from lae_jax.params import LAEParams
from lae_jax.rotation import (
    aligned_descent,
    augmented_reconstruction_gradient,
    least_squares_gradient,
    rotation_augmented_gradient,
)
from lae_jax.transformations import bounded, cayley, jacobi_angles, rotating_frame
from tests.helpers import assert_close, normal, on_devices, random_params

K, M, N = 3, 6, 40
GUIDE = Path(__file__).parents[1] / "docs" / "your_model.md"
ROWS = jnp.asarray(normal(0, N, M) @ np.diag([2.0, 1.5, 1.0, 0.7, 0.5, 0.3]))
ROWS = ROWS - ROWS.mean(axis=0, keepdims=True)
DATA = Samples(ROWS)

# Rules that read the latents alone, and with them those that read the covariance.
OF_LATENTS = {
    "Algorithm 1": lambda: optax.chain(rotation_augmented_gradient(), optax.sgd(1e-2, 0.9, nesterov=True)),
    "balanced": lambda: optax.chain(rotation_augmented_gradient(2.0, 0.5), optax.adam(1e-2)),
    "rotating frame": lambda: rotating_frame(optax.adamw(1e-2), 0.5),
    "rotation and balance in a frame": lambda: rotating_frame(
        optax.chain(rotation_augmented_gradient(0.3, 0.5), optax.adam(1e-2))
    ),
    "goldstone": lambda: baselines.goldstone(optax.adam(1e-2)),
}
OF_COVARIANCE = {
    "aligned descent": lambda: aligned_descent(optax.sgd(1e-2, 0.9)),
    "generalised Hebbian": lambda: baselines.generalized_hebbian(optax.sgd(1e-2)),
}


def stored(params, layout):
    """The weights of a linear autoencoder as a user's tree."""
    return {"net": [{"kernel": LAYOUTS[layout](weights)} for weights in params]}


def weights(tree, layout):
    return LAEParams(*(LAYOUTS[layout](layer["kernel"]) for layer in tree["net"]))


def descend(rule, params, loss, steps, **statistics):
    """Params after these steps; each of `statistics` is a function of the params."""

    def step(carry, _):
        params, state = carry
        known = {name: value(params) for name, value in statistics.items()}
        updates, state = rule.update(jax.grad(loss)(params), state, params, **known)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, rule.init(params)), None, length=steps)[0][0]


@pytest.mark.parametrize("name", OF_LATENTS | OF_COVARIANCE)
def test_on_a_linear_model_it_is_the_rule_itself_in_both_layouts_and_from_latents(name):
    rule = (OF_LATENTS | OF_COVARIANCE)[name]
    start = random_params(1, K, M)

    @jax.jit
    def run(start):
        loss = functools.partial(objectives.reconstruction, covariance=DATA)
        ends = [descend(rule(), start, loss, 3, covariance=lambda _: DATA)]
        for layout in LAYOUTS:
            wrapped = in_model(rule(), encoder="net.0.kernel", decoder="net.1.kernel", layout=layout)

            def own_loss(tree, layout=layout):
                return loss(weights(tree, layout))

            ways = [{"covariance": lambda _: DATA}]
            if name in OF_LATENTS:
                ways.append({"latents": lambda tree, layout=layout: ROWS @ weights(tree, layout).encoder.T})
            for statistics in ways:
                end = descend(wrapped, stored(start, layout), own_loss, 3, **statistics)
                ends.append(weights(end, layout))
        return ends

    bare, *ends = run(start)
    assert len(ends) == (4 if name in OF_LATENTS else 2)
    assert jnp.max(jnp.abs(bare.decoder - start.decoder)) > 1e-3
    for end in ends:
        assert_close(end, bare, factor=1e4)


# A non-linear network with biases.


def network(seed=0, latent_dim=K):
    widths = [M, 5, latent_dim, 4, M]
    return {
        name: {
            "weight": jnp.asarray(normal(seed + i, widths[i + 1], widths[i])) / widths[i] ** 0.5,
            "bias": jnp.asarray(normal(seed + 9 + i, widths[i + 1])),
        }
        for i, name in enumerate(["features", "encoder", "decoder", "output"])
    }


def linear(layer, h):
    return h @ layer["weight"].T + layer["bias"][None, :]


def encode(params):
    return linear(params["encoder"], jnp.tanh(linear(params["features"], ROWS)))


def reconstruct(params):
    return linear(params["output"], jnp.tanh(linear(params["decoder"], encode(params))))


def error(params):
    return jnp.mean(jnp.sum((reconstruct(params) - ROWS) ** 2, axis=1))


LAYERS = {"encoder": "encoder.weight", "bias": "encoder.bias", "decoder": "decoder.weight", "layout": "out_in"}


def test_the_frame_leaves_what_the_network_computes_exactly_alone():
    rule = in_model(rotating_frame(optax.adam(3e-2)), **LAYERS)
    ways = (optax.adam(3e-2), {}), (rule, {"latents": encode})
    plain, turned = jax.jit(lambda params: [descend(rule, params, error, 12, **known) for rule, known in ways])(
        network()
    )
    assert_close(reconstruct(turned), reconstruct(plain), factor=1e5)
    for layer in ("features", "output"):
        assert_close(turned[layer], plain[layer], factor=1e5)
    assert_close(turned["decoder"]["bias"], plain["decoder"]["bias"], factor=1e5)
    assert jnp.max(jnp.abs(turned["encoder"]["bias"] - plain["encoder"]["bias"])) > 0.1
    moments = [latent_covariance(encode(params)) for params in (network(), turned)]
    before, after = (np.abs(moment - np.diag(np.diagonal(moment))).max() for moment in moments)
    assert after < 0.1 * before
    assert np.all(np.diff(np.diagonal(moments[1])) < 0)


def test_weights_and_bias_of_the_encoder_turn_with_the_latents_and_nothing_else_does():
    params = network()
    rule = in_model(rotating_frame(optax.sgd(0.0)), **LAYERS)
    moved = jax.jit(lambda params: descend(rule, params, error, 1, latents=encode))(params)
    latents = encode(params)
    centred = latents - latents.mean(axis=0, keepdims=True)
    moment = centred.T @ centred / N
    rotation = cayley(bounded(jacobi_angles(moment)))
    expected = params | {
        "encoder": {name: rotation @ value for name, value in params["encoder"].items()},
        "decoder": params["decoder"] | {"weight": params["decoder"]["weight"] @ rotation.T},
    }
    assert_close(moved, expected)
    assert_close(encode(moved), latents @ rotation.T)


@pytest.mark.parametrize("balance", [None, 0.7])
def test_the_augmented_gradient_conserves_the_loss_to_first_order(balance):
    rule = in_model(rotation_augmented_gradient(balance=balance), **LAYERS)

    @jax.jit
    def slope(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        added, _ = rule.update(zeros, rule.init(params), params, latents=encode(params))
        return added, jax.jvp(error, (params,), (added,))[1]

    added, change = slope(network())
    assert jnp.max(jnp.abs(added["encoder"]["bias"])) > 1e-3
    assert_close(change, 0.0)


def test_the_moment_is_about_the_mean_and_that_of_the_paper_where_data_are_centred():
    params = random_params(2, K, M)
    latents = ROWS @ params.encoder.T
    assert_close(latent_covariance(latents), second_moment(params.encoder, DATA))
    assert_close(latent_covariance(latents + 7.0), second_moment(params.encoder, DATA), factor=1e4)
    assert not jnp.any(latent_covariance(latents[:1]))


def test_a_low_precision_leaf_keeps_its_type():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), network())
    rule = in_model(rotating_frame(optax.adam(1e-2)), **LAYERS)
    wide = encode(network())  # float64
    ends = jax.eval_shape(lambda params: descend(rule, params, error, 2, latents=lambda _: wide), params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(ends))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "encoder.kernel"}, "encoder: 'encoder.kernel' is not known; did you mean 'encoder.weight'"),
        ({"bias": "bias"}, "bias: 'bias' is not known; .* known: decoder.bias, decoder.weight, encoder.bias"),
        ({"layout": "io"}, "layout: 'io' is not known.*in_out, out_in"),
        ({"layout": "in_out"}, r"decoder: 'decoder.weight' takes 4 latents where 'encoder.weight' gives 5.*in_out"),
        ({"encoder": "encoder.bias"}, r"encoder: 'encoder.bias' has shape \(3,\)"),
        ({"bias": "decoder.bias"}, r"bias: 'decoder.bias' has shape \(4,\); need \(3,\)"),
    ],
)
def test_what_does_not_fit_is_one_line(change, message):
    with pytest.raises(InputError, match=message) as told:
        in_model(rotating_frame(optax.sgd(0.1)), **(LAYERS | change)).init(network())
    assert "\n" not in str(told.value)


def test_a_covariance_is_refused_where_the_layers_are_not_those_of_a_linear_model():
    wrapped = in_model(least_squares_gradient(), **(LAYERS | {"bias": None}))
    with pytest.raises(InputError, match="covariance: is for the linear model x -> W2 W1 x"):
        wrapped.update(network(), wrapped.init(network()), network(), covariance=DATA)


@pytest.mark.parametrize(
    ("rule", "statistics", "message"),
    [
        (rotation_augmented_gradient, {}, "latents, moment, covariance: give update one of them"),
        (rotation_augmented_gradient, {"latents": jnp.ones((N, 4))}, r"latents: shape \(40, 4\); need \(n, 3\)"),
        (rotation_augmented_gradient, {"covariance": DATA}, "covariance: is for the linear model"),
        (least_squares_gradient, {"latents": jnp.ones((N, K))}, "linear model x -> W2 W1 x alone"),
        (
            lambda: augmented_reconstruction_gradient(),
            {"latents": jnp.ones((N, K))},
            "linear model x -> W2 W1 x alone",
        ),
        (lambda: baselines.oja(optax.sgd(0.1)), {"latents": jnp.ones((N, K))}, "linear model x -> W2 W1 x alone"),
    ],
)
def test_missing_and_unfit_statistics_are_one_line(rule, statistics, message):
    params = network()
    wrapped = in_model(rule(), **LAYERS)
    with pytest.raises(InputError, match=message) as told:
        wrapped.update(params, wrapped.init(params), params, **statistics)
    assert "\n" not in str(told.value)


# What the inner optimiser sees: the user's own tree, so that the network is the one of plain training.


def named(tree, name):
    return jax.tree_util.tree_map_with_path(lambda path, _: name in jax.tree_util.keystr(path), tree)


def by_role(tree):
    return jax.tree.map(lambda is_bias: "bias" if is_bias else "weight", named(tree, "bias"))


OPTIMISERS = {
    "sgd with momentum": lambda: optax.sgd(1e-3, 0.9, nesterov=True),
    "adam": lambda: optax.adam(1e-2),
    "adamw, mask by ndim": lambda: optax.adamw(
        1e-2, weight_decay=0.3, mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)
    ),
    "adamw, mask by name": lambda: optax.adamw(1e-2, weight_decay=0.3, mask=lambda tree: named(tree, "weight")),
    "lamb": lambda: optax.lamb(1e-2),
    "lars": lambda: optax.lars(1e-2),
    "adafactor": lambda: optax.adafactor(1e-2, min_dim_size_to_factor=2),
    "muon": lambda: optax.contrib.muon(1e-2),
    "lion": lambda: optax.lion(1e-3),
    "rmsprop": lambda: optax.rmsprop(1e-2),
    "adagrad": lambda: optax.adagrad(1e-2),
    "lbfgs": lambda: optax.lbfgs(memory_size=3),
}
WRAPPERS = {
    "chain after clip_by_block_rms": lambda: optax.chain(optax.clip_by_block_rms(0.1), optax.sgd(1e-2)),
    "multi_transform by a tree": lambda: optax.multi_transform(
        {"weight": optax.adam(1e-2), "bias": optax.set_to_zero()}, by_role(network())
    ),
    "masked": lambda: optax.chain(
        optax.masked(optax.add_decayed_weights(0.1), named(network(), "weight")), optax.adam(1e-2)
    ),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(1e-2),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
    "schedule_free_adamw": lambda: optax.contrib.schedule_free_adamw(1e-2),
}


def table_of_the_guide():
    """Optimiser or wrapper -> the largest relative difference of outputs that docs/your_model.md states."""
    rows = re.findall(r"^\| ([^|]*) \| (\d[0-9.e-]*) \|$", GUIDE.read_text(), re.MULTILINE)
    return {name: float(bound) for name, bound in rows}


def test_the_guide_states_every_optimiser_and_wrapper():
    assert set(table_of_the_guide()) == set(OPTIMISERS | WRAPPERS)


@pytest.mark.parametrize("name", OPTIMISERS | WRAPPERS)
def test_an_optimiser_in_the_frame_trains_the_network_of_plain_training(name):
    make = (OPTIMISERS | WRAPPERS)[name]
    ways = (
        (optax.with_extra_args_support(make()), {}),
        (in_model(rotating_frame(make()), **LAYERS), {"latents": encode}),
    )

    def outputs(rule, known):
        def step(carry, _):
            params, state = carry
            value, gradients = jax.value_and_grad(error)(params)
            more = {"value": value, "grad": gradients, "value_fn": error} if name == "lbfgs" else {}
            read = {key: statistic(params) for key, statistic in known.items()}
            updates, state = rule.update(gradients, state, params, **more, **read)
            return (optax.apply_updates(params, updates), state), None

        start = network()
        return reconstruct(jax.lax.scan(step, (start, rule.init(start)), None, length=20)[0][0])

    plain, turned = jax.jit(lambda: [outputs(*way) for way in ways])()
    assert jnp.max(jnp.abs(plain - reconstruct(network()))) > 1e-3
    difference = jnp.max(jnp.abs(plain - turned)) / jnp.max(jnp.abs(plain))
    assert difference <= table_of_the_guide()[name], difference


# What wraps a frame: it passes on whole steps and whole batches, or is refused.


def is_weight(tree):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


WHOLE_STEPS = {
    "apply_if_finite": lambda rule: optax.apply_if_finite(rule, 5),
    "every other step": lambda rule: optax.conditionally_mask(rule, lambda step: step % 2 == 0),
    "behind a clipping": lambda rule: optax.chain(optax.clip_by_global_norm(0.1), rule),
    "multi_transform": lambda rule: optax.multi_transform(
        {"weight": rule, "rest": optax.sgd(1e-2)}, jax.tree.map(lambda _: "weight", network()) | {"output": "rest"}
    ),
}


def test_wrappers_of_whole_steps_around_a_frame_train_the_network_of_plain_training():
    def outputs(rule, **statistics):
        return reconstruct(descend(optax.with_extra_args_support(rule), network(), error, 4, **statistics))

    @jax.jit
    def pairs():
        plain = optax.sgd(1e-2, 0.9)
        frame = in_model(rotating_frame(plain), **LAYERS)
        return {
            name: (outputs(around(plain)), outputs(around(frame), latents=encode))
            for name, around in WHOLE_STEPS.items()
        }

    start = reconstruct(network())
    for name, (plain, turned) in pairs().items():
        assert jnp.max(jnp.abs(plain - start)) > 1e-3, name
        assert_close(turned, plain, factor=1e3)


PARTS_OF_STEPS = {
    "scale": lambda rule: optax.chain(rule, optax.scale(0.5)),
    "clip": lambda rule: optax.chain(rule, optax.clip(1e-3)),
    "a schedule": lambda rule: optax.chain(rule, optax.scale_by_schedule(optax.linear_schedule(0.0, 1.0, 5))),
    "ema": lambda rule: optax.chain(rule, optax.ema(0.9)),
    "apply_every": lambda rule: optax.chain(rule, optax.apply_every(2)),
    "weight decay": lambda rule: optax.chain(rule, optax.add_decayed_weights(-1e-3)),
    "schedule-free": lambda rule: optax.contrib.schedule_free(rule, 1e-2),
    "steps that are gradients": lambda rule: optax.conditionally_transform(rule, lambda step: step % 2 == 0),
}
BARE = random_params(1, K, M)
# A rule -> (it in a model, or bare), its start, loss and statistics.
PLACES = {
    "in a model": (lambda rule: in_model(rule, **LAYERS), network, error, {"latents": encode}),
    "bare": (
        lambda rule: rule,
        lambda: BARE,
        functools.partial(objectives.reconstruction, covariance=DATA),
        {"covariance": lambda _: DATA},
    ),
}


@pytest.mark.parametrize(("name", "place"), [("scale", "in a model"), *((name, "bare") for name in PARTS_OF_STEPS)])
def test_what_takes_a_part_of_a_step_of_a_frame_is_refused(name, place):
    put, start, loss, statistics = PLACES[place]
    rule = PARTS_OF_STEPS[name](put(rotating_frame(optax.sgd(1e-2))))
    params = start()
    state = rule.init(params)
    step = jax.jit(
        lambda params, state: rule.update(
            jax.grad(loss)(params), state, params, **{key: read(params) for key, read in statistics.items()}
        )
    )
    with pytest.raises(Exception, match="Transformations behind it in a chain"):
        for _ in range(3):
            updates, state = step(params, state)
            params = jax.block_until_ready(optax.apply_updates(params, updates))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "rule",
    [
        lambda: rotating_frame(optax.sgd(0.1)),
        lambda: optax.chain(optax.clip(1.0), rotating_frame(optax.sgd(0.1))),
        rotation_augmented_gradient,
    ],
)
def test_the_last_part_of_a_large_batch_is_not_taken_for_the_whole(rule, place):
    put, start, _, statistics = PLACES[place]
    params = start()
    known = {key: read(params) for key, read in statistics.items()}
    for wrapped in (optax.MultiSteps(put(rule()), 4), optax.MultiSteps(optax.apply_if_finite(put(rule()), 5), 4)):
        with pytest.raises(InputError, match=r"within optax.MultiSteps .* put MultiSteps inside") as told:
            jax.eval_shape(lambda w=wrapped: w.update(params, w.init(params), params, **known))
        assert "\n" not in str(told.value)
    # What is known of the whole batch is taken; and a wrapper that keeps the statistics to itself is told of.
    whole = {"moment": jnp.eye(K)} if "latents" in known else {"covariance": jnp.eye(M)}
    updates, _ = jax.eval_shape(lambda: wrapped.update(params, wrapped.init(params), params, **whole))
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    silent = put(optax.chain(optax.MultiSteps(rule(), 4).gradient_transformation()))
    with pytest.raises(InputError, match=r"covariance: None; .* do not pass it on"):
        silent.update(params, silent.init(params), params, **known)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_and_solved_in_single(dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), network())
    latents = (300 * encode(network())).astype(dtype)  # squares beyond what float16 holds
    rule = in_model(rotating_frame(optax.sgd(0.0)), **LAYERS)
    zeros = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    def step(params):
        updates, _ = rule.update(zeros, rule.init(params), params, latents=latents)
        return optax.apply_updates(params, updates)

    moved = step(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype(dtype)}
    rotation = cayley(bounded(jacobi_angles(latent_covariance(latents.astype(jnp.float32)))))
    for part, expected in (("weight", rotation), ("bias", rotation)):
        wanted = expected @ params["encoder"][part].astype(jnp.float32)
        assert_close(
            moved["encoder"][part].astype(jnp.float32), wanted, factor=float(4 * jnp.finfo(dtype).eps / 1.2e-7)
        )


def test_the_moment_may_be_given_and_is_that_of_the_latents():
    params, rule = network(), in_model(rotating_frame(optax.sgd(1e-2)), **LAYERS)
    given = {"latents": encode, "moment": lambda params: latent_covariance(encode(params))}
    ends = [jax.jit(lambda p, n=n, f=f: descend(rule, p, error, 2, **{n: f}))(params) for n, f in given.items()]
    assert_close(*ends)
    with pytest.raises(InputError, match=r"moment: shape \(2, 2\); need \(3, 3\)"):
        rule.update(params, rule.init(params), params, moment=jnp.eye(2))


def test_a_running_moment_is_the_weighted_mean_of_the_moments_so_far_in_the_axes_of_now():
    params, rule = network(), in_model(rotating_frame(optax.sgd(0.0), average=1.5), **LAYERS)
    state, mean, turned = rule.init(params), jnp.zeros((K, K)), jnp.eye(K)
    step = jax.jit(lambda state, params, latents: rule.update(params, state, params, latents=latents))
    for index in range(4):
        latents = encode(params)[index * 10 : index * 10 + 10]
        weight = 1.5 / (index + 1.5)
        mean = (1 - weight) * mean + weight * turned.T @ latent_covariance(latents) @ turned  # in the first axes
        updates, state = step(state, params, latents)
        params = optax.apply_updates(params, updates)
        turned = state.frame
        assert_close(state.moment, turned @ mean @ turned.T)


DATA_PARALLEL = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import PartitionSpec as P
from tests.test_latent_layers import LAYERS, ROWS, network
from lae_jax.latent_layers import in_model
from lae_jax.transformations import rotating_frame
jax.config.update("jax_enable_x64", True)
rows = jnp.concatenate([ROWS[:20], 3 * ROWS[20:]])
def linear(layer, h): return h @ layer["weight"].T + layer["bias"][None, :]
def loss(p, x):
    z = linear(p["encoder"], jnp.tanh(linear(p["features"], x)))
    return jnp.mean(jnp.sum((linear(p["output"], jnp.tanh(linear(p["decoder"], z))) - x) ** 2, axis=1)), z
def train(axis_name):
    rule = in_model(rotating_frame(optax.adam(1e-2)), axis_name=axis_name, **LAYERS)
    def run(x):
        def step(carry, _):
            p, s = carry
            g, z = jax.grad(loss, has_aux=True)(p, x)
            g = g if axis_name is None else jax.lax.pmean(g, axis_name)
            u, s = rule.update(g, s, p, latents=z)
            return (optax.apply_updates(p, u), s), None
        p = network()
        return jax.lax.scan(step, (p, rule.init(p)), None, length=10)[0][0]
    return run
one = jax.jit(train(None))(rows)
each = jax.pmap(train("devices"), axis_name="devices")(rows.reshape(2, 20, -1))
mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
halves = jax.shard_map(train("devices"), mesh=mesh, in_specs=P("devices"), out_specs=P(), check_vma=False)
spread = jax.jit(halves)(rows)
for a, b, c in zip(*map(jax.tree.leaves, (one, each, spread))):
    assert np.array_equal(b[0], b[1])
    np.testing.assert_allclose(b[0], a, atol=1e-11)
    np.testing.assert_allclose(c, a, atol=1e-11)
"""


def test_two_devices_with_half_the_samples_each_train_as_one():
    done = on_devices(2, DATA_PARALLEL)
    assert done.returncode == 0, done.stderr[-2000:]


# Training loops of others.


def test_an_equinox_model_is_refused_whole_where_optax_needs_arrays_and_taken_where_it_does_not():
    eqx = pytest.importorskip("equinox")

    class Autoencoder(eqx.Module):
        encoder: eqx.nn.MLP
        decoder: eqx.nn.MLP

    keys = jax.random.split(jax.random.key(0))
    model = Autoencoder(eqx.nn.MLP(M, K, 5, 1, key=keys[0]), eqx.nn.MLP(K, M, 5, 1, key=keys[1]))
    layers = {"encoder": "encoder.layers.1.weight", "bias": "encoder.layers.1.bias"}
    rule = in_model(rotating_frame(optax.adam(1e-2)), decoder="decoder.layers.0.weight", layout="out_in", **layers)
    with pytest.raises(InputError, match=r"params: 'encoder.activation' is a .*give eqx.filter") as told:
        rule.init(model)
    assert "\n" not in str(told.value)
    state = rule.init(eqx.filter(model, eqx.is_inexact_array))
    gradients = eqx.filter_grad(lambda model: jnp.mean(jax.vmap(lambda x: model.decoder(model.encoder(x)))(ROWS) ** 2))(
        model
    )
    latents = jax.vmap(model.encoder)(ROWS)
    ends = [
        rule.update(gradients, state, given, latents=latents)[0]
        for given in (model, eqx.filter(model, eqx.is_inexact_array))
    ]
    assert_close(*ends)


def test_a_train_state_of_flax_is_told_how_to_pass_latents():
    train_state = pytest.importorskip("flax.training.train_state")
    params = network()
    state = train_state.TrainState.create(
        apply_fn=None, params=params, tx=in_model(rotating_frame(optax.adam(1e-2)), **LAYERS)
    )
    with pytest.raises(InputError, match=r"TrainState cannot pass them on: call state.tx.update") as told:
        state.apply_gradients(grads=params)
    assert "\n" not in str(told.value)
    updates, inner = state.tx.update(params, state.opt_state, state.params, latents=encode(params))
    state = state.replace(step=state.step + 1, params=optax.apply_updates(params, updates), opt_state=inner)
    assert jnp.max(jnp.abs(state.params["encoder"]["weight"] - params["encoder"]["weight"])) > 1e-3
