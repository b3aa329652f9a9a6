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

import jax.numpy as jnp
import jax.scipy.linalg as jsl
import optax

from lae_jax.covariance import Covariance, gram, largest_row_sum, latent_moments
from lae_jax.metrics import imbalance_matrix
from lae_jax.params import Array, Number, TwoLayers
from lae_jax.transformations import from_direction, latent_moment
from lae_jax.transformations import rotating_frame as rotating_frame


def skew_rotation(moment: Array) -> Array:
    """A = 1/2 (upper - lower triangle of M), skew-symmetric (k, k). Algorithm 1, with M = Y Y^T / n."""
    return 0.5 * (jnp.triu(moment, 1) - jnp.tril(moment, -1))


def add_gauge(updates: TwoLayers, params: TwoLayers, gauge: Array) -> TwoLayers:
    """(dW1 - K W1, dW2 + W2 K) for K = `gauge` (k, k): descended, it leaves W2 W1 alone to first order."""
    return updates._replace(
        encoder=updates.encoder - gauge @ params.encoder, decoder=updates.decoder + params.decoder @ gauge
    )


def _augmentation(gain: Number, balance: Number | None, params: TwoLayers, moment: Array) -> Array:
    """K = gain A - gamma Z (k, k), gamma = balance max_i M_ii; without the second part where `balance` is None."""
    gauge = gain * skew_rotation(moment)
    if balance is None:
        return gauge
    return gauge - balance * jnp.max(jnp.diagonal(moment)) * imbalance_matrix(params)


def rotation_augmented_gradient(
    gain: Number = 1.0, balance: Number | None = None
) -> optax.GradientTransformationExtraArgs:
    """Algorithm 1: gradients of any loss become (dW1 - K W1, dW2 + W2 K), K = gain A, to be descended.

    `balance` adds a symmetric part: K = gain A - gamma Z, gamma = balance max_i M_ii. Finite steps,
    momentum and Adam let Z grow, and with Z != 0 Algorithm 1 rests at weights that are not aligned;
    this is the gradient of gamma/4 ||Z||_F^2, which takes Z to 0. Both parts conserve the loss of
    Eq. (1) to first order. `gain=0` balances without rotating.

    Expects params with fields `encoder` (k, m), `decoder` (m, k); other fields pass through. `update`
    needs `params` and the keyword `covariance`.
    """

    def direction(updates: TwoLayers, params: TwoLayers, covariance: Covariance) -> TwoLayers:
        return add_gauge(updates, params, _augmentation(gain, balance, params, latent_moment(params, covariance)))

    return from_direction(direction)


def augmented_reconstruction_gradient(
    gain: Number = 1.0, balance: Number | None = None
) -> optax.GradientTransformationExtraArgs:
    """`rotation_augmented_gradient` for Eq. (1) alone and a covariance, in one product less.

    dW2 + W2 K = W2 (2 M + K) - 2 C W1^T is one product where the gradient and the rotation are two: the decoder's
    gradient that it is given is not read. `lae_jax.methods` pairs it with Eq. (1), and with no other loss.
    """

    def direction(updates: TwoLayers, params: TwoLayers, covariance: Covariance) -> TwoLayers:
        moment = latent_moment(params, covariance)
        gauge = _augmentation(gain, balance, params, moment)
        # The loss asks for the same two products, so the compiler computes them once.
        through_encoder, _ = covariance.pair(params.encoder.T, params.decoder)
        return updates._replace(
            encoder=updates.encoder - gauge @ params.encoder,
            decoder=params.decoder @ (2 * moment + gauge) - 2 * through_encoder,
        )

    return from_direction(direction)


def least_squares_gradient(balance: Number = 0.5) -> optax.GradientTransformationExtraArgs:
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

    def direction(updates: TwoLayers, params: TwoLayers, covariance: Covariance) -> TwoLayers:
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
        scale = 1 / jnp.maximum(1, jnp.maximum(largest_row_sum(weights), largest_row_sum(code)))
        return updates._replace(encoder=scale * encoder, decoder=scale * decoder)

    return from_direction(direction)


def aligned_descent(
    optimizer: optax.GradientTransformation,
    rate: Number | optax.Schedule = 1.0,
    average: Number | None = None,
    checked: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """The recommended rule around any optimiser: `least_squares_gradient` in a `rotating_frame`.

    For Eq. (1) only. With Nesterov momentum 0.9 a learning rate of 0.1 / d_1 suits every k and data set.
    `rate`, `average` and `checked` are those of the frame: on mini-batches `average=1.5` needs no schedule of the rate.
    """
    return optax.chain(least_squares_gradient(), rotating_frame(optimizer, rate, average=average, checked=checked))
