"""How many methods learn on one data set (Figures 2 and 3): their runs, one folder each, and their table."""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError
from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.runs import directory, storage, threads
from lae_jax.runs.directory import RunConfig
from lae_jax.training.loop import DivergenceError, History, TrainState

Pair = tuple[str, str]  # method, optimizer
Reading = tuple[float | None, float | None]  # d_align and d_sub as read off a published figure
# The start that is not one of our seeds: the initial weights of the published runs.
AUTHORS = "authors"


class Watch(Protocol):
    """What shows the progress of many runs."""

    def of(self, label: str, num_steps: int) -> Callable[[TrainState, History], None]:
        """What to call with each chunk of the run of this name."""

    def note_of(self, label: str) -> Callable[[str], None]:
        """What to call with a line about it."""

    def stop(self) -> None:
        """Have every run end at its next chunk."""


def plan(
    base: RunConfig,
    pairs: Sequence[Pair],
    seeds: Sequence[int],
    seeds_optimizers: Sequence[str],
    authors: bool,
    workdir: Path,
) -> dict[Path, RunConfig]:
    """The runs by their folders: each pair from the authors' initial weights, where asked for, and from each seed.

    Args:
        base: what all share; its learning rate, penalties and prior are replaced by the caller, run by run.
        pairs: (method, optimizer), in the order of the table.
        seeds: of ours.
        seeds_optimizers: the optimisers under which seeds are trained beside the authors' draws; all, where there are
            no such draws.
        authors: whether to start from the draws of the published runs as well.
        workdir: the folders are in `runs/` there.
    """
    # Fields of a run that are replaced.
    starts: list[tuple[str, dict[str, Any]]] = [(AUTHORS, {"init": AUTHORS})] if authors else []
    starts += [(f"seed{seed}", {"seed": seed}) for seed in seeds]
    return {
        workdir / "runs" / f"{method}_{optimizer}_{name}": dataclasses.replace(
            base, method=method, optimizer=optimizer, **start
        )
        for name, start in starts
        for method, optimizer in pairs
        if name == AUTHORS or not authors or optimizer in seeds_optimizers
    }


def groups(planned: Mapping[Path, RunConfig]) -> Iterator[dict[Path, RunConfig]]:
    """The runs that read a covariance, then those that need the samples: they take longest."""
    for needs_samples in (False, True):
        group = {path: one for path, one in planned.items() if METHODS[one.method].needs_samples == needs_samples}
        if group:
            yield group


def execute_all(group: Mapping[Path, RunConfig], dataset: Dataset, workers: int, watch: Watch) -> dict[Pair, str]:
    """Train these, or go on with them; what kept a pair from its end, while the others went on.

    A few at a time, because one run alone leaves a core idle between its matrix products. Those that read a dense
    covariance take longest and start first. Methods that need samples which are not at hand are left out.
    """
    problems: dict[Pair, str] = {}

    def train(path: Path, one: RunConfig) -> None:
        label = f"{one.method}/{one.optimizer}"
        try:
            directory.execute(one, path, dataset, watch.of(label, one.num_steps), watch.note_of(label))
        except DivergenceError as error:
            problems[one.method, one.optimizer] = str(error)
        except InputError as error:
            if not METHODS[one.method].needs_samples:
                raise
            problems[one.method, one.optimizer] = f"left out: {error}"

    in_order = sorted(group.items(), key=lambda item: OPTIMIZERS[item[1].optimizer].rotation_equivariant)
    jobs = [functools.partial(train, path, one) for path, one in in_order]
    threads.run_in_threads(workers, jobs, watch.stop)
    return problems


@dataclasses.dataclass
class Learned:
    """What is there of one pair: histories of its finished runs."""

    authors: History | None  # from the authors' draws
    seeds: list[History]  # from ours
    folder: Path | None  # of the run to draw: the authors' draws, or the first of our seeds

    @property
    def shown(self) -> History | None:
        """The curve to draw."""
        return self.authors or (self.seeds[0] if self.seeds else None)


def learned(planned: Mapping[Path, RunConfig]) -> dict[Pair, Learned]:
    """What the finished runs of each pair have recorded."""
    found: dict[Pair, Learned] = {}
    for path, one in planned.items():
        here = found.setdefault((one.method, one.optimizer), Learned(None, [], None))
        if directory.is_finished(path):
            history = directory.read_metrics(path)
            here.folder = here.folder or path
            if one.init == AUTHORS:
                here.authors = history
            else:
                here.seeds.append(history)
    return found


def snapshots(
    planned: Mapping[Path, RunConfig], found: Mapping[Pair, Learned], optimizer: str
) -> dict[str, dict[int, np.ndarray]]:
    """Method -> step -> W2 (m, k) of the curves under one optimiser, where any were kept."""
    kept = {
        method: {step: directory.snapshot_path(here.folder, step) for step in planned[here.folder].snapshot_steps}
        for (method, name), here in found.items()
        if name == optimizer and here.folder
    }
    return {
        method: {step: storage.read_weights(path)["decoder"] for step, path in paths.items()}
        for method, paths in kept.items()
        if paths
    }


def _at(history: History, step: int, metric: str) -> float:
    return float(history[metric][np.searchsorted(history["step"], step)])


def table(
    planned: Mapping[Path, RunConfig],
    found: Mapping[Pair, Learned],
    published: Mapping[Pair, Mapping[int, Reading]],
    steps: Sequence[int],
    problems: Mapping[Pair, str],
) -> list[dict[str, str | int]]:
    """A row of comparison.csv for each pair and step.

    Returns:
        Rows with axis alignment: `published`, `authors_draws` (from the authors' initial weights), their
        `difference`; over `seeds` other initial weights `median`, `lowest`, `highest`. `subspace_distance` is that
        of the curve drawn.
        Cells are empty where nothing was run or is known.
    """
    rates = {(one.method, one.optimizer): one.learning_rate for one in planned.values()}
    rows = []
    for pair, here in found.items():
        for step in steps:
            known, distance = published.get(pair, {}).get(step, (None, None))
            authors = None if here.authors is None else _at(here.authors, step, "axis_alignment")
            ours = [_at(history, step, "axis_alignment") for history in here.seeds]
            shown = None if here.shown is None else _at(here.shown, step, "subspace_distance")
            row = {
                "method": pair[0],
                "optimizer": pair[1],
                "learning_rate": rates[pair],
                "step": step,
                "published": known,
                "authors_draws": authors,
                "difference": None if authors is None or known is None else authors - known,
                "seeds": len(ours),
                "median": statistics.median(ours) if ours else None,
                "lowest": min(ours, default=None),
                "highest": max(ours, default=None),
                "published_subspace_distance": distance,
                "subspace_distance": shown,
                "note": problems.get(pair, ""),
            }
            rows.append({name: _shown(value) for name, value in row.items()})
    return rows


def _shown(value: str | float | None) -> str | int:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
