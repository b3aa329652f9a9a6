"""Samples in .npy files that may be larger than memory.

Rows are read from the file, not through a memory map: pages of a map pile up in memory, those of an array in
Fortran order (where a row lies all over the file) all at once, and a file cut while it is mapped kills the process.
"""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from lae_jax.errors import InputError

# What numpy's readers, and the parsers they call, raise on a damaged file.
UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, zlib.error, zipfile.BadZipFile, SyntaxError, MemoryError),
    *(RuntimeError, tokenize.TokenError, OverflowError),
)
_PAGE_BYTES = 4096


def unreadable(path: Path, error: Exception) -> InputError:
    """The error for a file that numpy could not read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"{path}: not a readable .npy or .npz file ({reason})")


def check_samples(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raises InputError where an array is not one of real numbers with at least 2 to a row."""
    if dtype.kind not in "fiub":
        raise InputError(f"{path}: holds {dtype}; samples are real numbers")
    if len(shape) < 2 or math.prod(shape[1:]) < 2:
        raise InputError(f"{path}: shape {shape}; need at least 2 samples (rows) of at least 2 numbers")


def check_count(path: Path, shape: tuple[int, ...]) -> None:
    """Raises InputError where there are fewer than 2 samples."""
    if shape[0] < 2:
        raise InputError(f"{path}: shape {shape}; need at least 2 samples (rows) of at least 2 numbers")


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except UNREADABLE as error:
        raise unreadable(path, error) from None


def _read(path: Path, array: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Rows of the array that a file holds: one piece of it in C order, a piece of each column in Fortran order."""
    columns, fortran = math.prod(array.shape[1:]), not array.flags.c_contiguous
    pieces = np.empty((columns, stop - start) if fortran else (1, (stop - start) * columns), array.dtype)
    first, stride = (start, len(array)) if fortran else (start * columns, 0)
    with open(path, "rb") as file:
        for index, piece in enumerate(pieces.view(np.uint8)):
            file.seek(array.offset + (first + index * stride) * array.itemsize)  # type: ignore[attr-defined] # of memory maps
            if file.readinto(piece) < len(piece):
                raise _changed(path)
    shape = array.shape[1:]
    return pieces.reshape(*shape[::-1], stop - start).T if fortran else pieces.reshape(stop - start, *shape)


def _changed(path: Path) -> InputError:
    return InputError(f"{path}: was changed while it was read")


class StoredSamples:
    """Samples (n, ...) in .npy files, one after the other, as stored; `samples[start:stop]` reads."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises InputError naming the first file that is not one of samples like those of the first."""
        self._paths, self._starts = tuple(paths), [0]
        dtypes: list[np.dtype] = []
        self.least_rows: int = 1  # to be read at once, so that no page is read twice
        for path in self._paths:
            array = _mapped(path)
            check_samples(path, array.shape, array.dtype)
            if path is self._paths[0]:
                width, kind = array.shape[1:], array.dtype.kind
            if array.shape[1:] != width:
                raise InputError(f"{path}: samples of shape {array.shape[1:]}; those of {self._paths[0]} have {width}")
            if array.dtype.kind != kind:
                raise InputError(f"{path}: holds {array.dtype}, {self._paths[0]} {dtypes[0]}; shards are of one kind")
            if not array.flags.c_contiguous:  # each column's part of a block lies on pages of its own
                self.least_rows = max(self.least_rows, _PAGE_BYTES // array.itemsize)
            self._starts.append(self._starts[-1] + array.shape[0])
            dtypes.append(array.dtype)
        self.shape: tuple[int, ...] = (self._starts[-1], *width)
        self.dtype: np.dtype = np.result_type(*dtypes)
        self.ndim: int = len(self.shape)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """A copy of consecutive samples."""
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise IndexError("samples in files are read in order")
        block, filled = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype), 0
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        for shard in range(first, len(self._paths)):
            if filled == len(block):
                break
            array, offset = _mapped(self._paths[shard]), self._starts[shard]
            if array.shape != (self._starts[shard + 1] - offset, *self.shape[1:]):
                raise _changed(self._paths[shard])
            piece = _read(self._paths[shard], array, max(start - offset, 0), min(stop - offset, len(array)))
            block[filled : filled + len(piece)] = piece
            filled += len(piece)
        return block

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """All of them."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def whereabouts(self, index: int) -> str:
        """The file of a sample and its number there."""
        shard = int(np.searchsorted(self._starts, index, "right")) - 1
        return f"{self._paths[shard]}: sample {index - self._starts[shard]}"


def open_folder(folder: Path) -> StoredSamples:
    """The .npy files of a folder in the order of their names. Raises InputError where there are none."""
    paths = sorted(folder.glob("*.npy"))
    if not paths:
        raise InputError(f"{folder}: holds no .npy files; shards of samples are named like 000.npy")
    return StoredSamples(paths)
