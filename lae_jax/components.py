"""Principal components from the weights of a trained autoencoder.

Legend: W2 decoder (m, k); C covariance; u_i its i-th column at unit length, d_i = u_i^T C u_i.
Everything here is numpy in float64.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lae_jax import sources
from lae_jax.datasets import oriented
from lae_jax.errors import InputError
from lae_jax.metrics import NULL_SHARE


class Components(NamedTuple):
    """Directions in the space of the samples x' = scale x - mean, as rows, in order."""

    components: np.ndarray  # (r, m), rows of unit length; r <= k, since collapsed latents have none
    explained_variance: np.ndarray  # d (r,), descending
    explained_variance_ratio: np.ndarray  # (r,), shares of the total variance tr C
    mean: np.ndarray  # (m,)
    scale: float  # what raw samples are multiplied by
    latents: np.ndarray  # (r,), the latent that each row comes from, from 0

    def transform(self, samples: Any) -> np.ndarray:
        """Coordinates (n, r) of raw samples (n, m): those of the nearest point in the span of the components.

        Orthonormal components give their inner products with x', as scikit-learn's PCA does.
        """
        samples = np.asarray(samples, np.float64)
        if samples.ndim != 2 or samples.shape[1] != len(self.mean):
            raise InputError(f"samples: of shape {samples.shape}; need (n, {len(self.mean)})")
        return (self.scale * samples - self.mean) @ np.linalg.pinv(self.components)

    def inverse_transform(self, coordinates: Any) -> np.ndarray:
        """Raw samples (n, m) at these coordinates (n, r)."""
        coordinates = np.asarray(coordinates, np.float64)
        if coordinates.ndim != 2 or coordinates.shape[1] != len(self.components):
            raise InputError(f"coordinates: of shape {coordinates.shape}; need (n, {len(self.components)})")
        return (coordinates @ self.components + self.mean) / self.scale


def components(params: Any, covariance: Any, mean: Any = None, scale: float = 1.0) -> Components:
    """What the latents of `params` stand for: their decoder columns at unit length, by the variance they explain.

    `covariance` C is anything with `@` and `trace`: a matrix (m, m) or an operator of `lae_jax.covariance`;
    `mean` and `scale` are what made its samples of the raw ones, scale x - mean. C is that of the whole
    project, with 1/n; scikit-learn's `explained_variance_` has 1/(n - 1), so it is n / (n - 1) as large.

    Each row is signed so that its entry of the largest size is positive (`datasets.oriented`); equal variances
    keep the order of the latents. For a method that aligns its latents the rows equal the principal
    components; for one that finds only their span (`lae`, `uniform_l2`) they are what its latents are, neither
    orthogonal nor uncorrelated. A latent whose column is shorter than 1e-8 of the longest has collapsed, stands
    for no direction, and is left out.
    """
    decoder = np.asarray(params.decoder, np.float64)
    if not np.isfinite(decoder).all():
        raise InputError("params: decoder has entries that are not finite; nothing can be read from a diverged run")
    lengths = np.linalg.norm(decoder / max(np.abs(decoder).max(), np.finfo(float).tiny), axis=0)
    kept = np.flatnonzero(lengths > NULL_SHARE * lengths.max())
    columns = oriented(decoder[:, kept] / np.linalg.norm(decoder[:, kept], axis=0))
    variances = np.sum(columns * np.asarray(covariance @ columns), axis=0)
    order = np.argsort(-variances, kind="stable")
    trace = covariance.trace
    total = float(trace() if callable(trace) else trace)
    return Components(
        components=columns[:, order].T,
        explained_variance=variances[order],
        explained_variance_ratio=variances[order] / total,
        mean=np.zeros(len(decoder)) if mean is None else np.asarray(mean, np.float64),
        scale=float(scale),
        latents=kept[order],
    )


def load(path: Path) -> Components:
    """Components as `launch.train` writes them to components.npz."""
    arrays = sources.load_arrays(path, Components._fields)
    return Components(**arrays)._replace(scale=float(arrays["scale"]))  # type: ignore[arg-type]
