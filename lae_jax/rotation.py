"""The rotation augmented gradient (RAG) and its family as optax transformations.

All read the weights and the covariance (of the data or of the current batch) given to `update`; for a
model of one's own, `lae_jax.latent_layers.in_model` finds both in its parameters and latents:

    rule = optax.chain(rotation_augmented_gradient(), optax.sgd(1e-3, 0.9, nesterov=True))
    updates, state = rule.update(gradients, state, params, covariance=covariance)

`rotation_augmented_gradient` is Algorithm 1 with a gain and a balancing term; it goes before momentum
in the chain, so that old rotations are replayed. `rotating_frame` wraps an optimiser and rotates
exactly, outside of it. `aligned_descent` is the recommended rule: `least_squares_gradient` in a
rotating frame.

Legend: W1 encoder (k, m), W2 decoder (m, k); C covariance; M = W1 C W1^T; Z = W1 W1^T - W2^T W2
(the imbalance); A, theta skew-symmetric (k, k); R, Q rotations (k, k) of the latents.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import optax

from lae_jax.covariance import as_covariance, gram, latent_moments
from lae_jax.errors import InputError
from lae_jax.metrics import imbalance_matrix

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentMoment:
    """M (k, k) in place of a covariance, where only latents are known; rules that read C itself raise InputError."""

    matrix: Array

    def turn(self, rotation: Array) -> "LatentMoment":
        """R M R^T: the moment of the latents R z."""
        return LatentMoment(rotation @ self.matrix @ rotation.T)

    def pair(self, *_: Any) -> NoReturn:
        """C @ first and C @ second, which nobody knows here."""
        raise InputError(
            "latents: this rule reads the covariance of the inputs and is for the linear model x -> W2 W1 x alone:"
            " give covariance=, or take rotation_augmented_gradient or rotating_frame"
        )

    __matmul__ = pair


def latent_moment(params: Any, covariance: Any) -> Array:
    """M (k, k): as known, or W1 C W1^T."""
    if isinstance(covariance, LatentMoment):
        return covariance.matrix
    return latent_moments(params.encoder, params.decoder, covariance)[0]


def skew_rotation(moment: Array) -> Array:
    """A = 1/2 (upper - lower triangle of M), skew-symmetric (k, k). Algorithm 1, with M = Y Y^T / n."""
    return 0.5 * (jnp.triu(moment, 1) - jnp.tril(moment, -1))


def _largest_row_sum(matrix: Array) -> Array:
    """max_i sum_j |matrix_ij|, which no eigenvalue exceeds."""
    return jnp.max(jnp.sum(jnp.abs(matrix), axis=1))


def require_params(params: Any) -> None:
    """Raises InputError where optax was not given the weights."""
    if params is None:
        raise InputError("params: None; this rule reads the weights: update(updates, state, params, covariance=...)")


def from_direction(direction: Callable[[Any, Any, Any], Any]) -> optax.GradientTransformationExtraArgs:
    """The stateless transformation updates -> direction(updates, params, covariance)."""

    def update(updates: Any, state: optax.EmptyState, params: Any = None, *, covariance: Any, **_: Any) -> Any:
        require_params(params)
        return direction(updates, params, as_covariance(covariance)), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def add_gauge(updates: Any, params: Any, gauge: Array) -> Any:
    """(dW1 - K W1, dW2 + W2 K) for K = `gauge` (k, k): descended, it leaves W2 W1 alone to first order."""
    return updates._replace(
        encoder=updates.encoder - gauge @ params.encoder, decoder=updates.decoder + params.decoder @ gauge
    )


def _augmentation(gain: float | Array, balance: float | Array | None, params: Any, moment: Array) -> Array:
    """K = gain A - gamma Z (k, k), gamma = balance max_i M_ii; without the second part where `balance` is None."""
    gauge = gain * skew_rotation(moment)
    if balance is None:
        return gauge
    return gauge - balance * jnp.max(jnp.diagonal(moment)) * imbalance_matrix(params)


def rotation_augmented_gradient(
    gain: float | Array = 1.0, balance: float | Array | None = None
) -> optax.GradientTransformationExtraArgs:
    """Algorithm 1: gradients of any loss become (dW1 - K W1, dW2 + W2 K), K = gain A, to be descended.

    `balance` adds a symmetric part: K = gain A - gamma Z, gamma = balance max_i M_ii. Finite steps,
    momentum and Adam let Z grow, and with Z != 0 Algorithm 1 rests at weights that are not aligned;
    this is the gradient of gamma/4 ||Z||_F^2, which takes Z to 0. Both parts conserve the loss of
    Eq. (1) to first order. `gain=0` balances without rotating.

    Expects params with fields `encoder` (k, m), `decoder` (m, k); other fields pass through. `update`
    needs `params` and the keyword `covariance`.
    """

    def direction(updates: Any, params: Any, covariance: Any) -> Any:
        return add_gauge(updates, params, _augmentation(gain, balance, params, latent_moment(params, covariance)))

    return from_direction(direction)


def augmented_reconstruction_gradient(
    gain: float | Array = 1.0, balance: float | Array | None = None
) -> optax.GradientTransformationExtraArgs:
    """`rotation_augmented_gradient` for Eq. (1) alone and a covariance, in one product less.

    dW2 + W2 K = W2 (2 M + K) - 2 C W1^T is one product where the gradient and the rotation are two: the decoder's
    gradient that it is given is not read. `lae_jax.methods` pairs it with Eq. (1), and with no other loss.
    """

    def direction(updates: Any, params: Any, covariance: Any) -> Any:
        moment = latent_moment(params, covariance)
        gauge = _augmentation(gain, balance, params, moment)
        # The loss asks for the same two products, so the compiler computes them once.
        through_encoder, _ = covariance.pair(params.encoder.T, params.decoder)
        return updates._replace(
            encoder=updates.encoder - gauge @ params.encoder,
            decoder=params.decoder @ (2 * moment + gauge) - 2 * through_encoder,
        )

    return from_direction(direction)


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
    return angles * jnp.minimum(1, 2 / jnp.maximum(_largest_row_sum(angles), 1))


def jacobi_rotation(moment: Array, fraction: Array) -> Array:
    """R = cayley(fraction bounded(jacobi_angles(M))), one step on the way to R M R^T diagonal and descending.

    Its rate does not depend on the gaps between variances.
    """
    return cayley(fraction * bounded(jacobi_angles(moment)))


class RotatingFrameState(NamedTuple):
    """The step (), the frame Q (k, k) the weights are seen in, the optimiser's state in the fixed frame."""

    step: Array
    frame: Array
    optimizer: Any


def _turn(rotation: Array, tree: Any) -> Any:
    """(R W1, W2 R^T); other fields pass."""
    return tree._replace(encoder=rotation @ tree.encoder, decoder=tree.decoder @ rotation.T)


def rotating_frame(
    optimizer: optax.GradientTransformation,
    rate: float | Array | Callable[[Array], Array] = 1.0,
    turn: Callable[[Array, Array], Array] = jacobi_rotation,
    matrix: Callable[[Any, Any], Array] = latent_moment,
) -> optax.GradientTransformationExtraArgs:
    """Rotates the latents after each step by R = turn(matrix(params, covariance), rate).

    `matrix` is what the turns make diagonal: symmetric (k, k), it turns with the latents.

    The weights are (Q W1', W2' Q^T) with Q the product of all R so far, and the optimiser only ever
    sees (W1', W2') and their gradients. So, up to rounding, W2 W1 and the loss of any objective that
    a rotation of the latents leaves alone go exactly as without the rotation, whatever the optimiser
    and however large R: it can neither diverge by it nor lose a step to it. A gauge transformation.

    `rate`, a number in (0, 1] or a schedule of the step, is how much of the angle is taken: with 1
    the last of a misalignment goes in one step; mini-batches want it small at the end, since
    the angle of a batch is as noisy as its moments (1 / step averages them).
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> RotatingFrameState:
        frame = jnp.eye(params.encoder.shape[0], dtype=params.encoder.dtype)
        return RotatingFrameState(jnp.zeros((), jnp.int32), frame, optimizer.init(params))

    def update(
        updates: Any, state: RotatingFrameState, params: Any = None, *, covariance: Any, **extra: Any
    ) -> tuple[Any, RotatingFrameState]:
        require_params(params)
        covariance = as_covariance(covariance)
        back = state.frame.T
        seen = covariance.turn(back) if isinstance(covariance, LatentMoment) else covariance
        fixed, inner = optimizer.update(
            _turn(back, updates), state.optimizer, _turn(back, params), covariance=seen, **extra
        )
        # M of the weights before the step, as in Algorithm 1: the gradient has computed it already.
        share = rate(state.step) if callable(rate) else rate
        rotation = turn(matrix(params, covariance), jnp.asarray(share, state.frame.dtype))
        moved = _turn(rotation, optax.apply_updates(params, _turn(state.frame, fixed)))
        updates = jax.tree.map(jnp.subtract, moved, params)
        return updates, RotatingFrameState(state.step + 1, rotation @ state.frame, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def least_squares_gradient(balance: float | Array = 0.5) -> optax.GradientTransformationExtraArgs:
    """Gradients of Eq. (1) scaled by the curvature of each least-squares problem, plus balancing.

    dW1 -> s (nu dW1 C^-1 + gamma Z W1), with dW1 C^-1 = -2 W2^T (I - W2 W1) known in closed form;
    dW2 -> s (nu dW2 (M + eps M_max I)^-1 - gamma W2 Z), gamma = balance nu.
    nu = max_i M_ii / ||W1[i, :]||^2 estimates d_1 from below, so the learning rate keeps the unit
    1 / d_1 of the plain gradient; s = 1 / max(1, the row sums of W1 W1^T and W2^T W2) bounds the
    step where the weights are large. At the optimum every eigenvalue of this field within the
    latents is 4 nu or 4 gamma, and components l > k vanish at 2 nu (1 +- sqrt(d_l / d_i)): no variance
    is slow because it is small. Commutes with rotations of the latents but for the numbers nu, M_max and s,
    and leaves padding at zero.
    Related: alternating least squares; scaled gradient descent (Tong, Ma and Chi 2021).
    """

    def direction(updates: Any, params: Any, covariance: Any) -> Any:
        moment, code = latent_moments(params.encoder, params.decoder, covariance)[0], gram(params.decoder)
        weights = gram(params.encoder.T)
        variances, lengths = jnp.diagonal(moment), jnp.diagonal(weights)
        largest = jnp.max(variances)
        unit = jnp.max(variances / jnp.where(lengths > 0, lengths, 1))
        # The square root of the machine epsilon: far above the rounding of M, far below the variances that matter.
        damping = float(jnp.finfo(moment.dtype).eps) ** 0.5
        identity = jnp.eye(moment.shape[0], dtype=moment.dtype)
        damped = moment / jnp.where(largest > 0, largest, 1) + damping * identity
        gauge = balance * unit * (weights - code)
        # With m right-hand sides, the inverse (k, k) and a product are several times as fast as a solve.
        inverse = jsl.solve(damped, identity, assume_a="pos")
        encoder = (2 * unit * code + gauge) @ params.encoder - 2 * unit * params.decoder.T
        decoder = updates.decoder @ inverse - params.decoder @ gauge
        scale = 1 / jnp.maximum(1, jnp.maximum(_largest_row_sum(weights), _largest_row_sum(code)))
        return updates._replace(encoder=scale * encoder, decoder=scale * decoder)

    return from_direction(direction)


def aligned_descent(
    optimizer: optax.GradientTransformation, rate: float | Array | Callable[[Array], Array] = 1.0
) -> optax.GradientTransformationExtraArgs:
    """The recommended rule around any optimiser: `least_squares_gradient` in a `rotating_frame` of this rate.

    For Eq. (1) only. With Nesterov momentum 0.9 a learning rate of 0.1 / d_1 suits every k and data set.
    """
    return optax.chain(least_squares_gradient(), rotating_frame(optimizer, rate))
