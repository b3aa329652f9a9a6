"""What a run reads its data through: the covariance in its eigenbasis, dense, or by the samples, on the device."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from lae_jax.covariance import Covariance, Dense, Diagonal
from lae_jax.data import hosts, layouts
from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError, unknown_name


def represent(
    dataset: Dataset,
    representation: str,
    dtype: DTypeLike,
    devices: Sequence[jax.Device] | None = None,
    column_parts: int = 1,
) -> Covariance:
    """The covariance operator of `eigenbasis`, `dense` or `samples`, in this precision.

    `devices` share the rows of `samples` and, in any form, the inputs where these are cut into parts; by default all
    there are. A covariance that is not cut is on one device of each process.
    """
    if representation not in REPRESENTATIONS:
        raise unknown_name("representation", representation, ["auto", *REPRESENTATIONS])
    if devices is None:
        alone = representation != "samples" and column_parts == 1
        devices = hosts.devices_each() if alone else jax.devices()
    mesh = layouts.mesh_of(devices, dataset.input_dim, column_parts)
    return REPRESENTATIONS[representation](dataset, dtype, mesh)


def _stored(dataset: Dataset) -> np.ndarray:
    if dataset.covariance is None:
        raise InputError(
            f"representation: {dataset.name} has {dataset.input_dim} inputs and {dataset.num_samples} samples, too wide"
            " for its covariance to be kept; use 'samples'"
        )
    return dataset.covariance


def _eigenbasis(dataset: Dataset, dtype: DTypeLike, mesh: Mesh | None) -> Covariance:
    _stored(dataset)
    variances = jnp.asarray(dataset.variances, dtype)
    return layouts.place(Diagonal(variances), mesh, dataset.input_dim)


def _dense(dataset: Dataset, dtype: DTypeLike, mesh: Mesh | None) -> Covariance:
    return layouts.place(Dense(jnp.asarray(_stored(dataset), dtype)), mesh, dataset.input_dim)


def _samples(dataset: Dataset, dtype: DTypeLike, mesh: Mesh | None) -> Covariance:
    return layouts.spread_rows(dataset.load_rows, (dataset.num_samples, dataset.input_dim), dtype, mesh)


REPRESENTATIONS: dict[str, Callable[[Dataset, DTypeLike, Mesh | None], Covariance]] = {
    "eigenbasis": _eigenbasis,
    "dense": _dense,
    "samples": _samples,
}
