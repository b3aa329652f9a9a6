"""What a row of METHODS says of itself, held against what it does on a few random samples, at random weights."""

import functools
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lae_jax.covariance import Samples
from lae_jax.errors import InputError
from lae_jax.hyperparameters import HYPERPARAMETERS
from lae_jax.methods import SHIPPED, Method
from lae_jax.params import Array, LAEParams, Tree, TwoLayers, Value, Weights


class _Probe(NamedTuple):
    """A small problem in input coordinates: samples (n, m), weights, a value of the hyperparameter."""

    rows: Array
    weights: LAEParams
    hyperparameter: Value


def _probe(method: Method, latent_dim: int, input_dim: int) -> _Probe:
    draw = np.random.default_rng(0).standard_normal
    kind = HYPERPARAMETERS.get(method.hyperparameter or "")
    values = kind and jnp.asarray(kind.default(np.linspace(2.0, 1.0, input_dim), latent_dim), jnp.float32)
    encoder, decoder = (jnp.asarray(draw((latent_dim, input_dim)) / input_dim**0.5, jnp.float32) for _ in range(2))
    return _Probe(jnp.asarray(draw((6, input_dim)), jnp.float32), LAEParams(encoder, decoder.T), values)


def _reflected(values: Array, seed: int) -> Array:
    """Values (..., m) in a reflected basis, which takes no m x m matrix; a second one makes it a rotation."""
    drawn = np.random.default_rng(seed).standard_normal(values.shape[-1])
    normal = jnp.asarray(drawn / np.linalg.norm(drawn), values.dtype)
    return values - 2 * (values @ normal)[..., None] * jnp.broadcast_to(normal, values.shape)


def _rotated(values: Array) -> Array:
    return _reflected(_reflected(values, 1), 2)


def _rotated_weights(params: TwoLayers) -> TwoLayers:
    return params._replace(encoder=_rotated(params.encoder), decoder=_rotated(params.decoder.T).T)


@functools.partial(jax.jit, static_argnames="method")
def _outcome(method: Method, params: Weights, probe: _Probe, size: float) -> tuple[Array, TwoLayers]:
    """The loss and one plain step on samples of this size."""
    data, key = Samples(size * probe.rows), jax.random.key(0)
    loss, gradients = jax.value_and_grad(method.loss)(params, data, key, probe.hyperparameter)
    rule = method.update_rule(optax.sgd(0.1))
    return loss, cast(TwoLayers, rule.update(gradients, rule.init(params), params, covariance=data)[0])


def _differ(first: Tree, second: Tree) -> bool:
    """Beyond what float32 leaves open, in any array of two trees; what is not finite says nothing."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return any(bool(jnp.max(jnp.abs(a - b)) > 1e-3 * jnp.max(jnp.abs(b))) for a, b in pairs)


@functools.cache
def check_claims(method: Method, latent_dim: int, input_dim: int) -> None:
    """Hold a row that did not ship with METHODS to its `rotation_invariant`, by a rotation of a small problem, and on
    samples of size 0 as well, where a term that reads no data stands alone, however small its factor.

    Raises:
        InputError: where the loss or the step changes under a rotation of the inputs.
    """
    if method in SHIPPED or not method.rotation_invariant:
        return
    with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
        probe = _probe(method, latent_dim, input_dim)
        params = method.lift(probe.weights)
        for size in (1.0, 0.0):
            loss, updates = _outcome(method, params, probe, size)
            moved = _outcome(method, _rotated_weights(params), probe._replace(rows=_rotated(probe.rows)), size)
            if _differ(moved, (loss, _rotated_weights(updates))):
                raise InputError(
                    f"method: {method.label!r} claims to be rotation_invariant, but a rotation of the inputs changes"
                    " its loss or its step; leave the field False"
                )


def probe(method: Method, latent_dim: int, input_dim: int) -> list[float]:
    """Numbers that tell whether a row of one's own is what it was; [] for the rows of this module.

    Its loss and the size of its first step on a small problem of this shape, and on one whose samples are all 0.
    """
    if method in SHIPPED:
        return []
    problem = _probe(method, latent_dim, input_dim)
    outcomes = [_outcome(method, method.lift(problem.weights), problem, size) for size in (1.0, 0.0)]
    return [float(number) for loss, step in outcomes for number in (loss, optax.tree.norm(step))]
