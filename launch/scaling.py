"""Figure 4: steps to an axis-aligned solution against the latent size, for every method and optimizer.

python -m launch.scaling --workdir=DIR [--config=FILE.py[:full|:tune]] [--config.FIELD=VALUE ...]

With several processes, start each with --coordinator=HOST:PORT --num_processes=N --process_id=I;
all need the same DIR, which the first alone writes. The same command again goes on where it stopped.
"""

import functools
import sys
from pathlib import Path

import jax
import threadpoolctl
from ml_collections import ConfigDict

from lae_jax.data import hosts
from lae_jax.data.datasets import Dataset, load
from lae_jax.data.fingerprints import fingerprint_of_files
from lae_jax.figures import paper
from lae_jax.figures import scaling as figures
from lae_jax.runs import experiments, storage
from lae_jax.runs.tables import Key, Table
from lae_jax.training.settings import Settings
from launch import common, memory, processes, switches
from launch.configs import scaling as settings
from launch.scaling_prediction import predicted_steps


def run(config: ConfigDict, workdir: Path) -> None:
    """Train the sweep that `config` says in `workdir`, or go on with it; then draw and tabulate."""
    common.set_precision(config.precision, config.matmul_precision)
    devices = switches.devices(config.devices)
    hosts.meet()
    settings.check(config)
    sizes = {name: config[name] for name in ("input_dim", "num_samples", "data_seed")}
    dataset = load(config.dataset, **sizes)
    runs = settings.plan(config, dataset)
    memory.tell_runs(runs.values(), dataset, 0)  # `max_memory` bounds a batch of them
    if jax.process_index() == 0:
        storage.claim(workdir, {"launcher": "scaling", "data": fingerprint_of_files([dataset]), **config})
    table = experiments.runs_table(workdir, settings.RUN, list(runs), (config.target,))
    if table.rows:
        print(f"{workdir}: {len(table.rows)} of {len(runs)} runs are finished already", file=sys.stderr)
    progress = common.Progress((len(runs) - len(table.rows)) * config.num_steps)
    sweep = experiments.Sweep(
        table,
        dataset,
        config.num_steps,
        (config.target,),
        config.record_every,
        devices,
        config.max_memory * 2**30 or None,
        progress.advance,
    )
    pairs: dict[Key, dict[Key, Settings]] = {}
    for key, one in runs.items():
        pairs.setdefault(key[:2], {})[key] = one  # of one method and optimizer
    jobs = [functools.partial(sweep.climb, part, config.try_beyond_failure) for part in pairs.values()]
    # Processes have to meet in the same order, so theirs run one by one.
    workers = config.parallel_jobs if jax.process_count() == 1 else 1
    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # for rules that solve: they would fight XLA's threads
        common.run_in_threads(workers, jobs, progress)
    if jax.process_index() == 0:
        _report(config, workdir, table, runs, dataset)


def _report(config: ConfigDict, workdir: Path, table: Table, runs: experiments.Runs, dataset: Dataset) -> None:
    rows = [table.rows[key] for key in sorted(table.rows, key=table.place)]
    predicted = {
        (key[0], key[1], int(key[2]), key[-1]): predicted_steps(runs[key], dataset, config.target) for key in table.rows
    }
    shown = figures.table(rows, settings.PAPER, predicted, config.target)
    storage.write_csv(workdir / "scaling.csv", shown)
    about = f"{dataset.name}, m = {dataset.input_dim}, n = {dataset.num_samples}"
    picture = paper.save(figures.figure(shown, config.num_steps, config.target, about), workdir / "figure4.png")
    print(f"\nsteps until axis alignment {config.target:g} (inf: not within {config.num_steps:,}):")
    columns = {name: max(len(name), *(len(row[name]) for row in shown)) for name in shown[0]}
    for row in [dict(zip(columns, columns, strict=True)), *shown]:
        print("  " + "  ".join(f"{row[name]:>{width}}" for name, width in columns.items()))
    points = {key: f"{one.method}/{one.optimizer} k = {one.latent_dim}" for key, one in runs.items()}
    met = {points[key] for key in table.rows}
    if left_out := [point for point in dict.fromkeys(points.values()) if point not in met]:
        print(f"  not tried, because a smaller k missed the target: {', '.join(left_out)}")
    if tried := figures.tried(rows, config.target):
        storage.write_csv(workdir / "learning_rates.csv", tried)
        print(f"  {workdir / 'learning_rates.csv'} says which learning rates won")
    print(f"  wrote {workdir / 'scaling.csv'} and {picture}")


if __name__ == "__main__":
    processes.define_flags()
    common.main(processes.together(run, lock=True), "scaling.py")
