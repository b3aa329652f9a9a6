"""Experiments of many runs in one folder: each run is trained once, whatever stops the program in between.

runs.csv     a row for each run that ended
in_flight/   what the next step of the others needs

`climb` goes from small latent sizes to large as far as a method gets; `tune` looks for the best learning rate first.
"""

import dataclasses
import io
import statistics
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from lae_jax.data import hosts
from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError
from lae_jax.runs import storage
from lae_jax.runs.directory import InterruptedRunError
from lae_jax.runs.tables import Key, Row, Table
from lae_jax.training import sweeps
from lae_jax.training.settings import Settings
from lae_jax.training.sweeps import Result

# Chunks between two records of what is in flight: a count, so that every process does it at once.
_CHUNKS_PER_SAVE = 5
Runs = Mapping[Key, Settings]
Rate = TypeVar("Rate")  # a number, or its text


def columns(targets: Sequence[float]) -> tuple[str, ...]:
    """What is measured of a run: steps to each target, axis alignment at the end, seconds."""
    return (*(f"steps_{target:g}" for target in targets), "axis_alignment", "seconds")


def runs_table(workdir: Path, key_columns: Sequence[str], keys: Sequence[Key], targets: Sequence[float]) -> Table:
    """runs.csv of a folder; of several processes, the first writes it."""
    writes = jax.process_index() == 0
    return Table(workdir / "runs.csv", key_columns, columns(targets), keys, writes=writes)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """How the runs of a table are trained.

    Attributes:
        table: `runs_table` of the folder.
        dataset: the data of them all.
        num_steps: the most steps of a run.
        targets: axis alignments, decreasing; a run ends at the last.
        record_every: steps between two records.
        devices: that share the runs; None: all there are.
        max_memory: bytes that a device may spend on a batch; None: no limit.
        on_steps: what is told of (a label, steps taken or no longer needed); may raise InterruptedRunError, upon which
            the runs in flight are saved.
    """

    table: Table
    dataset: Dataset
    num_steps: int
    targets: tuple[float, ...]
    record_every: int = 10
    devices: Sequence[jax.Device] | None = None
    max_memory: float | None = None
    on_steps: Callable[[str, int], None] = lambda label, steps: None

    def train(self, runs: Runs) -> list[Row]:
        """The rows of resolved runs, in order; those that the table lacks are trained first. Raises InputError."""
        keys = list(runs)
        for group in sweeps.groups(list(runs.values())):
            self._train_group({keys[place]: runs[keys[place]] for place in group})
        return [self.table.rows[key] for key in keys]

    def climb(self, runs: Runs, beyond_failure: bool = False) -> None:
        """Train runs of one method from small latent sizes to large, up to the first where all miss the last target.

        With `beyond_failure`, the sizes after it as well.
        """
        keys, missed_at = list(runs), float("inf")
        for group in sweeps.groups(list(runs.values())):
            members = {keys[place]: runs[keys[place]] for place in group}
            sizes = {run.latent_dim for run in members.values()}
            if missed_at < min(sizes) and not beyond_failure:
                missing = members.keys() - self.table.rows.keys()
                self.on_steps("sizes left out", len(missing) * self.num_steps)
                continue
            self.train(members)
            for size in sizes:
                rows = [self.table.rows[key] for key, run in members.items() if run.latent_dim == size]
                if not any(row[f"steps_{self.targets[-1]:g}"] for row in rows):
                    missed_at = min(missed_at, size)

    def tune(self, runs: Callable[[float, int], Runs], rates: Sequence[float], seeds: Sequence[int]) -> float:
        """Train at every rate with the first seed, then at the best with the others: `runs(rate, seed)` is one run.

        Returns the best rate: the one that reaches most targets, the last of them soonest.
        """
        self.train({key: run for rate in rates for key, run in runs(rate, seeds[0]).items()})
        tried = {rate: [self.table.rows[key] for key in runs(rate, seeds[0])] for rate in rates}
        best = best_rate(tried, self.targets)
        others = {key: run for seed in seeds[1:] for key, run in runs(best, seed).items()}
        if others:
            self.train(others)
        return best

    def _train_group(self, members: Runs) -> None:
        """Runs that share a program."""
        place_of, largest = {key: self.table.place(key) for key in members}, list(members.values())[-1]
        kept = self._in_flight(largest, min(place_of.values()))
        if members.keys() - self.table.rows.keys():
            key_of = {place: key for key, place in place_of.items()}
            chunks = sweeps.train_group(
                {place_of[key]: run for key, run in members.items()},
                self.dataset,
                num_steps=self.num_steps,
                record_every=self.record_every,
                targets=self.targets,
                devices=self.devices,
                max_memory=self.max_memory,
                finished={place for key, place in place_of.items() if key in self.table.rows},
                saved=_read(kept),
            )
            for number, chunk in enumerate(chunks, 1):
                if chunk.finished:
                    self.table.add({key_of[place]: _measured(result) for place, result in chunk.finished.items()})
                if number % _CHUNKS_PER_SAVE == 0:
                    self._keep(kept, chunk)
                reason = None
                try:
                    self._tell(chunk, {place: members[key] for place, key in key_of.items()})
                except InterruptedRunError as error:
                    reason = error
                if hosts.any_of(reason is not None)[0]:  # signals are each process's own; all save at the same step
                    self._keep(kept, chunk)
                    raise reason or InterruptedRunError
        if jax.process_index() == 0:  # also what a kill left between the last row and this line
            storage.remove(kept)

    def _tell(self, chunk: sweeps.Chunk, runs: Mapping[int, Settings]) -> None:
        steps = sum(len(values) for values in chunk.alignments.values()) * self.record_every
        steps += sum(self.num_steps - result.steps for result in chunk.finished.values())
        place, values = list(chunk.alignments.items())[-1]
        run = runs[place]
        self.on_steps(f"{run.method}/{run.optimizer} k = {run.latent_dim}: alignment {values[-1]:.2g}", steps)

    def _in_flight(self, largest: Settings, first: int) -> Path:
        name = f"{largest.method}_{largest.optimizer}_{largest.latent_dim}_{first}.npz"
        return self.table.path.parent / "in_flight" / name

    def _keep(self, path: Path, chunk: sweeps.Chunk) -> None:
        arrays, content = chunk.in_flight(), io.BytesIO()  # every process takes part in the first
        if jax.process_index() == 0:
            np.savez(content, **arrays)  # type: ignore[arg-type]  # numpy's stubs take an array for `allow_pickle`
            storage.write_atomically(path, content.getvalue())


def _measured(result: Result) -> tuple[object, ...]:
    return (*result.steps_to_targets, f"{result.axis_alignment:.6g}", f"{result.seconds:.3f}")


def _read(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            return dict(stored)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it to start its runs again") from None


# What rows of runs.csv amount to.


def median_steps(rows: Sequence[Mapping[str, str]], target: float) -> float:
    """The (upper) median over runs of the steps to a target; inf where half of them or more never got there."""
    return sorted(steps_to(row, target) for row in rows)[len(rows) // 2]


def steps_to(row: Mapping[str, str], target: float) -> float:
    """Steps of one run to a target; inf where it never got there."""
    return float(row[f"steps_{target:g}"] or "inf")


def median_alignment(rows: Sequence[Mapping[str, str]]) -> float:
    """The median over runs of axis alignment at the end; those that diverged count as inf."""
    return statistics.median(float(np.nan_to_num(float(row["axis_alignment"]), nan=np.inf)) for row in rows)


def best_rate(tried: Mapping[Rate, Sequence[Mapping[str, str]]], targets: Sequence[float]) -> Rate:
    """The best learning rate of a grid, from the runs (over seeds) at each.

    It reaches more targets (by the median), then is sooner at the last of them, then closer at the end.
    """

    def slowness(rate: Rate) -> tuple[float, float, float]:
        reached = [steps for target in targets if (steps := median_steps(tried[rate], target)) < float("inf")]
        return -len(reached), reached[-1] if reached else 0.0, median_alignment(tried[rate])

    return min(tried, key=slowness)
