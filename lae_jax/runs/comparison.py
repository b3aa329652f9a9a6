"""Rules side by side on the same problems, each at the best learning rate of one grid, beside exact solvers.

A problem is a data set and a latent size. Learning rates are in units of 1 / sigma_1^2, the inverse of the largest
variance, under an optimiser that keeps that unit (Adam does not). The folder holds

runs.csv      a row for each run
compare.csv   a row for each problem and rule: medians over seeds at its best rate, and what a step costs
grid.csv      a row for each problem, rule and learning rate: the runs that chose the best
exact.csv     a row for each problem and exact solver
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import threadpoolctl

from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError, unknown_name
from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.runs import experiments, storage
from lae_jax.runs.experiments import Runs, Sweep
from lae_jax.runs.tables import Key, Row, Table
from lae_jax.training import exact, settings
from lae_jax.training.settings import Settings

_RULE = ("dataset", "latent_dim", "method")
_RUN = (*_RULE, "learning_rate", "seed")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        methods: rows of METHODS.
        optimizer: a row of OPTIMIZERS.
        learning_rates: the grid, tried with the first seed.
        seeds: that all run at the best rate.
        targets: axis alignments to reach, decreasing.
        robust_target: the one that a learning rate has to reach to count as one that works.
        problems: (data set, latent size, most steps of a run), each.
        record_every: steps between two records.
        timing_seconds: spent on the time of a step of each rule.
        precision: "float32" or "float64".
    """

    methods: tuple[str, ...]
    optimizer: str
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    targets: tuple[float, ...]
    robust_target: float
    problems: tuple[tuple[str, int, int], ...]
    record_every: int
    timing_seconds: float
    precision: str

    def __post_init__(self) -> None:
        """Raises InputError."""
        for name in self.methods:
            if name not in METHODS:
                raise unknown_name("methods", name, METHODS)
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("learning_rates", "seeds", "targets", "problems"):
            if not getattr(self, name):
                raise InputError(f"{name}: empty; give at least one")
        for problem in self.problems:
            kinds = tuple(map(type, problem)) if isinstance(problem, tuple) else ()
            if kinds != (str, int, int) or min(problem[1:]) < 1:
                raise InputError(
                    f"problems: {problem!r}: must be (data set, latent size, most steps), as ('digits', 10, 5000)"
                )
        if list(self.targets) != sorted(set(self.targets), reverse=True):
            raise InputError(f"targets: {self.targets}: must decrease strictly")
        if self.robust_target not in self.targets:
            raise InputError(f"robust_target: {self.robust_target} is not one of the targets {self.targets}")

    def each_problem(self) -> Iterator[tuple[str, str, int]]:
        """(data set, latent size as tables have it, steps)."""
        for name, size, num_steps in self.problems:
            yield name, str(size), num_steps

    def runs(self, problem: Key, dataset: Dataset, method: str, rate: float, seed: int) -> Runs:
        """One run, resolved, by its key."""
        unit = 1 / float(dataset.variances[0]) if OPTIMIZERS[self.optimizer].rotation_equivariant else 1.0
        given = Settings(
            method=method,
            latent_dim=int(problem[1]),
            optimizer=self.optimizer,
            learning_rate=rate * unit,
            precision=self.precision,
            seed=seed,
        )
        return {(*problem, method, str(rate), str(seed)): settings.resolve(given, dataset)[0]}


class Comparison:
    """A plan in a folder, with what has been done of it."""

    def __init__(self, plan: Plan, workdir: Path) -> None:
        """Read what is there. Raises InputError."""
        self.plan: Plan = plan
        self.workdir: Path = workdir
        targets = plan.targets
        problems = [(name, size) for name, size, _ in plan.each_problem()]
        rules = [(*problem, method) for problem in problems for method in plan.methods]
        keys = [(*rule, str(rate), str(seed)) for rule in rules for rate in plan.learning_rates for seed in plan.seeds]
        steps = tuple(f"steps_{target:g}" for target in targets)
        spread = tuple(f"{bound}_{target:g}" for target in targets for bound in ("lowest", "highest"))
        about, ends = ("optimizer", "learning_rate", "seeds", "num_steps"), ("axis_alignment", "fraction_of_rates")
        columns = (*about, *steps, *spread, *ends, "dense_step_us", "dense_seconds")
        solvers = [(*problem, solver) for problem in problems for solver in exact.SOLVERS]
        self.runs: Table = experiments.runs_table(workdir, _RUN, keys, targets)
        self.rules: Table = Table(workdir / "compare.csv", _RULE, columns, rules)
        self.exact: Table = Table(workdir / "exact.csv", (*_RULE[:2], "solver"), ("seconds", "axis_alignment"), solvers)

    def is_finished(self, problem: Key) -> bool:
        """Whether every rule has its row, and the exact solvers theirs."""
        solved = any(key[:2] == problem for key in self.exact.rows)
        return solved and all((*problem, method) in self.rules.rows for method in self.plan.methods)

    def steps_left(self, num_steps: int) -> int:
        """The most steps that the runs of a problem take."""
        return len(self.plan.methods) * (len(self.plan.learning_rates) + len(self.plan.seeds) - 1) * num_steps

    def jobs(
        self, problem: Key, dataset: Dataset, num_steps: int, on_steps: Callable[[str, int], None]
    ) -> list[Callable[[], None]]:
        """What trains each rule, to be called at any time and in any order; `on_steps` as of `experiments.Sweep`."""
        plan = self.plan
        sweep = Sweep(self.runs, dataset, num_steps, plan.targets, plan.record_every, on_steps=on_steps)

        def tune(method: str) -> None:
            sweep.tune(functools.partial(plan.runs, problem, dataset, method), plan.learning_rates, plan.seeds)

        return [functools.partial(tune, method) for method in plan.methods]

    def finish(self, problem: Key, dataset: Dataset, num_steps: int) -> None:
        """Summarise the runs of a problem, and time the rules and the exact solvers; nothing else should run."""
        with threadpoolctl.threadpool_limits(1, user_api="blas"):  # in training, LAPACK's threads and XLA's would fight
            for method in self.plan.methods:
                if (*problem, method) not in self.rules.rows:
                    cells = self._summary(problem, method, num_steps)
                    (timed,) = self.plan.runs(problem, dataset, method, 1e-9, 0).values()
                    seconds = exact.step_seconds(timed, dataset, self.plan.timing_seconds)
                    last = cells[3 + len(self.plan.targets)]
                    whole = f"{float(str(last)) * seconds:.4g}" if last else None
                    self.rules.add({(*problem, method): [*cells, f"{1e6 * seconds:.1f}", whole]})
        rows = exact.timed(dataset, int(problem[1]))
        self.exact.add({(*problem, name): (f"{took:.4g}", f"{end:.2g}") for name, took, end in rows})

    def grid(self) -> list[Row]:
        """The rows of grid.csv, of what has been tried so far."""
        seed = str(self.plan.seeds[0])
        return [
            {name: value for name, value in row.items() if name not in ("seed", "seconds")}
            for key, row in sorted(self.runs.rows.items(), key=lambda item: self.runs.place(item[0]))
            if key[-1] == seed
        ]

    def write_grid(self) -> None:
        """Write grid.csv."""
        if rows := self.grid():
            storage.write_csv(self.workdir / "grid.csv", rows)

    def lines(self) -> Iterator[str]:
        """The tables as text."""
        for name, size, num_steps in self.plan.each_problem():
            here = [row for key, row in self.rules.rows.items() if key[:2] == (name, size)]
            if not here:
                continue
            targets = [f"{target:g}" for target in self.plan.targets]
            yield f"\n{name}, k = {size}: steps to axis alignment, of at most {num_steps}"
            yield f"  {'rule':30} {'rate d_1':>9} " + " ".join(f"{each:>7}" for each in targets) + "  rates ok  dense s"
            for row in here:
                counts = " ".join(f"{row[f'steps_{each}'] or '-':>7}" for each in targets)
                fraction, seconds = f"{100 * float(row['fraction_of_rates']):.0f} %", row["dense_seconds"] or "-"
                yield f"  {row['method']:30} {row['learning_rate']:>9} {counts} {fraction:>9} {seconds:>8}"
            for key, row in self.exact.rows.items():
                if key[:2] == (name, size):
                    yield f"  exact: {row['solver']:44} {row['seconds']:>8} s, axis alignment {row['axis_alignment']}"

    def _rows(self, problem: Key, method: str, rates: Sequence[float], seeds: Sequence[int]) -> list[Row]:
        return [self.runs.rows[*problem, method, str(rate), str(seed)] for rate in rates for seed in seeds]

    def _summary(self, problem: Key, method: str, num_steps: int) -> list[object]:
        """The cells of a row of compare.csv but what a step costs."""
        plan, first = self.plan, self.plan.seeds[:1]
        best = experiments.best_rate(
            {rate: self._rows(problem, method, (rate,), first) for rate in plan.learning_rates}, plan.targets
        )
        tried, rows = (
            self._rows(problem, method, plan.learning_rates, first),
            self._rows(problem, method, (best,), plan.seeds),
        )
        medians = [_cell(experiments.median_steps(rows, target)) for target in plan.targets]
        spread = [
            _cell(pick(experiments.steps_to(row, target) for row in rows))
            for target in plan.targets
            for pick in (min, max)
        ]
        end = statistics.median(float(row["axis_alignment"]) for row in rows)
        works = sum(experiments.steps_to(row, plan.robust_target) < float("inf") for row in tried)
        about = [plan.optimizer, best, len(rows), num_steps]
        return [*about, *medians, *spread, f"{end:.6g}", round(works / len(tried), 3)]


def _cell(steps: float) -> int | None:
    return None if steps == float("inf") else int(steps)
