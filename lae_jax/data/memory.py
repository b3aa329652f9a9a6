"""What reading takes of memory, told before it is spent.

The factors are measured: peaks of processes that read samples of several shapes, above what their imports take.
"""

from pathlib import Path

import numpy as np
import psutil
from numpy.typing import DTypeLike

from lae_jax.data import spectra
from lae_jax.data.moments import BLOCK_BYTES
from lae_jax.errors import InputError

_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Matrices m x m, and samples n x m, that there are at a time while a spectrum is computed.
_SQUARES, _COPIES = 5, 5


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
