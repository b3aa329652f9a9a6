"""How fast, and in how much memory, files stream to their covariance, beside reading and products alone.

Files are dropped from the system's cache before each reading. For Linux.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lae_jax.data import datasets, hosts
from lae_jax.data.table_files import IN_LITTLE_MEMORY
from lae_jax.errors import InputError, unknown_name

_ROWS = 4096  # of a block, in what is not measured and in the plain products

# In a process of its own, so that its peak memory is that of streaming and of what it imports.
_STREAM = """
import json, pathlib, sys
from lae_jax.data import benchmark
print(json.dumps(benchmark.streamed(*map(pathlib.Path, sys.argv[1:]))))
"""


class Shards(NamedTuple):
    """Files of samples that are drawn."""

    num_samples: int
    input_dim: int
    num_shards: int = 1
    dtype: str = "float32"
    fortran_order: bool = False
    seed: int = 0
    format: str = "npy"  # of FORMATS

    @property
    def nbytes(self) -> int:
        """Of all samples."""
        return self.num_samples * self.input_dim * np.dtype(self.dtype).itemsize


def measure(shards: Shards, workdir: Path, repeats: int = 1) -> dict[str, str | float]:
    """Write the shards, time their streaming, reading and products in turn, and delete them.

    Args:
        shards: what to write.
        workdir: a folder with room for them, without a folder `shards`.
        repeats: how often each is timed; medians are given.

    Several processes stream together, each its part; their row says how long the slowest took, and the largest peak.

    Returns:
        {} but in the first process. There: seconds of the stream to components, of reading alone (bytes in order, or
        pyarrow's batches of Parquet) and of the products block^T block in float64 (numpy's, which knows that they are
        symmetric); (reading + products) / stream; peak memory of the streaming process in MiB; the largest difference
        from the covariance of the samples in memory, relative to its largest entry.

    Raises:
        InputError: where the disk has no room, the folder exists, or there is no such format.
    """
    folder, result = workdir / "shards", workdir / "streamed.npz"
    times: dict[str, list[float]] = {"stream": [], "read": [], "products": []}
    first = hosts.is_first()
    if first:
        _check_place(shards, workdir, folder)
        folder.mkdir()
    try:
        if first:
            _write(shards, folder)
        hosts.any_of()  # none reads before the files are there
        for _ in range(repeats):
            _drop_from_cache(folder)
            alone = jax.process_count() == 1
            found = _stream(folder, result) if alone else streamed(folder, result)
            times["stream"].append(found["seconds"])
            if first:
                _drop_from_cache(folder)
                times["read"].append(_seconds_to_read(shards, folder))
                times["products"].append(_seconds_of_products(shards))
            hosts.any_of()  # none streams while the first is timed
        if not first:
            return {}
        difference = _difference(shards, folder, result)
    finally:
        if first:
            shutil.rmtree(folder, ignore_errors=True)
            result.unlink(missing_ok=True)
    stream, read, products = (statistics.median(times[name]) for name in ("stream", "read", "products"))
    return {
        "processes": jax.process_count(), "gib": shards.nbytes / 2**30, "format": shards.format,
        "dtype": shards.dtype, "num_samples": shards.num_samples,
        "input_dim": shards.input_dim, "stream_seconds": stream, "read_seconds": read, "products_seconds": products,
        "speed": (read + products) / stream, "peak_mib": found["peak_mib"], "difference": difference,
    }  # fmt: skip


def _check_place(shards: Shards, workdir: Path, folder: Path) -> None:
    if shards.format not in FORMATS:
        raise unknown_name("format", shards.format, FORMATS)
    workdir.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(workdir).free < 1.1 * shards.nbytes:
        need = 1.1 * shards.nbytes / 2**30
        raise InputError(f"workdir: {workdir} has less than the {need:.2g} GiB that the shards need")
    if folder.exists():
        raise InputError(f"workdir: {folder} exists; choose another folder")


def streamed(folder: Path, result: Path) -> dict[str, float]:
    """Stream a folder in this process, and leave the covariance in a file; of several processes, the worst numbers."""
    jax.devices()
    started = time.perf_counter()
    dataset = datasets.load(str(folder))
    seconds = time.perf_counter() - started
    # Not getrusage, which begins with the memory of the process that started this one.
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None and dataset.covariance is not None
    if hosts.is_first():
        np.savez(result, covariance=dataset.covariance)
    slowest, largest = hosts.from_each(np.array([seconds, int(found[1]) / 1024])).max(axis=0)
    return {"seconds": float(slowest), "peak_mib": float(largest)}


def _write(shards: Shards, folder: Path) -> None:
    """Samples with correlations and an offset, in shards; each block a mixture of its own noise."""
    generator = np.random.default_rng(shards.seed)
    mixing = generator.standard_normal((shards.input_dim, shards.input_dim), np.float32) / shards.input_dim**0.5
    offset = generator.standard_normal(shards.input_dim, np.float32)

    def blocks(count: int) -> Iterator[np.ndarray]:
        for start in range(0, count, _ROWS):
            rows = generator.standard_normal((min(_ROWS, count - start), shards.input_dim), np.float32)
            yield 8 * (rows @ mixing + offset)

    for index, part in enumerate(np.array_split(np.arange(shards.num_samples), shards.num_shards)):
        path = folder / f"{index:05d}.{shards.format}"
        FORMATS[shards.format].write(path, shards, len(part), blocks(len(part)))


class _Format(NamedTuple):
    """How files of a format are written, read as fast as may be, and loaded."""

    write: Callable[[Path, Shards, int, Iterator[np.ndarray]], None]
    read: Callable[[Path], None]
    load: Callable[[Path], np.ndarray]


def _write_npy(path: Path, shards: Shards, count: int, blocks: Iterator[np.ndarray]) -> None:
    shard = np.lib.format.open_memmap(path, "w+", shards.dtype, (count, shards.input_dim), shards.fortran_order)
    for index, block in enumerate(blocks):
        shard[index * _ROWS : index * _ROWS + len(block)] = block
    shard.flush()


def _read_bytes(path: Path) -> None:
    buffer = bytearray(1 << 24)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _write_parquet(path: Path, shards: Shards, count: int, blocks: Iterator[np.ndarray]) -> None:
    """With pyarrow's defaults: groups of a million rows, compressed."""
    import pyarrow
    from pyarrow import parquet

    names = [f"x{index}" for index in range(shards.input_dim)]
    schema = pyarrow.schema([(name, pyarrow.from_numpy_dtype(shards.dtype)) for name in names])
    with parquet.ParquetWriter(path, schema) as writer:
        waiting = []
        for block in blocks:
            waiting.append(block.astype(shards.dtype))
            if len(waiting) * _ROWS >= 1 << 20:
                writer.write_table(pyarrow.table(list(np.concatenate(waiting).T), schema=schema))
                waiting = []
        if waiting:
            writer.write_table(pyarrow.table(list(np.concatenate(waiting).T), schema=schema))


def _read_parquet(path: Path) -> None:
    from pyarrow import parquet

    with parquet.ParquetFile(path, **IN_LITTLE_MEMORY) as file:
        for _ in file.iter_batches():
            pass


def _load_parquet(path: Path) -> np.ndarray:
    from pyarrow import parquet

    return np.column_stack([column.to_numpy() for column in parquet.read_table(path).columns])


FORMATS: dict[str, _Format] = {
    "npy": _Format(_write_npy, _read_bytes, np.load),
    "parquet": _Format(_write_parquet, _read_parquet, _load_parquet),
}


def _drop_from_cache(folder: Path) -> None:
    """So that what is timed reads the disk."""
    os.sync()
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _stream(folder: Path, result: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _STREAM, str(folder), str(result)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def _seconds_to_read(shards: Shards, folder: Path) -> float:
    started = time.perf_counter()
    for path in sorted(folder.iterdir()):
        FORMATS[shards.format].read(path)
    return time.perf_counter() - started


def _seconds_of_products(shards: Shards) -> float:
    """All the products block^T block of the size streamed, in float64, on a block that is in memory."""
    block = np.random.default_rng(0).standard_normal((_ROWS, shards.input_dim))
    block.T @ block
    started = time.perf_counter()
    for start in range(0, shards.num_samples, _ROWS):
        rows = block[: shards.num_samples - start]
        rows.T @ rows
    return time.perf_counter() - started


def _difference(shards: Shards, folder: Path, result: Path) -> float:
    """From the covariance by numpy of the samples in memory, two passes over columns around their mean."""
    samples = np.concatenate([FORMATS[shards.format].load(path) for path in sorted(folder.iterdir())])
    mean = sum(part.sum(axis=0, dtype=np.float64) for part in np.array_split(samples, 64)) / len(samples)
    centred = (part.astype(np.float64) - mean for part in np.array_split(samples, 64))
    covariance = sum(part.T @ part for part in centred) / len(samples)
    with np.load(result) as streamed:
        return float(np.abs(streamed["covariance"] - covariance).max() / np.abs(covariance).max())
