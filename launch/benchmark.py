"""Step times of every method beside their bare matrix products, and what batches gain, within one run.

python -m launch.benchmark --workdir=DIR [--config.FIELD=VALUE ...]
"""

import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import threadpoolctl
from ml_collections import ConfigDict

from lae_jax.data.datasets import synthetic
from lae_jax.runs import storage
from lae_jax.training import benchmark, paired
from lae_jax.training.benchmark import Measurement
from launch import common, memory, needs, switches, watched


def run(config: ConfigDict, workdir: Path) -> None:
    """Measure, print the table and write benchmark.csv."""
    common.set_precision("float32", config.matmul_precision)
    switches.devices(config.devices)
    memory.tell(needs.benchmark(config), config.max_memory, "fewer num_samples, theory_pairs or batch_runs")
    rows = []
    print(f"{'what':58} {'value':>14} {'held against':>14} {'ratio':>7}")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # as runs have it: LAPACK's threads and XLA's would fight
        for row in _measurements(config):
            rows.append(row._asdict() | {"ratio": row.ratio})
            reference = f"{row.reference:9.4g} {row.unit:4}" if row.reference else ""
            ratio = f"{row.ratio:7.2f}" if row.ratio else ""
            print(f"{row.what:58} {row.value:9.4g} {row.unit:4} {reference:>14} {ratio:>7}", flush=True)
    storage.write_csv(workdir / "benchmark.csv", rows)
    device = jax.devices()[0]
    print(f"on {device.platform} {device.device_kind} ({platform.machine()}), jax {jax.__version__}")
    print(f"wrote {workdir / 'benchmark.csv'}")


def _measurements(config: ConfigDict) -> Iterator[Measurement]:
    pace, sizes = (config.seconds, config.repeats), (config.input_dim, config.num_samples)
    yield from benchmark.steps(config.methods, *sizes, config.latent_dim, *pace)
    yield from benchmark.large_steps(*sizes, config.large_latent_dims, *pace)
    if config.shared_runs:
        yield benchmark.shared_step(sizes[0], config.shared_samples, config.latent_dim, config.shared_runs, *pace)
    yield from benchmark.spectra(config.spectrum_sizes)
    if config.theory_pairs:
        yield from benchmark.theory(config.latent_dim, config.theory_pairs)
    dataset = synthetic(input_dim=config.batch_input_dim, num_samples=2 * config.batch_input_dim, center=False)
    batched = (config.batch_latent_dims, config.batch_runs, config.batch_steps, dataset)
    yield from benchmark.batches(*batched, *pace)
    if len(jax.devices()) > 1:
        yield benchmark.devices(*batched, config.repeats)
    yield from paired.against_lanczos(config.lanczos, config.target, *pace)
    yield from paired.stream_memory(config.stream_sizes)
    if config.start_options:
        yield _second_start(config.start_options)
    if config.memory_steps:
        yield Measurement("peak memory of launch.train", _peak_memory(config.memory_steps), "MiB")


def _second_start(options: tuple[str, ...]) -> Measurement:
    """Seconds of one sweep twice, each from the start of its process, with one folder of programs."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "second"):
            began = time.perf_counter()
            watched.run("scaling", f"--workdir={folder}/{name}", f"--compilation_cache={folder}/programs", *options)
            seconds.append(time.perf_counter() - began)
    return Measurement("launch.scaling with --compilation_cache: second / first", seconds[1], "s", seconds[0])


def _peak_memory(num_steps: int) -> float:
    """MiB at the peak of a whole training run, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return watched.run("train", f"--workdir={folder}/run", f"--config.num_steps={num_steps}")


if __name__ == "__main__":
    common.main(run, "benchmark.py")
