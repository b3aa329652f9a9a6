"""Variances and components, from the covariance or, where that would be too large, from the samples.

Everything here is numpy in float64.
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from lae_jax.data import hosts
from lae_jax.errors import InputError

# The widest input for which an m x m matrix is made (0.5 GiB in float64, and its eigenvectors again).
WIDEST_COVARIANCE = 8192
# Components computed beyond that width; latent dimensions go up to it there.
NARROW_RANK = 512
# Beyond this width fewer samples than inputs are decomposed themselves: an m x m matrix would cost far more.
NARROW_WIDTH = 1024
# Entries this near to the largest are as large: training and rounding leave as much between equal ones.
SIGN_TIE = 1e-4


def oriented(components: np.ndarray) -> np.ndarray:
    """The same directions (m, k), each with its largest entry positive: the first of those within 1e-4 of it.

    So two entries of one size and opposite sign give one sign, however they are rounded.
    """
    sizes = np.abs(components)
    first = (sizes >= (1 - SIGN_TIE) * sizes.max(axis=0)).argmax(axis=0)
    return components * np.where(np.take_along_axis(components, first[None], 0) < 0, -1.0, 1.0)


def of_covariance(name: str, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances (m,), descending, and components (m, m) of a covariance (m, m)."""
    if not np.isfinite(covariance).all():
        raise InputError(f"{name}: the squares of the samples overflow; rescale them")
    variances, components = scipy.linalg.eigh(covariance, driver="evd")
    return np.maximum(variances[::-1], 0), oriented(components[:, ::-1])


def of_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The leading variances (r,) and components (m, r) of centred samples (n, m) without their C, and tr C."""
    num_samples, input_dim = rows.shape
    total = float(np.sum(np.square(rows, dtype=np.float64)) / num_samples)
    if num_samples <= input_dim <= WIDEST_COVARIANCE:
        return *_of_few(rows), total
    if num_samples <= WIDEST_COVARIANCE:
        _, singular, transposed = scipy.linalg.svd(rows, full_matrices=False)
    else:
        rank = min(NARROW_RANK, input_dim - 1)
        _, singular, transposed = scipy.sparse.linalg.svds(rows, rank, random_state=0)
        singular, transposed = singular[::-1], transposed[::-1]
    return np.asarray(singular, np.float64) ** 2 / num_samples, oriented(transposed.T.astype(np.float64)), total


def of_parts(rows: np.ndarray, num_samples: int) -> tuple[np.ndarray, np.ndarray, float]:
    """`of_rows` where each process holds a part (n_i, m) of the rows: the leading ones alone, NARROW_RANK at most."""
    input_dim = rows.shape[1]
    rank = min(NARROW_RANK, input_dim - 1, num_samples - 1)

    def lanczos(times: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        operator = scipy.sparse.linalg.LinearOperator((input_dim, input_dim), matvec=times, dtype=np.float64)
        variances, vectors = scipy.sparse.linalg.eigsh(operator, rank, v0=np.random.default_rng(0).random(input_dim))
        return np.maximum(variances[::-1], 0) / num_samples, oriented(vectors[:, ::-1])

    shapes = (rank,), (input_dim, rank)
    variances, components = hosts.with_products(lambda v: rows.T @ (rows @ v), input_dim, lanczos, *shapes)
    return variances, components, float(hosts.summed(np.sum(np.square(rows, dtype=np.float64))) / num_samples)


def _of_few(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Through the eigenvectors of X^T X (n, n), float64; each component is made orthogonal to those before it."""
    variances, combinations = scipy.linalg.eigh(rows @ rows.T / len(rows), driver="evd")
    basis, triangle = scipy.linalg.qr(rows.T @ combinations[:, ::-1], mode="economic")
    return np.maximum(variances[::-1], 0), oriented(basis * np.where(np.diagonal(triangle) < 0, -1, 1))
