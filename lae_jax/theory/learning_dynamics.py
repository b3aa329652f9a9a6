"""How an LAE learns where no rotation is to be learned: Saxe et al. 2019 and Gidel et al. 2019 (Section 3).

Both start co-diagonally, W1 = R diag(a) U^T and W2 = U diag(b) R^T for any orthogonal R (k, k). Descent of Eq. (1)
then keeps U and R, and each component i is a pair of numbers of its own:

    da_i/dt = 2 d_i b_i (1 - a_i b_i),    db_i/dt = 2 d_i a_i (1 - a_i b_i).

So the latents stay as far from the axes as R is. `rotation_times` says how long RAG takes for that.

Legend: d_i variances; a_i b_i the strength of component i, 1 when learned; z = a^2 - b^2; k latent dimension.
Numpy in float64; time is learning rate times steps.
"""

import numpy as np
from numpy.typing import ArrayLike

from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_variances


def _checked(variances: ArrayLike, encoder: ArrayLike, decoder: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leading k variances, a and b, each (k,)."""
    first, second = np.asarray(encoder, np.float64), np.asarray(decoder, np.float64)
    if first.ndim != 1 or first.shape != second.shape or not np.all(np.isfinite([first, second])):
        raise InputError(f"encoder, decoder: of shapes {first.shape} and {second.shape}; must be k finite numbers each")
    return checked_variances(variances, first.size, tail=0)[: first.size], first, second


def codiagonal_flow(
    variances: ArrayLike, encoder: ArrayLike, decoder: ArrayLike, times: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient flow of Eq. (1) from a co-diagonal start, in closed form. Saxe et al. 2019; Section 3.

    y = (a + b)^2 follows the Riccati equation dy/dt = d (4 y - y^2 + z^2), and z is conserved. For a = b the
    strength is the sigmoid 1 / (1 + (1 / a(0)^2 - 1) exp(-4 d t)).

    Args:
        variances: d, at least the first k.
        encoder: a (k,) at time 0.
        decoder: b (k,) at time 0.
        times: (t,).

    Returns:
        a and b, (t, k) each.

    Raises:
        InputError: where a + b = 0, a start that decays to the saddle at zero, or shapes do not fit.
    """
    d, a, b = _checked(variances, encoder, decoder)
    total = a + b
    if np.any(total == 0):
        raise InputError("encoder, decoder: a latent's sum to 0, which only decays to zero: start elsewhere")
    imbalance = a**2 - b**2
    root = np.sqrt(4 + imbalance**2)
    upper, lower = 2 + root, -(imbalance**2) / (2 + root)  # where y rests
    decay = np.exp(-2 * np.asarray(times, np.float64)[:, None] * d * root)
    ratio = (total**2 - upper) / (total**2 - lower) * decay
    summed = np.sign(total) * np.sqrt(lower + (upper - lower) / (1 - ratio))
    difference = imbalance / summed
    return (summed + difference) / 2, (summed - difference) / 2


def codiagonal_descent(
    variances: ArrayLike, encoder: ArrayLike, decoder: ArrayLike, learning_rate: float, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient descent of Eq. (1) from a co-diagonal start: k pairs of numbers, exactly. Gidel et al. 2019; Section 3.

    Args:
        variances: d, at least the first k.
        encoder: a (k,) at step 0.
        decoder: b (k,) at step 0.
        learning_rate: of every step.
        num_steps: how many.

    Returns:
        a and b, (num_steps + 1, k) each, the start included.

    Raises:
        InputError: where shapes do not fit.
    """
    d, a, b = _checked(variances, encoder, decoder)
    path = np.empty((2, num_steps + 1, d.size))
    path[:, 0] = a, b
    for step in range(num_steps):
        a, b = path[:, step]
        path[:, step + 1] = path[:, step] + 2 * learning_rate * d * (1 - a * b) * np.stack([b, a])
    return path[0], path[1]


def learning_times(variances: ArrayLike, latent_dim: int, start: float, fraction: float = 0.99) -> np.ndarray:
    """When each strength gets from `start` to `fraction` where a = b, (k,): the larger its variance, the sooner.

    ln(fraction (1 - start) / ((1 - fraction) start)) / (4 d_i). Saxe et al. 2019.
    """
    if not 0 < start < fraction < 1:
        raise InputError(f"start, fraction: {start}, {fraction}: must ascend between 0 and 1")
    leading = checked_variances(variances, latent_dim, tail=0)[:latent_dim]
    return np.log(fraction * (1 - start) / ((1 - fraction) * start)) / (4 * leading)


def rotation_times(variances: ArrayLike, latent_dim: int, start: float, end: float) -> np.ndarray:
    """How long RAG takes to turn latents i and i + 1, orthonormal in their plane, from angle to angle, (k - 1,).

    tan(angle) falls as exp(-(d_i - d_(i+1)) t / 2): Theorem 4's flow in a plane. This is the time that an LAE
    needs beyond `learning_times`, and it grows as gaps shrink where that grows as variances do.

    Args:
        variances: d, at least the first k.
        latent_dim: k.
        start: angle to the components at the beginning, in radians, below pi / 2.
        end: angle reached, below `start`.
    """
    if not 0 < end < start < np.pi / 2:
        raise InputError(f"start, end: {start}, {end}: must descend between pi / 2 and 0")
    leading = checked_variances(variances, latent_dim, tail=0)[:latent_dim]
    return 2 * np.log(np.tan(start) / np.tan(end)) / -np.diff(leading)
