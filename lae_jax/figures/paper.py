"""Figure 1 of the paper."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lae_jax.figures.style import colour
from lae_jax.figures.style import save as save


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
    # matplotlib does not say that such axes are those of mpl_toolkits.mplot3d.
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
