"""Figures 2 and 3: how the methods learn, over steps and in pictures of what they have learned."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lae_jax.figures.style import FLOOR, Colour, colour, label, line
from lae_jax.runs.dynamics import Learned, Pair, Reading
from lae_jax.training.loop import History


def learning_dynamics(
    found: Mapping[Pair, Learned], published: Mapping[Pair, Mapping[int, Reading]], title: str
) -> Figure:
    """Figure 2: both distances over steps, one panel under the other as the paper has them.

    Args:
        found: what each (method, optimizer) has recorded, in the order of the legend. The curve is that from the
            authors' draws, or of the first seed where there is none; the band is the range over our seeds.
        published: (method, optimizer) -> step -> values of both distances, drawn as markers.
        title: above both.

    Returns:
        The figure; values below 1e-9 are drawn there.
    """
    figure = Figure((12, 9), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    for (method, optimizer), curve in found.items():
        readings = published.get((method, optimizer), {})
        for place, (axes, metric) in enumerate(((upper, "axis_alignment"), (lower, "subspace_distance"))):
            _band(axes, curve.seeds, metric, colour(method))
            if curve.shown is not None:
                heights = np.maximum(curve.shown[metric], FLOOR)
                axes.plot(curve.shown["step"], heights, color=colour(method), linestyle=line(optimizer), linewidth=1.4)
            marks = {step: reading[place] for step, reading in readings.items() if reading[place] is not None}
            style = {"color": colour(method), "markersize": 7, "markerfacecolor": "none", "linestyle": ""}
            axes.plot(list(marks), list(marks.values()), marker=_marker(optimizer), **style)
    upper.set(ylabel="distance to axis-aligned solution, $d_{align}$ (Def. 7.1)", ylim=(-0.05, 1.04))
    lower.set(ylabel="distance to optimal subspace, $d_{sub}$ (Def. 7.2)", yscale="log", ylim=(4e-8, 2), xlabel="step")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    figure.legend(handles=_legend(found, published), loc="outside right upper", fontsize=9)
    figure.suptitle(title)
    return figure


def _band(axes: Axes, histories: Sequence[History], metric: str, shade: Colour) -> None:
    """The range over histories, as far as the shortest goes; one alone is a line as faint."""
    if histories:
        length = min(len(history["step"]) for history in histories)
        values = np.maximum([history[metric][:length] for history in histories], FLOOR)
        steps = histories[0]["step"][:length]
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=shade, alpha=0.2, linewidth=0.8)


def _legend(found: Mapping[Pair, Learned], published: Mapping[Pair, Mapping[int, Reading]]) -> list[Line2D | Patch]:
    optimizers = dict.fromkeys(optimizer for _, optimizer in found)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour(name), label=label(name)) for name in dict.fromkeys(method for method, _ in found)
    ]
    handles += [Line2D([], [], color="0.3", linestyle=line(name), label=name) for name in optimizers]
    starts = "the authors' initial weights" if any(each.authors for each in found.values()) else "the first seed"
    handles.append(Line2D([], [], color="0.3", linewidth=2.5, label=f"from {starts}"))
    if seeds := max((len(each.seeds) for each in found.values()), default=0):
        handles.append(Patch(color="0.3", alpha=0.3, label=f"range over {seeds} seed{'s' * (seeds > 1)} of ours"))
    for name in dict.fromkeys(optimizer for _, optimizer in published):
        mark = Line2D([], [], color="0.3", linestyle="", marker=_marker(name), label=f"published curve, {name}")
        mark.set_markerfacecolor("none")
        handles.append(mark)
    return handles


def _marker(optimizer: str) -> str:
    return {"nesterov": "s", "adam": "D"}.get(optimizer, "o")


def image_grid(columns: np.ndarray, image_shape: tuple[int, int], width: int) -> np.ndarray:
    """Columns (m, k) as one picture of k tiles, `width` in a row, in units of the largest entry of all."""
    count = columns.shape[1]
    tiles = (columns / max(np.abs(columns).max(), np.finfo(float).tiny)).T.reshape(count, *image_shape)
    rows = -(-count // width)
    tiles = np.concatenate([tiles, np.zeros((rows * width - count, *image_shape))])
    return (
        tiles.reshape(rows, width, *image_shape).swapaxes(1, 2).reshape(rows * image_shape[0], width * image_shape[1])
    )


def learned_decoders(
    decoders: Mapping[str, Mapping[int, np.ndarray]],
    components: np.ndarray,
    image_shape: tuple[int, int] | None,
    title: str,
) -> Figure:
    """Figure 3: U^T W2 at a few steps, and the columns of the last W2 as images, a row for each method.

    Args:
        decoders: method -> step -> W2 (m, k); rows are in this order.
        components: U (m, k), with the signs that the picture is to have.
        image_shape: of a sample; None leaves the images out.
        title: above all.
    """
    steps = sorted({step for row in decoders.values() for step in row})
    width = len(steps) + (image_shape is not None)
    figure = Figure((2.2 * width, 2.25 * len(decoders) + 0.8), layout="constrained")
    grid = figure.subplots(len(decoders), width, squeeze=False)
    for axes, (method, row) in zip(grid, decoders.items(), strict=True):
        for axis, step in zip(axes, steps, strict=False):
            picture = axis.imshow(components.T @ row[step], cmap="gray", vmin=-1, vmax=1)
        if image_shape is not None:
            axes[-1].imshow(image_grid(row[steps[-1]], image_shape, 5), cmap="gray", vmin=-1, vmax=1, aspect="auto")
            axes[-1].set_box_aspect(1)
            for spine in axes[-1].spines.values():
                spine.set(color="tab:blue", linewidth=2)
        axes[0].set_ylabel(label(method).replace(" nested", "\nnested"), fontsize=10)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
    for axis, step in zip(grid[0], steps, strict=False):
        axis.set_title(f"$U^\\top W_2$, step {step:,}", fontsize=10)
    if image_shape is not None:
        grid[0, -1].set_title(f"columns of $W_2$, step {steps[-1]:,}", fontsize=10, color="tab:blue")
    figure.suptitle(title)
    bar = figure.colorbar(picture, ax=grid, orientation="horizontal", fraction=0.015, aspect=60)
    bar.set_label("entry of $U^\\top W_2$: $\\pm1$ on the diagonal and grey elsewhere is the ordered, aligned solution")
    return figure
