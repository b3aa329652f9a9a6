"""What update rules are made of: directions, what they read of the data, where they find the weights; rotating frames.

Legend: W1 encoder (k, p), W2 decoder (q, k); C covariance; M = W1 C W1^T the moment of the latents (k, k);
theta skew-symmetric (k, k); R, Q rotations (k, k) of the latents.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple, cast

import equinox
import jax
import jax.numpy as jnp
import optax

from lae_jax.covariance import (
    Covariance,
    CovarianceLike,
    Known,
    LatentMoment,
    Samples,
    as_covariance,
    largest_row_sum,
    latent_moments,
)
from lae_jax.errors import InputError
from lae_jax.params import Array, Layers, Number, Tree, TwoLayers


class _Fields:
    """The weights of `lae_jax.params`, whose fields the matrices are."""

    def get(self, tree: Tree) -> TwoLayers:
        if any(getattr(getattr(tree, name, None), "ndim", 0) != 2 for name in ("encoder", "decoder")):
            raise InputError(
                f"params: a {type(tree).__name__} whose encoder and decoder are not two matrices; `in_model` of"
                " lae_jax.latent_layers takes rules to any tree"
            )
        return cast(TwoLayers, tree)

    def put(self, tree: Tree, weights: TwoLayers) -> Tree:
        return weights


FIELDS = _Fields()
# (updates, params, covariance) -> what is descended instead
Direction = Callable[[TwoLayers, TwoLayers, Covariance], TwoLayers]


def latent_moment(params: TwoLayers, covariance: Known) -> Array:
    """M (k, k): as known, or W1 C W1^T."""
    if isinstance(covariance, LatentMoment):
        return covariance.matrix
    return latent_moments(params.encoder, params.decoder, covariance)[0]


def require_params(params: Tree | None) -> None:
    """Raises InputError where optax was not given the weights."""
    if params is None:
        raise InputError("params: None; this rule reads the weights: update(updates, state, params, covariance=...)")


def refuse_parts(read: str) -> None:
    """Raises InputError within `optax.MultiSteps`.

    It sums the gradients of the parts of a large batch, but calls what it wraps for each part and keeps only the last
    call: what is `read` of the data there is of the last part alone, and no state can know of the others.
    """
    caller = inspect.currentframe()
    while caller is not None:
        if caller.f_code is optax.MultiSteps.update.__code__:
            raise InputError(
                f"{read}: within optax.MultiSteps these are of the last part of each large batch alone; put MultiSteps"
                " inside: rotating_frame(optax.MultiSteps(optimizer, n).gradient_transformation())"
            )
        caller = caller.f_back


def covariance_given(covariance: CovarianceLike | LatentMoment | None) -> Covariance:
    """The covariance that `update` was given, as an operator. Raises InputError at none, and at those of a part."""
    if covariance is None:
        raise InputError(
            "covariance: None; this rule reads it: update(updates, state, params, covariance=...). Wrappers that take"
            " no such argument do not pass it on (MultiSteps.gradient_transformation, Flax's TrainState)"
        )
    if isinstance(covariance, Samples):
        refuse_parts("covariance, samples")
    return as_covariance(covariance)


def from_direction(direction: Direction) -> optax.GradientTransformationExtraArgs:
    """The stateless transformation updates -> direction(updates, params, covariance)."""

    def update(
        updates: Tree,
        state: optax.EmptyState,
        params: Tree | None = None,
        *,
        covariance: CovarianceLike | LatentMoment | None = None,
        layers: Layers = FIELDS,
        **_: object,
    ) -> tuple[Tree, optax.EmptyState]:
        require_params(params)
        known = covariance_given(covariance)
        return layers.put(updates, direction(layers.get(updates), layers.get(params), known)), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


# Exact rotations of the latents, outside of the optimiser.


def solving_type(dtype: jnp.dtype) -> jnp.dtype:
    """What small matrices are summed and solved in: float32 for half precisions."""
    return jnp.promote_types(dtype, jnp.float32)


def jacobi_angles(moment: Array) -> Array:
    """theta_ij = M_ij / (|M_ii - M_jj| + |M_ij|) for i < j, skew-symmetric (k, k), at most 1 in size.

    The angle that diagonalises the pair (i, j) to first order, damped where it is not small: the
    rate does not depend on the gaps between variances. A positive multiple of A_ij, and for
    any such theta no partial sum of M_11, M_22, ... decreases along the flow, as for RAG.
    """
    variances = jnp.diagonal(moment)
    scale = jnp.abs(variances[:, None] - variances[None, :]) + jnp.abs(moment)
    upper = jnp.triu(moment / jnp.where(scale > 0, scale, 1), 1)
    return upper - upper.T


def cayley(angles: Array) -> Array:
    """(I - theta/2)^-1 (I + theta/2): an exact rotation, equal to exp(theta) to second order."""
    identity = jnp.eye(angles.shape[0], dtype=angles.dtype)
    return jnp.linalg.solve(identity - angles / 2, identity + angles / 2)


def bounded(angles: Array) -> Array:
    """Angles theta (k, k), scaled down where `cayley` might rotate a plane by more than a right angle."""
    return angles * jnp.minimum(1, 2 / jnp.maximum(largest_row_sum(angles), 1))


def jacobi_rotation(moment: Array, fraction: Array) -> Array:
    """R = cayley(fraction bounded(jacobi_angles(M))), one step on the way to R M R^T diagonal and descending.

    Its rate does not depend on the gaps between variances.
    """
    return cayley(fraction * bounded(jacobi_angles(moment)))


class RotatingFrameState(NamedTuple):
    """What the next step of a rotating frame needs."""

    step: Array  # int32 ()
    frame: Array  # Q (k, k), which the weights are seen in
    moment: Array | None  # the running moment (k, k) of `average`, in the axes of the weights
    expected: Array | None  # row sums of W1 as the last step left it (k,); None where they are not checked
    optimizer: optax.OptState  # the optimiser's state, in the fixed frame

    def started(self, latent_dim: int, dtype: jnp.dtype) -> "RotatingFrameState":
        """The state before the first step, for weights that `init` could not find."""
        frame = jnp.eye(latent_dim, dtype=solving_type(dtype))
        moment = None if self.moment is None else jnp.zeros_like(frame)
        expected = None if self.expected is None else jnp.zeros(latent_dim, frame.dtype)
        return self._replace(frame=frame, moment=moment, expected=expected)


def _rotated(rotation: Array, tree: Tree, layers: Layers) -> Tree:
    """(R W1, W2 R^T) of a tree, in its own precision; everything else passes."""
    weights = layers.get(tree)
    encoder, decoder = rotation @ weights.encoder, weights.decoder @ rotation.T
    return layers.put(
        tree,
        weights._replace(encoder=encoder.astype(weights.encoder.dtype), decoder=decoder.astype(weights.decoder.dtype)),
    )


def _in_frame(value_fn: Callable[..., Array], frame: Array, layers: Layers) -> Callable[..., Array]:
    """A loss as a function of the weights in the fixed frame, for line searches."""

    def seen(fixed: Tree, *rest: object, covariance: object = None, layers: Layers = layers, **named: object) -> Array:
        return value_fn(_rotated(frame, fixed, layers), *rest, **named)

    # optax gives a loss those extra arguments whose names it finds here, and refuses to be given others.
    ours = ("covariance", "layers")
    theirs = [each for each in inspect.signature(value_fn).parameters.values() if each.name not in ours]
    parameters = [*theirs, *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ours)]
    seen.__signature__ = inspect.Signature(sorted(parameters, key=lambda each: each.kind))  # type: ignore[attr-defined] # of functions
    return seen


def _row_sums(encoder: Array) -> Array:
    return jnp.sum(encoder.astype(solving_type(encoder.dtype)), axis=1)


def _refuse_others(fixed: Tree, step: Array, expected: Array, encoder: Array) -> Tree:
    """`fixed`, or an error at run time where the weights are not those that the last step led to."""
    rounding = 100 * float(jnp.finfo(encoder.dtype).eps) * _row_sums(jnp.abs(encoder))
    moved = jnp.any(jnp.abs(_row_sums(encoder) - expected) > rounding)
    return equinox.error_if(
        fixed,
        moved & (step > 0),
        "rotating_frame: the weights are not those that its last step led to. Transformations behind it in a chain"
        " (scale, clip, a schedule, apply_every) act on a part of a rotation, which is none: put them inside,"
        " rotating_frame(optax.chain(optimizer, ...)). Where weights are changed by hand, start a new state.",
    )


def rotating_frame(
    optimizer: optax.GradientTransformation,
    rate: Number | optax.Schedule = 1.0,
    rotation: Callable[[Array, Array], Array] = jacobi_rotation,
    matrix: Callable[[TwoLayers, Known], Array] = latent_moment,
    average: Number | None = None,
    checked: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Rotates the latents after each step by R = rotation(matrix(params, covariance), rate).

    The weights are (Q W1', W2' Q^T) with Q the product of all R so far, and the optimiser only ever
    sees (W1', W2') and their gradients. So, up to rounding, W2 W1 and the loss of any objective that
    a rotation of the latents leaves alone go exactly as without the rotation, whatever the optimiser
    and however large R: it can neither diverge by it nor lose a step to it. A gauge transformation.
    Nothing may come behind it in a chain, since a part of a rotation is none: what acts on the steps
    belongs inside, `optax.MultiSteps` too.

    Args:
      optimizer: sees the tree it is given, names and shapes included. Losses of line searches (`value_fn`)
        and gradients among the extra arguments (`grad`) are taken to the fixed frame as well.
      rate: how much of the angle is taken, in (0, 1], or a schedule of the step.
      rotation: (symmetric (k, k), fraction) -> R.
      matrix: (params, covariance) -> what the rotations make diagonal: symmetric (k, k), it rotates with
        the latents.
      average: on mini-batches, whose angles are as noisy as their moments. c of the running moment
        M' <- (1 - rho) M' + rho M, rho = c / (t + c) at step t = 0, 1, ..., which R is then found from, and
        which R rotates. For each pair of latents that is Newton's step with the rate of the optimal 1 / t;
        weights t^(c-1) cost a factor c^2 / (2c - 1) of the variance, 1.125 at 1.5, and forget a start that
        was not yet trained. None: the moment of the step alone.
      checked: whether a step makes sure that the weights are those the last one led to. False where that is known.

    Returns:
      A transformation whose `update` reads `params` and the keyword `covariance`.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Tree) -> RotatingFrameState:
        encoder = getattr(params, "encoder", None)
        if getattr(encoder, "ndim", 0) != 2:  # a tree of which `in_model` knows more
            encoder = jnp.zeros((0, 0))
        frame = jnp.eye(encoder.shape[0], dtype=solving_type(encoder.dtype))
        moment = None if average is None else jnp.zeros_like(frame)
        expected = jnp.zeros(len(frame), frame.dtype) if checked else None
        return RotatingFrameState(jnp.zeros((), jnp.int32), frame, moment, expected, optimizer.init(params))

    def update(
        updates: Tree,
        state: RotatingFrameState,
        params: Tree | None = None,
        *,
        covariance: CovarianceLike | LatentMoment | None = None,
        layers: Layers = FIELDS,
        **extra: object,
    ) -> tuple[Tree, RotatingFrameState]:
        require_params(params)
        covariance = covariance_given(covariance)
        back = state.frame.T
        seen = covariance.rotated(back) if isinstance(covariance, LatentMoment) else covariance
        if "grad" in extra:
            extra["grad"] = _rotated(back, extra["grad"], layers)
        if "value_fn" in extra:
            extra["value_fn"] = _in_frame(extra["value_fn"], state.frame, layers)
        fixed, inner = optimizer.update(
            _rotated(back, updates, layers),
            state.optimizer,
            _rotated(back, params, layers),
            covariance=seen,
            layers=layers,
            **extra,
        )
        # M of the weights before the step, as in Algorithm 1: the gradient has computed it already.
        before = layers.get(params)
        if state.expected is not None:
            fixed = _refuse_others(fixed, state.step, state.expected, before.encoder)
        moment = matrix(before, covariance).astype(state.frame.dtype)
        if average is not None:
            weight = average / (state.step + average)
            moment = (1 - weight) * state.moment + weight * moment  # type: ignore[operator] # not None then
        fraction = rate(state.step) if callable(rate) else rate
        turn = rotation(moment, jnp.asarray(fraction, state.frame.dtype))
        steps = _rotated(state.frame, fixed, layers)
        moved = _rotated(turn, optax.apply_updates(before, layers.get(steps)), FIELDS)
        updates = layers.put(steps, jax.tree.map(jnp.subtract, moved, before))
        following = RotatingFrameState(
            state.step + 1,
            turn @ state.frame,
            None if state.moment is None else turn @ moment @ turn.T,
            None if state.expected is None else _row_sums(optax.apply_updates(before, layers.get(updates)).encoder),
            inner,
        )
        return updates, following

    return optax.GradientTransformationExtraArgs(init, update)
