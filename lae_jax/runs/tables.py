"""A table on disk that a program fills row by row, and goes on with after it was stopped."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from lae_jax.errors import InputError
from lae_jax.runs import storage

Key = tuple[str, ...]
Row = dict[str, str]


class Table:
    """A csv file whose rows are found by their first columns, and are there whole or not at all.

    Attributes:
        path: where it is.
        rows: the rows there are, by key, as text.
    """

    def __init__(
        self,
        path: Path,
        key_columns: Sequence[str],
        columns: Sequence[str],
        keys: Sequence[Key],
        *,
        writes: bool = True,
    ) -> None:
        """Read what is there.

        Args:
            path: the csv file; it need not exist.
            key_columns: the first columns, which name a row.
            columns: the columns after them.
            keys: every key that a row may have, in the order that rows have in the file.
            writes: of several processes that hold the same rows, one writes.

        Raises:
            InputError: a row of the file has none of the keys, or is not whole.
        """
        self.path: Path = path
        self._names, self._writes, self._lock = (*key_columns, *columns), writes, threading.Lock()
        self._places = {key: place for place, key in enumerate(keys)}
        self.rows: dict[Key, Row] = {}
        for row in storage.read_rows(path):
            key = tuple(row.get(name) or "" for name in key_columns)
            if key not in self._places or tuple(row) != self._names or None in row.values():
                shown = ",".join(key)
                raise InputError(
                    f"{path}: the row {shown!r} is none of this table, or not whole; choose another workdir"
                )
            self.rows[key] = row

    def place(self, key: Key) -> int:
        """Where the row of this key stands among all that there may be."""
        return self._places[key]

    def add(self, values: Mapping[Key, Sequence[object]]) -> None:
        """More rows: by key, the columns after it. None is an empty cell. The file is replaced as a whole."""
        with self._lock:
            for key, rest in values.items():
                cells = [*key, *("" if value is None else str(value) for value in rest)]
                self.rows[key] = dict(zip(self._names, cells, strict=True))
            if self._writes:
                in_order = sorted(self.rows, key=self.place)
                storage.write_csv(self.path, [self.rows[key] for key in in_order])
