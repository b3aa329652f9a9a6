"""The table of methods, name -> objective and update rule, and the table of optimisers.

A new objective or rule is one function in its own module and one row here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from lae_jax import baselines, objectives
from lae_jax.covariance import Covariance, Samples
from lae_jax.errors import InputError
from lae_jax.params import LAEParams, with_variances
from lae_jax.rotation import aligned_descent, augmented_reconstruction_gradient, rotation_augmented_gradient

Array = jax.Array
# (params, data, key, hyperparameter) -> loss. The key is for stochastic objectives, the
# hyperparameter an array (penalties or prior), both traced.
Loss = Callable[[Any, Any, Array, Any], Array]
# An optimiser -> the whole update rule around it, whose `update` may read `params` and `covariance`.
Rule = Callable[[optax.GradientTransformation], optax.GradientTransformationExtraArgs]


class Method(NamedTuple):
    """One way to train: what is descended, and what is done to its gradient."""

    label: str  # as figures name it
    loss: Loss
    rule: Rule = optax.with_extra_args_support
    hyperparameter: str | None = None  # which array `loss` takes: a row of `experiment.HYPERPARAMETERS`
    lift: Callable[[LAEParams], Any] = lambda params: params  # initial LAE weights -> params
    needs_samples: bool = False
    full_batch: bool = False  # on mini-batches it never settles, whatever the learning rate
    # Where none is given, in units of 1 / sigma_1^2 and under an optimiser that keeps that unit: the
    # authors' for RAG on MNIST and on their synthetic data.
    default_learning_rate: float = 0.015

    def update_rule(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
        """`rule` around an optimiser, in the form that this row's loss allows.

        Raises InputError where the rule is for Eq. (1) alone and the loss is another.
        """
        if _ONLY_WITH.get(self.rule, self.loss) is not self.loss:
            raise InputError(
                f"loss: the rule of {self.label!r} computes the gradient of Eq. (1) itself and reads no other;"
                " replace the rule too: rotating_frame and rotation_augmented_gradient take any loss"
            )
        return _FUSED.get((self.loss, self.rule), self.rule)(optimizer)


def _reconstruction(params: LAEParams, data: Covariance, key: Array, hyperparameter: None) -> Array:
    return objectives.reconstruction(params, data)


def _l2(params: LAEParams, data: Covariance, key: Array, penalties: Array) -> Array:
    return objectives.l2(params, data, penalties)


def _nested_dropout(params: LAEParams, data: Samples, key: Array, prior: Array) -> Array:
    kept = objectives.sample_kept(key, prior, data.rows.shape[0])
    return objectives.nested_dropout(params, data.rows, kept) * (len(data.rows) / data.count)  # a mean over n


def _deterministic_nested_dropout(params: LAEParams, data: Covariance, key: Array, prior: Array) -> Array:
    return objectives.deterministic_nested_dropout(params, data, prior)


def _linear_vae(params: Any, data: Covariance, key: Array, hyperparameter: None) -> Array:
    return objectives.linear_vae(params, data)


def _product_l2(params: LAEParams, data: Covariance, key: Array, penalty: Array) -> Array:
    return objectives.product_l2(params, data, penalty[0])


def _rag(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    return optax.chain(rotation_augmented_gradient(), optimizer)


def _balanced_rag(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    return optax.chain(rotation_augmented_gradient(gain=4.0, balance=0.5), optimizer)


def _fused_rag(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    return optax.chain(augmented_reconstruction_gradient(), optimizer)


def _fused_balanced_rag(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    return optax.chain(augmented_reconstruction_gradient(gain=4.0, balance=0.5), optimizer)


# What a rule may know of the loss it is paired with; a row with either part replaced is no longer such a pair.
# (loss, rule) -> the same rule in fewer products.
_FUSED: dict[tuple[Loss, Rule], Rule] = {
    (_reconstruction, _rag): _fused_rag,
    (_reconstruction, _balanced_rag): _fused_balanced_rag,
}
# Rule -> the only loss it goes with: these compute what they need of the gradient themselves.
_ONLY_WITH: dict[Rule, Loss] = dict.fromkeys(
    (
        aligned_descent,
        baselines.oja,
        baselines.generalized_hebbian,
        baselines.eigengame_alpha,
        baselines.eigengame_mu,
        baselines.brockett,
        baselines.spectral_inference,
    ),
    _reconstruction,
)


METHODS: dict[str, Method] = {
    "lae": Method("LAE, Eq. (1)", _reconstruction),
    "uniform_l2": Method("uniform l2", _l2, hyperparameter="penalty"),
    "non_uniform_l2": Method("non-uniform l2", _l2, hyperparameter="penalties"),
    "nested_dropout": Method("nested dropout", _nested_dropout, hyperparameter="prior", needs_samples=True),
    "deterministic_nested_dropout": Method(
        "deterministic nested dropout", _deterministic_nested_dropout, hyperparameter="prior"
    ),
    "linear_vae": Method("linear VAE", _linear_vae, lift=with_variances),
    "rag": Method("RAG", _reconstruction, _rag),
    "balanced_rag": Method("balanced RAG", _reconstruction, _balanced_rag, default_learning_rate=0.1),
    "aligned": Method("aligned descent", _reconstruction, aligned_descent, full_batch=True, default_learning_rate=0.1),
    # The relatives of Section 3. Rules with one matrix read no loss but are watched by Eq. (1).
    "product_l2": Method("product l2", _product_l2, hyperparameter="penalty"),
    "oftadeh": Method("Oftadeh et al.", _deterministic_nested_dropout, hyperparameter="uniform_prior"),
    "goldstone": Method("Goldstone descent", _l2, baselines.goldstone, hyperparameter="penalties"),
    "oja": Method("Oja", _reconstruction, baselines.oja),
    "generalized_hebbian": Method("generalised Hebbian", _reconstruction, baselines.generalized_hebbian),
    "eigengame_alpha": Method("EigenGame", _reconstruction, baselines.eigengame_alpha),
    "eigengame_mu": Method("mu-EigenGame", _reconstruction, baselines.eigengame_mu),
    "brockett": Method("Brockett", _reconstruction, baselines.brockett),
    "spectral_inference": Method("spectral inference", _reconstruction, baselines.spectral_inference),
}


class Optimizer(NamedTuple):
    """A row of OPTIMIZERS. `build(learning_rate, momentum)`, both may be traced."""

    build: Callable[[Any, Any], optax.GradientTransformation]
    # Whether it commutes with a rotation of the inputs, so that a run in the eigenbasis of C
    # follows the same trajectory: true of every rule linear in the gradients, false of Adam.
    rotation_equivariant: bool
    # (method, sigma_1^2) -> a learning rate
    default_learning_rate: Callable[[Method, float], float]
    default_momentum: float = 0.0


def _scaled(method: Method, largest_variance: float) -> float:
    return method.default_learning_rate / largest_variance


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(lambda learning_rate, momentum: optax.sgd(learning_rate), True, _scaled),
    "nesterov": Optimizer(
        lambda learning_rate, momentum: optax.sgd(learning_rate, momentum, nesterov=True), True, _scaled, 0.9
    ),
    "adam": Optimizer(lambda learning_rate, momentum: optax.adam(learning_rate), False, lambda *_: 1e-3),
}
