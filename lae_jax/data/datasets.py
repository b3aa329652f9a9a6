"""Data sets as what the methods read of them: mean, covariance, spectrum, and samples on demand.

Legend: C = U diag(d) U^T the covariance (m, m); d variances, descending; U components.
Everything here is numpy in float64; `data.representations` hands it to the device in the run's precision.
"""

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from lae_jax.data import authors, hosts, sources, spectra
from lae_jax.data.arrays import as_samples
from lae_jax.data.moments import Progress, accumulate, no_progress, rows_per_block
from lae_jax.data.table_files import FORMATS
from lae_jax.data.tables import names_of
from lae_jax.errors import InputError, unknown_name

FILES = (".npy", ".npz", *FORMATS)
MOMENTS_FILE = Path(__file__).parent / "mnist_moments.npz"


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
    load_rows: Callable[..., np.ndarray]
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
    name: str, samples: Any, *, scale: float = 1.0, center: bool = True, on_progress: Progress = no_progress
) -> Dataset:
    """From samples (n, ...): whatever `arrays.as_samples` takes, or files (`sources.load_array`); read block by block.

    `on_progress(samples read, all samples)` is called after each block. Raises InputError at what holds no real
    numbers, at the first sample that is not finite, and where nothing varies.
    """
    samples = as_samples(f"{name}:", samples)
    if len(samples.shape) < 2 or samples.shape[0] < 2 or np.prod(samples.shape[1:]) < 2:
        raise InputError(f"{name}: shape {samples.shape}; need at least 2 samples (rows) of at least 2 numbers")
    shape = (samples.shape[0], int(np.prod(samples.shape[1:])))
    image_shape = tuple(samples.shape[1:]) if samples.ndim == 3 else None
    few = spectra.NARROW_WIDTH < shape[1] > shape[0]
    wide = few or shape[1] > spectra.WIDEST_COVARIANCE
    _check_scale(scale)
    raw_mean, central = accumulate(name, samples, products=not wide, on_progress=on_progress)
    mean = scale * raw_mean if center else np.zeros(shape[1])

    def rows(part: slice = slice(None), precise: bool = False) -> np.ndarray:
        dtype = np.dtype(np.float64 if precise or samples.dtype == np.float64 else np.float32)
        first, last, _ = part.indices(shape[0])
        _check_room(name, (last - first, shape[1]), dtype)
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
        offset = np.zeros(shape[1]) if center else raw_mean
        covariance = np.square(scale) * (central + np.outer(offset, offset))
        variances, components = _spectrum(name, covariance)
        total = float(np.trace(covariance))
    if not total > 0:
        raise InputError(f"{name}: the samples do not vary; nothing to learn")
    return Dataset(
        *(name, shape[0], mean, variances, components, total, covariance, rows, image_shape, scale, center),
        columns=names_of(samples),
    )


def _check_room(name: str, shape: tuple[int, int], dtype: np.dtype) -> None:
    """Raises InputError where all the samples are more than the machine's memory."""
    needed = shape[0] * shape[1] * dtype.itemsize
    memory = psutil.virtual_memory().total
    if needed > memory:
        raise InputError(
            f"{name}: its samples take {needed / 2**30:.3g} GiB of {memory / 2**30:.3g} GiB of memory; train on the"
            " full batch (batch_size 0, which reads the covariance) or by lae_jax.fit_stream"
        )


def image_moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact sums (m,) and second moments (m, m) in int64 of uint8 images (n, ...)."""
    flat = images.reshape(len(images), -1)
    sums, moments = flat.sum(axis=0, dtype=np.int64), np.zeros((flat.shape[1],) * 2, np.int64)
    for start in range(0, len(flat), 4096):
        block = flat[start : start + 4096].astype(np.float64)
        moments += (block.T @ block).astype(np.int64)  # sums below 2^53 are exact in float64
    return sums, moments


def _image_rows(
    name: str, data_dir: str, download: bool, scale: float, mean: np.ndarray, part: slice = slice(None)
) -> np.ndarray:
    images = sources.load_images(name, data_dir, download)[part]
    return images.reshape(len(images), -1) * np.float32(scale) - mean.astype(np.float32)


def mnist(*, data_dir: str = "", download: bool = False, scale: float = 1 / 255, center: bool = True) -> Dataset:
    """The 60,000 training images of MNIST, through moments that ship with the package.

    Only what needs the samples themselves looks for the files (see `lae_jax.data.sources`).
    """
    with np.load(MOMENTS_FILE) as stored:
        sums, triangle, count = stored["sums"], stored["second_moments"], int(stored["num_samples"])
    moments = np.zeros((len(sums),) * 2)
    moments[np.triu_indices(len(sums))] = triangle
    moments = moments + np.triu(moments, 1).T
    rows = functools.partial(_image_rows, "mnist", data_dir, download, scale)
    loaded = from_moments("mnist", count, sums, moments, rows, scale=scale, center=center, image_shape=(28, 28))
    return dataclasses.replace(loaded, loader_draws=authors.loader_draws(count))


def fashion_mnist(
    *, data_dir: str = "", download: bool = False, scale: float = 1 / 255, center: bool = True
) -> Dataset:
    """The 60,000 training images of Fashion-MNIST, from files as MNIST's samples are."""
    images = sources.load_images("fashion_mnist", data_dir, download)
    rows = functools.partial(_image_rows, "fashion_mnist", data_dir, download, scale)
    sums, moments = image_moments(images)
    return from_moments(
        "fashion_mnist", len(images), sums, moments, rows, scale=scale, center=center, image_shape=(28, 28)
    )


def digits(*, scale: float = 1 / 16, center: bool = True) -> Dataset:
    """scikit-learn's 1797 images of digits, 8 x 8."""
    from sklearn.datasets import load_digits  # takes two seconds to import, which other data need not wait for

    return from_samples("digits", load_digits().images, scale=scale, center=center)


def synthetic(
    *,
    input_dim: int = 1000,
    num_samples: int = 5000,
    largest: float = 100.0,
    smallest: float = 1.0,
    data_seed: int = 0,
    scale: float = 1.0,
    center: bool = False,
) -> Dataset:
    """Gaussian samples with population variances linspace(largest, smallest, m) in a random basis.

    The data of Figure 4 (which the authors did not centre); the spectrum is that of the sample.
    """
    for option, value, least in (
        ("input_dim", input_dim, 2),
        ("num_samples", num_samples, 2),
        ("data_seed", data_seed, 0),
    ):
        if value < least:
            raise InputError(f"{option}: {value}: must be at least {least}")
    _check_room("synthetic", (num_samples + input_dim, input_dim), np.dtype(float))
    generator = np.random.default_rng(data_seed)
    basis, _ = np.linalg.qr(generator.standard_normal((input_dim, input_dim)))
    deviations = np.sqrt(np.linspace(largest, smallest, input_dim))
    samples = (generator.standard_normal((num_samples, input_dim)) * deviations) @ basis.T
    return from_samples("synthetic", samples, scale=scale, center=center)


def authors_synthetic(*, seed: int = authors.SEED) -> Dataset:
    """The very samples of the published Figure 4 (`authors.synthetic_samples`), 5000 x 1000, not centred."""
    return from_samples("authors_synthetic", authors.synthetic_samples(seed), center=False)


# name -> loader(**options); a loader's keywords are the options it takes.
DATASETS: dict[str, Callable[..., Dataset]] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "digits": digits,
    "synthetic": synthetic,
    "authors_synthetic": authors_synthetic,
}


def _no_such_data(name: str) -> InputError:
    """The error for what is neither in DATASETS nor a file that is read."""
    path, read = Path(name), f"what is read: {', '.join(FILES)}, or a folder of .npy or of tables, samples as rows"
    if os.path.isfile(name):  # False for what no file can be called, where `Path.is_file` raises
        return InputError(f"dataset: {name!r}: files of type {path.suffix or 'none'} are not read; {read}")
    if path.suffix in (*FILES, ".txt", ".h5") or len(path.parts) > 1:
        return InputError(f"dataset: {name!r}: there is no such file or folder; {read}")
    return unknown_name("dataset", name, [*DATASETS, f"a path to {', '.join(FILES)} or a folder of them"])


def load(name: str, **options: Any) -> Dataset:
    """A data set by its name in DATASETS, or from a path: one of FILES, a folder of .npy or of tables; samples as rows.

    Options that another data set takes are left out, so that one configuration serves all. Files take those of
    `from_samples`, tables `columns`, the names of those that are samples. Raises InputError at an option that none
    takes.
    """
    of_files = ("scale", "center", "on_progress")
    taken = {each: inspect.signature(loader).parameters for each, loader in DATASETS.items()}
    known = dict.fromkeys((*of_files, "columns", *(option for options in taken.values() for option in options)))
    for option in options:
        if option not in known:
            raise unknown_name("option", option, known)
    if name in DATASETS:
        if any(Path(name).glob("*.npy")):
            raise InputError(f"dataset: {name!r} is a data set by name, and here a folder of shards: say './{name}'")
        return DATASETS[name](**{key: value for key, value in options.items() if key in taken[name]})
    if not (os.path.isdir(name) or (Path(name).suffix in FILES and os.path.isfile(name))):
        raise _no_such_data(name)
    samples = sources.load_array(Path(name), options.get("columns", ()))
    return from_samples(name, samples, **{key: value for key, value in options.items() if key in of_files})
