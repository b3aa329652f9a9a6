"""Every rule of the table side by side on the same data, and the exact solvers a user would take instead.

    python -m launch.compare --workdir=DIR [--config=FILE.py[:full]] [--config.FIELD=VALUE ...]

compare.csv has a row for each data set, latent size and rule; grid.csv for each learning rate tried as well;
exact.csv for each solver. The same command again goes on after the last problem that was finished.
"""

import csv
import functools
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from ml_collections import ConfigDict

from lae_jax.data import sources
from lae_jax.data.datasets import Dataset, load
from lae_jax.errors import InputError, unknown_name
from lae_jax.figures import comparison, paper
from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.runs import storage
from lae_jax.training import settings as experiment
from lae_jax.training import sweeps
from lae_jax.training.settings import Settings
from launch import common, exact_solvers

TABLES = ("compare", "grid", "exact")
# What may differ when a comparison goes on: it decides no number.
_FREE_FIELDS = ("parallel_jobs", "data_dir")
Row = dict[str, Any]


def run(config: ConfigDict, workdir: Path) -> None:
    """Train, time, tabulate and draw what `config` says in `workdir`, or go on with it."""
    common.set_precision(config.precision, config.matmul_precision)
    _check(config)
    fields = {name: value for name, value in config.to_dict().items() if name not in _FREE_FIELDS}
    with storage.locked(workdir):
        storage.claim(workdir, {"launcher": "compare", **fields})
        _compare(config, workdir)
    _print(workdir)


def _compare(config: ConfigDict, workdir: Path) -> None:
    for name, sizes in config.problems.items():
        dataset = None
        for latent_dim, num_steps in sorted((int(size), steps) for size, steps in sizes.items()):
            parts = [_part(workdir, name, latent_dim, table) for table in TABLES]
            if all(part.exists() for part in parts):
                print(f"{name}, k = {latent_dim}: finished already", file=sys.stderr)
                continue
            try:
                dataset = dataset or _load(name, config)
            except InputError as error:
                if name not in sources.IMAGE_SETS:  # of the others, nothing has to be found or fetched first
                    raise
                print(f"left out: {error}", file=sys.stderr)
                break
            for part, rows in zip(parts, _problem(config, dataset, latent_dim, num_steps), strict=True):
                common.write_csv(part, rows)
            _report(config, workdir)  # the files are of use before the last problem is done
    if not _read(workdir, "compare"):
        raise InputError(f"problems: nothing was compared; none of {', '.join(config.problems)} is at hand")
    _report(config, workdir)


def _check(config: ConfigDict) -> None:
    for name in config.methods:
        if name not in METHODS:
            raise unknown_name("methods", name, METHODS)
    if config.optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", config.optimizer, OPTIMIZERS)
    for name in ("learning_rates", "seeds", "targets", "problems"):
        if not config[name]:
            raise InputError(f"{name}: empty; give at least one")
    for name, sizes in config.problems.items():
        if bad := [size for size in sizes if not size.isdecimal()]:
            raise InputError(f"problems: {name}: {bad[0]!r} is not a latent size; give {{'20': 10_000}}, size: steps")
    if list(config.targets) != sorted(set(config.targets), reverse=True):
        raise InputError(f"targets: {config.targets}: must decrease strictly")
    if config.robust_target not in config.targets:
        raise InputError(f"robust_target: {config.robust_target} is not one of the targets {config.targets}")


def _part(workdir: Path, name: str, latent_dim: int, table: str) -> Path:
    return workdir / "parts" / f"{Path(name).stem}_{latent_dim}_{table}.csv"


def _load(name: str, config: ConfigDict) -> Dataset:
    options = {"center": False} if name == "synthetic" else {}  # as the authors' data of Figure 4
    return load(name, data_dir=config.data_dir, **options)


def _problem(config: ConfigDict, dataset: Dataset, latent_dim: int, num_steps: int) -> tuple[list[Row], ...]:
    """The rows of the three tables for one data set and size."""
    unit = 1 / float(dataset.variances[0]) if OPTIMIZERS[config.optimizer].rotation_equivariant else 1.0

    def settings(method: str, rate: float, seed: int) -> Settings:
        one = Settings(
            method=method,
            latent_dim=latent_dim,
            optimizer=config.optimizer,
            learning_rate=rate * unit,
            precision=config.precision,
            seed=seed,
        )
        return experiment.resolve(one, dataset)[0]

    progress = common.Progress(len(config.methods) * (len(config.learning_rates) + len(config.seeds) - 1) * num_steps)
    rows: dict[str, tuple[Row, list[Row]]] = {}

    def job(method: str) -> None:
        train = functools.partial(_steps_to_targets, config, dataset, num_steps, progress)
        tried = train([settings(method, rate, config.seeds[0]) for rate in config.learning_rates])
        best = min(range(len(tried)), key=lambda index: _slowness(tried[index]))
        rate = config.learning_rates[best]
        ends = [tried[best], *train([settings(method, rate, seed) for seed in config.seeds[1:]])]
        about = {"dataset": dataset.name, "latent_dim": latent_dim, "method": method}
        grid = [
            {**about, "learning_rate": rate, **dict(zip(_names(config), steps, strict=True)), "axis_alignment": end}
            for rate, (steps, end) in zip(config.learning_rates, tried, strict=True)
        ]
        reached = sum(row[f"steps_{config.robust_target:g}"] is not None for row in grid)
        by_target = zip(*(steps for steps, _ in ends), strict=True)
        columns = [sorted(float("inf") if one is None else one for one in each) for each in by_target]
        medians = [_shown(column[len(column) // 2]) for column in columns]
        spread = {
            f"{bound}_{target:g}": _shown(pick(column))
            for target, column in zip(config.targets, columns, strict=True)
            for bound, pick in (("lowest", min), ("highest", max))
        }
        rows[method] = (
            {
                **about,
                "optimizer": config.optimizer,
                "learning_rate": rate,
                "seeds": len(ends),
                "num_steps": num_steps,
                **dict(zip(_names(config), medians, strict=True)),
                **spread,
                "axis_alignment": statistics.median(end for _, end in ends),
                "share_of_rates": round(reached / len(grid), 3),
            },
            grid,
        )

    jobs = [functools.partial(job, method) for method in config.methods]
    compare, grid = [], []
    # Rules that solve: LAPACK's threads and XLA's would fight. The exact solvers below have them all.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        common.run_in_threads(config.parallel_jobs, jobs, progress)
        for method in config.methods:  # timed when nothing else runs
            row, tried = rows[method]
            seconds = exact_solvers.step_seconds(settings(method, 1e-9, 0), dataset, config.timing_seconds)
            needed = row[f"steps_{config.targets[-1]:g}"]
            whole = f"{needed * seconds:.4g}" if needed else ""
            compare.append({**row, "dense_step_us": f"{1e6 * seconds:.1f}", "dense_seconds": whole})
            grid += tried
    return compare, grid, list(exact_solvers.timed(dataset, latent_dim))


def _names(config: ConfigDict) -> list[str]:
    return [f"steps_{target:g}" for target in config.targets]


def _shown(steps: float) -> int | None:
    return None if steps == float("inf") else int(steps)


Crossing = tuple[list[int | None], float]  # first recorded step at or below each target, and the last alignment


def _steps_to_targets(
    config: ConfigDict, dataset: Dataset, num_steps: int, progress: common.Progress, runs: Sequence[Settings]
) -> list[Crossing]:
    """How soon each run gets to each target, for runs of one method."""
    histories: dict[int, list[np.ndarray]] = {index: [] for index in range(len(runs))}
    for indices in sweeps.groups(runs):
        chunks = sweeps.train_group(
            {index: runs[index] for index in indices},
            dataset,
            num_steps=num_steps,
            record_every=config.record_every,
            target=min(config.targets),
        )
        for chunk in chunks:
            for index, values in chunk.alignments.items():
                histories[index].append(values)
            skipped = sum(num_steps - result.steps for result in chunk.finished.values())
            made = sum(len(values) for values in chunk.alignments.values()) * config.record_every
            progress.advance(f"{runs[0].method} k = {runs[0].latent_dim}", made + skipped)
    found = []
    for parts in histories.values():
        values = np.concatenate(parts)
        first = [np.flatnonzero(values <= target) for target in config.targets]
        steps = [(int(hits[0]) + 1) * config.record_every if hits.size else None for hits in first]
        found.append((steps, float(values[-1])))
    return found


def _slowness(crossing: Crossing) -> tuple[Any, ...]:
    """Lower is better: more targets reached, then sooner at the last of them, then closer at the end."""
    steps, end = crossing
    reached = [step for step in steps if step is not None]
    return -len(reached), reached[-1] if reached else 0, end if np.isfinite(end) else float("inf")


def _read(workdir: Path, table: str) -> list[dict[str, str]]:
    """All the rows there are of a table, problem after problem."""
    found = (workdir / "parts").glob(f"*_{table}.csv")
    rows = [row for path in found for row in csv.DictReader(path.read_text().splitlines())]
    return sorted(rows, key=lambda row: (row["dataset"], int(row["latent_dim"])))


def _report(config: ConfigDict, workdir: Path) -> None:
    for table in TABLES:
        if rows := _read(workdir, table):
            common.write_csv(workdir / f"{table}.csv", rows)
    for name in {row["dataset"]: None for row in _read(workdir, "compare")}:
        of_name = {table: [row for row in _read(workdir, table) if row["dataset"] == name] for table in TABLES}
        figure = comparison.steps_to_targets(of_name["compare"], config.targets)
        paper.save(figure, workdir / f"compare_{Path(name).stem}.png")
        figure = comparison.robustness(of_name["grid"], config.robust_target)
        paper.save(figure, workdir / f"robustness_{Path(name).stem}.png")


def _print(workdir: Path) -> None:
    rows, solvers = _read(workdir, "compare"), _read(workdir, "exact")
    for line in _table(rows, solvers):
        print(line)
    print(f"wrote {', '.join(f'{workdir / table}.csv' for table in TABLES)} and pictures beside them")


def _table(rows: list[dict[str, str]], solvers: list[dict[str, str]]) -> Iterator[str]:
    for problem in {(row["dataset"], row["latent_dim"]): None for row in rows}:
        here = [row for row in rows if (row["dataset"], row["latent_dim"]) == problem]
        steps = [name for name in here[0] if name.startswith("steps_")]
        yield f"\n{problem[0]}, k = {problem[1]}: steps to axis alignment, of at most {here[0]['num_steps']}"
        yield f"  {'rule':30} {'rate d_1':>9} " + " ".join(f"{name[6:]:>7}" for name in steps) + "  rates ok  dense s"
        for row in here:
            counts = " ".join(f"{row[name] or '-':>7}" for name in steps)
            share, seconds = f"{100 * float(row['share_of_rates']):.0f} %", row["dense_seconds"] or "-"
            yield f"  {row['method']:30} {row['learning_rate']:>9} {counts} {share:>9} {seconds:>8}"
        for row in solvers:
            if (row["dataset"], row["latent_dim"]) == problem:
                yield f"  exact: {row['solver']:44} {row['seconds']:>8} s, axis alignment {row['axis_alignment']}"


if __name__ == "__main__":
    common.main(run, "compare.py")
