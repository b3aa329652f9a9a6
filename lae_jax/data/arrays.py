"""What people hand over as samples: real numbers (n, ...) taken for what they are, or refused in one line."""

from collections.abc import Mapping
from typing import Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from lae_jax.data.tables import TableRows, is_table
from lae_jax.errors import InputError

# A value this many times as large as the others leaves nothing of their variance in float64: no measurement.
FILL_RATIO = 1e12
_ENOUGH = 100_000  # values that tell what size is usual


# What `as_samples` takes: an array of numpy, JAX or another library, lists of numbers, a sparse matrix, a frame of
# pandas, polars or Arrow. These have no type in common: what they are is found out when they come.
SamplesLike = object


class Rows(Protocol):
    """Samples (n, ...) that slices give as numpy arrays of numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""

    @property
    def dtype(self) -> np.dtype:
        """Of the slices."""

    @property
    def ndim(self) -> int:
        """The number of axes."""

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class SparseRows:
    """A scipy.sparse matrix (n, m) whose slices are dense."""

    shape: tuple[int, int]
    dtype: np.dtype
    ndim: int

    def __init__(self, matrix: object) -> None:
        self._rows = scipy.sparse.csr_array(matrix)
        self.shape, self.dtype, self.ndim = self._rows.shape, self._rows.dtype, 2

    def __getitem__(self, rows: slice) -> np.ndarray:
        """A dense copy of these rows."""
        return self._rows[rows].toarray()


def _unmasked(subject: str, given: np.ma.MaskedArray) -> np.ndarray:
    if masked := int(np.ma.getmaskarray(given).sum()):
        raise InputError(
            f"{subject} {masked} of {given.size} values are masked (missing); remove or impute such rows,"
            " as x[~x.mask.any(axis=1)].data does"
        )
    return given.data


def _refuse_collections(subject: str, given: SamplesLike) -> None:
    """Raises InputError at what a data loader gives beside the samples."""
    kind = type(given).__name__
    if isinstance(given, Mapping):
        keys = ", ".join(map(repr, given))
        raise InputError(f"{subject} a {kind} with keys {keys}; give the array of samples alone, as batch[key]")
    if not isinstance(given, list | tuple):
        return
    shapes = [getattr(each, "shape", None) for each in given]
    arrays = [shape for shape in shapes if shape]
    several = len(set(shapes)) > 1 or len(given) == 1 or isinstance(given, tuple)
    if any(len(shape) > 1 for shape in arrays) and several:
        raise InputError(
            f"{subject} a {kind} of arrays of shape {', '.join(map(str, shapes))} (samples and targets?);"
            " give the array of samples alone, as in (x for x, *_ in loader)"
        )


def _array(subject: str, given: SamplesLike) -> np.ndarray:
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on another device
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{subject} a {type(given).__name__} that is not an array of numbers ({reason})") from None


def as_samples(subject: str, given: SamplesLike) -> Rows:
    """Samples (n, ...) as what has `shape`, `dtype` and `ndim` and gives numpy arrays of numbers by slices.

    Args:
      subject: what begins the message of an error, such as "x.npy:".
      given: an array of numpy, JAX or another library, lists of numbers, a sparse matrix (its slices are made
        dense), a frame of pandas, polars or Arrow (`columns` are then its names), or anything with a shape, a numpy
        dtype and slices, which is then read by slices alone.

    Raises:
      InputError: at masked and missing values, at what holds no real numbers, and at the pairs and dicts of a data
        loader.
    """
    _refuse_collections(subject, given)
    if isinstance(given, np.ma.MaskedArray):
        given = _unmasked(subject, given)
    if is_table(given):
        return TableRows(subject, given)
    if scipy.sparse.issparse(given):
        given = SparseRows(given)
    read_by_slices = isinstance(getattr(given, "dtype", None), np.dtype) and hasattr(given, "__getitem__")
    if isinstance(given, np.ndarray | jax.Array) or not read_by_slices:
        given = _array(subject, given)
    samples = cast(Rows, given)
    if samples.dtype.kind == "V" and jnp.issubdtype(samples.dtype, jnp.floating):  # bfloat16 and its kind
        return np.asarray(samples, np.float32)
    if samples.dtype.kind == "O":
        raise InputError(f"{subject} holds Python objects, not numbers; give x.astype(float)")
    if samples.dtype.kind not in "fiub":
        raise InputError(f"{subject} holds {samples.dtype}; samples are real numbers")
    return samples


class FillValues:
    """Looks among blocks of samples for one huge value in the place of missing ones (1e20, 9.97e36)."""

    def __init__(self) -> None:
        self._usual, self._count, self._others = 0.0, 0, 0.0
        self._least, self._most = np.inf, 0.0

    @np.errstate(invalid="ignore")
    def add(self, block: np.ndarray) -> None:
        """Look at a block of float64 numbers."""
        if not self._usual:
            sizes = np.abs(block.ravel()[:_ENOUGH])
            self._usual = float(np.median(sizes[sizes > 0])) if sizes.any() else 0.0
        largest = float(max(block.max(), -block.min()))
        if not self._usual or not largest > FILL_RATIO * self._usual:
            self._others = max(self._others, largest)
            return
        sizes = np.abs(block)
        huge = sizes > FILL_RATIO * self._usual
        self._count += int(huge.sum())
        self._least = min(self._least, float(sizes[huge].min()))
        self._most = max(self._most, largest)
        self._others = max(self._others, float(sizes[~huge].max(initial=0.0)))

    def check(self, subject: str) -> None:
        """Raises InputError where every huge value is the same one, far beyond all others."""
        if self._count and self._least == self._most > FILL_RATIO * self._others:
            raise InputError(
                f"{subject} values up to {self._most:.3g}, {self._count} of them, beside others of at most"
                f" {self._others:.3g}: missing values? remove or impute such rows"
            )
