"""The table of methods, name -> objective and update rule, and the table of optimisers.

A new objective or rule is one function in its own module and one row here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from lae_jax import objectives
from lae_jax.covariance import Covariance, Samples
from lae_jax.params import LAEParams, with_variances
from lae_jax.rotation import rotation_augmented_gradient

Array = jax.Array
# (params, data, key, hyperparameter) -> loss. The key is for stochastic objectives, the
# hyperparameter an array (penalties or prior), both traced.
Loss = Callable[[Any, Any, Array, Any], Array]


class Method(NamedTuple):
    """One way to train: what is descended, and what is done to its gradient."""

    label: str  # as figures name it
    loss: Loss
    # Goes before the optimiser in the chain; reads `params` and `covariance`.
    direction: Callable[[], optax.GradientTransformation] = optax.identity
    hyperparameter: str | None = None  # "penalties" or "prior": which array `loss` takes
    lift: Callable[[LAEParams], Any] = lambda params: params  # initial LAE weights -> params
    needs_samples: bool = False

    def rule(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
        """The whole update rule around an optimiser."""
        return optax.with_extra_args_support(optax.chain(self.direction(), optimizer))


def _reconstruction(params: LAEParams, data: Covariance, key: Array, hyperparameter: None) -> Array:
    return objectives.reconstruction(params, data)


def _l2(params: LAEParams, data: Covariance, key: Array, penalties: Array) -> Array:
    return objectives.l2(params, data, penalties)


def _nested_dropout(params: LAEParams, data: Samples, key: Array, prior: Array) -> Array:
    kept = objectives.sample_kept(key, prior, data.rows.shape[0])
    return objectives.nested_dropout(params, data.rows, kept)


def _deterministic_nested_dropout(params: LAEParams, data: Covariance, key: Array, prior: Array) -> Array:
    return objectives.deterministic_nested_dropout(params, data, prior)


def _linear_vae(params: Any, data: Covariance, key: Array, hyperparameter: None) -> Array:
    return objectives.linear_vae(params, data)


METHODS: dict[str, Method] = {
    "lae": Method("LAE, Eq. (1)", _reconstruction),
    "uniform_l2": Method("uniform l2", _l2, hyperparameter="penalties"),
    "non_uniform_l2": Method("non-uniform l2", _l2, hyperparameter="penalties"),
    "nested_dropout": Method("nested dropout", _nested_dropout, hyperparameter="prior", needs_samples=True),
    "deterministic_nested_dropout": Method(
        "deterministic nested dropout", _deterministic_nested_dropout, hyperparameter="prior"
    ),
    "linear_vae": Method("linear VAE", _linear_vae, lift=with_variances),
    "rag": Method("RAG", _reconstruction, direction=rotation_augmented_gradient),
}


class Optimizer(NamedTuple):
    """A row of OPTIMIZERS. `build(learning_rate, momentum)`, both may be traced."""

    build: Callable[[Any, Any], optax.GradientTransformation]
    # Whether it commutes with a rotation of the inputs, so that a run in the eigenbasis of C
    # follows the same trajectory: true of every rule linear in the gradients, false of Adam.
    rotation_equivariant: bool
    # sigma_1^2 -> a learning rate at which every method here is stable
    default_learning_rate: Callable[[float], float]
    default_momentum: float = 0.0


def _scaled(largest_variance: float) -> float:
    # The authors' choice for RAG on MNIST and on their synthetic data, in units of 1 / sigma_1^2.
    return 0.015 / largest_variance


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(lambda learning_rate, momentum: optax.sgd(learning_rate), True, _scaled),
    "nesterov": Optimizer(
        lambda learning_rate, momentum: optax.sgd(learning_rate, momentum, nesterov=True), True, _scaled, 0.9
    ),
    "adam": Optimizer(lambda learning_rate, momentum: optax.adam(learning_rate), False, lambda _: 1e-3),
}
