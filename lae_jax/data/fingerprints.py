"""What tells data sets, and weights in files, from others, in a few numbers that a folder of results can keep."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from lae_jax.data.datasets import DATASETS, Dataset

Fingerprint = dict[str, float | list[float]]


def fingerprint_of(dataset: Dataset) -> Fingerprint:
    """Numbers that two data sets do not share: their size, and mean and covariance along one direction."""
    direction = np.cos(np.arange(dataset.input_dim))
    return {
        "num_samples": dataset.num_samples,
        "input_dim": dataset.input_dim,
        "total_variance": dataset.total_variance,
        "along_cosine": [
            float(dataset.mean @ direction),
            float(dataset.variances @ (dataset.components.T @ direction) ** 2),
        ],
    }


def fingerprint_of_files(datasets: Iterable[Dataset]) -> dict[str, Fingerprint]:
    """Name -> `fingerprint_of`, of the data sets that are files, whose names say nothing of what is in them."""
    return {dataset.name: fingerprint_of(dataset) for dataset in datasets if dataset.name not in DATASETS}


def fingerprint_of_arrays(arrays: Iterable[ArrayLike]) -> list[float]:
    """Numbers that two lists of arrays do not share: of each its sum of squares and its product with one direction."""
    flat = [np.asarray(array, np.float64).ravel() for array in arrays]
    return [float(each @ other) for each in flat for other in (each, np.cos(np.arange(each.size)))]
