"""Colours and lines for whatever is drawn, and pictures without a display."""

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lae_jax.figures import style
from lae_jax.methods import METHODS, OPTIMIZERS
from tests.launching import ROOT


def test_every_method_has_a_colour_of_its_own(monkeypatch):
    for extra in range(12):  # beyond the twenty colours of matplotlib's largest list
        monkeypatch.setitem(METHODS, f"own {extra}", METHODS["lae"]._replace(label=f"own rule {extra}"))
    colours = {name: to_rgb(style.colour(name)) for name in [*METHODS, "a name from nowhere"]}
    assert len(set(colours.values())) == len(colours)
    assert style.label("own 3") == "own rule 3" and style.label("a name from nowhere") == "a name from nowhere"


def test_the_paper_s_methods_have_the_paper_s_colours():
    assert [style.colour(name) for name in ("rag", "nested_dropout", "linear_vae")] == [
        *("tab:green", "tab:red", "tab:purple")
    ]


def test_every_optimizer_has_a_line_of_its_own(monkeypatch):
    for extra in range(9):
        monkeypatch.setitem(OPTIMIZERS, f"own {extra}", OPTIMIZERS["sgd"])
    lines = [style.line(name) for name in OPTIMIZERS]
    assert len(set(lines)) == len(lines)
    Figure().subplots().plot([0, 1], linestyle=style.line("lion"))  # a name from nowhere
    assert (style.line("nesterov"), style.line("adam")) == ("-", "--")


@pytest.mark.parametrize("path", sorted((ROOT / "lae_jax").rglob("*.py")), ids=lambda path: path.stem)
def test_importing_leaves_matplotlib_alone(path):
    text = path.read_text()
    assert not [word for word in ("pyplot", "matplotlib.use", "rcParams", "switch_backend") if word in text]


def test_save_writes_a_picture(tmp_path):
    figure = Figure((2, 1))
    figure.subplots().plot([0, 1])
    path = style.save(figure, tmp_path / "x" / "line.png")
    assert path.read_bytes().startswith(b"\x89PNG")
