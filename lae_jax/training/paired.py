"""Alternation beside Lanczos of the same accuracy, and what a wide stream takes of memory."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
import threadpoolctl

from lae_jax import metrics
from lae_jax.covariance import Dense
from lae_jax.data import datasets
from lae_jax.errors import InputError
from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.params import gaussian
from lae_jax.training import loop
from lae_jax.training.benchmark import Measurement, in_turn

_MOST_STEPS = 300
_TOLERANCES = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-6)


def covariance_of(name: str) -> np.ndarray:
    """That of a data set, or `flat_M`: M variances from 100 to 1 in equal steps, in a random basis."""
    if not name.startswith("flat_"):
        return np.asarray(datasets.load(name).covariance)
    size = int(name.removeprefix("flat_"))
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0]
    return (basis * np.linspace(100, 1, size)) @ basis.T


def against_lanczos(
    problems: Sequence[tuple[str, int]], target: float, least: float, repeats: int
) -> Iterator[Measurement]:
    """Milliseconds to `target` over the dense covariance, float32, all cores, held against scipy's eigsh.

    Both are told how far to go: alternation as many steps as it needs from a random start, eigsh the largest of some
    tolerances with which what it finds is as near to the components. Neither is charged for finding that out.
    """
    for name, size in problems:
        matrix = covariance_of(name)
        exact = np.linalg.eigh(matrix)[1][:, : -size - 1 : -1]
        yield _against_lanczos(f"{name}, k = {size}", matrix.astype(np.float32), exact, target, least, repeats)


def _against_lanczos(
    what: str, matrix: np.ndarray, components: np.ndarray, target: float, least: float, repeats: int
) -> Measurement:
    latent_dim, truth = components.shape[1], jnp.asarray(components, jnp.float32)
    recipe = loop.Recipe(METHODS["alternation"], OPTIMIZERS["sgd"].build)
    problem = loop.Problem(Dense(jnp.asarray(matrix)), jnp.float32(0), jax.random.key(0))
    start = loop.initial_state(recipe, problem, gaussian(jax.random.key(0), latent_dim, len(matrix)))

    @jax.jit
    def steps(state: loop.TrainState, problem: loop.Problem, count: int) -> jax.Array:
        end = jax.lax.fori_loop(0, count, lambda _, inner: loop.step(recipe, problem, inner), state)
        return end.params.decoder

    def far(found: jax.Array | np.ndarray) -> bool:
        return bool(metrics.axis_alignment(jnp.asarray(found, jnp.float32), truth) > target)

    begin = np.random.default_rng(0).standard_normal(len(matrix)).astype(matrix.dtype)  # else another one each time

    def lanczos(tolerance: float) -> np.ndarray:
        with threadpoolctl.threadpool_limits(os.cpu_count(), user_api="blas"):
            values, vectors = scipy.sparse.linalg.eigsh(matrix, latent_dim, which="LA", tol=tolerance, v0=begin)
        return vectors[:, np.argsort(-values)]

    count = next((n for n in range(1, _MOST_STEPS) if not far(steps(start, problem, n))), 0)
    if not count:
        raise InputError(
            f"target: {target}: alternation is not there after {_MOST_STEPS} steps on {what}; ask for more"
        )
    tolerance = next((each for each in _TOLERANCES if not far(lanczos(each))), 0.0)
    if not tolerance:
        raise InputError(f"target: {target}: eigsh is not there at tolerance {_TOLERANCES[-1]} on {what}; ask for more")
    ours, theirs = in_turn(
        [
            lambda passes: [steps(start, problem, count) for _ in range(passes)],
            lambda passes: [lanczos(tolerance) for _ in range(passes)],
        ],
        least,
        repeats,
    )
    return Measurement(f"{what}: alternation, {count} steps / eigsh, tol {tolerance:g}", 1e3 * ours, "ms", 1e3 * theirs)


# In a process of its own. The first stream, of 50 inputs, loads what any compiled program takes, which stays.
_STREAM = """
import pathlib, re, sys
import numpy as np
from lae_jax import fit_stream
def memory(name):
    return int(re.search(name + r":\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
input_dim, latent_dim, rows = map(int, sys.argv[1:])
draw = np.random.default_rng(0).standard_normal
batches = [draw((rows, input_dim), np.float32) for _ in range(3)]
bare = memory("VmRSS")
fit_stream([draw((600, 50), np.float32)], 2, progress=False)
before = memory("VmRSS")
fit_stream(4 * batches, latent_dim, progress=False)
print(memory("VmHWM") - before, before - bare)
"""


def stream_memory(sizes: Sequence[tuple[int, int, int]]) -> Iterator[Measurement]:
    """MiB that a stream of (m, k, rows of a batch) peaks at beside its batches and the compiler. For Linux."""
    for input_dim, latent_dim, rows in sizes:
        command = [sys.executable, "-c", _STREAM, str(input_dim), str(latent_dim), str(rows)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peak, compiler = map(float, done.stdout.split())
        what = f"fit_stream, m = {input_dim:,}, k = {latent_dim}, batches of {rows}: peak / what a first program takes"
        yield Measurement(what, peak, "MiB", compiler)
