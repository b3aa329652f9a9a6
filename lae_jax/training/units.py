"""The unit that a run computes in, and what its records and weights are in the unit of the data.

Samples x = u x' have the covariance C = u^2 C'. A run on C' is that on C: with penalties l' = l / u^2 the losses are
u^2 times as large and the weights are the same. The linear VAE compares x with a prior of unit variance, so its
weights change: W1 = W1' / u, W2 = u W2', t = t' + 2 log u, and the log-density of x by m log u. A unit near sigma_1
keeps single precision away from its ends, whatever the data are measured in; a power of two changes no bit.

Which unit trains a linear VAE best is not known: sigma_1 was chosen among six by the alignment that runs ended at on
iris, wine and digits, so that alignment there is no independent check of it. `docs/results/scales.csv` has two more
data sets. On breast cancer the default learning rate of the time did not settle, which led to
`curvature_bound`; diabetes was looked at after both.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lae_jax.hyperparameters import used_latents
from lae_jax.methods import METHODS, SHIPPED, Method, Optimizer
from lae_jax.params import Weights

# Units within which records in single precision stay in its range.
_NEAR = 1e12


class Scaling(NamedTuple):
    """How a loss and its weights depend on the unit u of the data."""

    loss: Callable[[np.ndarray, float, int], np.ndarray]  # (in the unit, u, m) -> of the data
    weights: Callable[[Weights, float], Weights]  # (in the unit, u) -> of the data
    moment: int  # the power of u in the moments of the latents
    # (variances, k, beta) in the unit -> a bound of the Hessian at the optimum, where that is far above sigma_1^2
    curvature: Callable[..., float] | None = None


def _vae_weights(params: Any, unit: float) -> Weights:  # VAEParams, whose arrays become numpy's
    dtype, noise = params.encoder.dtype, params.noise_log_variance
    return params._replace(
        encoder=(np.asarray(params.encoder, np.float64) / unit).astype(dtype),
        decoder=(np.asarray(params.decoder, np.float64) * unit).astype(dtype),
        noise_log_variance=np.asarray(noise + 2 * np.log(unit), noise.dtype),
    )


def curvature_bound(variances: np.ndarray, latent_dim: int, beta: float = 1.0) -> float:
    """What no eigenvalue of the Hessian at the optimum exceeds: (d_1 max(d_1, beta s2) + 1) / s2 + (beta + m) / 2.

    A positive semidefinite matrix is at most the sum of its diagonal blocks: the entries of encoder and decoder of
    latent i at component j are blocks of trace (d_i d_j + 1) / s2, or pairs of them that split into such, with beta s2
    for d_i where the latent is unused; those of the log-variances of latents and noise are beta / 2 and m / 2. Beyond
    the paper.

    Args:
        variances: d (m,), descending.
        latent_dim: k.
        beta: weight of the divergence; 1 is the linear VAE.
    """
    least = float(np.finfo(np.float32).eps) * variances[0]  # without any noise there is no optimum
    floored = np.maximum(variances, least)
    used = int(used_latents(beta, floored, latent_dim))
    noise = float(np.sum(floored[used:]) / (variances.size - beta * used))
    return float((variances[0] * max(variances[0], beta * noise) + 1) / noise + (beta + variances.size) / 2)


_AUTOENCODER = Scaling(lambda loss, unit, input_dim: loss * unit**2, lambda params, unit: params, 2)
_VAE = Scaling(lambda loss, unit, input_dim: loss + input_dim * np.log(unit), _vae_weights, 0, curvature_bound)


def scaling_of(method: Method) -> Scaling:
    """How this row's loss depends on the unit of the data."""
    return _VAE if method == METHODS["linear_vae"] else _AUTOENCODER


def unit_of(method: Method, optimizer: Optimizer, largest_variance: float) -> float:
    """The power of two nearest to sigma_1; for the linear VAE sigma_1 itself, since its runs are not the same in all.

    1 for a row or an optimiser of which it is not known what a unit changes: one of one's own may hold any loss.
    """
    if method not in SHIPPED or optimizer.unit_power is None:
        return 1.0
    if scaling_of(method) is _VAE:
        return float(np.sqrt(largest_variance))
    return float(2.0 ** np.round(np.log2(largest_variance) / 2))


def default_learning_rate(
    method: Method, optimizer: Optimizer, variances: np.ndarray, latent_dim: int, beta: Sequence[float], unit: float
) -> float | None:
    """That of the optimiser for this row; at most the inverse of the largest curvature, where rates are compared to it.

    The curvature of the linear VAE is not of the order of sigma_1^2: the noise that it finds divides it.
    """
    if optimizer.default_learning_rate is None:
        return None
    rate = optimizer.default_learning_rate(method, float(variances[0]))
    if method not in SHIPPED or optimizer.unit_power != 2 or (curvature := scaling_of(method).curvature) is None:
        return rate
    return min(rate, 1 / curvature(variances / unit**2, latent_dim, *beta) / unit**2)


def in_unit_of_data(
    method: Method, history: dict[str, np.ndarray], unit: float, input_dim: int
) -> dict[str, np.ndarray]:
    """Columns of a history recorded in this unit; of the linear VAE imbalance and transpose gap stay as they are."""
    if unit == 1:
        return history
    scaling = scaling_of(method)

    def rounded(values: np.ndarray, before: np.ndarray) -> np.ndarray:
        return values.astype(before.dtype) if 1 / _NEAR < unit < _NEAR else values

    loss, moment = (np.asarray(history[name], np.float64) for name in ("loss", "non_diagonality"))
    return {
        **history,
        "loss": rounded(scaling.loss(loss, unit, input_dim), history["loss"]),
        "non_diagonality": rounded(moment * unit**scaling.moment, history["non_diagonality"]),
    }
