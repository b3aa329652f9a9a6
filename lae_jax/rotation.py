"""The rotation augmented gradient (RAG) as an optax transformation.

It goes before momentum or any preconditioner in the chain, and reads the weights and the
covariance (of the data or of the current batch) given to `update`:

    rule = optax.chain(rotation_augmented_gradient(), optax.sgd(1e-3, 0.9, nesterov=True))
    updates, state = rule.update(gradients, state, params, covariance=covariance)
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lae_jax.covariance import second_moment

Array = jax.Array


def skew_rotation(moment: Array) -> Array:
    """A = 1/2 (upper - lower triangle of M), skew-symmetric (k, k). Algorithm 1, with M = Y Y^T / n."""
    return 0.5 * (jnp.triu(moment, 1) - jnp.tril(moment, -1))


def rotation_augmented_gradient() -> optax.GradientTransformationExtraArgs:
    """Algorithm 1: gradients become (dW1 - A W1, dW2 + W2 A), to be descended.

    Expects the gradients of Eq. (1) and params with fields `encoder` (k, m), `decoder` (m, k);
    other fields pass through. `update` needs `params` and the keyword `covariance`.
    """

    def update(updates: Any, state: optax.EmptyState, params: Any = None, *, covariance: Any, **_: Any) -> Any:
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        rotation = skew_rotation(second_moment(params.encoder, covariance))
        return (
            updates._replace(
                encoder=updates.encoder - rotation @ params.encoder,
                decoder=updates.decoder + params.decoder @ rotation,
            ),
            state,
        )

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
