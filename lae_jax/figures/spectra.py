"""Condition numbers over the latent dimension: exact, by jax.hessian, and the bounds below them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lae_jax.figures.style import Style, colour, label
from lae_jax.theory.bounds import BOUNDS
from lae_jax.theory.tables import Row

PRINTED = {"non_uniform_l2": "l2_printed", "deterministic_nested_dropout": "nested_dropout_printed"}
# Bounds on the condition number within the span that hold for every penalties or prior, by objective.
EVERY_CHOICE = {
    objective: [
        name for name, bound in BOUNDS.items() if bound.objective == objective and bound.every_choice and not bound.tail
    ]
    for objective in PRINTED
}
# What is drawn of each setting: a marker and a line, so that a single k shows as well.
SETTINGS: dict[str, Style] = {
    "paper": {"marker": "o", "linestyle": "-", "label": "the paper's setting"},
    "default": {"marker": "o", "linestyle": "-", "label": "default setting"},
    "given": {"marker": "D", "linestyle": "-.", "label": "setting given"},
    "optimal": {"marker": "s", "linestyle": "--", "label": "best setting"},
}


def condition_numbers(rows: Sequence[Row]) -> Figure:
    """Rows of hessian.csv as a column for each spectrum; l2 above, nested dropout below, RAG's ratio in both.

    Crosses are condition numbers by jax.hessian. Latent sizes at which latents collapse have no bound.
    """
    spectra = list(dict.fromkeys(row["spectrum"] for row in rows))
    figure = Figure(figsize=(3.6 * len(spectra) + 1.5, 8), layout="constrained")
    grid = figure.subplots(2, len(spectra), squeeze=False, sharex="col")
    for axis, spectrum in zip(grid[0], spectra, strict=True):
        axis.set_title(f"spectrum: {spectrum}")
    for axes, objective in zip(grid, PRINTED, strict=True):
        axes[0].set_ylabel(f"{label(objective)}\ncondition number")
        for axis, spectrum in zip(axes, spectra, strict=True):
            _panel(axis, [row for row in rows if row["spectrum"] == spectrum], objective)
    lines = {str(line.get_label()): line for axis in grid.flat for line in axis.get_lines()}
    figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=4, fontsize=9)
    for axis in grid[-1]:
        axis.set_xlabel("latent dimension k")
    figure.suptitle(
        "Condition numbers at the optimum, of modes within the principal subspace; bounds: no choice does better"
    )
    return figure


def _panel(axis: Axes, rows: Sequence[Row], objective: str) -> None:
    own = [row for row in rows if row["objective"] == objective]
    name, shade = label(objective), colour(objective)
    for setting, style in SETTINGS.items():
        chosen = [row for row in own if row["setting"] == setting]
        _curve(axis, chosen, "condition_number", **style | {"color": shade, "label": f"{name}, {style['label']}"})
    rag = [row for row in rows if row["objective"] == "rag"]
    _curve(axis, rag, "condition_number", color=colour("rag"), marker="^", label="RAG, fastest over slowest rate")
    _curve(
        axis, [*own, *rag], "autodiff_condition_number", color="k", marker="x", linestyle="", markersize=8,
        label="by jax.hessian (RAG: its Jacobian)",
    )  # fmt: skip
    bounded = list({row["latent_dim"]: row for row in own if row[PRINTED[objective]] != ""}.values())
    sharpest = [{**row, "sharpest": max(float(row[name]) for name in EVERY_CHOICE[objective])} for row in bounded]
    printed = {"color": "k", "linestyle": ":", "marker": ".", "label": "lower bound as printed (Sections 4.3, 5)"}
    _curve(axis, bounded, PRINTED[objective], **printed)
    _curve(axis, sharpest, "sharpest", color="0.5", linestyle="-.", marker="v", label="sharpest lower bound here")
    axis.set(yscale="log", xticks=sorted({row["latent_dim"] for row in rows}))
    axis.grid(alpha=0.3)


def _curve(axis: Axes, rows: Sequence[Row], column: str, **style: Any) -> None:
    """The positive numbers of a column over k; a bound of 0 says nothing. `style`: keywords of matplotlib's `plot`."""
    points = [(row["latent_dim"], float(row[column])) for row in rows if row[column] != ""]
    kept = [(k, value) for k, value in points if 0 < value < np.inf]
    if kept:
        axis.plot(*zip(*kept, strict=True), **{"markersize": 5, **style})
