"""Every picture, drawn from the files that runs leave.

Colour is the method, the same in every figure; a solid line is Nesterov, a dashed one Adam.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lae_jax.methods import METHODS
from lae_jax.training import History

COLOURS = dict(zip(METHODS, plt.get_cmap("tab10").colors, strict=False))  # type: ignore[attr-defined]
LINES = {"sgd": ":", "nesterov": "-", "adam": "--"}
# Below this a float32 run shows rounding only.
FLOOR = 1e-9


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG and let go of the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
    return path


def _legends(axes: Axes, methods: Sequence[str], optimizers: Sequence[str]) -> None:
    lines = [axes.plot([], [], color=COLOURS[name], label=METHODS[name].label)[0] for name in methods]
    styles = [axes.plot([], [], color="0.3", linestyle=LINES[name], label=name)[0] for name in optimizers]
    axes.figure.legend(handles=lines + styles, fontsize=9, loc="outside lower center", ncols=len(lines + styles))


def learning_dynamics(histories: Mapping[tuple[str, str], History], title: str) -> Figure:
    """Figure 2: both distances over steps, for histories by (method, optimizer)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    for (method, optimizer), history in histories.items():
        style = {"color": COLOURS[method], "linestyle": LINES[optimizer], "linewidth": 1.4}
        left.plot(history["step"], history["axis_alignment"], **style)
        right.plot(history["step"], np.maximum(history["subspace_distance"], FLOOR), **style)
    left.set(
        title="Distance to axis-aligned solution (Def. 7.1)", xlabel="step", ylabel="$d_{align}$", ylim=(-0.03, 1.03)
    )
    right.set(
        title="Distance to optimal subspace (Def. 7.2)",
        xlabel="step",
        ylabel=f"$d_{{sub}}$ (drawn at {FLOOR:g} where smaller)",
        yscale="log",
        ylim=(FLOOR / 2, 2),
    )
    methods = list(dict.fromkeys(method for method, _ in histories))
    _legends(left, methods, list(dict.fromkeys(optimizer for _, optimizer in histories)))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    return figure


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
    decoders: Mapping[str, Mapping[int, np.ndarray]], components: np.ndarray, image_shape: tuple[int, int], title: str
) -> Figure:
    """Figure 3: U^T W2 at a few steps, and the columns of the last W2 as images, a row for each method.

    `decoders[method][step]` is W2 (m, k), `components` U (m, k).
    """
    steps = sorted({step for row in decoders.values() for step in row})
    figure, grid = plt.subplots(
        len(decoders), len(steps) + 1, figsize=(2.2 * (len(steps) + 1), 2.25 * len(decoders)), squeeze=False
    )
    for axes, (method, row) in zip(grid, decoders.items(), strict=True):
        for axis, step in zip(axes, steps, strict=False):
            picture = axis.imshow(components.T @ row[step], cmap="gray", vmin=-1, vmax=1)
        axes[-1].imshow(image_grid(row[steps[-1]], image_shape, 5), cmap="gray", vmin=-1, vmax=1)
        axes[0].set_ylabel(METHODS[method].label.replace(" nested", "\nnested"), fontsize=10)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
    for axis, step in zip(grid[0], steps, strict=False):
        axis.set_title(f"$U^\\top W_2$, step {step:,}", fontsize=10)
    grid[0, -1].set_title(f"columns of $W_2$, step {steps[-1]:,}", fontsize=10, color="tab:blue")
    for axis in grid[:, -1]:
        for spine in axis.spines.values():
            spine.set(color="tab:blue", linewidth=2)
    figure.suptitle(title, y=1.0)
    figure.tight_layout()
    bar = figure.colorbar(picture, ax=grid[:, :-1], orientation="horizontal", fraction=0.015, pad=0.015, aspect=60)
    bar.set_label("entry of $U^\\top W_2$: $\\pm1$ on the diagonal and grey elsewhere is the ordered, aligned solution")
    return figure
