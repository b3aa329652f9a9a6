"""What every picture shares: the colour of a method, the line of an optimiser, and how a picture is saved.

Colour is the method, the same in every figure; the six methods of the paper have its colours. No global state of
matplotlib is read or changed: figures are made by `matplotlib.figure.Figure`, which needs no display.
"""

import colorsys
import io
import zlib
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.runs.storage import write_atomically

Colour = tuple[float, float, float] | str
Line = Any  # of matplotlib's `linestyle`: a name out of its own list, or an offset and dashes
Style = dict[str, Any]  # keywords of matplotlib's functions, each of a type of its own

# As in the published figures.
_PUBLISHED = {
    "uniform_l2": "0.55",
    "non_uniform_l2": "tab:blue",
    "rag": "tab:green",
    "nested_dropout": "tab:red",
    "deterministic_nested_dropout": "tab:orange",
    "linear_vae": "tab:purple",
}
# What is left of matplotlib's twenty, strong colours before pale ones.
_OTHERS = ("tab:brown", "tab:pink", "tab:olive", "tab:cyan", *matplotlib.colormaps["tab20"].colors[1::2])  # type: ignore[attr-defined] # of listed maps alone
# As in the published figures, and two more.
_LINES = {"nesterov": "-", "adam": "--", "sgd": ":"}
# Below this a float32 run shows rounding only.
FLOOR = 1e-9


def _distinct(number: int) -> Colour:
    """The colour at this place of an endless row in which neighbours are far apart: hues by the golden ratio."""
    return colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.9 - 0.4 * (number % 2), 0.85)


def colour(method: str) -> Colour:
    """The colour of a method: of the paper, of METHODS (rows of one's own among them), or any other name."""
    if method in _PUBLISHED:
        return _PUBLISHED[method]
    others = [name for name in METHODS if name not in _PUBLISHED]
    if method not in others:
        return _distinct(zlib.crc32(method.encode()))
    place = others.index(method)
    return _OTHERS[place] if place < len(_OTHERS) else _distinct(place)


def label(method: str) -> str:
    """What a legend calls it."""
    return METHODS[method].label if method in METHODS else method


def line(optimizer: str) -> Line:
    """The line of an optimiser, as matplotlib's `linestyle` takes it: every one has dashes of its own."""
    if optimizer in _LINES:
        return _LINES[optimizer]
    others = [name for name in OPTIMIZERS if name not in _LINES]
    place = others.index(optimizer) if optimizer in others else zlib.crc32(optimizer.encode()) % 97
    return (0, (5, 1, *(1, 1) * (1 + place % 4), 1 + place // 4, 1))


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG; where it is."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, bbox_inches="tight")
    write_atomically(path, content.getvalue())
    return path
