"""Figure 4: steps to an axis-aligned solution against the latent size. Its table, and its picture.

The published points, the runs from the authors' draws (the same initial weights and samples) as a curve over them,
and runs from other initial weights as a band around it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lae_jax.figures.style import Colour, Style, colour
from lae_jax.methods import METHODS
from lae_jax.runs.experiments import best_rate, median_alignment, median_steps, steps_to

Row = Mapping[str, str]
# (method, optimizer) -> k -> steps
Curves = Mapping[tuple[str, str], Mapping[int, float]]
# (method, optimizer, k, learning rate) -> steps
Predictions = Mapping[tuple[str, str, int, str], float | None]


def _by_point(rows: Sequence[Row]) -> dict[tuple[str, str, int], dict[str, list[Row]]]:
    """(method, optimizer, k) -> learning rate -> rows of runs.csv."""
    found: dict[tuple[str, str, int], dict[str, list[Row]]] = {}
    for row in rows:
        point = row["method"], row["optimizer"], int(row["latent_dim"])
        found.setdefault(point, {}).setdefault(row["learning_rate"], []).append(row)
    return found


def table(rows: Sequence[Row], published: Curves, predicted: Predictions, target: float) -> list[dict[str, str]]:
    """A row of scaling.csv for each method, optimizer and k, at the best of the learning rates tried.

    Args:
        rows: of runs.csv.
        published: steps as read off the published figure.
        predicted: steps by `lae_jax.theory.rates.predicted_steps`.
        target: axis alignment to reach.

    Returns:
        Rows with `published`; `authors_draws`, steps from the authors' initial weights, and their `ratio` to
        the published ones; over `seeds` other initial weights the `median`, `lowest` and `highest` steps; `predicted`.
        Steps are inf where the target was missed, and empty where nothing was run or is known.
    """
    made = []
    for (method, optimizer, size), rates in _by_point(rows).items():
        rate = best_rate(rates, (target,))
        drawn = [row for row in rates[rate] if row["init"] == "authors"]
        seeds = [row for row in rates[rate] if row["init"] != "authors"]
        steps = [steps_to(row, target) for row in seeds]
        known = published.get((method, optimizer), {}).get(size)
        authors = steps_to(drawn[0], target) if drawn else None
        cells: dict[str, str | float | None] = {
            "method": method,
            "optimizer": optimizer,
            "latent_dim": size,
            "learning_rate": rate,
            "published": known,
            "authors_draws": authors,
            "ratio": round(authors / known, 3) if authors and known else None,
            "seeds": len(seeds),
            "median": median_steps(seeds, target) if seeds else None,
            "lowest": min(steps, default=None),
            "highest": max(steps, default=None),
            "predicted": predicted.get((method, optimizer, size, rate)),
        }
        made.append({name: "" if value is None else _shown(value) for name, value in cells.items()})
    return made


def _shown(value: str | float) -> str:
    """As text: steps are whole numbers but those that are predicted."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def tried(rows: Sequence[Row], target: float) -> list[dict[str, str]]:
    """A row of learning_rates.csv for each method, optimizer, k and rate, where several rates were tried."""
    found = []
    for (method, optimizer, size), rates in _by_point(rows).items():
        best = best_rate(rates, (target,))
        for rate, runs in rates.items():
            if len(rates) > 1:
                found.append(
                    {
                        "method": method,
                        "optimizer": optimizer,
                        "latent_dim": str(size),
                        "learning_rate": rate,
                        "median_steps": f"{median_steps(runs, target):g}",
                        "median_alignment": f"{median_alignment(runs):.6g}",
                        "won": "yes" if rate == best else "",
                    }
                )
    return found


def figure(rows: Sequence[Row], num_steps: int, target: float, title: str) -> Figure:
    """Steps to the target against k from the rows of `table`; a panel for each optimizer.

    Where a method was not run from the authors' draws, the median over seeds takes the place of their curve.
    """
    optimizers = list(dict.fromkeys(row["optimizer"] for row in rows))
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    size = (6.2 * len(optimizers), 5.4)
    picture = Figure(size, layout="constrained")
    grid = picture.subplots(1, len(optimizers), sharey=True, squeeze=False)
    sizes = sorted({int(row["latent_dim"]) for row in rows})
    for axes, optimizer in zip(grid[0], optimizers, strict=True):
        axes.axhline(num_steps, color="0.5", linewidth=0.8, linestyle=":")
        for place, method in enumerate(methods):
            own = [row for row in rows if (row["method"], row["optimizer"]) == (method, optimizer)]
            _draw(axes, sorted(own, key=lambda row: int(row["latent_dim"])), colour(method))
            for row in own:
                if (row["authors_draws"] or row["median"]) == "inf":
                    # Above the last step, and apart from each other: these points have no height.
                    height = num_steps * 1.15 ** (place + 1)
                    axes.plot(int(row["latent_dim"]), height, "x", color=colour(method), markeredgewidth=2)
        axes.set(title=optimizer, xlabel="latent dimension k", xscale="log", yscale="log")
        axes.set_ylim(top=num_steps * 1.15 ** (len(methods) + 2))  # predictions may be far above
        axes.set_xticks(sizes, [str(each) for each in sizes], rotation=60)  # 400 and 500 lie close
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel(f"steps until $d_{{align}} \\leq {target:g}$")
    lines = [Line2D([], [], color=colour(name), marker="o", label=METHODS[name].label) for name in methods]
    prediction = f"$\\mathrm{{mean}}_i\\,\\max_j\\,\\rho_{{ij}}^{{\\,2t}} = {target:g}$"
    kinds: dict[str, Style] = {
        "published figure": {"marker": "s", "linestyle": "", "markersize": 10, "alpha": 0.3},
        "this code from the authors' draws\n(nested dropout's masks cannot be drawn again: median)": {"marker": "o"},
        "other initial weights (range; points: median)": {"linewidth": 8, "alpha": 0.2, "marker": "."},
        f"predicted: slowest rotations at the optimum,\n{prediction} (may lie above the axis)": {
            "marker": "+", "linewidth": 1, "linestyle": ":",
        },
        f"target missed in {num_steps:,} steps": {"marker": "x", "linestyle": "", "markeredgewidth": 2},
    }  # fmt: skip
    lines += [Line2D([], [], color="0.3", label=label, **style) for label, style in kinds.items()]
    picture.legend(handles=lines, fontsize=9, loc="outside lower center", ncols=4)
    picture.suptitle(title)
    return picture


def _draw(axes: Axes, rows: Sequence[Row], colour: Colour) -> None:
    """One method under one optimizer."""

    def curve(*columns: str) -> tuple[list[int], list[float]]:
        """Sizes, and the first of these columns that is not empty, where it is a number of steps."""
        first = {int(row["latent_dim"]): next(filter(None, (row[name] for name in columns)), "") for row in rows}
        there = {size: float(text) for size, text in first.items() if text and np.isfinite(float(text))}
        return list(there), list(there.values())

    axes.plot(*curve("published"), color=colour, alpha=0.3, linestyle="", marker="s", markersize=10)
    axes.plot(*curve("predicted"), color=colour, linewidth=1, linestyle=":", marker="+")
    sizes, lowest = curve("lowest")
    highest = {int(row["latent_dim"]): float(row["highest"]) for row in rows if row["highest"]}
    top = axes.get_ylim()[1]
    axes.fill_between(sizes, lowest, [min(highest[size], top) for size in sizes], color=colour, alpha=0.2, linewidth=0)
    axes.vlines(sizes, lowest, [min(highest[size], top) for size in sizes], color=colour, alpha=0.3, linewidth=5)
    axes.plot(*curve("median"), color=colour, linestyle="", marker=".", markersize=5)
    axes.plot(*curve("authors_draws", "median"), color=colour, linewidth=1.6, marker="o", markersize=5)
