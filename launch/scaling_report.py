"""What a sweep of latent sizes has shown: Figure 4, its table, and which learning rates won."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lae_jax.data.datasets import Dataset
from lae_jax.figures import paper as figures
from lae_jax.training.settings import Settings
from launch import common
from launch.configs import scaling as settings
from launch.scaling_prediction import predicted_steps
from launch.scaling_table import Table


def report(config: ConfigDict, workdir: Path, table: Table, sweep: Sequence[Settings], dataset: Dataset) -> None:
    """The figure, our medians beside the paper's points and the predicted steps, and the rates that won."""
    points = table.points()
    by_rate = {(run.method, run.optimizer, run.latent_dim, run.learning_rate): run for run in sweep}
    predicted: dict[tuple[str, str], dict[int, float]] = {}
    for (method, optimizer), curve in points.items():
        for size, point in curve.items():
            run = by_rate[method, optimizer, size, point.learning_rate]
            if (expected := predicted_steps(run, dataset, config.target)) is not None:
                predicted.setdefault((method, optimizer), {})[size] = expected
    paper = {pair: {size: [steps] for size, steps in curve.items()} for pair, curve in settings.PAPER.items()}
    ours = {pair: {size: point.steps for size, point in curve.items()} for pair, curve in points.items()}
    seeds = f"{len(config.seeds)} seed{'s' * (len(config.seeds) > 1)}"
    about = f"Synthetic data, m = {config.input_dim}, n = {config.num_samples}, {seeds}"
    figure = figures.scaling(ours, paper, predicted, config.num_steps, config.target, about)
    picture = figures.save(figure, workdir / "figure4.png")

    print(f"\nsteps until axis alignment {config.target:g} (median of {seeds}):")
    print(
        f"  {'method':30} {'optimizer':10} {'k':>5} {'lr':>8} {'ours':>8} {'range':>15} {'paper':>8} {'ratio':>6}"
        f" {'predicted_steps':>16} {'/ ours':>7}"
    )
    for (method, optimizer), curve in points.items():
        for size in config.latent_dims:
            if size not in curve:
                print(f"  {method:30} {optimizer:10} {size:5d}     not tried: a smaller k missed the target")
                continue
            rate, steps = curve[size]
            median, published = figures.median_steps(steps), settings.PAPER.get((method, optimizer), {}).get(size)
            there = median < float("inf")
            reached = [step for step in steps if step is not None]
            spread = f"{min(reached)}..{max(reached)}" if len(reached) > 1 else ""
            shown = f"{f'{median:.0f}' if there else 'missed':>8} {spread:>15}"
            ratio = f"{median / published:.2f}" if published and there else ""
            scale = predicted.get((method, optimizer), {}).get(size)
            foreseen = f"{scale:16.3g}" + (f" {scale / median:7.2f}" if there else "") if scale else ""
            print(
                f"  {method:30} {optimizer:10} {size:5d} {rate:8g} {shown} {published or '':>8} {ratio:>6} {foreseen}"
            )
    if tried := table.tried():
        _winners(tried, workdir / "learning_rates.csv")
    print(f"  wrote {workdir / 'scaling.csv'} and {picture}")


def _winners(tried: list[dict[str, Any]], path: Path) -> None:
    common.write_csv(path, tried)
    print("\nlearning rates that won, of those in learning_rates.csv:")
    for row in tried:
        if row["won"]:
            end = f"{row['median_steps']} steps" if row["median_steps"] else f"alignment {row['median_alignment']:.3g}"
            print(f"  {row['method']:30} {row['optimizer']:10} {row['latent_dim']:5d} {row['learning_rate']:>8} {end}")
