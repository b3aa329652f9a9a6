"""What a sweep of latent sizes has found so far, on disk: scaling.csv and the runs in flight."""

import csv
import io
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lae_jax.errors import InputError
from lae_jax.figures import paper
from lae_jax.runs import storage
from lae_jax.training.settings import Settings
from lae_jax.training.sweeps import Result

_COLUMNS = (
    "method", "optimizer", "latent_dim", "seed", "learning_rate", "steps_to_target", "axis_alignment", "seconds"
)  # fmt: skip
_TRIED = ("method", "optimizer", "latent_dim", "learning_rate", "median_steps", "median_alignment", "won")
Row = dict[str, str]


class Point(NamedTuple):
    """The seeds of one method, optimizer and k, at the best of the learning rates tried."""

    learning_rate: float
    steps: list[int | None]  # of each seed; None where it missed the target


class Table:
    """scaling.csv: a row for each finished run, rewritten whole whenever one ends."""

    def __init__(self, workdir: Path, sweep: Sequence[Settings], *, writes: bool = True) -> None:
        """Read what is there. Of several processes that hold the same rows, one `writes`."""
        self._workdir, self._sweep, self._writes, self._lock = workdir, sweep, writes, threading.Lock()
        self.rows: dict[int, Row] = {}  # by the index of the run in the sweep
        indices = {self._key(one): index for index, one in enumerate(sweep)}
        if self._path.exists():
            with open(self._path, newline="") as file:
                for row in csv.DictReader(file):
                    index = indices.get(tuple(row.get(name, "") for name in _COLUMNS[:5]))
                    if index is None or None in row.values():
                        raise InputError(
                            f"{self._path}: {','.join(filter(None, row.values()))!r} is no run of this sweep"
                        )
                    self.rows[index] = row

    @property
    def _path(self) -> Path:
        return self._workdir / "scaling.csv"

    @staticmethod
    def _key(one: Settings) -> tuple[str, ...]:
        return (str(one.method), str(one.optimizer), str(one.latent_dim), str(one.seed), str(one.learning_rate))

    def add(self, results: Mapping[int, Result]) -> None:
        """More finished runs."""
        with self._lock:
            for index, result in results.items():
                reached = "" if result.steps_to_target is None else str(result.steps_to_target)
                measured = (reached, f"{result.axis_alignment:.6g}", f"{result.seconds:.3f}")
                self.rows[index] = dict(zip(_COLUMNS, (*self._key(self._sweep[index]), *measured), strict=True))
            if self._writes:
                text = io.StringIO()
                writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(self.rows[index] for index in sorted(self.rows))
                storage.write_atomically(self._path, text.getvalue().encode())

    def _in_flight(self, largest: Settings) -> Path:
        return self._workdir / "in_flight" / f"{largest.method}_{largest.optimizer}_{largest.latent_dim}.npz"

    def in_flight(self, largest: Settings) -> dict[str, np.ndarray] | None:
        """What was kept of the group that ends with this run."""
        path = self._in_flight(largest)
        if not path.exists():
            return None
        try:
            with np.load(path) as stored:
                return dict(stored)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: cannot be read ({error}); delete it to start its runs again") from None

    def keep_in_flight(self, largest: Settings, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the runs in flight of the group that ends with this run; none of them: forget the group."""
        path = self._in_flight(largest)
        if not self._writes:
            return
        if not arrays:
            storage.remove(path)
            return
        path.parent.mkdir(exist_ok=True)
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        storage.write_atomically(path, content.getvalue())

    def points(self) -> dict[tuple[str, str], dict[int, Point]]:
        """(method, optimizer) -> k -> point, at the best of the learning rates tried."""
        return {
            pair: {size: _point(min(rates.values(), key=_quality)) for size, rates in sizes.items()}
            for pair, sizes in self._by_rate().items()
        }

    def tried(self) -> list[dict[str, Any]]:
        """A row for each method, optimizer, k and learning rate, where several rates were tried."""
        table = []
        for (method, optimizer), sizes in self._by_rate().items():
            for size, rates in sizes.items():
                best = min(rates, key=lambda rate: _quality(rates[rate]))
                for rate, rows in rates.items():
                    steps, alignment = _quality(rows)
                    reached = int(steps) if steps < float("inf") else ""
                    values = (method, optimizer, size, rate, reached, alignment, "yes" if rate == best else "")
                    if len(rates) > 1:
                        table.append(dict(zip(_TRIED, values, strict=True)))
        return table

    def _by_rate(self) -> dict[tuple[str, str], dict[int, dict[str, list[Row]]]]:
        by_rate: dict[tuple[str, str], dict[int, dict[str, list[Row]]]] = {}
        for index in sorted(self.rows):
            row = self.rows[index]
            sizes = by_rate.setdefault((row["method"], row["optimizer"]), {})
            sizes.setdefault(int(row["latent_dim"]), {}).setdefault(row["learning_rate"], []).append(row)
        return by_rate


def _point(rows: Sequence[Row]) -> Point:
    steps = [int(row["steps_to_target"]) if row["steps_to_target"] else None for row in rows]
    return Point(float(rows[0]["learning_rate"]), steps)


def _quality(rows: Sequence[Row]) -> tuple[float, float]:
    """Lower is better: steps, then the alignment that was come to, diverged runs last."""
    ends = [float(row["axis_alignment"]) for row in rows]
    return paper.median_steps(_point(rows).steps), float(np.median(np.nan_to_num(ends, nan=2.0)))
