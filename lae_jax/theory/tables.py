"""Tables over many spectra and latent sizes: every objective verified, and local rates measured.

Rows are dictionaries, one for each line of a csv file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lae_jax.covariance import Diagonal
from lae_jax.data import datasets, sources
from lae_jax.errors import InputError, unknown_name
from lae_jax.hyperparameters import HYPERPARAMETERS
from lae_jax.methods import METHODS
from lae_jax.theory import blocks, hessian, rates
from lae_jax.theory.bounds import BOUNDS
from lae_jax.theory.verify import OBJECTIVES, verify

# A line of a csv file. `Any`: text, a number or "", as the name of the column says.
Row = dict[str, Any]
# (spectrum, objective, latent_dim) -> the paper's own hyperparameter there, None where it has none
Published = Callable[[str, str, int], np.ndarray | None]


def read_variances(name: str, analytic_dim: int, data_dir: str = "", max_memory: float | None = None) -> np.ndarray:
    """All variances (m,), descending, of a spectrum given by name.

    Args:
        name: `linear` (d_i = m + 1 - i), `power_law` (1 / i), a data set, or a path: .npy or .npz with one row of
            `variances`, or samples as rows.
        analytic_dim: m of the first two.
        data_dir: where data sets are kept.
        max_memory: bytes that reading samples may take; None: what the machine has.

    Raises:
        InputError: on an unknown name, and on files that hold no variances or take more memory.
    """
    ranks = np.arange(1, analytic_dim + 1)
    analytic = {"linear": analytic_dim + 1.0 - ranks, "power_law": 1.0 / ranks}
    if name in analytic:
        return analytic[name]
    if name in datasets.DATASETS:
        options = {"center": False} if name == "synthetic" else {}
        return datasets.load(name, data_dir=data_dir, **options).variances
    if Path(name).suffix not in (".npy", ".npz"):
        raise unknown_name("spectra", name, [*analytic, *datasets.DATASETS, "a path to .npy"])
    given = sources.load_arrays(Path(name), ("variances",))["variances"] if name.endswith(".npz") else _vector(name)
    if given is None:
        return datasets.load(name, max_memory=max_memory).variances
    if given.ndim != 1 or not np.all(np.isfinite(given)) or np.any(given < 0):
        raise InputError(f"spectra: {name}: variances must be one row of numbers, none negative")
    return np.sort(np.asarray(given, float))[::-1]


def _vector(path: str) -> np.ndarray | None:
    """The numbers of a one-dimensional .npy file; None where it has more dimensions."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"spectra: {path}: not a readable .npy file ({str(error).splitlines()[0]})") from None
    return np.asarray(loaded) if loaded.ndim == 1 else None


def settings(
    spectrum: str, objective: str, variances: np.ndarray, latent_dim: int, published: Published,
    given: Mapping[str, Sequence[float]], optimise_up_to: int,
) -> dict[str, np.ndarray | None]:  # fmt: skip
    """Setting -> hyperparameter: the paper's or else the default, the user's where it fits, and the best."""
    kind = METHODS[objective].hyperparameter
    if kind is None:
        return {"none": None}
    paper = published(spectrum, objective, latent_dim)
    default = HYPERPARAMETERS[kind].default(variances, latent_dim)
    chosen: dict[str, np.ndarray | None] = {"default": default} if paper is None else {"paper": paper}
    own = given.get(HYPERPARAMETERS[kind].field)
    if own is not None and np.size(own) == (1 if HYPERPARAMETERS[kind].single else latent_dim):
        chosen["given"] = np.asarray(own, float)
    best = OBJECTIVES[objective].best
    if best is not None and 2 <= latent_dim <= optimise_up_to:
        chosen["optimal"] = best(variances, latent_dim)
    return chosen


def hessian_rows(
    spectrum: str, variances: np.ndarray, latent_dim: int, published: Published, given: Mapping[str, Sequence[float]],
    optimise_up_to: int, autodiff: bool, matrix_free: bool,
) -> Iterator[Row]:  # fmt: skip
    """A row for each objective and setting, of `verify` and of the bounds; matrix-free extremes of l2 if asked for."""
    for objective in OBJECTIVES:
        chosen = settings(spectrum, objective, variances, latent_dim, published, given, optimise_up_to)
        for setting, value in chosen.items():
            field = {} if value is None else {HYPERPARAMETERS[str(METHODS[objective].hyperparameter)].field: value}
            found = verify(objective, variances, latent_dim, autodiff=autodiff, **field)
            row = {"spectrum": spectrum, "objective": objective, "setting": setting, "latent_dim": latent_dim}
            row |= {name: getattr(found, name) for name in found._fields[3:11]}
            row = {name: "" if value is None else value for name, value in row.items()}
            row |= {"differentiated": found.differentiated, "matrix_free_s_max": "", "matrix_free_s_min": ""}
            if matrix_free and objective == "non_uniform_l2" and setting != "optimal":
                with jax.enable_x64(True):
                    smallest, largest = matrix_free_extremes(objective, variances, value, latent_dim)
                row |= {"matrix_free_s_max": largest, "matrix_free_s_min": smallest}
            row["left_out"] = "; ".join(f"{count} {what}" for what, count in found.left_out.items())
            row["collapsed_latents"] = " ".join(map(str, found.collapsed_latents))
            row |= {name: found.bounds.get(name, "") for name in BOUNDS}
            ratios = [
                (found.condition_number_with_tail if BOUNDS[name].tail else found.condition_number) / bound
                for name, bound in found.bounds.items()
                if bound > 0
            ]
            row["tightest_ratio"] = min(ratios, default="")
            row["violated"] = "; ".join(found.violated)
            yield row


def matrix_free_extremes(
    objective: str, variances: np.ndarray, hyperparameter: np.ndarray | None, latent_dim: int
) -> tuple[float, float]:
    """Smallest and largest eigenvalue by products with the Hessian alone, at sizes where no matrix fits."""
    method, covariance = METHODS[objective], Diagonal(jnp.asarray(variances))
    optimum = jax.tree.map(jnp.asarray, OBJECTIVES[objective].optimum(variances, hyperparameter, latent_dim))
    values = None if hyperparameter is None else jnp.asarray(hyperparameter)
    return hessian.extreme_eigenvalues(
        lambda params: method.loss(params, covariance, jax.random.key(0), values), optimum
    )


def rate_rows(latent_dim: int) -> Iterator[Row]:
    """Contraction per step of the slowest mode, predicted and measured, on variances 2 k, ..., 1; needs x64."""
    variances = np.arange(2.0 * latent_dim, 0, -1)
    covariance = Diagonal(jnp.asarray(variances))
    for objective in ("non_uniform_l2", "deterministic_nested_dropout", "rag"):
        kind = METHODS[objective].hyperparameter
        hyperparameter = HYPERPARAMETERS[kind].default(variances, latent_dim) if kind else None
        spectrum = OBJECTIVES[objective].spectrum(variances, hyperparameter, latent_dim)
        curvature, mode = blocks.mode(spectrum)
        optimum = jax.tree.map(jnp.asarray, OBJECTIVES[objective].optimum(variances, hyperparameter, latent_dim))
        for momentum in (0.0, 0.9):
            rate = 0.5 * rates.largest_learning_rate(float(max(spectrum.inside[-1], spectrum.outside[-1])), momentum)
            if momentum:  # where its roots are complex a mode swings, and one amplitude says nothing
                rate = min(rate, 0.8 * (1 - 4 * momentum / (1 + momentum) ** 2) / curvature)
            predicted = float(rates.convergence_factor(curvature, rate, momentum))
            steps = int(np.clip(12 / (1 - predicted), 200, 4000))  # far enough, and well above rounding
            values = None if hyperparameter is None else jnp.asarray(hyperparameter)
            measured = rates.measured_factor(
                METHODS[objective], optimum, mode, covariance, values,
                learning_rate=rate, momentum=momentum, num_steps=steps,
            )  # fmt: skip
            yield {
                "objective": objective,
                "optimizer": "nesterov" if momentum else "sgd",
                "learning_rate": rate,
                "curvature": curvature,
                "predicted_rate": 1 - predicted,
                "measured_rate": 1 - measured,
                "ratio": (1 - measured) / (1 - predicted),
            }
