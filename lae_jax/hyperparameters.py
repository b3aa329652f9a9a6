"""Variances, penalties, priors and beta: the one check of each, and the values that stand for none given.

Everything is numpy in float64. Checks give back what they were given, and take leading batch dimensions where
`batched` says so.

Legend: d_i variances, descending; l_i penalties; p_i = P(b = i) the prior of nested dropout; k latent dimension;
m input dimension.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lae_jax.errors import InputError
from lae_jax.params import Numbers


def _shown(values: np.ndarray) -> str:
    return np.array2string(values, threshold=8, precision=4)


def _numbers(field: str, given: ArrayLike, latent_dim: int | None, batched: bool) -> np.ndarray:
    """The last axis, which is the only one unless `batched`, holds k finite numbers."""
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{field}: {given!r}: must be numbers") from None
    if not 1 <= values.ndim <= (values.ndim if batched else 1) or values.shape[-1] != (
        latent_dim or values.shape[-1] or 1
    ):
        raise InputError(f"{field}: of shape {values.shape}; takes {latent_dim or 'k'} numbers, one for each latent")
    if not np.all(np.isfinite(values)):
        raise InputError(f"{field}: {_shown(values)}: must be finite")
    return values


def checked_variances(variances: ArrayLike, latent_dim: int, *, tail: int = 1, batched: bool = False) -> np.ndarray:
    """Variances (..., m), those that are zero up to rounding set to zero.

    Args:
        variances: d (..., m), or as many of its leading ones as a formula reads.
        latent_dim: k.
        tail: how many variances there must be after the first k: 1 where a formula reads the tail, else 0.
        batched: whether there may be leading batch dimensions.

    Raises:
        InputError: unless they are finite and in descending order, the first k are positive and the first
            k + 1 all differ: the paper's assumptions, without which the components are not unique.
    """
    values = np.asarray(variances, np.float64)
    if not 1 <= values.ndim <= (values.ndim if batched else 1) or not (values.size and np.all(np.isfinite(values))):
        raise InputError(f"variances: of shape {values.shape}; must be m finite numbers")
    if not 1 <= latent_dim <= values.shape[-1] - tail:
        raise InputError(f"latent_dim: {latent_dim}: must be from 1 to {values.shape[-1] - tail}, for the variances")
    floor = values.shape[-1] * np.finfo(np.float64).eps * np.max(np.abs(values), axis=-1, keepdims=True)
    values = np.where(np.abs(values) <= floor, 0.0, values)
    steps, least = np.diff(values), values[..., latent_dim - 1]
    if np.any(least <= 0) or np.any(values < 0) or np.any(steps[..., :latent_dim] >= 0) or np.any(steps > 0):
        raise InputError(
            f"variances: {_shown(values)}: must descend to 0 or above, the first {latent_dim} positive and the first"
            f" {latent_dim + 1} strictly decreasing"
        )
    return values


def checked_penalties(
    penalties: ArrayLike, latent_dim: int | None = None, *, strictly: bool = False, batched: bool = False
) -> np.ndarray:
    """Penalties (..., k), the diagonal of Lambda. Eq. (3).

    Args:
        penalties: l (..., k).
        latent_dim: k, where it is known from elsewhere.
        strictly: refuse equal ones, which leave rotations of their latents free.
        batched: whether there may be leading batch dimensions.

    Raises:
        InputError: unless they are k positive numbers in ascending order.
    """
    values = _numbers("penalties", penalties, latent_dim, batched)
    if not np.all(values > 0):
        raise InputError(f"penalties: {_shown(values)}: must be positive")
    steps = np.diff(values)
    if (falls := np.argwhere(steps <= 0 if strictly else steps < 0)).size:
        before, after = values[tuple(falls[0])], values[(*falls[0][:-1], falls[0][-1] + 1)]
        raise InputError(
            f"penalties: number {falls[0][-1] + 2} ({after:g}) is {'not above' if strictly else 'below'} the one before"
            f" ({before:g}); they must increase{' strictly' if strictly else ''}"
        )
    return values


def checked_penalty(penalty: ArrayLike, latent_dim: int | None = None) -> np.ndarray:
    """The one penalty of every latent, (1,). Eq. (2). Raises InputError unless it is positive."""
    values = np.asarray(penalty, np.float64)
    if values.shape != (1,):
        raise InputError(f"penalties: of shape {values.shape}; takes 1 number, the penalty of every latent")
    return checked_penalties(values)


def checked_prior(
    prior: ArrayLike,
    latent_dim: int | None = None,
    *,
    strictly: bool = False,
    batched: bool = False,
    unused: bool = False,
) -> np.ndarray:
    """The prior p_B (..., k) of nested dropout.

    Args:
        prior: P(b = 1), ..., P(b = k), (..., k).
        latent_dim: k, where it is known from elsewhere.
        strictly: refuse zeros, which leave maps among latents that are always kept together free.
        batched: whether there may be leading batch dimensions.
        unused: allow zeros at the end, which leave the last latents out of the loss.

    Raises:
        InputError: unless they are k probabilities that sum to 1, the last one positive: else the last latents
            would never be used.
    """
    values = _numbers("prior", prior, latent_dim, batched)
    if np.any(values < 0):
        raise InputError(f"prior: {_shown(values)}: probabilities are not negative")
    totals = np.ravel(values.sum(axis=-1))
    if np.any(np.abs(totals - 1) > 1e-6):
        raise InputError(f"prior: sums to {totals[np.argmax(np.abs(totals - 1))]:.9g}; must sum to 1")
    if not unused and np.any(values[..., -1] == 0):
        raise InputError(f"prior: {_shown(values)}: the last one must be positive, or the last latents are never used")
    if strictly and np.any(values == 0):
        raise InputError(f"prior: {_shown(values)}: every entry must be positive; a zero leaves a map of latents free")
    return values


def checked_beta(beta: ArrayLike, latent_dim: int | None = None) -> np.ndarray:
    """The weight of the divergence in a beta-VAE, (1,). Raises InputError unless it is one positive number."""
    values = np.asarray(beta, np.float64)
    if values.shape != (1,) or not 0 < values[0] < np.inf:
        raise InputError(f"beta: {_shown(values)}: must be one positive number; 1 is the linear VAE")
    return values


def checked_uniform_prior(prior: ArrayLike, latent_dim: int) -> np.ndarray:
    """The prior 1/k, (k,). Raises InputError at any other."""
    if not np.array_equal(prior, uniform := uniform_prior(latent_dim)):
        raise InputError("prior: given, but this method gives every b the same probability")
    return uniform


def default_penalties(variances: np.ndarray, latent_dim: int) -> np.ndarray:
    """d_k times the square of linspace(0.1, 0.9, k), (k,): increasing and below d_k (Theorem 2)."""
    return variances[latent_dim - 1] * np.linspace(0.1, 0.9, latent_dim) ** 2


def default_penalty(variances: np.ndarray, latent_dim: int) -> np.ndarray:
    """The squared mean of the roots of `default_penalties`, (1,)."""
    return np.asarray(np.mean(np.sqrt(default_penalties(variances, latent_dim)), keepdims=True) ** 2)


def geometric_prior(latent_dim: int, ratio: float = 0.9) -> np.ndarray:
    """p_b = ratio^(b-1) (1 - ratio) for b < k and the rest of the mass on b = k, shape (k,)."""
    prior = ratio ** np.arange(latent_dim) * (1 - ratio)
    prior[-1] = ratio ** (latent_dim - 1)
    return prior


def uniform_prior(latent_dim: int) -> np.ndarray:
    """1/k for every b, (k,)."""
    return np.full(latent_dim, 1 / latent_dim)


def collapsing_latents(penalties: ArrayLike, variances: np.ndarray, latent_dim: int | None = None) -> list[int]:
    """The latents (from 1) that are zero at the optimum of Eq. (3), because l_i >= d_i.

    One penalty is that of all `latent_dim` latents.
    """
    penalties = np.asarray(penalties)
    return [int(i) + 1 for i in np.flatnonzero(penalties >= variances[: latent_dim or len(penalties)])]


def collapsing_betas(variances: np.ndarray, latent_dim: int) -> np.ndarray:
    """The beta from which on latent i of a beta-VAE is unused, (..., k), descending: m d_i / (i d_i + sum_(l>i) d_l).

    Of numpy's or JAX's arrays. The last latent goes first; above m d_1 / tr C, which is at least 1, none is used
    (beyond the paper).
    """
    leading, sums = variances[..., :latent_dim], variances[..., ::-1].cumsum(-1)[..., ::-1]
    return variances.shape[-1] * leading / (np.arange(1, latent_dim + 1) * leading + sums[..., 1 : latent_dim + 1])


def used_latents(beta: Numbers, variances: Numbers, latent_dim: int) -> Numbers:
    """How many latents the beta-VAE uses at its optimum, (...): those below their `collapsing_betas`, without rounding.

    Of numpy's or JAX's arrays, beta (...) and variances (..., m).
    """
    leading, beta = variances[..., :latent_dim], np.asarray(beta)[..., None] if np.ndim(beta) else beta
    above = (leading[..., :, None] - variances[..., None, :]).clip(0).sum(-1)  # sum over l > i of d_i - d_l
    return (beta * above + variances.shape[-1] * (1 - beta) * leading > 0).sum(-1)


def unused_latents(beta: ArrayLike, variances: np.ndarray, latent_dim: int) -> list[int]:
    """The latents (from 1) that are zero at the optimum of the beta-VAE, from beta (1,)."""
    return list(range(1 + int(used_latents(float(np.ravel(beta)[0]), variances, latent_dim)), 1 + latent_dim))


class Hyperparameter(NamedTuple):
    """An array that a loss takes, and what is known about it."""

    field: str  # what it is given as: `penalties`, `prior` or `beta`
    checked: Callable[[ArrayLike, int], np.ndarray]  # (given, latent_dim) -> what the loss takes; InputError
    default: Callable[[np.ndarray, int], np.ndarray]  # (variances, latent_dim) -> what it takes where none is given
    pad: Literal[
        "edge", "constant"
    ]  # mode of `jnp.pad` for zero latents: penalties only have to be finite, a prior gives them no mass
    unit_power: int  # the power of the unit of the data that it is measured in
    single: bool = False  # one number, whatever k is
    # Of methods that collapse: (what the loss takes, variances, latent_dim) -> latents (from 1) that do, and when.
    collapsing: Callable[[np.ndarray, np.ndarray, int], list[int]] = lambda *_: []
    collapse: str = ""


_BELOW = "lambda_i >= sigma_i^2"
# What `Method.hyperparameter` names.
HYPERPARAMETERS = {
    "penalties": Hyperparameter(
        "penalties", lambda given, latent_dim: checked_penalties(given, latent_dim, strictly=True),
        default_penalties, "edge", 2, collapsing=collapsing_latents, collapse=_BELOW,
    ),
    "penalty": Hyperparameter(
        "penalties", checked_penalty, default_penalty, "edge", 2, True, collapsing_latents, _BELOW
    ),
    "prior": Hyperparameter("prior", checked_prior, lambda _, latent_dim: geometric_prior(latent_dim), "constant", 0),
    "uniform_prior": Hyperparameter(
        "prior", checked_uniform_prior, lambda _, latent_dim: uniform_prior(latent_dim), "constant", 0
    ),
    "beta": Hyperparameter(
        "beta", checked_beta, lambda *_: np.ones(1), "edge", 0, True, unused_latents,
        "beta >= m sigma_i^2 / (i sigma_i^2 + sum of the variances after it)",
    ),
}  # fmt: skip
