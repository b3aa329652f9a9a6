"""Figures 2 and 3: every model of the paper on MNIST, or on your data, and a table beside the published values.

python -m launch.mnist --workdir=DIR [--config.FIELD=VALUE ...]
"""

import contextlib
import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError, unknown_name
from lae_jax.figures import agreement, style
from lae_jax.figures import dynamics as figures
from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.runs import directory, dynamics, storage
from launch import common, memory
from launch.configs import authors


def run(config: ConfigDict, workdir: Path) -> None:
    """Train every method under every optimizer and start, then draw and tabulate."""
    common.set_precision(config.precision, config.matmul_precision)
    planned = _plan(config, workdir)
    dataset = directory.load_dataset(next(iter(planned.values())))
    resolved = [directory.resolve(one, dataset)[0] for one in planned.values()]
    memory.tell_runs(resolved, dataset, config.max_memory)
    problems: dict[dynamics.Pair, str] = {}
    for group in dynamics.groups(planned):
        with contextlib.closing(common.Progress(sum(one.num_steps for one in group.values()))) as progress:
            problems |= dynamics.execute_all(group, dataset, config.parallel_runs, progress)
        _report(config, workdir, planned, dataset, problems)
    if diverged := [f"{'/'.join(pair)}: {text}" for pair, text in problems.items() if "not finite" in text]:
        raise InputError(f"{len(diverged)} of {len(dynamics.learned(planned))} pairs diverged; {diverged[0]}")


def _plan(config: ConfigDict, workdir: Path) -> dict[Path, directory.RunConfig]:
    """The runs by their folders, at the authors' settings where the data are theirs."""
    for kind, table in (("methods", METHODS), ("optimizers", OPTIMIZERS)):
        for name in (*config[kind], *(config.learning_rates if kind == "methods" else ())):
            if name not in table:
                raise unknown_name(kind, name, table)
    mnist = config.dataset == "mnist"
    if not (config.seeds or (mnist and config.authors_draws)):
        raise InputError("seeds: empty; give at least one")
    shared = {name: config[name] for name in config if name in directory.from_fields({}).__dataclass_fields__}
    shared |= {"snapshot_steps": tuple(step for step in config.snapshot_steps if step <= config.num_steps)}
    base = directory.from_fields(shared | {"penalties": (), "prior": (), "unit": 1.0})  # in pixels, as published
    pairs = [(method, optimizer) for method in config.methods for optimizer in config.optimizers]
    planned = dynamics.plan(base, pairs, config.seeds, config.seeds_optimizers, mnist and config.authors_draws, workdir)
    return {
        path: dataclasses.replace(one, **authors.settings(config, one.method, one.optimizer))
        for path, one in planned.items()
    }


def _report(
    config: ConfigDict,
    workdir: Path,
    planned: dict[Path, directory.RunConfig],
    dataset: Dataset,
    problems: dict[dynamics.Pair, str],
) -> None:
    """Both figures and the table, of the runs that are finished."""
    found = dynamics.learned(planned)
    published = authors.mnist_readings() if authors.is_published(config) else {}
    written = [workdir / "comparison.csv"]
    steps = sorted({step for step in authors.MNIST_STEPS if step < config.num_steps} | {config.num_steps})
    rows = dynamics.table(planned, found, published, steps, problems)
    storage.write_csv(written[0], rows)
    title = f"{dataset.name}, k = {config.latent_dim}, full batch"
    figure = figures.learning_dynamics(found, published, title)
    written.append(style.save(figure, workdir / "figure2.png"))
    first = config.optimizers[0]
    if decoders := dynamics.snapshots(planned, found, first):
        components = dataset.components[:, : config.latent_dim] * (authors.MNIST_SIGNS if published else 1)
        figure = figures.learned_decoders(decoders, components, dataset.image_shape, f"{title}, {first}")
        written.append(style.save(figure, workdir / "figure3.png"))
        if published and config.published_figure3:
            blocks = agreement.read_blocks(Path(config.published_figure3))
            agreed = agreement.agreement(blocks, decoders, components, authors.MNIST_METHODS)
            storage.write_csv(workdir / "figure3.csv", agreed)
            written.append(workdir / "figure3.csv")
    print(f"\naxis alignment after {config.num_steps:,} steps:")
    print(f"  {'method':30} {'optimizer':10} {'published':>9} {'authors':>9} {'median':>9}  range over seeds")
    for row in (row for row in rows if row["step"] == config.num_steps):
        values = f"{row['published']:>9} {row['authors_draws']:>9} {row['median']:>9}"
        print(f"  {row['method']:30} {row['optimizer']:10} {values}  {row['lowest']}..{row['highest']}  {row['note']}")
    for path in written:
        print(f"  wrote {path}")


if __name__ == "__main__":
    common.main(run, "mnist.py")
