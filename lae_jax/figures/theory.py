"""Pictures of the theory: penalties between the paper's and the best, and every stationary point by loss and index."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lae_jax.methods import METHODS
from lae_jax.theory.tables import Row


def penalties(rows: Sequence[Row], targets: Sequence[float], title: str) -> Figure:
    """Steps to each alignment over the setting, a dot for each seed and a line through medians. Footnote 2.

    `rows` have `setting` from 0 (the paper's penalties) to 1 (the best), `predicted_rate` and `steps_TARGET`, empty
    where a target is missed. The dashed line is the number of steps by which the slowest mode of d_align,
    at twice the rate of the weights, falls by e near the optimum.
    """
    figure = Figure((7, 4.6), layout="constrained")
    axes = figure.subplots()
    settings = sorted({row["setting"] for row in rows})
    for index, target in enumerate(targets):
        name, colour = f"steps_{target:g}", f"C{index}"
        reached = [(row["setting"], row[name]) for row in rows if row[name] != ""]
        axes.plot(*zip(*reached, strict=True) if reached else ([], []), ".", color=colour, alpha=0.5)
        medians = [
            np.median([np.inf if row[name] == "" else row[name] for row in rows if row["setting"] == setting])
            for setting in settings
        ]
        shown = [(setting, median) for setting, median in zip(settings, medians, strict=True) if np.isfinite(median)]
        label = f"steps to $d_{{align}} \\leq {target:g}$"
        axes.plot(*zip(*shown, strict=True) if shown else ([], []), color=colour, label=label)
    predicted = {row["setting"]: 0.5 / row["predicted_rate"] for row in rows}
    axes.plot(
        settings, [predicted[setting] for setting in settings], "k--", label="predicted time constant at the optimum"
    )
    axes.set(
        yscale="log", xlabel="penalties: 0 the paper's, 1 of the smallest condition number", ylabel="steps", title=title
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return figure


def landscape(rows: Sequence[Row], title: str) -> Figure:
    """Every stationary point by its loss and Morse index, a panel for each objective; minima have a ring.

    `rows` have `objective`, `loss`, `index` and `active`, the number of latents that hold a component.
    """
    objectives = list(dict.fromkeys(row["objective"] for row in rows))
    figure = Figure((5.5 * len(objectives), 4.6), layout="constrained")
    panels = figure.subplots(1, len(objectives), squeeze=False)
    most = max(row["active"] for row in rows)
    colours = matplotlib.colormaps["viridis_r"].resampled(most + 1)
    for axes, objective in zip(panels[0], objectives, strict=True):
        points = [row for row in rows if row["objective"] == objective]
        loss, index = ([row[name] for row in points] for name in ("loss", "index"))
        drawn = axes.scatter(
            loss, index, c=[row["active"] for row in points], cmap=colours, vmin=-0.5, vmax=most + 0.5, s=30, alpha=0.8
        )
        minima = [row["loss"] for row in points if row["index"] == 0]
        axes.scatter(
            minima,
            [0] * len(minima),
            s=140,
            facecolors="none",
            edgecolors="tab:red",
            linewidths=2,
            label="local minima",
        )
        axes.set(
            title=f"{METHODS[objective].label}: {len(points)} points",
            xlabel="loss",
            ylabel="Morse index: directions that lead down",
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    figure.colorbar(drawn, ax=panels[0], label="latents that hold a component", ticks=range(most + 1))
    figure.suptitle(title)
    return figure
