"""Populations whose components are known, and streams of samples from them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lae_jax.data import datasets
from lae_jax.data.datasets import Dataset

Draw = Callable[[np.random.Generator, int], np.ndarray]  # (generator, b) -> independent samples (b, m) of mean zero


class Population(NamedTuple):
    """What samples are drawn from, and the components of their covariance."""

    draw: Draw
    components: np.ndarray  # U (m, m) or its first columns
    variances: np.ndarray  # d, descending
    num_samples: int = 0  # of those that are kept to draw from; 0: none are


def gaussian(variances: np.ndarray) -> Population:
    """Independent Gaussian inputs of these variances (m,), which descend: the components are the axes."""
    deviations = np.sqrt(np.maximum(variances, 0)).astype(np.float32)

    def draw(generator: np.random.Generator, size: int) -> np.ndarray:
        return generator.standard_normal((size, len(deviations)), np.float32) * deviations

    return Population(draw, np.eye(len(variances)), np.asarray(variances))


def samples_of(dataset: Dataset) -> Population:
    """The samples of a data set, drawn with replacement: their covariance is that of the data set."""
    rows = np.asarray(dataset.load_rows(), np.float32)
    return Population(
        lambda generator, size: rows[generator.integers(len(rows), size=size)],
        dataset.components,
        dataset.variances,
        len(rows),
    )


def power_law(input_dim: int) -> Population:
    """Gaussian inputs of variances 1 / i, i = 1 to m."""
    return gaussian(1 / np.arange(1.0, input_dim + 1))


def eigengame(input_dim: int = 1000) -> Population:
    """Gaussian inputs of covariance A^T A / sqrt(m), A square of standard normal numbers. Gemp et al. 2021."""
    matrix = np.random.default_rng(0).standard_normal((input_dim, input_dim))
    return gaussian(np.linalg.svd(matrix, compute_uv=False) ** 2 / np.sqrt(input_dim))


# By name, beside the data sets of `datasets.DATASETS` and files.
POPULATIONS: dict[str, Callable[[], Population]] = {
    "power_law_200": lambda: power_law(200),
    "power_law_1000": lambda: power_law(1000),
    "mnist_gaussian": lambda: gaussian(datasets.mnist().variances),  # its variances, without its samples
    "eigengame": eigengame,
}


def population(name: str, data_dir: str = "", download: bool = False, max_memory: float | None = None) -> Population:
    """That of POPULATIONS, or a data set by its name or path, drawn with replacement. Raises InputError.

    `max_memory` is what reading a file may take, in bytes.
    """
    if name in POPULATIONS:
        return POPULATIONS[name]()
    return samples_of(datasets.load(name, data_dir=data_dir, download=download, max_memory=max_memory))


def drifting_stream(
    input_dim: int, num_batches: int, batch_size: int, variances: np.ndarray, turns: float, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Gaussian batches whose axes turn steadily in random planes, and the components (m, m) at each.

    Args:
        input_dim: m, even.
        num_batches: how many.
        batch_size: samples in each.
        variances: d (m,), descending.
        turns: by how many radians every plane turns from first to last.
        seed: of planes and samples.
    """
    generator = np.random.default_rng(seed)
    planes = np.linalg.qr(generator.standard_normal((input_dim, input_dim)))[0]
    batches, components = [], []
    for angle in np.linspace(0, turns, num_batches):
        turned = planes.copy()
        first, second = planes[:, : input_dim // 2], planes[:, input_dim // 2 : input_dim // 2 * 2]
        turned[:, : input_dim // 2] = np.cos(angle) * first + np.sin(angle) * second
        turned[:, input_dim // 2 : input_dim // 2 * 2] = np.cos(angle) * second - np.sin(angle) * first
        components.append(turned)
        batches.append((generator.standard_normal((batch_size, input_dim)) * np.sqrt(variances)) @ turned.T)
    return batches, components
