"""What a sweep gains over single runs, from a second device, and from programs kept on disk.

Each measurement is a process of its own, so that nothing has been compiled before it:

    python -m launch.benchmark_sweeps WAY DEVICES FIELDS    prints seconds, for `launch.benchmark`
"""

import ast
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import threadpoolctl
from ml_collections import ConfigDict

from lae_jax.data.datasets import Dataset, synthetic
from lae_jax.training import loop, sweeps
from lae_jax.training import settings as experiment
from lae_jax.training.settings import Settings
from launch import common

# Children find memory beside this process on a GPU, and no program that an earlier run has left.
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_ENABLE_COMPILATION_CACHE": "true"}


def measurements(config: ConfigDict) -> Iterator[tuple[str, float, float]]:
    """(what, seconds, seconds of what it is held against)."""
    for sweep in config.sweeps:
        about = f"{config.sweep_runs} runs, k = {', '.join(map(str, sweep['latent_dims']))}"
        fields = {**sweep, "runs": config.sweep_runs, "input_dim": config.sweep_input_dim}
        one = _timed("batch", 1, fields)
        yield f"{about}: batch / loop", one, _timed("loop", 1, fields)
        if jax.default_backend() == "cpu":  # elsewhere the devices there are cannot be divided
            yield f"{about}: two devices / one", _timed("batch", 2, fields), one
    if config.start_options:
        first, second = _starts(config.start_options)
        yield "launch.scaling with --compilation_cache: second / first", second, first


def _run(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(
        command,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment | _ENVIRONMENT,
    )
    return done.stdout


def _timed(way: str, devices: int, fields: dict[str, Any]) -> float:
    return float(_run("launch.benchmark_sweeps", way, str(devices), repr(fields)))


def _starts(options: tuple[str, ...]) -> tuple[float, float]:
    """Seconds of the same sweep twice, each from the start of its process, with one folder of programs."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "second"):
            start = time.perf_counter()
            _run("launch.scaling", f"--workdir={folder}/{name}", f"--compilation_cache={folder}/programs", *options)
            seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def _batch(runs: list[Settings], dataset: Dataset, num_steps: int) -> None:
    sweeps.train(runs, dataset, num_steps=num_steps)


def _loop(runs: list[Settings], dataset: Dataset, num_steps: int) -> None:
    """One after the other; latent sizes that come again are not compiled again."""
    for run in runs:
        built = experiment.build(run, dataset)
        for _ in loop.train(built.recipe, built.problem, built.state, num_steps):
            pass


_WAYS = {"batch": _batch, "loop": _loop}


def _main(way: str, devices: str, fields: str) -> None:
    if int(devices) > 1:
        jax.config.update("jax_num_cpu_devices", int(devices))
    common.set_precision("float32", "highest")
    given = ast.literal_eval(fields)
    dataset = synthetic(input_dim=given["input_dim"], num_samples=2 * given["input_dim"])
    sizes = given["latent_dims"]
    each = [Settings(latent_dim=k, seed=seed) for k in sizes for seed in range(given["runs"] // len(sizes))]
    runs = [experiment.resolve(settings, dataset)[0] for settings in each]
    jax.block_until_ready(jax.device_put(0.0))  # the devices have started
    start = time.perf_counter()
    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # as single runs have it, for the QR of their metrics
        _WAYS[way](runs, dataset, given["num_steps"])
    print(time.perf_counter() - start)


if __name__ == "__main__":
    _main(*sys.argv[1:])
