"""Mean and covariance of more samples than memory holds: one pass, in float64.

On one CPU device the products are those of the host's BLAS, whose symmetric rank-k update does half
the work of a general product. Otherwise every device takes its share of the rows of each block and
keeps a sum of its own; the sums meet at the end. So do those of several processes, each of which reads its part of the
samples alone.
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg.blas
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lae_jax.data import hosts
from lae_jax.data.arrays import FillValues, Rows
from lae_jax.errors import InputError

Progress = Callable[[int, int], None]  # (samples read, all samples), after each block
BLOCK_BYTES = 1 << 25  # of a block in float64


class _Products(Protocol):
    """The sum over blocks of block^T block."""

    def buffer(self) -> np.ndarray:
        """Where to put the next block: float64 (rows, m)."""

    def add(self, buffer: np.ndarray, count: int) -> None:
        """Add the product of its first `count` rows."""

    def total(self) -> np.ndarray:
        """The sum (m, m)."""


class _OnHost:
    def __init__(self, rows: int, input_dim: int) -> None:
        self._buffer = np.empty((rows, input_dim))
        self._upper = np.zeros((input_dim, input_dim), order="F")

    def buffer(self) -> np.ndarray:
        return self._buffer

    def add(self, buffer: np.ndarray, count: int) -> None:
        self._upper = scipy.linalg.blas.dsyrk(1.0, buffer[:count].T, 1.0, self._upper, overwrite_c=True)

    def total(self) -> np.ndarray:
        for index in range(len(self._upper)):
            self._upper[index + 1 :, index] = self._upper[index, index + 1 :]
        return self._upper


@jax.jit(donate_argnums=0)
def _add(sums: jax.Array, block: jax.Array) -> jax.Array:
    shares = block.reshape(sums.shape[0], -1, block.shape[1])
    return sums + jnp.einsum("drm,drn->dmn", shares, shares, precision="highest")


class _OnDevices:
    def __init__(self, rows: int, input_dim: int, devices: list[jax.Device]) -> None:
        self._shape = (-(-rows // len(devices)) * len(devices), input_dim)
        mesh = jax.make_mesh((len(devices),), ("rows",), axis_types=(AxisType.Auto,), devices=devices)
        self._sharding = NamedSharding(mesh, PartitionSpec("rows"))
        with jax.enable_x64(True):
            sums = jnp.zeros((len(devices), input_dim, input_dim), device=self._sharding)
        self._sums = sums

    def buffer(self) -> np.ndarray:
        # A new array each time: the last may still be on its way to the devices. Rows of zeros add nothing.
        return np.zeros(self._shape)

    def add(self, buffer: np.ndarray, count: int) -> None:
        self._sums.block_until_ready()  # else reading would run ahead, and the memory fill up with blocks
        with jax.enable_x64(True):
            self._sums = _add(self._sums, jax.device_put(buffer, self._sharding))

    def total(self) -> np.ndarray:
        total = sum(np.asarray(shard.data)[0] for shard in self._sums.addressable_shards)
        return (total + total.T) / 2


def _products(rows: int, input_dim: int) -> _Products:
    devices = jax.local_devices()
    # TPUs have no float64, so the host computes for them too.
    if devices[0].platform == "tpu" or (len(devices) == 1 and devices[0].platform == "cpu"):
        return _OnHost(rows, input_dim)
    return _OnDevices(rows, input_dim, devices)


def no_progress(done: int, total: int) -> None:
    """The `Progress` that shows nothing."""


def rows_per_block(samples: Rows) -> int:
    """How many samples to read at a time."""
    input_dim = int(np.prod(samples.shape[1:]))
    return max(1, BLOCK_BYTES // (8 * input_dim), getattr(samples, "least_rows", 1))


@np.errstate(over="ignore", invalid="ignore")  # what overflows is refused
def accumulate(
    name: str, samples: Rows, *, products: bool = True, own: bool = False, on_progress: Progress = no_progress
) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean (m,) and covariance about it (m, m) of samples (n, ...): an array or `shards.StoredSamples`.

    Without `products` the covariance is None. Of several processes each reads a part, or with `own` all of samples that
    are its own. Raises InputError at the first sample that is not finite, and at a value that stands for missing ones.
    """
    num_samples, input_dim = samples.shape[0], int(np.prod(samples.shape[1:]))
    part = slice(0, num_samples) if own else hosts.part_of(num_samples)
    rows = min(rows_per_block(samples), max(part.stop - part.start, 1))
    # Sums are taken about the first block's mean, so that an offset large beside the spread does not cancel.
    shift = np.zeros(input_dim)
    if own or hosts.is_first():
        shift = samples[:rows].reshape(rows, input_dim).mean(axis=0, dtype=np.float64)
    if not np.isfinite(shift).all():
        shift = np.zeros(input_dim)  # the loop below says which sample it is
    shift = shift if own else hosts.from_first(shift)
    sums, fill_values = np.zeros(input_dim), FillValues()
    summed = _products(rows, input_dim) if products else None
    for start in range(part.start, part.stop, rows):
        block = samples[start : min(start + rows, part.stop)]
        count = len(block)
        buffer = np.empty((rows, input_dim)) if summed is None else summed.buffer()
        filled = buffer[:count]
        np.copyto(filled, block.reshape(count, input_dim))
        fill_values.add(filled)
        np.subtract(filled, shift, out=filled)
        block_sums = filled.sum(axis=0)
        if not np.isfinite(block_sums).all():
            _raise_at_bad_sample(name, samples, start, filled)
        sums += block_sums
        if summed is not None:
            summed.add(buffer, count)
        on_progress(start + count - part.start, part.stop - part.start)
    fill_values.check(f"{name}:")
    of_all = np.asarray if own else hosts.summed
    mean, covariance = of_all(sums) / num_samples, None
    if summed is not None:
        covariance = of_all(summed.total()) / num_samples - np.outer(mean, mean)
        if not np.isfinite(covariance).all():
            raise InputError(f"{name}: the squares of the samples overflow; rescale them")
    return shift + mean, covariance


def _raise_at_bad_sample(name: str, samples: Rows, start: int, block: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if not bad.size:
        raise InputError(f"{name}: the sums of the samples overflow; rescale them")
    index, num_samples, values, rows = start + int(bad[0]), samples.shape[0], 0, 0
    where = samples.whereabouts(index) if hasattr(samples, "whereabouts") else f"{name}: sample {index}"
    for first in range(start, num_samples, len(block)):
        finite = np.isfinite(samples[first : first + len(block)]).reshape(-1, block.shape[1])
        values, rows = values + int((~finite).sum()), rows + int((~finite.all(axis=1)).sum())
    raise InputError(
        f"{where} is not finite; remove or impute such rows: {rows} of {num_samples}, with {values} values that are NaN"
        " or infinite"
    )


def image_moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact sums (m,) and second moments (m, m) in int64 of uint8 images (n, ...)."""
    flat = images.reshape(len(images), -1)
    sums, moments = flat.sum(axis=0, dtype=np.int64), np.zeros((flat.shape[1],) * 2, np.int64)
    for start in range(0, len(flat), 4096):
        block = flat[start : start + 4096].astype(np.float64)
        moments += (block.T @ block).astype(np.int64)  # sums below 2^53 are exact in float64
    return sums, moments
