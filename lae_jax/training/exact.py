"""What a user would take instead where only the components are wanted, timed; and the time of a training step."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from sklearn.decomposition import PCA, IncrementalPCA

from lae_jax import metrics
from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError
from lae_jax.params import Array
from lae_jax.training import loop, settings
from lae_jax.training.settings import Settings

# From the covariance (m, m) and k to components (m, k), in order.
FROM_COVARIANCE: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "numpy eigh": lambda matrix, k: np.linalg.eigh(matrix)[1][:, : -k - 1 : -1],
    "scipy eigh, the largest k": lambda matrix, k: scipy.linalg.eigh(
        matrix, subset_by_index=(len(matrix) - k, len(matrix) - 1)
    )[1][:, ::-1],
    "scipy eigsh (Lanczos), the largest k": lambda matrix, k: scipy.sparse.linalg.eigsh(matrix, k, which="LA")[1][
        :, ::-1
    ],
}


def _scikit_learn(solver: str) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda rows, k: PCA(k, svd_solver=solver, random_state=0).fit(rows).components_.T


# From centred samples (n, m) and k.
FROM_SAMPLES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    **{
        f"scikit-learn PCA, {solver}": _scikit_learn(solver)
        for solver in ("covariance_eigh", "full", "arpack", "randomized")
    },
    "scikit-learn IncrementalPCA": lambda rows, k: IncrementalPCA(k).fit(rows).components_.T,
}


# Every solver by its name in tables.
SOLVERS = {
    **{f"{name} (from the covariance)": solve for name, solve in FROM_COVARIANCE.items()},
    **{f"{name} (from the samples)": solve for name, solve in FROM_SAMPLES.items()},
}


def timed(dataset: Dataset, latent_dim: int) -> Iterator[tuple[str, float, float]]:
    """(solver, seconds, axis alignment of what it finds); those that want samples are left out where there are none."""
    inputs = {"covariance": dataset.covariance}
    with contextlib.suppress(InputError):
        inputs["samples"] = np.asarray(dataset.load_rows(), np.float32)
    for name, solve in SOLVERS.items():
        given = next((data for kind, data in inputs.items() if name.endswith(f"(from the {kind})")), None)
        if given is None:
            continue
        began = time.perf_counter()
        found = solve(given, latent_dim)
        seconds = time.perf_counter() - began
        components = jnp.asarray(dataset.components[:, :latent_dim], found.dtype)
        yield name, seconds, float(metrics.axis_alignment(jnp.asarray(found), components))


def step_seconds(run: Settings, dataset: Dataset, budget: float) -> float:
    """Seconds of one step over the dense covariance (in the eigenbasis, PCA would be known already).

    Args:
        run: resolved settings.
        dataset: the data; its samples are read where its covariance is too large to be dense.
        budget: seconds to spend.
    """
    form = "samples" if dataset.covariance is None else "dense"
    built = settings.build(dataclasses.replace(run, representation=form), dataset)

    @jax.jit
    def steps(state: loop.TrainState, count: int) -> loop.TrainState:
        def step(_: Array, inner: loop.TrainState) -> loop.TrainState:
            return loop.step(built.recipe, built.problem, inner)

        return jax.lax.fori_loop(0, count, step, state)

    def seconds(count: int) -> float:
        began = time.perf_counter()
        jax.block_until_ready(steps(built.state, count))
        return time.perf_counter() - began

    seconds(1)  # compiles
    count = max(1, int(budget / 4 / seconds(1)))
    return min(seconds(count) for _ in range(3)) / count
