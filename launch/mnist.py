"""Figures 2 and 3: every model of the paper on MNIST, and a table beside the paper's values.

python -m launch.mnist --workdir=DIR [--config.FIELD=VALUE ...]
"""

import functools
import statistics
from pathlib import Path

from ml_collections import ConfigDict

from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError, unknown_name
from lae_jax.figures import paper as figures
from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.runs import directory, storage
from lae_jax.training.loop import DivergenceError
from launch import common
from launch.configs import authors


def run(config: ConfigDict, workdir: Path) -> None:
    """Train every method under every optimizer and seed, then draw and tabulate."""
    common.set_precision(config.precision, config.matmul_precision)
    planned = _plan(config, workdir)
    dataset = directory.load_dataset(next(iter(planned.values())))
    problems: dict[tuple[str, str], str] = {}
    # Methods that need the samples come last: they take longest, and the rest is drawn before them.
    for needs_samples in (False, True):
        group = {
            path: fields for path, fields in planned.items() if METHODS[fields.method].needs_samples == needs_samples
        }
        if group:
            _train(group, dataset, config.parallel_runs, problems)
            _report(config, workdir, planned, dataset, problems)
    if diverged := [text for text in problems.values() if "not finite" in text]:
        raise InputError(f"{len(diverged)} of {len(planned)} runs diverged; {diverged[0]}")


def _plan(config: ConfigDict, workdir: Path) -> dict[Path, directory.RunConfig]:
    """The runs by their folders."""
    return {
        workdir / "runs" / f"{method}_{optimizer}_seed{seed}": directory.RunConfig(
            method=method,
            optimizer=optimizer,
            learning_rate=config.learning_rates[method][optimizer],
            latent_dim=config.latent_dim,
            penalties=authors.penalties(method, config.latent_dim),
            num_steps=config.num_steps,
            record_every=config.record_every,
            snapshot_steps=tuple(step for step in config.snapshot_steps if step <= config.num_steps),
            seed=seed,
            data_dir=config.data_dir,
            download=config.download,
            precision=config.precision,
            matmul_precision=config.matmul_precision,
        )
        for seed in config.seeds
        for method in _methods(config)
        for optimizer in config.optimizers
    }


def _methods(config: ConfigDict) -> list[str]:
    """The methods asked for, in the order of the table."""
    for method in config.learning_rates:
        if method not in METHODS:
            raise unknown_name("learning_rates", method, METHODS)
    return [method for method in METHODS if method in config.learning_rates]


def _train(
    group: dict[Path, directory.RunConfig], dataset: Dataset, workers: int, problems: dict[tuple[str, str], str]
) -> None:
    """Run these; what keeps one from its end is noted, and the others go on.

    A few at a time, because one run alone leaves a core idle between its matrix products. Those
    that read a dense covariance take longest and start first.
    """
    progress = common.Progress(sum(fields.num_steps for fields in group.values()))

    def train(path: Path, fields: directory.RunConfig) -> None:
        label = f"{fields.method}/{fields.optimizer}"
        try:
            directory.execute(fields, path, dataset, progress.of(label, fields.num_steps), progress.note_of(label))
        except DivergenceError as error:
            problems[fields.method, fields.optimizer] = str(error)
        except InputError as error:
            if not METHODS[fields.method].needs_samples:
                raise
            problems[fields.method, fields.optimizer] = f"skipped: {error}"

    in_order = sorted(group.items(), key=lambda item: OPTIMIZERS[item[1].optimizer].rotation_equivariant)
    common.run_in_threads(workers, [functools.partial(train, path, fields) for path, fields in in_order], progress)


def _report(
    config: ConfigDict,
    workdir: Path,
    planned: dict[Path, directory.RunConfig],
    dataset: Dataset,
    problems: dict[tuple[str, str], str],
) -> None:
    """Both figures and the table, of the runs that are finished."""
    finished = {path: fields for path, fields in planned.items() if directory.is_finished(path)}
    histories = {path: directory.read_metrics(path) for path in finished}
    shown = {
        (fields.method, fields.optimizer): histories[path]
        for path, fields in finished.items()
        if fields.seed == config.seeds[0]
    }
    pictures = []
    about = f"MNIST, k = {config.latent_dim}, full batch"
    if shown:
        figure = figures.learning_dynamics(shown, f"{about}: solid Nesterov (momentum 0.9), dashed Adam")
        pictures.append(figures.save(figure, workdir / "figure2.png"))
    decoders = {
        fields.method: {
            step: storage.read_weights(directory.snapshot_path(path, step))["decoder"] for step in fields.snapshot_steps
        }
        for path, fields in finished.items()
        if fields.optimizer == config.optimizers[0] and fields.seed == config.seeds[0] and fields.snapshot_steps
    }
    if decoders and dataset.image_shape:
        components = dataset.components[:, : config.latent_dim]
        figure = figures.learned_decoders(decoders, components, dataset.image_shape, f"{about}, {config.optimizers[0]}")
        pictures.append(figures.save(figure, workdir / "figure3.png"))

    rows = []
    for method in _methods(config):
        for optimizer in config.optimizers:
            ends = [
                (float(histories[path]["axis_alignment"][-1]), float(histories[path]["subspace_distance"][-1]))
                for path, fields in finished.items()
                if (fields.method, fields.optimizer) == (method, optimizer)
            ]
            alignments = [alignment for alignment, _ in ends]
            paper = authors.MNIST_AXIS_ALIGNMENT.get(method, {}).get(optimizer)
            rows.append(
                {
                    "method": method,
                    "optimizer": optimizer,
                    "learning_rate": config.learning_rates[method][optimizer],
                    "steps": config.num_steps,
                    "seeds": len(ends),
                    "axis_alignment": f"{statistics.median(alignments):.6f}" if ends else "",
                    "lowest": f"{min(alignments):.6f}" if ends else "",
                    "highest": f"{max(alignments):.6f}" if ends else "",
                    "paper": "" if paper is None else f"{paper:.3f}",
                    "subspace_distance": f"{statistics.median(distance for _, distance in ends):.3g}" if ends else "",
                    "note": problems.get((method, optimizer), "" if ends else "not yet run"),
                }
            )
    common.write_csv(workdir / "comparison.csv", rows)

    seeds = ", ".join(map(str, config.seeds))
    print(f"\naxis alignment after {config.num_steps:,} steps (medians over seeds {seeds}):")
    print(f"  {'method':30} {'optimizer':10} {'ours':>9} {'paper':>7}  {'d_sub':>9}")
    for row in rows:
        values = f"{row['axis_alignment']:>9} {row['paper']:>7}  {row['subspace_distance']:>9}"
        print(f"  {row['method']:30} {row['optimizer']:10} {values}  {row['note']}")
    for path in [workdir / "comparison.csv", *pictures]:
        print(f"  wrote {path}")


if __name__ == "__main__":
    common.main(run, "mnist.py")
