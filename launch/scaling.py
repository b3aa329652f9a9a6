"""Figure 4: steps to an axis-aligned solution against the latent size, for every method and optimizer.

python -m launch.scaling --workdir=DIR [--config=FILE.py[:full|:tune]] [--config.FIELD=VALUE ...]

With several processes, start each with --coordinator=HOST:PORT --num_processes=N --process_id=I;
all need the same DIR, which the first alone writes. The same command again goes on where it stopped.
"""

import contextlib
import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import jax
import threadpoolctl
from absl import flags
from ml_collections import ConfigDict

from lae_jax.data.datasets import Dataset, load
from lae_jax.errors import InputError, unknown_name
from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.runs import storage
from lae_jax.training import batch, sweeps
from lae_jax.training import settings as experiment
from launch import common, processes, scaling_report
from launch.configs import authors
from launch.configs import scaling as settings
from launch.scaling_table import Table

# Chunks between two records of what is in flight: a count, so that every process does it at once.
_CHUNKS_PER_SAVE = 5
# What may differ when a sweep goes on: it decides no number.
_FREE_FIELDS = ("parallel_jobs", "devices", "max_memory", "try_beyond_failure")


def run(config: ConfigDict, workdir: Path) -> None:
    """Train the sweep that `config` says in `workdir`, or go on with it; then draw and tabulate."""
    common.set_precision(config.precision, config.matmul_precision)
    devices = _devices(config.devices)
    batch.meet(devices)
    _check(config)
    dataset = load(
        "synthetic",
        input_dim=config.input_dim,
        num_samples=config.num_samples,
        data_seed=config.data_seed,
        center=False,
    )
    sweep = _plan(config, dataset)
    if jax.process_index() == 0:
        description = {name: value for name, value in config.items() if name not in _FREE_FIELDS}
        storage.claim(workdir, {"launcher": "scaling", **description})
    table = Table(workdir, sweep, writes=jax.process_index() == 0)
    done = len(table.rows)
    if done:
        print(f"{workdir}: {done} of {len(sweep)} runs are finished already", file=sys.stderr)
    progress = _Progress((len(sweep) - done) * config.num_steps)
    pairs: dict[tuple[Any, Any], dict[int, experiment.Settings]] = {}
    for index, one in enumerate(sweep):
        pairs.setdefault((one.method, one.optimizer), {})[index] = one
    train = _Sweep(config, dataset, devices, table, progress).train
    jobs = [functools.partial(train, part) for part in pairs.values()]
    # Processes have to meet in the same order, so theirs run one by one.
    workers = config.parallel_jobs if jax.process_count() == 1 else 1
    # Rules that solve: LAPACK's threads and XLA's would fight.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        common.run_in_threads(workers, jobs, progress)
    if jax.process_index() == 0:
        scaling_report.report(config, workdir, table, sweep, dataset)


def _devices(asked: int) -> list[jax.Device]:
    if asked > 1:
        with contextlib.suppress(RuntimeError):  # JAX has started already, with the devices it has
            jax.config.update("jax_num_cpu_devices", asked)  # no effect where there is a GPU or TPU
    found = jax.devices()
    if asked > len(found):
        raise InputError(f"devices: {asked} asked for, but there are {len(found)} ({found[0].platform})")
    if asked and jax.process_count() > 1 and asked != len(found):
        raise InputError(f"devices: {asked} asked for, but the processes have {len(found)} and use them all")
    return found[: asked or None]


def _check(config: ConfigDict) -> None:
    for name in ("methods", "optimizers", "latent_dims", "seeds"):
        values = tuple(config[name])
        if not values:
            raise InputError(f"{name}: empty; give at least one")
        if twice := [value for value in values if values.count(value) > 1]:
            raise InputError(f"{name}: {twice[0]} is given more than once")
    for kind, table in (("methods", METHODS), ("optimizers", OPTIMIZERS)):
        for name in config[kind]:
            if name not in table:
                raise unknown_name(kind, name, table)
    if not 0 < config.target < 1:
        raise InputError(f"target: {config.target}: axis alignment to reach, between 0 and 1")
    if config.max_memory < 0 or config.devices < 0:
        raise InputError("max_memory, devices: must not be negative (0 is no limit, and all there are)")


def _plan(config: ConfigDict, dataset: Dataset) -> list[experiment.Settings]:
    """Every run of the sweep, in the order of scaling.csv."""
    planned = []
    for method in config.methods:
        for optimizer in config.optimizers:
            for latent_dim in config.latent_dims:
                # Where the authors have none, the default of the method.
                rates = tuple(config.learning_rates) or (settings.learning_rate(method, optimizer, latent_dim),)
                largest = settings.largest_penalty_root(dataset.input_dim, latent_dim)
                penalties = authors.penalties(method, latent_dim, largest)
                for seed in config.seeds:
                    for rate in rates:
                        one = experiment.Settings(
                            method=method,
                            latent_dim=latent_dim,
                            optimizer=optimizer,
                            learning_rate=rate,
                            penalties=penalties,
                            precision=config.precision,
                            seed=seed,
                        )
                        planned.append(experiment.resolve(one, dataset)[0])
    return planned


class _Progress(common.Progress):
    """One bar over the most steps that are left to take."""

    def chunk(self, runs_left: dict[int, experiment.Settings], chunk: sweeps.Chunk, config: ConfigDict) -> None:
        """Count the steps of a chunk, and those that a run which ended need not take."""
        if self._stopped:
            raise common.InterruptedRunError
        steps = sum(len(values) for values in chunk.alignments.values()) * config.record_every
        steps += sum(config.num_steps - result.steps for result in chunk.finished.values())
        index, values = list(chunk.alignments.items())[-1]
        one = runs_left[index]
        with self._lock:
            self._bar.set_description_str(f"{one.method}/{one.optimizer} k = {one.latent_dim}", refresh=False)
            self._bar.set_postfix_str(f"alignment {values[-1]:.2g}", refresh=False)
            self._bar.update(steps)

    def skip(self, steps: int) -> None:
        """Count steps that need not be taken."""
        with self._lock:
            self._bar.update(steps)


@dataclasses.dataclass
class _Sweep:
    """What every part of a sweep is trained with."""

    config: ConfigDict
    dataset: Dataset
    devices: list[jax.Device]
    table: Table
    progress: "_Progress"

    def train(self, part: dict[int, experiment.Settings]) -> None:
        """One method under one optimizer, from small latent sizes to large."""
        indices, failed_at = list(part), float("inf")
        for group in sweeps.groups(list(part.values())):
            members = {indices[place]: part[indices[place]] for place in group}
            missing = members.keys() - self.table.rows.keys()
            if not self.config.try_beyond_failure and failed_at < min(one.latent_dim for one in members.values()):
                self.progress.skip(len(missing) * self.config.num_steps)
                continue
            *_, largest = members.values()
            if missing:
                self._train_group(members, largest)
            # Also of a group that was killed between its last row and this line.
            self.table.keep_in_flight(largest, {})
            for latent_dim in {one.latent_dim for one in members.values()}:
                rows = [self.table.rows[index] for index, one in members.items() if one.latent_dim == latent_dim]
                if not any(row["steps_to_target"] for row in rows):
                    failed_at = min(failed_at, latent_dim)

    def _train_group(self, members: dict[int, experiment.Settings], largest: experiment.Settings) -> None:
        chunks = sweeps.train_group(
            members,
            self.dataset,
            num_steps=self.config.num_steps,
            record_every=self.config.record_every,
            target=self.config.target,
            devices=self.devices,
            max_memory=self.config.max_memory * 2**30 or None,
            finished=set(self.table.rows),
            saved=self.table.in_flight(largest),
        )
        for number, chunk in enumerate(chunks, 1):
            if chunk.finished:
                self.table.add(chunk.finished)
            if number % _CHUNKS_PER_SAVE == 0:
                self.table.keep_in_flight(largest, chunk.in_flight())
            try:
                self.progress.chunk(members, chunk, self.config)
            except common.InterruptedRunError:
                self.table.keep_in_flight(largest, chunk.in_flight())
                raise


def _run_here(config: ConfigDict, workdir: Path) -> None:
    """`run`, as one of several processes where the flags say so."""
    with processes.meeting(workdir), _alone(workdir):
        run(config, workdir)


def _alone(workdir: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of the folder, for the process that writes."""
    # By its flag: to ask JAX would start its devices, and `_devices` may still change how many there are.
    return storage.locked(workdir) if flags.FLAGS.process_id == 0 else contextlib.nullcontext()


if __name__ == "__main__":
    processes.define_flags()
    common.main(_run_here, "scaling.py")
