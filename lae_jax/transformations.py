"""What update rules are made of: directions, what they read of the data, and where they find the weights.

Legend: W1 encoder (k, p), W2 decoder (q, k); C covariance; M = W1 C W1^T.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import jax
import optax

from lae_jax.covariance import as_covariance, latent_moments
from lae_jax.errors import InputError

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentMoment:
    """M (k, k) in place of a covariance, where only latents are known; rules that read C itself raise InputError."""

    matrix: Array

    def rotated(self, rotation: Array) -> "LatentMoment":
        """R M R^T: the moment of the latents R z."""
        return LatentMoment(rotation @ self.matrix @ rotation.T)

    def pair(self, *_: Any) -> NoReturn:
        """C @ first and C @ second, which nobody knows here."""
        raise InputError(
            "latents: this rule reads the covariance of the inputs and is for the linear model x -> W2 W1 x alone:"
            " give covariance=, or take rotation_augmented_gradient or rotating_frame"
        )

    __matmul__ = pair


class Layers(Protocol):
    """Where the two matrices are in a tree of parameters, of gradients or of updates."""

    def get(self, tree: Any) -> Any:
        """A NamedTuple whose fields `encoder` (k, p) and `decoder` (q, k) are these matrices."""

    def put(self, tree: Any, weights: Any) -> Any:
        """The tree with them replaced by those of `weights`."""


class _Fields:
    """The weights of `lae_jax.params`, whose fields the matrices are."""

    def get(self, tree: Any) -> Any:
        if any(getattr(getattr(tree, name, None), "ndim", 0) != 2 for name in ("encoder", "decoder")):
            raise InputError(
                f"params: a {type(tree).__name__} whose encoder and decoder are not two matrices; `in_model` of"
                " lae_jax.latent_layers takes rules to any tree"
            )
        return tree

    def put(self, tree: Any, weights: Any) -> Any:
        return weights


FIELDS = _Fields()


def latent_moment(params: Any, covariance: Any) -> Array:
    """M (k, k): as known, or W1 C W1^T."""
    if isinstance(covariance, LatentMoment):
        return covariance.matrix
    return latent_moments(params.encoder, params.decoder, covariance)[0]


def require_params(params: Any) -> None:
    """Raises InputError where optax was not given the weights."""
    if params is None:
        raise InputError("params: None; this rule reads the weights: update(updates, state, params, covariance=...)")


def from_direction(direction: Callable[[Any, Any, Any], Any]) -> optax.GradientTransformationExtraArgs:
    """The stateless transformation updates -> direction(updates, params, covariance)."""

    def update(
        updates: Any,
        state: optax.EmptyState,
        params: Any = None,
        *,
        covariance: Any,
        layers: Layers = FIELDS,
        **_: Any,
    ) -> Any:
        require_params(params)
        return layers.put(updates, direction(layers.get(updates), layers.get(params), as_covariance(covariance))), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
