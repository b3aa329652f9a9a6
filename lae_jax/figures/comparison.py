"""Pictures of `launch.compare`, `launch.minibatch` and `launch.limits`, drawn from the rows of their tables."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lae_jax.figures.style import colour, label

Row = Mapping[str, str]


def _number(text: str) -> float:
    """A cell as a number; inf where it is empty, because the target was missed."""
    return float(text) if text else float("inf")


def _problems(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Latent size -> method -> row."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["latent_dim"], {})[row["method"]] = row
    return found


def steps_to_targets(rows: Sequence[Row], targets: Sequence[float]) -> Figure:
    """Steps to each alignment, a line for each rule and a panel for each latent size; rows of one data set.

    Rules are sorted by the panel with the most latents, fastest first; a rule that missed every target has a cross.
    """
    problems = _problems(rows)
    hardest = list(problems.values())[-1]

    def slowness(method: str) -> tuple[float, ...]:
        return tuple(_number(hardest[method][f"steps_{target:g}"]) for target in reversed(targets))

    methods = sorted(hardest, key=slowness)
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.1, 0.95, len(targets)))
    size = (max(3.1 * len(problems), 5.5) + 2.2, 0.3 * len(methods) + 1.7)
    figure = Figure(size, layout="constrained")
    grid = figure.subplots(1, len(problems), sharey=True, squeeze=False)
    for axis, (latent_dim, by_method) in zip(grid[0], problems.items(), strict=True):
        for height, method in enumerate(methods):
            steps = [_number(by_method[method][f"steps_{target:g}"]) for target in targets]
            reached = [step for step in steps if np.isfinite(step)]
            axis.plot(reached, [height] * len(reached), color="0.75", linewidth=1, zorder=1)
            axis.scatter(reached, [height] * len(reached), c=shades[: len(reached)], s=42, zorder=2)
            if len(reached) < len(targets):
                axis.plot(float(by_method[method]["num_steps"]), height, "x", color="tab:red", markersize=6)
        axis.axvline(float(next(iter(by_method.values()))["num_steps"]), color="tab:red", linewidth=0.6, linestyle=":")
        axis.set(title=f"k = {latent_dim}", xlabel="steps", xscale="log")
        axis.grid(alpha=0.3)
    grid[0, 0].set_yticks(range(len(methods)), [label(method) for method in methods])
    grid[0, 0].invert_yaxis()
    dots = [
        Line2D([], [], color=shade, marker="o", linestyle="", label=f"$d_{{align}} \\leq {target:g}$")
        for shade, target in zip(shades, targets, strict=True)
    ]
    missed = Line2D([], [], color="tab:red", marker="x", linestyle="", label="last targets missed in so many steps")
    figure.legend(handles=[*dots, missed], loc="outside lower center", ncols=len(dots) + 1, fontsize=9)
    row = rows[0]
    figure.suptitle(
        f"{row['dataset']}: steps to an axis-aligned solution, {row['optimizer']}, best learning rate of one grid"
        f" (median of {row['seeds']} seed{'s' * (row['seeds'] != '1')})"
    )
    return figure


def robustness(rows: Sequence[Row], target: float) -> Figure:
    """Steps to a target over a grid of learning rates, a row for each rule; grey where it was missed."""
    problems: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        problems.setdefault(row["latent_dim"], {}).setdefault(row["method"], []).append(row)
    column = f"steps_{target:g}"

    def fraction(method: str) -> float:
        return sum(bool(row[column]) for by_method in problems.values() for row in by_method[method])

    methods = sorted(next(iter(problems.values())), key=fraction, reverse=True)
    size = (max(3.1 * len(problems), 4) + 3.4, 0.3 * len(methods) + 1.8)
    figure = Figure(size, layout="constrained")
    grid = figure.subplots(1, len(problems), sharey=True, squeeze=False)
    colours = matplotlib.colormaps["viridis_r"].with_extremes(bad="0.88")
    for axis, (latent_dim, by_method) in zip(grid[0], problems.items(), strict=True):
        steps = np.array([[_number(row[column]) for row in by_method[method]] for method in methods])
        heights = np.ma.masked_invalid(np.log10(steps))
        picture = axis.imshow(heights, aspect="auto", cmap=colours, vmin=1, vmax=4)
        rates = [f"{float(row['learning_rate']):.2g}" for row in by_method[methods[0]]]
        axis.set_xticks(range(len(rates)), rates, rotation=60, fontsize=8)
        axis.set(title=f"k = {latent_dim}", xlabel="learning rate $\\times\\ \\sigma_1^2$")
        right = axis.secondary_yaxis("right")
        right.set_yticks(range(len(methods)), [f"{100 * np.isfinite(row).mean():.0f} %" for row in steps], fontsize=8)
        right.tick_params(length=0)
    grid[0, 0].set_yticks(range(len(methods)), [label(method) for method in methods])
    bar = figure.colorbar(picture, ax=grid[0, -1], label=f"steps until $d_{{align}} \\leq {target:g}$", pad=0.12)
    bar.set_ticks([1, 2, 3, 4], labels=["10", "100", "1,000", "10,000"])
    figure.suptitle(
        f"{rows[0]['dataset']}: which learning rates work (grey: target missed or diverged; right: fraction that works)"
    )
    return figure


def minibatches(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
    """Alignment with the components of all the data over steps on mini-batches, for (steps, alignment) by method."""
    figure = Figure((8.5, 4.8), layout="constrained")
    axis = figure.subplots()
    for method, (steps, alignment) in curves.items():
        axis.plot(steps, alignment, color=colour(method), linewidth=1.5, label=label(method))
    axis.set(xlabel="step", ylabel="$d_{align}$", yscale="log", title=title)
    axis.grid(alpha=0.3, which="both")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    return figure


def ratios_to_limit(rows: Sequence[Row], labels: Mapping[str, str]) -> Figure:
    """Distance to the components over that of the limit, a panel for each population and a dot for each length.

    `labels` are what the rules are called.
    """
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        panels.setdefault((row["population"], row["latent_dim"]), []).append(row)
    rules = list(dict.fromkeys(row["rule"] for row in rows if row["rule"] != "limit"))
    figure = Figure((3.4 * len(panels) + 2.2, 0.35 * len(rules) + 1.6), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for axis, ((population, latent_dim), here) in zip(grid[0], panels.items(), strict=True):
        lengths = list(dict.fromkeys(row["num_batches"] for row in here))
        for length, marker in zip(lengths, "osD^v" * len(lengths), strict=False):
            shown = [row for row in here if row["num_batches"] == length and row["rule"] in rules]
            ratios, places = [float(row["ratio"]) for row in shown], [rules.index(row["rule"]) for row in shown]
            axis.plot(ratios, places, marker, markersize=6, label=f"{int(length):,} batches", alpha=0.8)
        axis.axvline(1, color="0.4", linewidth=1)
        axis.set(title=f"{population}, k = {latent_dim}", xlabel="axis alignment / that of the limit", xscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    grid[0, 0].set_yticks(range(len(rules)), [labels[rule] for rule in rules])
    grid[0, 0].invert_yaxis()
    figure.suptitle("1: as good as the eigenvectors of the covariance of the same samples; lower is better", size=10)
    return figure
