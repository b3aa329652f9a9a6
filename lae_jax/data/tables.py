"""Tables in memory: named columns of numbers, in a frame of pandas, polars or Arrow, as samples.

Narwhals, which scikit-learn stands on as well, knows the kinds of frames.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import narwhals.stable.v2 as nw
import numpy as np

from lae_jax.errors import InputError

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame


def is_table(given: object) -> TypeGuard["IntoDataFrame"]:
    """Whether this is a frame of pandas, polars or Arrow, record batches included."""
    return nw.dependencies.is_into_dataframe(given) or _is_record_batch(given)


def _is_record_batch(given: object) -> bool:
    return type(given).__name__ == "RecordBatch" and type(given).__module__.startswith("pyarrow")


def check_names(subject: str, names: Sequence[object]) -> None:
    """Raises InputError at a name that several columns have."""
    for name in dict.fromkeys(names):
        if (count := list(names).count(name)) > 1:
            raise InputError(f"{subject} {count} columns are called {name!r}; give each a name of its own")


def check_numbers(
    subject: str, kinds: Mapping[str, tuple[object, bool]], choosing: Callable[[Sequence[str]], str]
) -> None:
    """Raises InputError at the first column that holds no numbers.

    Args:
      subject: what begins the message.
      kinds: of each column, what it holds, and whether those are real numbers.
      choosing: how columns of some names are chosen.
    """
    for name, (kind, numeric) in kinds.items():
        if not numeric:
            others = [each for each, (_, fine) in kinds.items() if fine]
            remedy = f"; choose columns of numbers, as {choosing(others[:2])} does" if others else ""
            raise InputError(f"{subject} column {name!r} holds {kind}, not numbers{remedy}")


def check_missing(subject: str, counts: Mapping[str, int], num_rows: int) -> None:
    """Raises InputError where a column has missing values; `counts` of them by its name."""
    missing = [name for name, count in counts.items() if count]
    if missing:
        others = f", and some in {len(missing) - 1} other columns" if len(missing) > 1 else ""
        raise InputError(
            f"{subject} column {missing[0]!r}: {counts[missing[0]]} of {num_rows} values are missing{others};"
            " remove or impute such rows"
        )


def check_same_names(subject: str, first: Sequence[object], names: Sequence[object]) -> None:
    """Raises InputError where columns are not called as the first ones are, in their order."""
    if list(first) == list(names):
        return
    pairs = zip(first, names, strict=False)
    told = next((f"{b!r} in the place of {a!r}" for a, b in pairs if a != b), f"{len(names)}, not {len(first)}")
    raise InputError(f"{subject} other columns than before: {told}; all parts have the same columns in one order")


def names_of(samples: object) -> tuple[str, ...] | None:
    """The names of the columns of samples; None where they have none, or numbers in their place."""
    names = getattr(samples, "columns", None)
    return tuple(names) if names is not None and all(isinstance(name, str) for name in names) else None


class TableRows:
    """A frame (n, m) as samples, whose slices are arrays of numbers; `columns` are their names."""

    ndim = 2

    def __init__(self, subject: str, given: "IntoDataFrame") -> None:
        """Raises InputError at the first column without a name of its own, without numbers, or with missing ones."""
        if _is_record_batch(given):
            given = sys.modules["pyarrow"].Table.from_batches([given])
        self._subject = subject
        self.columns: list[str] = list(getattr(given, "column_names", given.columns))
        check_names(subject, self.columns)
        self.frame: nw.DataFrame[IntoDataFrame] = nw.from_native(given, eager_only=True)
        kinds = {
            name: (kind, kind.is_integer() or kind.is_float() or kind == nw.Boolean)
            for name, kind in self.frame.schema.items()
        }
        check_numbers(subject, kinds, lambda names: f"x[{names}]")
        self.shape: tuple[int, int] = self.frame.shape
        check_missing(subject, dict(zip(self.columns, self.frame.null_count().row(0), strict=True)), self.shape[0])
        found = self.frame[:1].to_numpy().dtype
        self.dtype: np.dtype = (
            found if found.kind in "fiub" else np.dtype(float)
        )  # of numbers beside truth values, objects

    def __getitem__(self, rows: slice) -> np.ndarray:
        """These rows as an array (n, m)."""
        return self.frame[rows].to_numpy().astype(self.dtype, copy=False)

    def whereabouts(self, index: int) -> str:
        """The row of a sample that is not finite, and its first such column."""
        return f"{self._subject} row {index}, column {self.columns[first_bad(self[index : index + 1])]!r},"

    def chosen(self, subject: str, names: Sequence[str]) -> np.ndarray:
        """The columns of these names in their order, float64 (n, len(names)). Raises InputError where one is absent."""
        if absent := next((name for name in names if name not in self.columns), None):
            raise InputError(f"{subject} has no column {absent!r}; need {', '.join(names)}")
        return self.frame.select(*names).to_numpy().astype(np.float64, copy=False)

    def like(self, values: np.ndarray, names: Sequence[str]) -> Any:  # as the frame given, of one of three libraries
        """These values (n, r) as a frame of the same kind, with the same index where it has one."""
        columns = {name: np.ascontiguousarray(column) for name, column in zip(names, values.T, strict=True)}
        frame = nw.from_dict(columns, backend=self.frame.implementation).to_native()
        index = nw.maybe_get_index(self.frame)
        return frame if index is None else frame.set_axis(index)


def first_bad(row: np.ndarray) -> int:
    """The first column of one row (1, m) that is not finite."""
    return int(np.flatnonzero(~np.isfinite(row[0]))[0])
