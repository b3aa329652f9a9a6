"""Figure 1 and the condition numbers of the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lae_jax.figures.style import colour, label
from lae_jax.figures.style import save as save
from lae_jax.theory.bounds import BOUNDS

# Bounds on the condition number within the span that hold for every penalties or prior, by objective.
EVERY_CHOICE = {
    objective: [
        name for name, bound in BOUNDS.items() if bound.objective == objective and bound.every_choice and not bound.tail
    ]
    for objective in ("non_uniform_l2", "deterministic_nested_dropout")
}


def condition_numbers(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """True condition numbers over k and the bounds below them, from the rows of hessian.csv.

    A column for each spectrum; l2 above, nested dropout below, RAG's ratio of rates in both.
    """
    spectra = list(dict.fromkeys(row["spectrum"] for row in rows))
    printed = {"non_uniform_l2": "l2_printed", "deterministic_nested_dropout": "nested_dropout_printed"}
    size = (3.6 * len(spectra) + 1.5, 8)
    figure = Figure(size, layout="constrained")
    grid = figure.subplots(2, len(spectra), squeeze=False, sharex=True)
    for axis, spectrum in zip(grid[0], spectra, strict=True):
        axis.set_title(f"spectrum: {spectrum}")
    for axes, (objective, bound) in zip(grid, printed.items(), strict=True):
        axes[0].set_ylabel(f"{label(objective)}\ncondition number at the optimum")
        for axis, spectrum in zip(axes, spectra, strict=True):
            here = [row for row in rows if row["spectrum"] == spectrum]
            own = [row for row in here if row["objective"] == objective]
            bounded = {row["latent_dim"]: row for row in own if row[bound] != ""}.values()
            name, shade = label(objective), colour(objective)
            for kept, column, style in (
                (
                    [row for row in own if row["setting"] == "paper"],
                    "condition_number",
                    {"marker": "o", "label": name},
                ),
                (
                    [row for row in own if row["setting"] == "optimal"],
                    "condition_number",
                    {"marker": "s", "linestyle": "--", "label": f"{name}, best setting"},
                ),
                (bounded, bound, {"color": "k", "linestyle": ":", "label": "bound as printed (Section 4.3, 5)"}),
                (bounded, "sharpest", {"color": "0.5", "linestyle": "-.", "label": "sharpest bound here"}),
                (
                    [row for row in here if row["objective"] == "rag"],
                    "condition_number",
                    {"color": colour("rag"), "marker": "^", "label": "RAG, ratio of its rates"},
                ),
            ):
                heights = [
                    max(float(row[name]) for name in EVERY_CHOICE[objective]) if column == "sharpest" else row[column]
                    for row in kept
                ]
                positive = [height if height > 0 else np.nan for height in heights]  # a bound of 0 says nothing
                axis.plot([row["latent_dim"] for row in kept], positive, **{"color": shade, "markersize": 5, **style})
            sizes = sorted({row["latent_dim"] for row in here})
            axis.set(yscale="log", xlabel="latent dimension k", xticks=sizes)
            axis.grid(alpha=0.3)
    unique = {line.get_label(): line for axis in grid[:, 0] for line in axis.get_lines()}
    figure.legend(handles=list(unique.values()), loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle("Condition numbers within the principal subspace, and lower bounds for every penalties or prior")
    return figure


def loss_surface(
    axis: np.ndarray,
    heights: np.ndarray,
    paths: Mapping[str, np.ndarray],
    values: Mapping[str, np.ndarray],
    optimum: float,
    title: str,
) -> Figure:
    """Figure 1: loss above its minimum, heights[j, i] at (axis[i], axis[j]), with paths (steps + 1, 2) on it."""
    figure = Figure((13, 5.8), layout="constrained")
    colours = dict(zip(paths, ("tab:red", colour("rag")), strict=True))
    height = np.log10(np.maximum(heights, 1e-3))
    flat = figure.add_subplot(1, 2, 1)
    filled = flat.contourf(axis, axis, height, levels=24, cmap="viridis")
    figure.colorbar(filled, ax=flat, label="log10 of (loss - minimum)")
    for name, path in paths.items():
        flat.plot(*path.T, color=colours[name], linewidth=2, label=f"{name}, {len(path) - 1} steps")
        flat.plot(*path[:: max((len(path) - 1) // 8, 1)].T, "o", color=colours[name], markersize=4)
    flat.plot(*next(iter(paths.values()))[0], "wo", markeredgecolor="k", label="start")
    flat.plot([1, -1], [0, 0], "w*", markersize=14, markeredgecolor="k", label="optimum, up to signs")
    flat.set(xlabel=r"$\alpha\,\cos\theta$", ylabel=r"$\alpha\,\sin\theta$", aspect="equal", title="contours")
    flat.legend(
        loc="lower right", fontsize=8, title="RAG descends Eq. (1), whose optimum has no shrinkage", title_fontsize=8
    )
    solid: Any = figure.add_subplot(1, 2, 2, projection="3d", computed_zorder=False)
    across, along = np.meshgrid(axis, axis)
    bowl = np.where(np.hypot(across, along) <= axis[-1] - 0.1, heights, np.nan)
    solid.plot_surface(across, along, bowl, cmap="viridis", alpha=0.85, linewidth=0, rcount=90, ccount=90, zorder=1)
    for name, path in paths.items():
        solid.plot(*path.T, values[name] - optimum + 0.02, color=colours[name], linewidth=2, zorder=5)
    solid.set(xlabel=r"$\alpha\,\cos\theta$", ylabel=r"$\alpha\,\sin\theta$", zlabel="loss - minimum", title="surface")
    solid.view_init(elev=48, azim=-65)
    figure.suptitle(f"Loss of Eq. (3) on a plane through its optimum: steep across the ring, flat along it\n{title}")
    return figure
