"""The picture of what a run has learned: its components, the variance they explain, how they came about."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lae_jax.components import Components
from lae_jax.figures.style import FLOOR
from lae_jax.training.loop import History

# More components than this are not shown one by one.
_SHOWN = 20
_ROW = 10


def component_report(
    found: Components, variances: np.ndarray, image_shape: tuple[int, int] | None, history: History, title: str
) -> Figure:
    """Components as images (or lines), the scree plot beside the true `variances`, and the alignment history."""
    shown = found.components[:_SHOWN]
    rows = -(-len(shown) // _ROW)
    figure = Figure((13, 4.6 + 1.5 * rows), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[0.4 + 1.5 * rows, 4.2])[:, 0]
    above.suptitle(
        f"first {len(shown)} of {len(found.components)} components, and the share of the total variance of each",
        fontsize=10,
    )
    grid = above.subplots(rows, _ROW, squeeze=False)
    for axis in grid.flat[len(shown) :]:
        axis.set_axis_off()
    for index, (axis, component) in enumerate(zip(grid.flat, shown, strict=False)):
        _draw(axis, component, image_shape)
        axis.set_title(f"{index + 1}: {found.explained_variance_ratio[index]:.2%}", fontsize=8)
    left, right = below.subplots(1, 2)
    _scree(left, found, variances)
    for name, colour in (("axis_alignment", "tab:blue"), ("ordered_alignment", "tab:orange"),
                         ("subspace_distance", "0.5")):  # fmt: skip
        right.plot(history["step"], np.maximum(history[name], FLOOR), color=colour, label=name.replace("_", " "))
    right.set(title="distance to the principal components", xlabel="step", yscale="log",
              ylabel=f"drawn at {FLOOR:g} where smaller")  # fmt: skip
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    figure.suptitle(title)
    return figure


def _draw(axis: Axes, component: np.ndarray, image_shape: tuple[int, int] | None) -> None:
    largest = np.abs(component).max()
    if image_shape:
        axis.imshow(component.reshape(image_shape), cmap="RdBu_r", vmin=-largest, vmax=largest)
    else:
        axis.plot(component, linewidth=0.8)
        axis.axhline(0, color="0.7", linewidth=0.6)
        axis.set_ylim(-1.05 * largest, 1.05 * largest)
    axis.set(xticks=[], yticks=[])


def _scree(axes: Axes, found: Components, variances: np.ndarray) -> None:
    count = len(found.components)
    places = np.arange(1, count + 1)
    beyond = variances[: count + max(5, count // 4)]
    axes.plot(np.arange(1, len(beyond) + 1), beyond, color="0.6", marker="o", markersize=7, label="exact PCA")
    axes.plot(places, found.explained_variance, "x", color="tab:red", label="this run")
    axes.set(title="variance along each component",
             xlabel="component", ylabel="variance", yscale="log")  # fmt: skip
