"""Data sets by name and by path, as what the methods read of them (`data.dataset`)."""

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lae_jax.data import authors, sources
from lae_jax.data.dataset import Dataset as Dataset
from lae_jax.data.dataset import check_room
from lae_jax.data.dataset import from_batches as from_batches
from lae_jax.data.dataset import from_moments as from_moments
from lae_jax.data.dataset import from_samples as from_samples
from lae_jax.data.moments import image_moments
from lae_jax.data.table_files import FORMATS
from lae_jax.errors import InputError, unknown_name

FILES = (".npy", ".npz", *FORMATS)
MOMENTS_FILE = Path(__file__).parent / "mnist_moments.npz"


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
    check_room("synthetic", (num_samples + input_dim, input_dim), np.dtype(float))
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
    of_files = ("scale", "center", "on_progress", "max_memory")
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
