"""What reading takes of memory, told before it is spent.

The factors are measured: peaks of processes that read samples of several shapes, above what their imports take.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import psutil
from numpy.typing import DTypeLike

from lae_jax.data import spectra
from lae_jax.data.moments import BLOCK_BYTES
from lae_jax.errors import InputError

LIBRARIES = 600 << 20  # bytes of a process that has imported everything, and compiled
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Matrices m x m, and samples n x m, that there are at a time while a spectrum is computed.
_SQUARES, _COPIES = 5, 5


class Estimate(NamedTuple):
    """Bytes of the larger things, and of the libraries."""

    process: int  # what its devices hold is counted beside it, unless they are CPUs
    device: int

    def __str__(self) -> str:
        return f"about {told(self.process)} a process, {told(self.device)} a device"

    def check(self, max_memory: float | None, remedies: str) -> None:
        """Raises InputError where a process, or a device, may take fewer bytes; None: what there is."""
        stats = jax.local_devices()[0].memory_stats() or {}
        here = of_machine()
        limits = (here, stats.get("bytes_limit", here)) if max_memory is None else 2 * (int(max_memory),)
        for name, needed, limit in zip(self._fields, self, limits, strict=True):
            if needed > limit:
                raise InputError(
                    f"max_memory: {told(limit)} a {name} do not hold this run, which takes about"
                    f" {told(needed)}; what would: {remedies}"
                )


def estimate(host: float, device: float = 0) -> Estimate:
    """Of a process that holds so many bytes beside the libraries, and has each of its devices hold so many."""
    on_host = jax.local_devices()[0].platform == "cpu"
    beside = device * jax.local_device_count() if on_host else 0
    return Estimate(int(LIBRARIES + host + beside), int(device))


def of_machine() -> int:
    """Bytes of this machine, or of what its scheduler lets this process have."""
    whole = psutil.virtual_memory().total
    try:
        return min(whole, int(_GROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such group, or no limit: "max"
        return whole


def told(count: float) -> str:
    """Bytes as they are shown."""
    return f"{count / 2**30:.3g} GiB" if count >= 1 << 30 else f"{count / 2**20:.3g} MiB"


def has_covariance(shape: tuple[int, int]) -> bool:
    """Whether the covariance of samples (n, m) is made; else they are decomposed themselves."""
    return shape[1] <= spectra.WIDEST_COVARIANCE and not spectra.NARROW_WIDTH < shape[1] > shape[0]


def of_reading(shape: tuple[int, int], dtype: DTypeLike) -> int:
    """Bytes, estimated, that mean and spectrum of samples (n, m) take at their most."""
    count, width = shape
    blocks = 2 * max(BLOCK_BYTES, 8 * width)
    if has_covariance(shape):
        return blocks + _SQUARES * 8 * width**2
    if count <= spectra.WIDEST_COVARIANCE:
        return blocks + _COPIES * 8 * count * width
    return blocks + np.dtype(dtype).itemsize * count * width + 3 * 8 * width * spectra.NARROW_RANK


def check(what: str, needed: float, limit: float | None, remedy: str) -> None:
    """Raises InputError, "`what` about ... GiB", where `needed` bytes are more than `limit`; None: the machine's."""
    most = of_machine() if limit is None else limit
    if needed > most:
        raise InputError(f"{what} about {told(needed)} of {told(most)} of memory; {remedy}")
