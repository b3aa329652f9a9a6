"""Rules in models of one's own: the same as on bare weights, and blind to everything but the latents."""

import functools

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
    bounded,
    cayley,
    jacobi_angles,
    least_squares_gradient,
    rotating_frame,
    rotation_augmented_gradient,
)
from tests.helpers import assert_close, normal, random_params

K, M, N = 3, 6, 40
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
    return h @ layer["weight"].T + layer["bias"]


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
    moment = (latents - latents.mean(axis=0)).T @ (latents - latents.mean(axis=0)) / N
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
        (rotation_augmented_gradient, {}, "latents, covariance: give update one of them"),
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
