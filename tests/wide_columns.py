"""A stream and two rules on inputs so many that they are cut over devices: memory, time, and the numbers of one device.

    nice -n 10 python -m tests.wide_columns [--inputs=1000000] [--latents=50] [--few=10] [--samples=200] [--parts=2,8]

Prints a row for each rule and number of parts, each in a process of its own with so many virtual devices of the CPU,
and ends at a process that takes more than `--most` GiB. With `--few` latents, in double precision, what several devices
find is held to what one does. For Linux.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import psutil

from lae_jax import fit_stream
from lae_jax.data import datasets
from lae_jax.training import loop, settings

ROOT = Path(__file__).parents[1]
BATCHES, STEPS, CLOSE = 4, 5, 1e-9
# XLA ends a process in which one virtual device waits for another for 40 seconds; a busy machine takes longer.
PATIENT = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=600 --xla_cpu_collective_call_terminate_timeout_seconds=3600"
)


def _held(name: str) -> float:
    """VmRSS or VmHWM of this process, GiB."""
    found = re.search(name + r":\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**20


def drawn(count: int, input_dim: int, seed: int, directions: int = 60) -> Iterator[np.ndarray]:
    """Rows (1, m) of falling variances in some directions, and noise in all."""
    basis = np.random.default_rng(0).standard_normal((directions, input_dim), np.float32) / np.float32(input_dim**0.5)
    draw = np.random.default_rng(seed + 1)
    deviations = np.linspace(30, 3, directions, dtype=np.float32)
    for _ in range(count):
        noise = draw.standard_normal((1, input_dim), np.float32) / np.float32(input_dim**0.5)
        yield (draw.standard_normal((1, directions), np.float32) * deviations) @ basis + noise


def streamed(options: argparse.Namespace, parts: int) -> tuple[np.ndarray, str]:
    """Components (k, m) of a few blocks of a stream."""
    times = []

    def batches() -> Iterator[np.ndarray]:
        for index in range(BATCHES):
            rows = np.empty((options.samples, options.inputs), np.float32)
            for place, row in enumerate(drawn(options.samples, options.inputs, index)):
                rows[place] = row
            times.append(time.perf_counter())
            yield rows
            times.append(time.perf_counter())

    fit = fit_stream(batches(), options.latents, column_parts=parts, precision=options.precision, progress=False)
    each = np.subtract(times[1::2], times[::2])
    told = f"{np.median(each[1:]):6.2f} s a batch of {options.samples}, blocks of {fit.settings.block}"
    return fit.components.components, told


def trained(options: argparse.Namespace, parts: int, method: str) -> tuple[np.ndarray, str]:
    """Decoder's columns (k, m) after a few steps on samples."""
    rows = np.concatenate(list(drawn(options.samples, options.inputs, 0)))
    dataset = datasets.from_samples("wide", rows)
    reading = _held("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    fields = {"representation": "samples", "precision": options.precision, "init_scale": 1e-3}
    asked = settings.Settings(method, options.latents, column_parts=parts, **fields)
    run = settings.build(settings.resolve(asked, dataset)[0], dataset)
    [(state, _)] = loop.train(run.recipe, run.problem, run.state, 1)  # compiles
    began = time.perf_counter()
    [(state, _)] = loop.train(run.recipe, run.problem, state, 1 + STEPS)
    seconds = (time.perf_counter() - began) / STEPS
    told = f"{seconds:6.2f} s a step; peak of reading before {reading:.2f} GiB"
    return run.in_input_coordinates(state.params).decoder.T, told


def measured(options: argparse.Namespace) -> None:
    """In the process of one rule: its peak, and what it has found in a file."""
    parts = jax.device_count()
    jax.config.update("jax_enable_x64", options.precision == "float64")
    found, told = streamed(options, parts) if options.rule == "stream" else trained(options, parts, options.rule)
    print(f"peak {_held('VmHWM'):5.2f} GiB, {told}")
    np.save(options.found, found)


def run(options: argparse.Namespace, rule: str, latents: int, precision: str, parts: int, found: Path) -> np.ndarray:
    """One process; ends all where it takes too much."""
    flags = {"rule": rule, "latents": latents, "precision": precision, "found": found}
    flags |= {name: getattr(options, name) for name in ("inputs", "samples")}
    several = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={parts} {PATIENT}"
    command = [sys.executable, "-m", "tests.wide_columns", *(f"--{name}={value}" for name, value in flags.items())]
    environment = {**os.environ, "XLA_FLAGS": several, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    held = psutil.Process(process.pid)
    while process.poll() is None:
        if held.is_running() and held.memory_info().rss > options.most * 2**30:
            process.kill()
            sys.exit(f"{rule}, k = {latents}, {parts} parts: more than {options.most} GiB")
        time.sleep(0.1)
    assert process.returncode == 0 and process.stdout is not None
    print(
        f"{rule:10} m = {options.inputs:,}, k = {latents}, {parts} parts: {process.stdout.read().strip()}", flush=True
    )
    return np.load(found)


def main() -> int:
    """Every rule at every number of parts, then few latents against one device."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"inputs": 1_000_000, "latents": 50, "few": 10, "samples": 200}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--most", type=float, default=12)
    parser.add_argument("--parts", default="2,8")
    parser.add_argument("--rules", default="stream,aligned,rag")
    parser.add_argument("--rule")
    parser.add_argument("--precision")
    parser.add_argument("--found")
    options = parser.parse_args()
    if options.rule:
        measured(options)
        return 0
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.npy"
        for rule in options.rules.split(","):
            for parts in map(int, options.parts.split(",")):
                run(options, rule, options.latents, "float32", parts, file)
            one = run(options, rule, options.few, "float64", 1, file)
            for parts in map(int, options.parts.split(",")):
                several = run(options, rule, options.few, "float64", parts, file)
                apart = float(np.max(np.abs(several - one)) / np.max(np.abs(one)))
                print(f"{rule:10} k = {options.few}, {parts} parts and one: largest difference {apart:.2g}", flush=True)
                worst = max(worst, apart)
    return 0 if worst < CLOSE else 1


if __name__ == "__main__":
    sys.exit(main())
