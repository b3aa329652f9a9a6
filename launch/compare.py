"""Every rule of the table side by side on the same data, and the exact solvers a user would take instead.

    python -m launch.compare --workdir=DIR [--config=FILE.py[:full]] [--config.FIELD=VALUE ...]

compare.csv has a row for each data set, latent size and rule; grid.csv for each learning rate tried as well;
exact.csv for each solver; runs.csv for each run. The same command again goes on where it stopped.
"""

import sys
from pathlib import Path

import threadpoolctl
from ml_collections import ConfigDict

from lae_jax.data import sources
from lae_jax.data.datasets import DATASETS, Dataset, load
from lae_jax.data.fingerprints import fingerprint_of_files
from lae_jax.errors import InputError
from lae_jax.figures import comparison as figures
from lae_jax.figures import paper
from lae_jax.runs import storage
from lae_jax.runs.comparison import Comparison, Plan
from launch import common, memory


def run(config: ConfigDict, workdir: Path) -> None:
    """Train, time, tabulate and draw what `config` says in `workdir`, or go on with it."""
    common.set_precision(config.precision, config.matmul_precision)
    fields = config.to_dict()
    of_launcher = {*storage.FREE_FIELDS, "matmul_precision"}
    plan = Plan(**{name: value for name, value in fields.items() if name not in of_launcher})
    with storage.locked(workdir):
        loaded: dict[str, Dataset | None] = {
            name: _load(name, config) for name in {name for name, *_ in plan.problems} - DATASETS.keys()
        }
        files = fingerprint_of_files(filter(None, loaded.values()))
        storage.claim(workdir, {"launcher": "compare", "data": files, **fields})
        comparison = Comparison(plan, workdir)
        for name, size, num_steps in plan.each_problem():
            if comparison.is_finished((name, size)):
                print(f"{name}, k = {size}: finished already", file=sys.stderr)
                continue
            if name not in loaded:
                loaded[name] = _load(name, config)
            if (dataset := loaded[name]) is not None:
                first = plan.runs((name, size), dataset, plan.methods[0], plan.learning_rates[0], plan.seeds[0])
                memory.tell_runs(first.values(), dataset, config.max_memory)
                _train(comparison, (name, size), dataset, num_steps, config.parallel_jobs)
                comparison.finish((name, size), dataset, num_steps)
                _draw(comparison)  # of use before the last problem is done
    if not comparison.rules.rows:
        raise InputError(f"problems: nothing was compared; none of {', '.join(loaded)} is at hand")
    _draw(comparison)
    for line in comparison.lines():
        print(line)
    print(f"wrote compare.csv, grid.csv, exact.csv and pictures to {workdir}")


def _load(name: str, config: ConfigDict) -> Dataset | None:
    try:
        return load(name, data_dir=config.data_dir)
    except InputError as error:
        if name not in sources.IMAGE_SETS:  # of the others, nothing has to be found or fetched first
            raise
        print(f"left out: {error}", file=sys.stderr)
        return None


def _train(comparison: Comparison, problem: tuple[str, str], dataset: Dataset, num_steps: int, workers: int) -> None:
    progress = common.Progress(comparison.steps_left(num_steps))
    jobs = comparison.jobs(problem, dataset, num_steps, progress.advance)
    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # for rules that solve: they would fight XLA's threads
        common.run_in_threads(workers, jobs, progress)


def _draw(comparison: Comparison) -> None:
    comparison.write_grid()
    for name in {key[0] for key in comparison.rules.rows}:
        rules = [row for key, row in comparison.rules.rows.items() if key[0] == name]
        grid = [row for row in comparison.grid() if row["dataset"] == name]
        picture = figures.steps_to_targets(rules, comparison.plan.targets)
        paper.save(picture, comparison.workdir / f"compare_{Path(name).stem}.png")
        picture = figures.robustness(grid, comparison.plan.robust_target)
        paper.save(picture, comparison.workdir / f"robustness_{Path(name).stem}.png")


if __name__ == "__main__":
    common.main(run, "compare.py")
