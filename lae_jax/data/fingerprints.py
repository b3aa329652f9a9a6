"""What tells a data set from another one, in a few numbers that a run directory can keep."""

from typing import Any

import numpy as np

from lae_jax.data.datasets import Dataset


def fingerprint_of(dataset: Dataset) -> dict[str, Any]:
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
