"""Principal components from the weights of a trained autoencoder.

Legend: W2 decoder (m, k); C covariance; u_i its i-th column at unit length, d_i = u_i^T C u_i.
Everything here is numpy in float64.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast, overload

import numpy as np
from numpy.typing import ArrayLike

from lae_jax.covariance import Covariance, CovarianceLike
from lae_jax.data import layouts, sources
from lae_jax.data.arrays import SamplesLike, as_samples
from lae_jax.data.spectra import oriented
from lae_jax.data.tables import TableRows
from lae_jax.errors import InputError
from lae_jax.metrics import collapsed, unit_columns
from lae_jax.params import Weights

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame

Frame = TypeVar("Frame", bound="IntoDataFrame")
# Entries of a component that are printed.
_SHOWN = 4


class Components(NamedTuple):
    """Directions in the space of the samples x' = scale x - mean, as rows, in order."""

    components: np.ndarray  # (r, m), rows of unit length; r <= k, since collapsed latents have none
    explained_variance: np.ndarray  # d (r,), descending
    # (r,), parts of the total variance tr C: what each adds to the span of those before it. Orthogonal components
    # add d / tr C; in all it is the part of the span, at most 1.
    explained_variance_ratio: np.ndarray
    mean: np.ndarray  # (m,)
    scale: float  # what raw samples are multiplied by
    latents: np.ndarray  # (r,), the latent that each row comes from, from 0
    feature_names: np.ndarray | None = None  # (m,), of the columns of the samples, where they have names

    @overload
    def transform(self, samples: Frame) -> Frame: ...  # type: ignore[overload-overlap] # a frame is samples too
    @overload
    def transform(self, samples: SamplesLike) -> np.ndarray: ...
    def transform(self, samples: SamplesLike) -> object:
        """Coordinates (n, r) of raw samples (n, m): those of the nearest point in the span of the components.

        Orthonormal components give their inner products with x', as scikit-learn's PCA does. A frame of pandas, polars
        or Arrow gives one of its kind, with the columns component_1, component_2, ...; where the components know the
        names of their features, they find them in it.
        """
        given = as_samples("samples:", samples)
        if isinstance(given, TableRows) and self.feature_names is not None:
            rows = given.chosen("samples:", self.feature_names.tolist())
        else:
            rows = np.asarray(given[:], np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise InputError(f"samples: of shape {rows.shape}; need (n, {len(self.mean)})")
        coordinates = (self.scale * rows - self.mean) @ np.linalg.pinv(self.components)
        if not isinstance(given, TableRows):
            return coordinates
        return given.like(coordinates, [f"component_{index + 1}" for index in range(len(self.components))])

    def save(self, path: str | Path) -> None:
        """Write to a .npz file, as `launch.train` does; `load` reads it."""
        with open(path, "wb") as file:
            np.savez(file, **{name: value for name, value in self._asdict().items() if value is not None})

    def __repr__(self) -> str:
        """A line for each component: its variance, its part of the whole, and its largest entries with their names."""
        names = self.feature_names if self.feature_names is not None else [f"x{j}" for j in range(len(self.mean))]
        rows = zip(self.explained_variance, self.explained_variance_ratio, self.components, strict=True)
        lines = [f"{len(self.components)} components of {len(self.mean)} features"]
        for index, (variance, part, row) in enumerate(rows):
            largest = np.argsort(-np.abs(row), kind="stable")[:_SHOWN]
            entries = "  ".join(f"{row[j]:+.2f} {names[j]}" for j in largest)
            lines.append(f"{index + 1:4}  variance {variance:<9.4g} {part:6.1%}  {entries}")
        return "\n".join(lines)

    def inverse_transform(self, coordinates: ArrayLike) -> np.ndarray:
        """Raw samples (n, m) at these coordinates (n, r)."""
        coordinates = np.asarray(coordinates, np.float64)
        if coordinates.ndim != 2 or coordinates.shape[1] != len(self.components):
            raise InputError(f"coordinates: of shape {coordinates.shape}; need (n, {len(self.components)})")
        return (coordinates @ self.components + self.mean) / self.scale


def _operator(covariance: CovarianceLike) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """V -> C V in numpy, and the total variance tr C."""
    if hasattr(covariance, "pair"):
        operator = cast(Covariance, covariance)
        return lambda columns: layouts.to_host(operator @ columns), float(operator.trace)
    matrix = np.asarray(covariance, np.float64)
    return lambda columns: matrix @ columns, float(np.trace(matrix))


def components_of(
    params: Weights,
    covariance: CovarianceLike,
    mean: ArrayLike | None = None,
    scale: float = 1.0,
    feature_names: Sequence[str] | None = None,
) -> Components:
    """What the latents of `params` stand for: their decoder columns at unit length, by the variance they explain.

    For a method that aligns its latents the rows equal the principal components; for one that finds only their span
    (`lae`, `uniform_l2`) they are what its latents are, neither orthogonal nor uncorrelated. A latent whose column is
    shorter than 1e-8 of the longest has collapsed, stands for no direction, and is left out.

    Args:
        params: weights in the coordinates of the data.
        covariance: C with 1/n, a matrix (m, m) or an operator of `lae_jax.covariance`. (scikit-learn's
            `explained_variance_` has 1/(n - 1), so it is n / (n - 1) as large.)
        mean: (m,), what made the samples of C of the raw ones: scale x - mean. None: zeros.
        scale: that scale.
        feature_names: of the columns of the samples, (m,).

    Returns:
        Rows in order, each signed so that its largest entry is positive (`spectra.oriented` says which of equals);
        equal variances keep the order of the latents.

    Raises:
        InputError: where the decoder is not finite.
    """
    times, total = _operator(covariance)
    decoder = np.asarray(params.decoder, np.float64)
    if not np.isfinite(decoder).all():
        raise InputError("params: decoder has entries that are not finite; nothing can be read from a diverged run")
    kept = np.flatnonzero(~collapsed(decoder))
    columns = oriented(unit_columns(decoder[:, kept]))
    variances = np.sum(columns * times(columns), axis=0)
    order = np.argsort(-variances, kind="stable")
    added = np.linalg.qr(columns[:, order])[0]
    return Components(
        components=columns[:, order].T,
        explained_variance=variances[order],
        explained_variance_ratio=np.sum(added * times(added), axis=0) / total,
        mean=np.zeros(len(decoder)) if mean is None else np.asarray(mean, np.float64),
        scale=float(scale),
        latents=kept[order],
        feature_names=None if feature_names is None else np.asarray(feature_names),
    )


def load(path: str | Path) -> Components:
    """Components as `launch.train` writes them to components.npz, and `Components.save`."""
    *needed, optional = Components._fields
    arrays = sources.load_arrays(Path(path), needed, [optional])
    return Components(**arrays)._replace(scale=float(arrays["scale"]))  # type: ignore[arg-type] # a number, by the next call


def against_pca(found: Components, variances: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """`found` beside exact PCA, as columns (r,): row i against component i of `truth` U (m, >= r).

    `relative_gap` is the distance from `variances` d_i to the nearest other one, over d_i: directions with hardly a
    gap are hardly defined. `relative_error` is that of the explained variance.
    """
    count = len(found.components)
    exact = variances[:count]
    gaps = np.abs(np.diff(variances, prepend=np.inf, append=-np.inf))
    return {
        "component": np.arange(1, count + 1),
        "latent": found.latents + 1,
        "cosine": np.abs(np.sum(found.components * truth.T[:count], axis=1)),
        "explained_variance": found.explained_variance,
        "exact_variance": exact,
        "relative_error": np.abs(found.explained_variance / exact - 1),
        "relative_gap": np.minimum(gaps[:count], gaps[1 : count + 1]) / exact,
    }


def reconstruction_errors(
    params: Weights, found: Components, covariance: CovarianceLike, variances: np.ndarray
) -> dict[str, float]:
    """Mean squared errors by what reconstructs: exact PCA at this k, the components, the autoencoder W2 W1."""
    encoder, decoder = np.asarray(params.encoder, np.float64), np.asarray(params.decoder, np.float64)
    basis = np.linalg.qr(found.components.T)[0]
    times, total = _operator(covariance)
    carried = times(encoder.T)
    residual = total - 2 * np.sum(carried * decoder) + np.sum((decoder.T @ decoder) * (encoder @ carried))
    return {
        "exact PCA": total - float(np.sum(variances[: len(encoder)])),
        "components": total - float(np.sum(basis * times(basis))),
        "autoencoder": float(residual),
    }
