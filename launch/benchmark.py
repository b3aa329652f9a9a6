"""Step times of every method beside their bare matrix products, and what sweeps gain, within one run.

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
import threadpoolctl
from ml_collections import ConfigDict

from lae_jax.covariance import Covariance, Dense, Diagonal, Samples
from lae_jax.hyperparameters import HYPERPARAMETERS, geometric_prior
from lae_jax.methods import METHODS, OPTIMIZERS, Method
from lae_jax.params import gaussian
from lae_jax.theory import closed_form
from lae_jax.training import loop
from launch import benchmark_sweeps, common

Array = jax.Array
Row = dict[str, Any]


def run(config: ConfigDict, workdir: Path) -> None:
    """Measure, print the table and write benchmark.csv."""
    common.set_precision("float32", config.matmul_precision)
    rows = []
    print(f"{'what':58} {'value':>14} {'held against':>14} {'ratio':>7}")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # as runs have it: LAPACK's threads and XLA's would fight
        for row in _measurements(config):
            rows.append(row)
            reference = f"{row['reference']:9.1f} {row['unit']:4}" if row["reference"] else ""
            ratio = f"{row['ratio']:7.2f}" if row["ratio"] else ""
            print(f"{row['what']:58} {row['value']:9.1f} {row['unit']:4} {reference:>14} {ratio:>7}", flush=True)
    common.write_csv(workdir / "benchmark.csv", rows)
    device = jax.devices()[0]
    print(f"on {device.platform} {device.device_kind} ({platform.machine()}), jax {jax.__version__}")
    print(f"wrote {workdir / 'benchmark.csv'}")


def _measurements(config: ConfigDict) -> Iterator[Row]:
    data = _data(config, config.num_samples)
    step_us: dict[tuple[str, str], float] = {}
    for representation, covariance in data.items():
        for name in config.methods:
            if METHODS[name].needs_samples and representation != "samples":
                continue
            row = _step_row(config, name, representation, covariance, config.latent_dim)
            step_us[name, representation] = row["value"]
            yield row
    for latent_dim in config.large_latent_dims:
        for representation, optimizer in (("eigenbasis", "nesterov"), ("dense", "adam")):
            row = _step_row(config, "rag", representation, data[representation], latent_dim, optimizer)
            yield row
            yield _throughput(config, row, "rag", representation, latent_dim)
    few = _data(config, config.shared_samples)["samples"]
    yield _step_row(config, "nested_dropout", "samples", few, config.latent_dim, runs=config.shared_runs)
    for name in config.methods:
        if (name, "eigenbasis") in step_us:
            yield _row(f"{name}: samples / eigenbasis", step_us[name, "samples"], "us", step_us[name, "eigenbasis"])
    for input_dim, latent_dim in config.spectrum_sizes:
        variances, penalties = np.linspace(100, 1, input_dim), np.linspace(0.01, 0.9, latent_dim)
        seconds = _seconds(functools.partial(_spectrum, variances, penalties), 1)
        what = f"all {2 * input_dim * latent_dim:,} eigenvalues, l2, m = {input_dim}, k = {latent_dim}"
        yield _row(what, 1e3 * seconds, "ms")
    for what, seconds, reference in benchmark_sweeps.measurements(config):
        yield _row(what, seconds, "s", reference)
    if config.memory_steps:
        yield _row("peak memory of launch.train", _peak_memory(config.memory_steps), "MiB")


def _spectrum(variances: np.ndarray, penalties: np.ndarray, count: int) -> Any:
    return [closed_form.non_uniform_l2_spectrum(variances, penalties).inside for _ in range(count)]


def _row(what: str, value: float, unit: str, reference: float | None = None) -> Row:
    ratio = value / reference if reference else None
    return {"what": what, "value": value, "unit": unit, "reference": reference, "ratio": ratio}


def _data(config: ConfigDict, num_samples: int) -> dict[str, Covariance]:
    """The three forms at the size asked for, of random samples: the values do not matter to the time."""
    rows = jax.random.normal(jax.random.key(0), (num_samples, config.input_dim), jnp.float32)
    variances = jnp.linspace(5.0, 0.01, config.input_dim, dtype=jnp.float32)
    return {"samples": Samples(rows), "dense": Dense(jnp.diag(variances)), "eigenbasis": Diagonal(variances)}


def _step_row(
    config: ConfigDict,
    name: str,
    representation: str,
    data: Covariance,
    latent_dim: int,
    optimizer: str = "nesterov",
    runs: int = 1,
) -> Row:
    """Microseconds of a step of `runs` runs that share the data, held against their bare products."""
    method = METHODS[name]
    values = {"penalties": np.linspace(0.01, 0.1, latent_dim), "prior": geometric_prior(latent_dim)}
    kind = method.hyperparameter and HYPERPARAMETERS[method.hyperparameter]
    hyperparameter = jnp.asarray(values[kind.field], jnp.float32) if kind else None
    recipe = loop.Recipe(method, OPTIMIZERS[optimizer].build)
    problem = loop.Problem(data, jnp.float32(1e-4), jax.random.key(0), hyperparameter)

    def start(key: Array) -> tuple[Any, loop.TrainState]:
        weights = gaussian(key, latent_dim, config.input_dim)
        return tuple(weights), loop.initial_state(recipe, problem, method.lift(weights))

    def one_step(state: loop.TrainState, key: Array, data: Covariance) -> loop.TrainState:
        return loop.step(recipe, problem._replace(key=key, data=data), state)

    def bare(weights: tuple[Array, Array], key: Array, data: Covariance) -> tuple[Array, Array]:
        return _bare_products(method, data, *weights)

    keys = jax.random.split(jax.random.key(1), runs)
    weights, state = jax.vmap(start)(keys)
    functions: tuple[Any, ...] = (one_step, bare)
    if runs == 1:
        weights, state, keys = jax.tree.map(lambda leaf: leaf[0], (weights, state, keys))
    else:
        functions = tuple(jax.vmap(function, (0, 0, None)) for function in functions)
    candidates = (_repeated(each, first, keys, data) for each, first in zip(functions, (state, weights), strict=True))
    step_seconds, bare_seconds = _medians(config, *candidates)
    what = f"{name}, {representation}, k = {latent_dim}" + (f", {runs} runs" if runs > 1 else "")
    return _row(what, 1e6 * step_seconds, "us", 1e6 * bare_seconds)


def _repeated(function: Callable[..., Any], first: Any, keys: Array, data: Covariance) -> Callable[[int], Any]:
    @jax.jit
    def repeated(first: Any, keys: Array, data: Covariance, count: int) -> Any:
        return jax.lax.fori_loop(0, count, lambda _, carry: function(carry, keys, data), first)

    return functools.partial(repeated, first, keys, data)


def _throughput(config: ConfigDict, row: Row, name: str, representation: str, latent_dim: int) -> Row:
    """A row of `_step_row` as operations in its matrix products per second; the ratio is the share reached."""
    input_dim = config.input_dim
    passes = {"samples": 8 * config.num_samples * input_dim, "dense": 4 * input_dim**2, "eigenbasis": 0}[representation]
    squares = 5 if _rotates(METHODS[name]) else 4
    billions = 1e-9 * latent_dim * (passes + 2 * squares * input_dim * latent_dim)
    step, plain = (1e6 * billions / row[column] for column in ("value", "reference"))
    return _row(f"{row['what']}: reached / plain products", step, "GF/s", plain)


def _rotates(method: Method) -> bool:
    return method.rule is METHODS["rag"].rule


def _bare_products(method: Method, data: Covariance, encoder: Array, decoder: Array) -> tuple[Array, Array]:
    """The matrix products of one step and nothing else: the floor of its time."""
    tiny = jnp.float32(1e-9)
    first, second = data.pair(encoder.T, decoder)
    moment, gram = encoder @ first, decoder.T @ decoder
    encoder_step, decoder_step = gram @ second.T, decoder @ moment
    if _rotates(method):  # the decoder's rotation and gradient are one product
        encoder_step += moment @ encoder
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
