"""Where stochastic nested dropout stops: the noise of its masks near the optimum (Section 5).

At W1 = W2^T = U^T the gradient of a sample x = sum_l z_l u_l whose first b latents are kept is zero in the encoder,
and in the decoder's entry of latent i at component l it is -2 z_i z_l where i <= b < l, else zero. So with E over
the samples its covariance within a block of the Hessian takes E[z_i^2 z_l^2] alone, and so do the stationary
covariance of the linearised descent and the two distances. Exact for small learning rates, to first order in them.

Adam divides by what is made of the fluctuations themselves: `adam_floor` finds both together.

Legend: z = U^T x; c_i = P(b >= i); k latent dimension; m input dimension; n number of samples. Numpy in float64.
"""

import functools
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from lae_jax import metrics, objectives
from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_prior, checked_variances
from lae_jax.methods import OPTIMIZERS
from lae_jax.params import LAEParams
from lae_jax.theory.closed_form import deterministic_nested_dropout_spectrum
from lae_jax.theory.rates import largest_learning_rate


class NoiseFloor(NamedTuple):
    """Where a run settles, on average over its steps."""

    axis_alignment: float  # Def. 7.1
    subspace_distance: float  # Def. 7.2
    variances: np.ndarray  # (m, k) of the decoder's entries about the optimum, in the eigenbasis; 0 on the diagonal
    drift: (
        np.ndarray
    )  # (k,) by which D_i^2 - D_i^-2 grows a step under plain descent, to first order in the learning rate


def fourth_moments(rows: ArrayLike, components: ArrayLike, latent_dim: int) -> np.ndarray:
    """E[z_i^2 z_l^2] over the samples, (k, m), for z = U^T x.

    Args:
        rows: samples (n, m), less their mean.
        components: all m of them as columns (m, m).
        latent_dim: k.
    """
    squares = (np.asarray(rows, np.float64) @ np.asarray(components, np.float64)) ** 2
    return squares[:, :latent_dim].T @ squares / len(squares)


class Settled(NamedTuple):
    """What a run does once it has settled, as means over equal stretches of steps."""

    axis_alignment: np.ndarray  # (w,), Def. 7.1
    subspace_distance: np.ndarray  # (w,), Def. 7.2
    scales: np.ndarray  # (w, k), D: the square roots of ||W2[:, i]|| / ||W1[i, :]||


def settled(
    rows: ArrayLike,
    prior: ArrayLike,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    optimizer: str = "nesterov",
    num_steps: int = 10_000,
    stretches: int = 8,
    seed: int = 0,
    runs: int = 1,
) -> Settled:
    """Full-batch nested dropout from the optimum W1 = W2^T, to be held against what is predicted; needs x64.

    Args:
        rows: samples in the eigenbasis of their covariance, less their mean (n, m).
        prior: p_B (k,), positive.
        learning_rate: in the scale of `objectives` (twice Eq. (6)).
        momentum: where the optimizer takes one.
        optimizer: a name of `OPTIMIZERS`.
        num_steps: counted after as many as a stretch takes, in which the run settles.
        stretches: over how many parts of these means are taken: the scales drift.
        seed: of the masks.
        runs: how many at once, over which means are taken as well.
    """
    probabilities = checked_prior(prior, strictly=True)
    means = _runs(
        jnp.asarray(rows, jnp.float64), jnp.asarray(probabilities), learning_rate, momentum,
        jax.random.split(jax.random.key(seed), runs), optimizer, num_steps // stretches, stretches,
    )  # fmt: skip
    return Settled(*(np.asarray(value).mean(0)[1:] for value in means))


Pair = tuple[LAEParams, optax.OptState]
Sums = tuple[jax.Array, jax.Array, jax.Array]
Carry = tuple[LAEParams, optax.OptState, Sums]


@functools.partial(jax.jit, static_argnames=("optimizer", "length", "stretches"))
@functools.partial(jax.vmap, in_axes=(*4 * [None], 0, *3 * [None]))
def _runs(
    rows: jax.Array, prior: jax.Array, learning_rate: jax.Array, momentum: jax.Array, key: jax.Array,
    optimizer: str, length: int, stretches: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    rule = OPTIMIZERS[optimizer].build(learning_rate, momentum)
    k, m = prior.size, rows.shape[1]
    start = LAEParams(jnp.eye(k, m), jnp.eye(m, k))

    def step(carry: Carry, key: jax.Array) -> tuple[Carry, None]:
        params, state, sums = carry
        gradients = jax.grad(objectives.nested_dropout)(params, rows, objectives.sample_kept(key, prior, len(rows)))
        updates, state = rule.update(gradients, state, params)
        params = cast(LAEParams, optax.apply_updates(params, updates))
        lengths = jnp.linalg.norm(params.decoder, axis=0) / jnp.linalg.norm(params.encoder, axis=1)
        found = metrics.axis_alignment(params.decoder), metrics.subspace_distance(params.decoder), jnp.sqrt(lengths)
        return (params, state, jax.tree.map(lambda total, value: total + value / length, sums, found)), None

    def stretch(carry: Pair, key: jax.Array) -> tuple[Pair, Sums]:
        zeros = (jnp.zeros(()), jnp.zeros(()), jnp.zeros(k))
        (params, state, means), _ = jax.lax.scan(step, (*carry, zeros), jax.random.split(key, length))
        return (params, state), means

    return jax.lax.scan(stretch, (start, rule.init(start)), jax.random.split(key, stretches + 1))[1]


def _stationary(curvatures: np.ndarray, noise: np.ndarray, learning_rate: float, momentum: float) -> np.ndarray:
    """Stationary covariance (n, s, s) of modes (n, s) whose gradients have noise of this covariance (n, s, s).

    One mode is (w, trace) -> A (w, trace) + noise (-a (1 + momentum), 1), as optax's Nesterov momentum has it.
    """
    rate, zeros = learning_rate, np.zeros_like(curvatures)
    step = np.stack(
        [
            np.stack([1 - rate * (1 + momentum) * curvatures, zeros - rate * momentum**2], -1),
            np.stack([curvatures, zeros + momentum], -1),
        ],
        -2,
    )
    enters = np.array([-rate * (1 + momentum), 1.0])
    # X = A_a X A_b^T + noise_ab enters enters^T for every pair of modes (a, b) of a block.
    product = np.einsum("naij,nbkl->nabikjl", step, step).reshape(*noise.shape, 4, 4)
    source = noise[..., None] * np.outer(enters, enters).ravel()
    return np.linalg.solve(np.eye(4) - product, source[..., None])[..., 0, 0]


def nested_dropout_noise_floor(
    variances: ArrayLike,
    prior: ArrayLike,
    moments: ArrayLike,
    num_samples: int,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    batch_size: int = 0,
    scales: ArrayLike = 1.0,
) -> NoiseFloor:
    """The distances at which nested dropout under descent or Nesterov momentum settles (beyond the paper).

    The stationary covariance of the linearised descent about an optimum W2 = U D, W1 = D^-1 U^T; each step draws
    a mask for every sample. Proportional to the learning rate and to 1 / n where both are small. The loss does not fix
    D, but noise moves it slowly towards longer decoders (`drift`), and the floor falls as it does.

    Args:
        variances: all d (m,) of the samples' covariance.
        prior: p_B (k,), positive.
        moments: E[z_i^2 z_l^2] (k, m), from `fourth_moments`.
        num_samples: n, of a full-batch run.
        learning_rate: in the scale of `objectives` (twice Eq. (6)).
        momentum: Nesterov's.
        batch_size: samples a step draws with replacement; 0 takes all n.
        scales: D, one number or (k,): the square root of ||W2[:, i]|| / ||W1[i, :]||.

    Raises:
        InputError: where shapes do not fit, or the learning rate is unstable.
    """
    probabilities = checked_prior(prior, strictly=True)
    k = probabilities.size
    values = checked_variances(variances, k)
    energies = np.asarray(moments, np.float64)
    if energies.shape != (k, values.size):
        raise InputError(f"moments: of shape {energies.shape}, must be ({k}, {values.size})")
    kept = np.cumsum(probabilities[::-1])[::-1]
    scales = np.broadcast_to(np.asarray(scales, np.float64), (k,))
    stretch = np.stack([scales, 1 / scales], -1)  # of encoder and decoder entries, which makes them balanced

    # P(i <= b < l); over all samples the mean over masks is fixed, over a batch even the mean over samples varies.
    split = np.maximum(kept[:, None] - np.append(kept, np.zeros(values.size - k)), 0)
    spread = split / batch_size if batch_size else split * (1 - split) / num_samples
    strength = 4 * energies * spread / scales[:, None] ** 2

    i, j = np.triu_indices(k, 1)
    row, column = np.repeat(np.arange(k), values.size - k), np.tile(np.arange(k, values.size), k)
    spectrum = deterministic_nested_dropout_spectrum(values, probabilities)
    blocks = [
        (block.matrices * factors[:, :, None] * factors[:, None, :], first, second)
        for block, factors, first, second in (
            (spectrum.blocks[1], np.hstack([stretch[i], stretch[j]]), i, j),
            (spectrum.blocks[2], stretch[row], row, column),
        )
    ]
    steepest = np.max(2 * kept * values[:k] * np.sum(stretch**2, -1))  # rescaling a latent with its own component
    limit = largest_learning_rate(
        float(max(steepest, *(np.linalg.eigvalsh(each).max(initial=0.0) for each, *_ in blocks))), momentum
    )
    if not 0 < learning_rate < limit:
        raise InputError(
            f"learning_rate: {learning_rate:g}: must be above 0 and below {limit:g}, where descent diverges"
        )

    found = np.zeros((values.size, k))
    for matrices, first, second in blocks:
        curvatures, modes = np.linalg.eigh(matrices)
        noise = strength[first, second][:, None, None] * modes[:, 1, :, None] * modes[:, 1, None, :]  # entry 1: decoder
        # A component without variance leaves the encoder's weight on it free, which nothing moves.
        still = curvatures <= 1e-14 * steepest
        noise = np.where(still[:, :, None] | still[:, None, :], 0, noise)
        modal = _stationary(np.where(still, steepest, curvatures), noise, learning_rate, momentum)
        entries = np.einsum("nia,nab,nib->ni", modes, modal, modes)
        found[second, first] = entries[:, 1]
        if entries.shape[1] == 4:
            found[first, second] = entries[:, 3]
    off = found / scales**2  # of unit columns
    return NoiseFloor(float(off.sum() / k), float(off[k:].sum() / k), found, learning_rate**2 * strength.sum(1))
