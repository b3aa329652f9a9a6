"""The table of methods, name -> objective and update rule, and the table of optimisers.

A new objective or rule is one function in its own module and one row here. What is true of a row is a field
of it; `lae_jax.training.claims` holds rows that did not ship with this module to what they say.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from lae_jax import baselines, objectives
from lae_jax.covariance import Covariance, Samples
from lae_jax.errors import InputError
from lae_jax.params import Array, LAEParams, Number, VAEParams, Value, Weights, with_variances
from lae_jax.rotation import aligned_descent, augmented_reconstruction_gradient, rotation_augmented_gradient
from lae_jax.training.alternation import alternation
from lae_jax.training.history import low_rank_history

# (params, data, key, hyperparameter) -> loss. The key is for stochastic objectives, the
# hyperparameter an array (penalties, prior or beta), both traced. `Any`: what a loss takes is its row's own, LAEParams
# or VAEParams, samples or any covariance, an array or None.
Loss = Callable[[Any, Any, Array, Any], Array]
# An optimiser -> the whole update rule around it, whose `update` may read `params` and `covariance`.
Rule = Callable[[optax.GradientTransformation], optax.GradientTransformationExtraArgs]


class Method(NamedTuple):
    """One way to train: what is descended, what is done to its gradient, and what is known of both."""

    label: str  # as figures name it
    loss: Loss
    rule: Rule = optax.with_extra_args_support
    hyperparameter: str | None = None  # which array `loss` takes: a row of HYPERPARAMETERS
    lift: Callable[[LAEParams], Weights] = lambda params: params  # initial LAE weights -> params
    needs_samples: bool = False  # the loss reads samples, not a covariance alone
    stochastic: bool = False  # the loss draws from its key
    # Loss and rule are unchanged where inputs and weights are rotated together, so that a run in the eigenbasis
    # of C is the same run.
    rotation_invariant: bool = False
    # The one loss that `rule` is for, where it is for one alone: it computes that loss's gradient itself, or reads
    # none.
    rule_for: Loss | None = None
    retracts: bool = False  # a step ends on a manifold: its length is no velocity
    rotates: bool = False  # latents are rotated by angles that do not shrink with the learning rate
    full_batch: bool = False  # on mini-batches it never settles, whatever the learning rate
    batch_rule: Rule | None = None  # the rule on mini-batches, where that is another
    # The rule that trains so many latents beside the k and drops them; None: it has none.
    spared: Callable[[int], Rule] | None = None
    reads_optimizer: bool = True  # False: the rule takes steps of its own, and no optimiser makes a difference
    aligns: bool = False  # the latents of its optimum are the principal components, one each
    collapses: bool = False  # its hyperparameter can take latents to zero at the optimum
    # Functions of `theory.landscape` and `theory.closed_form`; the spectrum is that of the rule at the optimum.
    optimum: str | None = None
    spectrum: str | None = None
    # Where none is given, in units of 1 / sigma_1^2 and under an optimiser that keeps that unit: the
    # authors' for RAG on MNIST and on their synthetic data.
    default_learning_rate: float = 0.015

    def update_rule(
        self, optimizer: optax.GradientTransformation, batches: bool = False, spare: int | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """`rule` around an optimiser, in the form that this row's loss allows, that for mini-batches, or with `spare`.

        Raises InputError where the rule is for one loss alone and the row's is another.
        """
        if self.rule_for not in (None, self.loss):
            raise InputError(
                f"method: the rule of {self.label!r} is for another loss than this one, which it would not descend;"
                " replace rule too, and rule_for by None: rotating_frame and rotation_augmented_gradient take any loss"
            )
        if spare is not None and self.spared is not None:
            return self.spared(spare)(optimizer)
        rule = self.batch_rule if batches and self.batch_rule else self.rule
        return _FUSED.get((self.loss, rule), rule)(optimizer)


def _reconstruction(params: LAEParams, data: Covariance, key: Array, hyperparameter: None) -> Array:
    return objectives.reconstruction(params, data)


def _l2(params: LAEParams, data: Covariance, key: Array, penalties: Array) -> Array:
    return objectives.l2(params, data, penalties)


def _nested_dropout(params: LAEParams, data: Samples, key: Array, prior: Array) -> Array:
    kept = objectives.sample_kept(key, prior, data.rows.shape[0])
    return objectives.nested_dropout(params, data.rows, kept) * (len(data.rows) / data.count)  # a mean over n


def _deterministic_nested_dropout(params: LAEParams, data: Covariance, key: Array, prior: Array) -> Array:
    return objectives.deterministic_nested_dropout(params, data, prior)


def _linear_vae(params: VAEParams, data: Covariance, key: Array, beta: Value) -> Array:
    return objectives.linear_vae(params, data, 1.0 if beta is None else beta[0])


def _product_l2(params: LAEParams, data: Covariance, key: Array, penalty: Array) -> Array:
    return objectives.product_l2(params, data, penalty[0])


def _rag(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    return optax.chain(rotation_augmented_gradient(), optimizer)


def _alternation(spare: int | None) -> Rule:
    return lambda optimizer: alternation(spare)


def _history(spare: int | None) -> Rule:
    return lambda optimizer: low_rank_history(spare)


_aligned = functools.partial(aligned_descent, checked=False)
_aligned_on_batches = functools.partial(aligned_descent, checked=False, average=1.5)


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

# What rows have in common.
_l2_row = functools.partial(Method, rotation_invariant=True, collapses=True, optimum="l2_optimum")
_nested_dropout_row = functools.partial(
    Method, rotation_invariant=True, aligns=True, optimum="principal_components",
    spectrum="deterministic_nested_dropout_spectrum",
)  # fmt: skip
_component_row = functools.partial(
    Method, loss=_reconstruction, rotation_invariant=True, aligns=True, optimum="principal_components"
)
# Rules that compute the gradient of Eq. (1) themselves; those with one matrix read no loss, and are watched by it.
_own_gradient_row = functools.partial(_component_row, rule_for=_reconstruction)

METHODS: dict[str, Method] = {
    "lae": Method(
        "LAE, Eq. (1)", _reconstruction, rotation_invariant=True,
        optimum="principal_components", spectrum="reconstruction_spectrum",
    ),
    "uniform_l2": _l2_row("uniform l2", _l2, hyperparameter="penalty", spectrum="uniform_l2_spectrum"),
    "non_uniform_l2": _l2_row(
        "non-uniform l2", _l2, hyperparameter="penalties", aligns=True, spectrum="non_uniform_l2_spectrum"
    ),
    "nested_dropout": _nested_dropout_row(
        "nested dropout", _nested_dropout, hyperparameter="prior", needs_samples=True, stochastic=True
    ),
    "deterministic_nested_dropout": _nested_dropout_row(
        "deterministic nested dropout", _deterministic_nested_dropout, hyperparameter="prior"
    ),
    "linear_vae": Method(
        "linear VAE", _linear_vae, lift=with_variances, hyperparameter="beta", rotation_invariant=True, aligns=True,
        collapses=True, optimum="linear_vae_optimum", spectrum="linear_vae_spectrum",
    ),
    "rag": _component_row("RAG", rule=_rag, spectrum="rag_spectrum"),
    "balanced_rag": _component_row("balanced RAG", rule=_balanced_rag, default_learning_rate=0.1),
    "aligned": _own_gradient_row(
        "aligned descent", rule=_aligned, batch_rule=_aligned_on_batches, rotates=True, default_learning_rate=0.1
    ),
    "alternation": _own_gradient_row(
        "over-relaxed alternation", rule=_alternation(None), spared=_alternation, retracts=True, rotates=True,
        full_batch=True, reads_optimizer=False,
    ),
    # Its spare directions start at random, in whatever coordinates it is given.
    "low_rank_history": _own_gradient_row(
        "low-rank history", rule=_history(None), spared=_history, retracts=True, rotates=True, reads_optimizer=False,
        rotation_invariant=False,
    ),
    # The relatives of Section 3.
    "product_l2": Method(
        "product l2", _product_l2, hyperparameter="penalty", rotation_invariant=True, optimum="product_l2_optimum"
    ),
    "oftadeh": _nested_dropout_row("Oftadeh et al.", _deterministic_nested_dropout, hyperparameter="uniform_prior"),
    "goldstone": _l2_row(
        "Goldstone descent", _l2, functools.partial(baselines.goldstone, checked=False), hyperparameter="penalties",
        rule_for=_l2, aligns=True, rotates=True,
    ),
    "oja": _own_gradient_row("Oja", rule=baselines.oja, aligns=False),
    "generalized_hebbian": _own_gradient_row("generalised Hebbian", rule=baselines.generalized_hebbian),
    "eigengame_alpha": _own_gradient_row("EigenGame", rule=baselines.eigengame_alpha, retracts=True),
    "eigengame_mu": _own_gradient_row("mu-EigenGame", rule=baselines.eigengame_mu, retracts=True),
    "brockett": _own_gradient_row("Brockett", rule=baselines.brockett, retracts=True),
    "spectral_inference": _own_gradient_row("spectral inference", rule=baselines.spectral_inference, retracts=True),
}  # fmt: skip
# The tests hold these to what they say; `lae_jax.training.claims` the others.
SHIPPED = frozenset(METHODS.values())


class Optimizer(NamedTuple):
    """A row of OPTIMIZERS. `build(learning_rate, momentum)`, both may be traced."""

    build: Callable[[Number, Number], optax.GradientTransformation]
    # Whether it commutes with a rotation of the inputs, so that a run in the eigenbasis of C
    # follows the same trajectory: true of every rule linear in the gradients, false of Adam.
    rotation_equivariant: bool
    # (method, sigma_1^2) -> a learning rate; None where the optimiser brings its own
    default_learning_rate: Callable[[Method, float], float] | None = None
    default_momentum: float = 0.0
    # In data measured in a unit u, the learning rate is that in the data's own unit times u to this power. None: not
    # known, and nothing is measured in another unit.
    unit_power: int | None = None


def _scaled(method: Method, largest_variance: float) -> float:
    return method.default_learning_rate / largest_variance


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(lambda learning_rate, momentum: optax.sgd(learning_rate), True, _scaled, unit_power=2),
    "nesterov": Optimizer(
        lambda learning_rate, momentum: optax.sgd(learning_rate, momentum, nesterov=True),
        True,
        _scaled,
        0.9,
        unit_power=2,
    ),
    "adam": Optimizer(lambda learning_rate, momentum: optax.adam(learning_rate), False, lambda *_: 1e-3, unit_power=0),
}
