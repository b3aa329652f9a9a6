"""The unit that a run computes in, and what its records and weights are in the unit of the data.

Samples x = u x' have the covariance C = u^2 C'. A run on C' is that on C: with penalties l' = l / u^2 the losses are
u^2 times as large and the weights are the same. The linear VAE compares x with a prior of unit variance, so its
weights change: W1 = W1' / u, W2 = u W2', t = t' + 2 log u, and the log-density of x by m log u. A unit near sigma_1
keeps single precision away from its ends, whatever the data are measured in; a power of two changes no bit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lae_jax.methods import METHODS, Method, Optimizer

# Units within which records in single precision stay in its range.
_NEAR = 1e12


class Scaling(NamedTuple):
    """How a loss and its weights depend on the unit u of the data."""

    loss: Callable[[np.ndarray, float, int], np.ndarray]  # (in the unit, u, m) -> of the data
    weights: Callable[[Any, float], Any]  # (in the unit, u) -> of the data
    moment: int  # the power of u in the moments of the latents


def _vae_weights(params: Any, unit: float) -> Any:
    dtype, noise = params.encoder.dtype, params.noise_log_variance
    return params._replace(
        encoder=(np.asarray(params.encoder, np.float64) / unit).astype(dtype),
        decoder=(np.asarray(params.decoder, np.float64) * unit).astype(dtype),
        noise_log_variance=np.asarray(noise + 2 * np.log(unit), noise.dtype),
    )


_AUTOENCODER = Scaling(lambda loss, unit, input_dim: loss * unit**2, lambda params, unit: params, 2)
_VAE = Scaling(lambda loss, unit, input_dim: loss + input_dim * np.log(unit), _vae_weights, 0)
# Rows of one's own may hold a loss that scales otherwise: they are computed in the unit of the data.
_SHIPPED = frozenset(METHODS.values())


def scaling_of(method: Method) -> Scaling:
    """How this row's loss depends on the unit of the data."""
    return _VAE if method == METHODS["linear_vae"] else _AUTOENCODER


def unit_of(method: Method, optimizer: Optimizer, largest_variance: float) -> float:
    """The power of two nearest to sigma_1; for the linear VAE sigma_1 itself, since its runs are not the same in all.

    1 for a row or an optimiser of which it is not known what a unit changes.
    """
    if method not in _SHIPPED or optimizer.unit_power is None:
        return 1.0
    if scaling_of(method) is _VAE:
        return float(np.sqrt(largest_variance))
    return float(2.0 ** np.round(np.log2(largest_variance) / 2))


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
