"""Step times of every method, as ratios to their bare matrix products within one run.

python -m launch.benchmark --workdir=DIR [--config.FIELD=VALUE ...]
"""

import functools
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lae_jax import hessian, training
from lae_jax.covariance import Covariance, Dense, Diagonal, Samples
from lae_jax.experiment import HYPERPARAMETERS, geometric_prior
from lae_jax.methods import METHODS, OPTIMIZERS, Method
from lae_jax.params import gaussian
from launch import common

Array = jax.Array
Row = dict[str, Any]


def run(config: ConfigDict, workdir: Path) -> None:
    """Measure, print the table and write benchmark.csv."""
    common.set_precision("float32", config.matmul_precision)
    rows = []
    print(f"{'what':52} {'step':>12} {'products':>12} {'ratio':>7}")
    for row in _measurements(config):
        rows.append(row)
        products = f"{row['products_us']:9.1f} us" if row["products_us"] else ""
        ratio = f"{row['ratio']:7.2f}" if row["ratio"] else ""
        print(f"{row['what']:52} {row['value']:9.1f} {row['unit']:2} {products:>12} {ratio:>7}", flush=True)
    common.write_csv(workdir / "benchmark.csv", rows)
    device = jax.devices()[0]
    print(f"on {device.platform} {device.device_kind} ({platform.machine()}), jax {jax.__version__}")
    print(f"wrote {workdir / 'benchmark.csv'}")


def _measurements(config: ConfigDict) -> Iterator[Row]:
    data = _data(config)
    step_us: dict[tuple[str, str], float] = {}
    for representation, covariance in data.items():
        for name in config.methods:
            if METHODS[name].needs_samples and representation != "samples":
                continue
            row = _step_row(config, name, representation, covariance, config.latent_dim)
            step_us[name, representation] = row["value"]
            yield row
    for latent_dim in config.large_latent_dims:
        yield _step_row(config, "rag", "diagonal", data["diagonal"], latent_dim)
    for name in config.methods:
        if (name, "diagonal") in step_us:
            times = step_us[name, "samples"] / step_us[name, "diagonal"]
            yield _row(f"{name}: samples / diagonal", times, "x")
    for input_dim, latent_dim in config.spectrum_sizes:
        variances, penalties = np.linspace(100, 1, input_dim), np.linspace(0.01, 0.9, latent_dim)
        seconds = _seconds(functools.partial(_spectrum, variances, penalties), 1)
        what = f"all {2 * input_dim * latent_dim:,} eigenvalues, l2, m = {input_dim}, k = {latent_dim}"
        yield _row(what, 1e3 * seconds, "ms")
    if config.memory_steps:
        yield _row("peak memory of launch.train", _peak_memory(config.memory_steps), "MiB")


def _spectrum(variances: np.ndarray, penalties: np.ndarray, count: int) -> Any:
    return [hessian.non_uniform_l2_spectrum(variances, penalties).inside for _ in range(count)]


def _row(what: str, value: float, unit: str, products_us: float | None = None, ratio: float | None = None) -> Row:
    return {"what": what, "value": value, "unit": unit, "products_us": products_us, "ratio": ratio}


def _data(config: ConfigDict) -> dict[str, Covariance]:
    """The three forms at the size asked for, of random samples: the values do not matter to the time."""
    rows = jax.random.normal(jax.random.key(0), (config.num_samples, config.input_dim), jnp.float32)
    variances = jnp.linspace(5.0, 0.01, config.input_dim, dtype=jnp.float32)
    return {"samples": Samples(rows), "dense": Dense(jnp.diag(variances)), "diagonal": Diagonal(variances)}


def _step_row(config: ConfigDict, name: str, representation: str, data: Covariance, latent_dim: int) -> Row:
    method = METHODS[name]
    values = {"penalties": np.linspace(0.01, 0.1, latent_dim), "prior": geometric_prior(latent_dim)}
    kind = method.hyperparameter and HYPERPARAMETERS[method.hyperparameter]
    hyperparameter = jnp.asarray(values[kind.field], jnp.float32) if kind else None
    recipe = training.Recipe(method, OPTIMIZERS["nesterov"].build)
    problem = training.Problem(data, jnp.float32(1e-4), jax.random.key(0), hyperparameter)
    weights = gaussian(jax.random.key(1), latent_dim, config.input_dim)
    state = training.initial_state(recipe, problem, method.lift(weights))

    @jax.jit
    def steps(problem: training.Problem, state: training.TrainState, count: int) -> Any:
        return jax.lax.fori_loop(0, count, lambda _, inner: training.step(recipe, problem, inner), state)

    @jax.jit
    def products(data: Covariance, weights: Any, count: int) -> Any:
        return jax.lax.fori_loop(0, count, lambda _, inner: _bare_products(method, data, *inner), tuple(weights))

    step, bare = _medians(config, functools.partial(steps, problem, state), functools.partial(products, data, weights))
    what = f"{name}, {representation}, k = {latent_dim}"
    return _row(what, 1e6 * step, "us", 1e6 * bare, step / bare)


def _bare_products(method: Method, data: Covariance, encoder: Array, decoder: Array) -> tuple[Array, Array]:
    """The matrix products of one step and nothing else: the floor of its time."""
    tiny = jnp.float32(1e-9)
    first, second = data.pair(encoder.T, decoder)
    moment, gram = encoder @ first, decoder.T @ decoder
    encoder_step, decoder_step = gram @ second.T, decoder @ moment
    if method.rule is METHODS["rag"].rule:
        encoder_step, decoder_step = encoder_step + moment @ encoder, decoder_step + decoder @ gram
    return tiny * encoder_step, tiny * decoder_step


def _medians(config: ConfigDict, *candidates: Callable[[int], Any]) -> list[float]:
    """Seconds of one pass of each, the candidates timed in turn so that all meet the same machine."""
    counts = []
    for candidate in candidates:
        jax.block_until_ready(candidate(1))  # compiles
        count, elapsed = 1, 0.0
        while elapsed < config.seconds:
            count = count if not elapsed else max(2 * count, int(1.2 * count * config.seconds / elapsed))
            elapsed = _seconds(candidate, count)
        counts.append(count)
    times: list[list[float]] = [[] for _ in candidates]
    for _ in range(config.repeats):
        for index, (candidate, count) in enumerate(zip(candidates, counts, strict=True)):
            times[index].append(_seconds(candidate, count) / count)
    return [statistics.median(each) for each in times]


def _seconds(candidate: Callable[[int], Any], count: int) -> float:
    start = time.perf_counter()
    jax.block_until_ready(candidate(count))
    return time.perf_counter() - start


def _peak_memory(num_steps: int) -> float:
    """MiB at the peak of a whole training run, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "launch.train", f"--workdir={folder}/run", f"--config.num_steps={num_steps}"]
        subprocess.run(command, check=True, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


if __name__ == "__main__":
    common.main(run, "benchmark.py")
