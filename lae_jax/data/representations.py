"""What a run reads its data through: the covariance in its eigenbasis, dense, or by the samples, on the device."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lae_jax.covariance import Covariance, Dense, Diagonal, spread_rows
from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError, unknown_name


def represent(
    dataset: Dataset, representation: str, dtype: Any, devices: Sequence[jax.Device] | None = None
) -> Covariance:
    """The covariance operator of `eigenbasis`, `dense` or `samples`, in this precision.

    `devices` share the rows of `samples`; by default all that this process has.
    """
    if representation not in REPRESENTATIONS:
        raise unknown_name("representation", representation, ["auto", *REPRESENTATIONS])
    return REPRESENTATIONS[representation](dataset, dtype, devices or jax.local_devices())


def _stored(dataset: Dataset) -> np.ndarray:
    if dataset.covariance is None:
        raise InputError(
            f"representation: {dataset.name} has {dataset.input_dim} inputs and {dataset.num_samples} samples, too wide"
            " for its covariance to be kept; use 'samples'"
        )
    return dataset.covariance


def _eigenbasis(dataset: Dataset, dtype: Any, devices: Sequence[jax.Device]) -> Covariance:
    _stored(dataset)
    return Diagonal(jnp.asarray(dataset.variances, dtype))


def _samples(dataset: Dataset, dtype: Any, devices: Sequence[jax.Device]) -> Covariance:
    return spread_rows(dataset.load_rows().astype(dtype, copy=False), devices)


REPRESENTATIONS: dict[str, Callable[[Dataset, Any, Sequence[jax.Device]], Covariance]] = {
    "eigenbasis": _eigenbasis,
    "dense": lambda dataset, dtype, devices: Dense(jnp.asarray(_stored(dataset), dtype)),
    "samples": _samples,
}
