"""What data become: mean, covariance, spectrum, and samples on demand.

Legend: C = U diag(d) U^T the covariance (m, m); d variances, descending; U components.
Everything here is numpy in float64; `data.representations` hands it to the device in the run's precision.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Protocol

import jax
import numpy as np

from lae_jax.data import hosts, memory, spectra
from lae_jax.data.arrays import SamplesLike, as_samples
from lae_jax.data.batches import moments_of
from lae_jax.data.moments import Progress, accumulate, no_progress, rows_per_block
from lae_jax.data.tables import names_of
from lae_jax.errors import InputError


class LoadRows(Protocol):
    """Reads samples."""

    def __call__(self, part: slice = ..., /) -> np.ndarray:
        """All of them (n, m), or a part."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set after centring and scaling."""

    name: str
    num_samples: int
    mean: np.ndarray  # (m,), what was subtracted after scaling; zeros if not centred
    variances: np.ndarray  # d (r,), descending; r = m wherever C itself is kept
    components: np.ndarray  # U (m, r); the largest entry of each column is positive
    total_variance: float  # tr C
    covariance: np.ndarray | None  # C (m, m), or None where it would be too large for what it says
    # The samples (n, m) or, given a slice, a part of them; float32 or float64. InputError if there are none.
    load_rows: LoadRows
    image_shape: tuple[int, int] | None = None
    scale: float = 1.0  # what the raw samples were multiplied by
    centered: bool = True  # whether the mean was subtracted
    columns: tuple[str, ...] | None = None  # the names of the inputs (m,), where the samples have them
    loader_draws: int = 0  # random numbers that the authors' program takes to load them (`authors.loader_draws`)

    @property
    def input_dim(self) -> int:
        """The number of inputs, m."""
        return self.mean.shape[0]

    @property
    def rank(self) -> int:
        """The number of directions in which the samples vary by more than rounding."""
        return int(np.sum(self.variances > self.input_dim * np.finfo(float).eps * self.variances[0]))

    def measured_in(self, unit: float) -> "Dataset":
        """The same data set x / unit."""
        if unit == 1:
            return self
        return dataclasses.replace(
            self,
            mean=self.mean / unit,
            variances=self.variances / unit**2,
            total_variance=self.total_variance / unit**2,
            covariance=None if self.covariance is None else self.covariance / unit**2,
            load_rows=lambda *part: _divided(self.load_rows(*part), unit),
            scale=self.scale / unit,
        )


def _divided(rows: np.ndarray, unit: float) -> np.ndarray:
    return rows / rows.dtype.type(unit)


def _spectrum(name: str, covariance: np.ndarray) -> tuple[np.ndarray, ...]:
    return hosts.once(lambda: spectra.of_covariance(name, covariance), covariance.shape[:1], covariance.shape)


def _check_scale(scale: float) -> None:
    if not np.isfinite(scale):
        raise InputError(f"scale: {scale}: must be finite")


@np.errstate(over="ignore", invalid="ignore")  # what overflows is refused
def from_moments(
    name: str,
    num_samples: int,
    sums: np.ndarray,
    second_moments: np.ndarray,
    load_rows: Callable[..., np.ndarray],
    *,
    scale: float = 1.0,
    center: bool = True,
    image_shape: tuple[int, int] | None = None,
) -> Dataset:
    """From sum_x x (m,) and sum_x x x^T (m, m) over n raw samples. `load_rows(mean)` gives the rest, or a part."""
    _check_scale(scale)
    mean = scale * sums / num_samples if center else np.zeros(len(sums))
    covariance = np.square(scale) * second_moments / num_samples - np.outer(mean, mean)
    variances, components = _spectrum(name, covariance)
    total = float(np.trace(covariance))
    rows = functools.partial(load_rows, mean)
    return Dataset(name, num_samples, mean, variances, components, total, covariance, rows, image_shape, scale, center)


@np.errstate(over="ignore", invalid="ignore")
def from_samples(
    name: str,
    samples: SamplesLike,
    *,
    scale: float = 1.0,
    center: bool = True,
    on_progress: Progress = no_progress,
    max_memory: float | None = None,
) -> Dataset:
    """From samples (n, ...): whatever `arrays.as_samples` takes, or files (`sources.load_array`); read block by block.

    `on_progress(samples read, all samples)` is called after each block; `max_memory` is in bytes, by default what the
    machine has. Raises InputError at what holds no real numbers, at the first sample that is not finite, where nothing
    varies, and, before anything is read, where the spectrum takes more memory.
    """
    samples = as_samples(f"{name}:", samples)
    if len(samples.shape) < 2 or samples.shape[0] < 2 or np.prod(samples.shape[1:]) < 2:
        raise InputError(f"{name}: shape {samples.shape}; need at least 2 samples (rows) of at least 2 numbers")
    shape = (samples.shape[0], int(np.prod(samples.shape[1:])))
    image_shape = (samples.shape[1], samples.shape[2]) if samples.ndim == 3 else None
    few = spectra.NARROW_WIDTH < shape[1] > shape[0]
    _check_scale(scale)
    memory.check(
        f"{name}: the spectrum of {shape[0]} x {shape[1]} numbers takes",
        memory.of_reading((-(-shape[0] // jax.process_count()), shape[1]), samples.dtype),
        max_memory,
        "take fewer columns, or lae_jax.fit_stream, which makes none",
    )
    raw_mean, central = accumulate(name, samples, products=memory.has_covariance(shape), on_progress=on_progress)
    mean = scale * raw_mean if center else np.zeros(shape[1])

    def rows(part: slice = slice(None), precise: bool = False) -> np.ndarray:
        dtype = np.dtype(np.float64 if precise or samples.dtype == np.float64 else np.float32)
        first, last, _ = part.indices(shape[0])
        check_room(name, (last - first, shape[1]), dtype, max_memory)
        centred = np.empty((last - first, shape[1]), dtype)
        for start in range(first, last, step := rows_per_block(samples)):
            block = np.asarray(samples[start : min(start + step, last)], np.float64).reshape(-1, shape[1])
            centred[start - first : start - first + step] = block * scale - mean
        return centred

    if central is None and jax.process_count() > 1:
        covariance = None
        variances, components, total = spectra.of_parts(rows(hosts.part_of(shape[0]), few), shape[0])
    elif central is None:
        covariance, variances, components, total = None, *spectra.of_rows(rows(precise=few))
    else:
        covariance, variances, components, total = _of_central(name, raw_mean, central, scale, center)
    if not total > 0:
        raise InputError(f"{name}: the samples do not vary; nothing to learn")
    return Dataset(
        *(name, shape[0], mean, variances, components, total, covariance, rows, image_shape, scale, center),
        columns=names_of(samples),
    )


def _of_central(
    name: str, raw_mean: np.ndarray, central: np.ndarray, scale: float, center: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """C, d, U and tr C from mean and covariance of raw samples."""
    offset = np.zeros(len(raw_mean)) if center else raw_mean
    covariance = np.square(scale) * (central + np.outer(offset, offset))
    variances, components = _spectrum(name, covariance)
    return covariance, variances, components, float(np.trace(covariance))


@np.errstate(over="ignore", invalid="ignore")
def from_batches(
    batches: Iterable[SamplesLike],
    *,
    name: str = "batches",
    scale: float = 1.0,
    center: bool = True,
    progress: bool = True,
) -> Dataset:
    """From batches (n_i, ...) that are read once, of any sizes and of whatever `arrays.as_samples` takes.

    Only what reads the covariance can be trained on it: the samples themselves are gone. How they are cut into
    batches changes no bit. `progress` shows a bar, on a terminal. Raises InputError at a batch that is not samples
    like those of the first, at a sample that is not finite, and where nothing varies.
    """
    _check_scale(scale)
    read = moments_of(batches, progress)
    mean = scale * read.mean if center else np.zeros(len(read.mean))
    covariance, variances, components, total = _of_central(name, read.mean, read.covariance, scale, center)
    if not total > 0:
        raise InputError(f"{name}: the samples do not vary; nothing to learn")

    def rows(*_: slice) -> np.ndarray:
        raise InputError(f"{name}: its samples were read once and are gone; give an array or a file to what reads them")

    image_shape = read.sample_shape if len(read.sample_shape) == 2 else None
    return Dataset(
        *(name, read.num_samples, mean, variances, components, total, covariance, rows, image_shape, scale, center),
        columns=read.columns,
    )


def check_room(name: str, shape: tuple[int, int], dtype: np.dtype, max_memory: float | None = None) -> None:
    """Raises InputError where all the samples are more than the memory."""
    memory.check(
        f"{name}: its samples take",
        shape[0] * shape[1] * dtype.itemsize,
        max_memory,
        "train on the full batch (batch_size 0, which reads the covariance), by lae_jax.fit_stream, on more devices, or"
        " on fewer columns",
    )
