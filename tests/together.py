"""What several processes do together from Python, without a launcher.

    python -m tests.together JOB RESULT ADDRESS COUNT INDEX [FOLDER]

leaves arrays in RESULT_INDEX.npz, and ends with status 1 at any error, without a wait for the others.
"""

import os
import sys
import time
import traceback
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from lae_jax import fit_stream, streaming
from lae_jax.data import datasets, hosts, moments, sources

ROWS = np.random.default_rng(1).standard_normal((4001, 20)) * np.linspace(3, 1, 20) + 5


def moments_of_files(result: Path, folder: str) -> dict[str, np.ndarray]:
    hosts.meet()
    mean, covariance = moments.accumulate("x", sources.load_array(Path(folder)))
    return {"mean": mean, "covariance": covariance}


def moments_of_batches(result: Path) -> dict[str, np.ndarray]:
    """Each process gives its own rows, no two as many, in batches of its own size."""
    index, count = jax.process_index(), jax.process_count()
    own = np.split(ROWS, 100 * np.arange(1, count) ** 2)[index]
    dataset = datasets.from_batches(np.array_split(own, 3 + index), progress=False)
    assert dataset.num_samples == len(ROWS)
    return {"mean": dataset.mean, "covariance": dataset.covariance}


def stream(result: Path, pause: float = 0.0, read: int | None = None) -> dict[str, np.ndarray]:
    """Every block of it has the rows of the same block of one process's stream."""
    own = ROWS[jax.process_index() :: jax.process_count()]

    def batches():
        for batch in np.array_split(own, len(own) // 100)[:read]:
            time.sleep(pause)
            yield batch

    kept = result.with_suffix(".kept.npz")
    with mock.patch.object(streaming, "SECONDS_BETWEEN_CHECKPOINTS", -1.0):
        found = fit_stream(batches(), 3, precision="float64", checkpoint=kept, progress=False)
    return {"components": found.components.components, "error": found.history["error"]}


def slow_stream(result: Path) -> dict[str, np.ndarray]:
    return stream(result, pause=0.3)


def resumed_stream(result: Path) -> dict[str, np.ndarray]:
    """In two parts, the first a stream that ends early."""
    stream(result, read=3)
    return stream(result)


JOBS = {job.__name__: job for job in (moments_of_files, moments_of_batches, stream, slow_stream, resumed_stream)}


def take_part(name: str, result: str, address: str, count: str, index: str, *rest: str) -> None:
    """Do this job as one of several, or alone."""
    try:
        if int(count) > 1:
            jax.distributed.initialize(address, int(count), int(index), initialization_timeout=45)
        jax.config.update("jax_enable_x64", True)
        for job in name.split(","):
            np.savez(f"{result}_{job}_{index}.npz", **JOBS[job](Path(f"{result}_{job}"), *rest))
        if int(count) > 1:
            jax.distributed.shutdown()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    take_part(*sys.argv[1:])
