"""Tables in files that may be larger than memory: Parquet, Feather and CSV, read by pyarrow a batch at a time.

Only columns of numbers are samples, and the index that pandas writes beside them is none. Missing values are refused.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from lae_jax.data.tables import check_missing, check_names, check_numbers, check_same_names, first_bad
from lae_jax.errors import InputError, unknown_name

if TYPE_CHECKING:
    from pyarrow import DataType, RecordBatch, Schema
    from pyarrow.csv import CSVStreamingReader

_BATCH_NUMBERS = 1 << 20  # of a batch
_LEAST_ROWS = 64
# Of pyarrow's readers of Parquet, which else hold every column of a file until its end; it is faster as well.
IN_LITTLE_MEMORY: dict[str, int] = {"pre_buffer": False, "buffer_size": 1 << 18}


class Format(NamedTuple):
    """How files of one kind are read; each function raises what pyarrow raises at a damaged file."""

    schema: Callable[[Path], "Schema"]
    num_rows: Callable[[Path, "Schema"], int]
    batches: Callable[[Path, "Schema", list[str], int], Iterator["RecordBatch"]]  # these columns, from this row on


def _parquet_schema(path: Path) -> "Schema":
    from pyarrow import parquet

    schema = parquet.read_schema(path)
    index = [name for name in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)]
    for name in index:
        schema = schema.remove(schema.get_field_index(name))
    return schema


def _parquet_count(path: Path, schema: "Schema") -> int:
    from pyarrow import parquet

    return parquet.read_metadata(path).num_rows


def _parquet_batches(path: Path, schema: "Schema", names: list[str], start: int) -> Iterator["RecordBatch"]:
    from pyarrow import parquet

    with parquet.ParquetFile(path, **IN_LITTLE_MEMORY) as file:
        ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        first = int(np.searchsorted(ends, start, "right"))
        before = int(ends[first - 1]) if first else 0
        groups = range(first, file.num_row_groups)
        yield from _from(start - before, file.iter_batches(_rows_per_batch(names), groups, names))


def _feather_schema(path: Path) -> "Schema":
    from pyarrow import ipc

    with ipc.open_file(path) as file:
        return file.schema


def _feather_count(path: Path, schema: "Schema") -> int:
    from pyarrow import dataset

    return dataset.dataset(path, format="ipc").count_rows()


def _feather_batches(path: Path, schema: "Schema", names: list[str], start: int) -> Iterator["RecordBatch"]:
    from pyarrow import ipc

    options = ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in names])
    with ipc.open_file(path, options=options) as file:
        yield from _from(start, (file.get_batch(index) for index in range(file.num_record_batches)))


def _csv(path: Path, kinds: dict[str, "DataType"], names: list[str] | None = None) -> "CSVStreamingReader":
    from pyarrow import csv

    separated = csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
    return csv.open_csv(
        path, parse_options=separated, convert_options=csv.ConvertOptions(column_types=kinds, include_columns=names)
    )


def _csv_schema(path: Path) -> "Schema":
    """Names from the first line, kinds from the first block; whole numbers may go on with fractions."""
    import pyarrow

    with _csv(path, {}) as file:
        schema = file.schema
    if all(map(_is_number, schema.names)):
        raise InputError(f"{path}: its first line is of numbers; need one of the names of the columns")
    kept = (
        kind if pyarrow.types.is_boolean(kind) or not _is_real(kind) else pyarrow.float64() for kind in schema.types
    )
    return pyarrow.schema(list(zip(schema.names, kept, strict=True)))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _csv_count(path: Path, schema: "Schema") -> int:
    return sum(batch.num_rows for batch in _csv_batches(path, schema, schema.names[:1], 0))


def _csv_batches(path: Path, schema: "Schema", names: list[str], start: int) -> Iterator["RecordBatch"]:
    with _csv(path, dict(zip(schema.names, schema.types, strict=True)), names) as file:
        yield from _from(start, file)


FORMATS: dict[str, Format] = {
    ".parquet": Format(_parquet_schema, _parquet_count, _parquet_batches),
    ".feather": Format(_feather_schema, _feather_count, _feather_batches),
    ".csv": Format(_csv_schema, _csv_count, _csv_batches),
    ".tsv": Format(_csv_schema, _csv_count, _csv_batches),
}


def _from(start: int, batches: Iterable["RecordBatch"]) -> Iterator["RecordBatch"]:
    """The batches without their first `start` rows."""
    for batch in batches:
        if start < batch.num_rows:
            yield batch.slice(start)
        start = max(start - batch.num_rows, 0)


def _rows_per_batch(names: Sequence[str]) -> int:
    return max(_LEAST_ROWS, _BATCH_NUMBERS // len(names))


def _is_real(kind: "DataType") -> bool:
    """Whether a column of this kind holds real numbers; a column without any value may."""
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_null(kind)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What pyarrow raises inside is raised as InputError."""
    try:
        yield
    except InputError:
        raise
    except ImportError:
        raise InputError(
            f"{path}: {path.suffix} files are read by pyarrow, which is not installed: pip install -e '.[tables]'"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable {path.suffix} file ({reason})") from None


class StoredTable:
    """Rows (n, m) of files of one format, one after the other; `samples[start:stop]` reads.

    What is read in order is read once; a slice elsewhere begins again there.
    """

    ndim = 2

    def __init__(self, paths: Sequence[Path], columns: Sequence[str] = ()) -> None:
        """Raises InputError naming the first file, or column, that is not as it should be. `columns`: () for all."""
        self._paths, self._format = tuple(paths), FORMATS[paths[0].suffix]
        self._schemas, self._starts, kinds = [], [0], []
        self.columns: list[str] = []
        for path in self._paths:
            with _reading(path):
                schema = self._format.schema(path)
                check_names(f"{path}:", schema.names)
                if absent := next((name for name in columns if name not in schema.names), None):
                    raise unknown_name("columns", absent, schema.names)
                if path is self._paths[0]:
                    self.columns = list(columns or schema.names)
                elif not columns:
                    check_same_names(f"{path}:", self.columns, schema.names)
                chosen = {name: schema.field(name).type for name in self.columns}
                told = {name: (kind, _is_real(kind)) for name, kind in chosen.items()}
                check_numbers(f"{path}:", told, lambda names: f"columns={tuple(names)}")
                self._starts.append(self._starts[-1] + self._format.num_rows(path, schema))
            self._schemas.append(schema)
            kinds += [np.dtype(kind.to_pandas_dtype()) for kind in chosen.values()]
        found = np.result_type(*kinds) if kinds else np.dtype(float)
        self.dtype: np.dtype = found if found.kind in "fiub" else np.dtype(float)
        self.shape: tuple[int, int] = (self._starts[-1], len(self.columns))
        self._lock, self._batches, self._next = threading.Lock(), iter(()), -1
        self._rest: RecordBatch | None = None

    def _from_row(self, start: int) -> Iterator["RecordBatch"]:
        for index, path in enumerate(self._paths):
            if start < self._starts[index + 1]:
                with _reading(path):
                    skipped = max(start - self._starts[index], 0)
                    for batch in self._format.batches(path, self._schemas[index], self.columns, skipped):
                        yield batch.select(self.columns)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """A copy of consecutive rows (count, m). Raises InputError at missing values, and at a damaged file."""
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise IndexError("rows in files are read in order")
        block, filled = np.empty((max(stop - start, 0), self.shape[1]), self.dtype), 0
        with self._lock:
            if start != self._next:
                self._batches, self._rest = self._from_row(start), None
            self._next = -1  # until what follows has gone well
            while filled < len(block):
                batch = self._rest if self._rest is not None else next(self._batches, None)
                if batch is None:
                    raise InputError(f"{self._paths[-1]}: was changed while it was read")
                piece, self._rest = batch.slice(0, len(block) - filled), batch.slice(len(block) - filled)
                self._rest = self._rest if self._rest.num_rows else None
                if any(column.null_count for column in piece.columns):
                    self._refuse_missing()
                for index, column in enumerate(piece.columns):
                    block[filled : filled + piece.num_rows, index] = column.to_numpy(zero_copy_only=False)
                filled += piece.num_rows
            self._next = start + filled
        return block

    def _refuse_missing(self) -> None:
        counts = dict.fromkeys(self.columns, 0)
        for batch in self._from_row(0):
            for name, column in zip(self.columns, batch.columns, strict=True):
                counts[name] += column.null_count
        check_missing(f"{self._paths[0] if len(self._paths) == 1 else self._paths[0].parent}:", counts, self.shape[0])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """All of them."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def whereabouts(self, index: int) -> str:
        """The file of a row that is not finite, its number there, and its first such column."""
        file = int(np.searchsorted(self._starts, index, "right")) - 1
        column = self.columns[first_bad(self[index : index + 1])]
        return f"{self._paths[file]}: row {index - self._starts[file]}, column {column!r},"
