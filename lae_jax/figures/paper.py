"""Every picture, drawn from the files that runs leave.

Colour is the method, the same in every figure; a solid line is Nesterov, a dashed one Adam.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lae_jax.methods import METHODS
from lae_jax.runs.storage import write_atomically
from lae_jax.theory.bounds import BOUNDS
from lae_jax.training.loop import History

# Ten strong colours in the order of the table, then ten pale ones.
_TAB20 = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
COLOURS = dict(zip(METHODS, _TAB20[::2] + _TAB20[1::2], strict=False))
# Bounds on the condition number within the span that hold for every penalties or prior, by objective.
EVERY_CHOICE = {
    objective: [
        name for name, bound in BOUNDS.items() if bound.objective == objective and bound.every_choice and not bound.tail
    ]
    for objective in ("non_uniform_l2", "deterministic_nested_dropout")
}
LINES = {"sgd": ":", "nesterov": "-", "adam": "--"}
# Below this a float32 run shows rounding only.
FLOOR = 1e-9


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG and let go of the figure."""
    content = io.BytesIO()
    figure.savefig(content, dpi=150, bbox_inches="tight")
    plt.close(figure)
    write_atomically(path, content.getvalue())
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


def median_steps(steps: Sequence[int | None]) -> float:
    """The (upper) median over seeds, where None is never; inf where half of them or more never got there."""
    return sorted(float("inf") if step is None else float(step) for step in steps)[len(steps) // 2]


Points = Mapping[tuple[str, str], Mapping[int, Sequence[int | None]]]


def scaling(
    points: Points,
    paper: Points,
    predicted: Mapping[tuple[str, str], Mapping[int, float]],
    num_steps: int,
    target: float,
    title: str,
) -> Figure:
    """Figure 4: steps to the target against k; a panel for each optimizer, `paper` drawn faintly beside.

    All map (method, optimizer) -> k -> steps: of each seed, None where it missed the target; or `predicted`.
    """
    optimizers = list(dict.fromkeys(optimizer for _, optimizer in points))
    methods = [method for method in METHODS if any(method == name for name, _ in points)]
    figure, grid = plt.subplots(
        1, len(optimizers), figsize=(6.2 * len(optimizers), 5), sharey=True, squeeze=False, layout="constrained"
    )
    sizes = sorted({size for curve in points.values() for size in curve})
    for axes, optimizer in zip(grid[0], optimizers, strict=True):
        axes.axhline(num_steps, color="0.5", linewidth=0.8, linestyle=":")
        for row, method in enumerate(methods):
            colour = COLOURS[method]
            medians = _median_curve(paper.get((method, optimizer), {}), sizes)
            axes.plot(*medians, color=colour, alpha=0.3, linewidth=4, marker="s", markersize=8)
            foreseen = predicted.get((method, optimizer), {})
            axes.plot(list(foreseen), list(foreseen.values()), color=colour, linewidth=1.2, linestyle=":", marker="+")
            curve = points.get((method, optimizer), {})
            axes.plot(*_median_curve(curve, sizes), color=colour, linewidth=1.6, marker="o", markersize=5)
            for size, steps in curve.items():
                reached = [step for step in steps if step is not None]
                if len(reached) > 1:
                    axes.vlines(size, min(reached), max(reached), color=colour, linewidth=1)
                if median_steps(steps) > num_steps:
                    # Above the last step, and apart from each other: these points have no height.
                    height = num_steps * 1.15 ** (row + 1)
                    axes.plot(size, height, color=colour, marker="x", markersize=7, markeredgewidth=2)
        axes.set(title=optimizer, xlabel="latent dimension k", xscale="log", yscale="log")
        axes.set_ylim(top=num_steps * 1.15 ** (len(methods) + 2))  # predictions may be far above
        axes.set_xticks(sizes, [str(size) for size in sizes], rotation=60)  # 400 and 500 lie close
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel(f"steps until $d_{{align}} \\leq {target:g}$")
    lines = [plt.Line2D([], [], color=COLOURS[name], marker="o", label=METHODS[name].label) for name in methods]
    prediction = (
        f"slowest rotations at the optimum,\n$\\mathrm{{mean}}_i\\,\\max_j\\,\\rho_{{ij}}^{{\\,2t}} = {target:g}$"
    )
    kinds: dict[str, dict[str, Any]] = {
        "this code (median; bar: range over seeds)": {"marker": "o", "linewidth": 1.6},
        "published figure": {"marker": "s", "linewidth": 4, "markersize": 8, "alpha": 0.3},
        f"predicted: {prediction} (may lie above the axis)": {"marker": "+", "linewidth": 1.2, "linestyle": ":"},
        f"target missed in {num_steps:,} steps": {"marker": "x", "linestyle": "", "markeredgewidth": 2},
    }
    lines += [plt.Line2D([], [], color="0.3", label=label, **style) for label, style in kinds.items()]
    figure.legend(handles=lines, fontsize=9, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure


def _median_curve(curve: Mapping[int, Sequence[int | None]], sizes: Sequence[int]) -> tuple[list[int], list[float]]:
    """Sizes and medians, of the sizes shown at which there is a median."""
    medians = {size: median_steps(steps) for size, steps in sorted(curve.items()) if size in sizes}
    reached = {size: steps for size, steps in medians.items() if steps < float("inf")}
    return list(reached), list(reached.values())


def condition_numbers(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """True condition numbers over k and the bounds below them, from the rows of hessian.csv.

    A column for each spectrum; l2 above, nested dropout below, RAG's ratio of rates in both.
    """
    spectra = list(dict.fromkeys(row["spectrum"] for row in rows))
    printed = {"non_uniform_l2": "l2_printed", "deterministic_nested_dropout": "nested_dropout_printed"}
    size = (3.6 * len(spectra) + 1.5, 8)
    figure, grid = plt.subplots(2, len(spectra), figsize=size, squeeze=False, sharex=True, layout="constrained")
    for axis, spectrum in zip(grid[0], spectra, strict=True):
        axis.set_title(f"spectrum: {spectrum}")
    for axes, (objective, bound) in zip(grid, printed.items(), strict=True):
        axes[0].set_ylabel(f"{METHODS[objective].label}\ncondition number at the optimum")
        for axis, spectrum in zip(axes, spectra, strict=True):
            here = [row for row in rows if row["spectrum"] == spectrum]
            own = [row for row in here if row["objective"] == objective]
            bounded = {row["latent_dim"]: row for row in own if row[bound] != ""}.values()
            label, colour = METHODS[objective].label, COLOURS[objective]
            for kept, column, style in (
                (
                    [row for row in own if row["setting"] == "paper"],
                    "condition_number",
                    {"marker": "o", "label": label},
                ),
                (
                    [row for row in own if row["setting"] == "optimal"],
                    "condition_number",
                    {"marker": "s", "linestyle": "--", "label": f"{label}, best setting"},
                ),
                (bounded, bound, {"color": "k", "linestyle": ":", "label": "bound as printed (Section 4.3, 5)"}),
                (bounded, "sharpest", {"color": "0.5", "linestyle": "-.", "label": "sharpest bound here"}),
                (
                    [row for row in here if row["objective"] == "rag"],
                    "condition_number",
                    {"color": COLOURS["rag"], "marker": "^", "label": "RAG, ratio of its rates"},
                ),
            ):
                heights = [
                    max(float(row[name]) for name in EVERY_CHOICE[objective]) if column == "sharpest" else row[column]
                    for row in kept
                ]
                positive = [height if height > 0 else np.nan for height in heights]  # a bound of 0 says nothing
                axis.plot([row["latent_dim"] for row in kept], positive, **{"color": colour, "markersize": 5, **style})
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
    figure = plt.figure(figsize=(13, 5.8), layout="constrained")
    colours = dict(zip(paths, ("tab:red", COLOURS["rag"]), strict=True))
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
