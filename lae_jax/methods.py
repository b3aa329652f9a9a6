"""The table of methods, name -> objective and update rule, and the table of optimisers.

A new objective or rule is one function in its own module and one row here. What is true of a row is a field
of it; `check_claims` holds rows that did not ship with this module to what they say.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lae_jax import baselines, objectives
from lae_jax.covariance import Covariance, Samples
from lae_jax.errors import InputError
from lae_jax.hyperparameters import HYPERPARAMETERS
from lae_jax.params import Array, LAEParams, Number, Tree, TwoLayers, VAEParams, Value, Weights, with_variances
from lae_jax.rotation import aligned_descent, augmented_reconstruction_gradient, rotation_augmented_gradient
from lae_jax.training.alternation import alternation

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
    reads_optimizer: bool = True  # False: the rule takes steps of its own, and no optimiser makes a difference
    aligns: bool = False  # the latents of its optimum are the principal components, one each
    collapses: bool = False  # its hyperparameter can take latents to zero at the optimum
    # Functions of `theory.landscape` and `theory.closed_form`; the spectrum is that of the rule at the optimum.
    optimum: str | None = None
    spectrum: str | None = None
    # Where none is given, in units of 1 / sigma_1^2 and under an optimiser that keeps that unit: the
    # authors' for RAG on MNIST and on their synthetic data.
    default_learning_rate: float = 0.015

    def update_rule(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
        """`rule` around an optimiser, in the form that this row's loss allows.

        Raises InputError where the rule is for one loss alone and the row's is another.
        """
        if self.rule_for not in (None, self.loss):
            raise InputError(
                f"method: the rule of {self.label!r} is for another loss than this one, which it would not descend;"
                " replace rule too, and rule_for by None: rotating_frame and rotation_augmented_gradient take any loss"
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


def _linear_vae(params: VAEParams, data: Covariance, key: Array, beta: Value) -> Array:
    return objectives.linear_vae(params, data, 1.0 if beta is None else beta[0])


def _product_l2(params: LAEParams, data: Covariance, key: Array, penalty: Array) -> Array:
    return objectives.product_l2(params, data, penalty[0])


def _rag(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    return optax.chain(rotation_augmented_gradient(), optimizer)


def _alternation(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    return alternation()


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
        "aligned descent", rule=functools.partial(aligned_descent, checked=False), rotates=True, full_batch=True,
        default_learning_rate=0.1,
    ),
    "alternation": _own_gradient_row(
        "over-relaxed alternation", rule=_alternation, retracts=True, rotates=True, full_batch=True,
        reads_optimizer=False,
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
# The tests hold these to what they say; `check_claims` the others.
_SHIPPED = frozenset(METHODS.values())


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


# What a row says of itself, held against what it does on a few random samples, at random weights.


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
    if method in _SHIPPED or not method.rotation_invariant:
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
    if method in _SHIPPED:
        return []
    problem = _probe(method, latent_dim, input_dim)
    outcomes = [_outcome(method, method.lift(problem.weights), problem, size) for size in (1.0, 0.0)]
    return [float(number) for loss, step in outcomes for number in (loss, optax.tree.norm(step))]
