"""A non-linear autoencoder whose latents are ordered: by a rotating frame, by nested dropout, or not at all.

The network is a Flax one; errors are those of samples held out, with the latents that are not kept at their mean.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from lae_jax import objectives
from lae_jax.errors import InputError
from lae_jax.latent_layers import in_model, latent_covariance
from lae_jax.params import Array, Tree
from lae_jax.rotation import rotating_frame

Loss = Callable[[Array], Array]  # latents less their mean (n, k) -> mean squared error of what they decode to
Build = Callable[[optax.GradientTransformation, optax.Schedule], optax.GradientTransformation]


def _full(loss: Loss, latents: Array) -> Array:
    return loss(latents)


def _expected(loss: Loss, latents: Array) -> Array:
    latent_dim = latents.shape[-1]
    return objectives.expected_nested_dropout(loss, latents, jnp.full(latent_dim, 1 / latent_dim, latents.dtype))


class Way(NamedTuple):
    """How the network is trained: what is descended, and the rule around the optimiser."""

    label: str
    method: str  # of METHODS, whose colour it has
    objective: Callable[[Loss, Array], Array] = _full
    rule: Build = lambda optimizer, rate: optimizer


WAYS = {
    "plain": Way("plain", "lae"),
    "rotating_frame": Way("RAG (rotating frame)", "rag", rule=rotating_frame),
    "nested_dropout": Way("nested dropout, expectation", "deterministic_nested_dropout", objective=_expected),
}


class Network(NamedTuple):
    """Initial parameters and the two halves as functions of them."""

    params: Tree
    encode: Callable[[Tree, Array], Array]  # (params, rows (n, m)) -> latents (n, k)
    decode: Callable[[Tree, Array], Array]
    layers: dict[str, str]  # where the latents are, for `in_model`


def flax_network(input_dim: int, hidden: tuple[int, ...], latent_dim: int, seed: int, dtype: DTypeLike) -> Network:
    """Relu layers m - hidden - k - hidden reversed - m, linear at the latents and at the end."""
    try:
        from flax import nnx
    except ImportError:
        raise InputError("flax: not installed, and the network is a Flax one; pip install -e '.[test]'") from None
    rngs = nnx.Rngs(seed)

    def stack(*widths: int) -> nnx.Sequential:
        linear = [nnx.Linear(*pair, param_dtype=dtype, rngs=rngs) for pair in itertools.pairwise(widths)]
        return nnx.Sequential(*[layer for each in linear[:-1] for layer in (each, nnx.relu)], linear[-1])

    model = nnx.Dict(
        encoder=stack(input_dim, *hidden, latent_dim), decoder=stack(latent_dim, *reversed(hidden), input_dim)
    )
    graph, params = nnx.split(model)
    last = f"encoder.layers.{2 * len(hidden)}"
    return Network(
        params,
        lambda params, rows: nnx.merge(graph, params).encoder(rows),
        lambda params, latents: nnx.merge(graph, params).decoder(latents),
        {"encoder": f"{last}.kernel", "bias": f"{last}.bias", "decoder": "decoder.layers.0.kernel", "layout": "in_out"},
    )


def _error(network: Network, params: Tree, rows: Array, mean: Array) -> Loss:
    return lambda latents: jnp.mean(jnp.sum((rows - network.decode(params, mean + latents)) ** 2, axis=-1))


def train(
    way: Way,
    network: Network,
    rows: Array,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_steps: Callable[[int, float], None],
) -> Tree:
    """The parameters after `num_steps` of Adam on batches drawn from rows (n, m).

    `on_steps(steps, loss)` is called as they are taken. Raises InputError where the loss is not finite.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    # The angle of a batch is as noisy as its moments: less and less of it is taken.
    rate = optax.linear_schedule(1.0, 1 / num_steps, num_steps)
    rule = in_model(way.rule(optimizer, rate), **network.layers)

    def loss(params: Tree, batch: Array) -> tuple[Array, Array]:
        latents = network.encode(params, batch)
        mean = jnp.mean(latents, axis=0)
        return way.objective(_error(network, params, batch, mean), latents - mean), latents

    def step(carry: tuple[Tree, optax.OptState], index: Array) -> tuple[tuple[Tree, optax.OptState], Array]:
        params, state = carry
        key = jax.random.fold_in(jax.random.key(seed), index)
        batch = rows[jax.random.randint(key, (batch_size,), 0, len(rows))]
        (value, latents), gradients = jax.value_and_grad(loss, has_aux=True)(params, batch)
        updates, state = rule.update(gradients, state, params, latents=latents)
        return (optax.apply_updates(params, updates), state), value

    advance = jax.jit(lambda carry, steps: jax.lax.scan(step, carry, steps))
    carry = (network.params, rule.init(network.params))
    for steps in np.array_split(np.arange(num_steps), -(-num_steps // 100)):
        carry, values = advance(carry, jnp.asarray(steps))
        if not np.isfinite(values[-1]):
            raise InputError(f"learning_rate: {learning_rate}: the loss is not finite; choose a smaller one")
        on_steps(len(steps), float(values[-1]))
    return carry[0]


class Measured(NamedTuple):
    """What a trained network's latents hold."""

    errors: np.ndarray  # (k + 1,), mean squared error with the first b = 0..k latents kept
    sorted_errors: np.ndarray  # (k + 1,), the same after a rotation to the principal axes of the latents
    variances: np.ndarray  # (k,), of each latent
    correlation: float  # largest |correlation| of two latents


def measure(network: Network, params: Tree, rows: Array, held_out: np.ndarray) -> Measured:
    """Moments of the latents of rows (n, m), errors of samples held out."""
    latents = jax.jit(network.encode)(params, rows)
    mean, moment = jnp.mean(latents, axis=0), latent_covariance(latents)
    axes = jnp.linalg.eigh(moment)[1][:, ::-1]
    deviations = jnp.sqrt(jnp.diagonal(moment))

    @jax.jit
    def errors(batch: Array, basis: Array) -> Array:
        loss = _error(network, params, batch, mean)
        turned = (network.encode(params, batch) - mean) @ basis
        kept = objectives.losses_by_kept(lambda latents: loss(latents @ basis.T), turned)
        return jnp.concatenate([loss(jnp.zeros_like(turned))[None], kept])

    def average(basis: Array) -> np.ndarray:
        batches = np.array_split(held_out, -(-len(held_out) // 1000))
        return np.average([errors(batch, basis) for batch in batches], axis=0, weights=[len(each) for each in batches])

    correlations = moment / jnp.outer(deviations, deviations) - jnp.eye(len(moment))
    return Measured(
        average(jnp.eye(len(moment))),
        average(axes),
        np.asarray(deviations**2),
        float(jnp.nanmax(jnp.abs(correlations))),
    )
