"""The tables of the README and the site, each a function of the csv files in docs/results."""

from collections.abc import Callable

from docs.render import markdown, number, read
from lae_jax.methods import METHODS


def label(method: str, optimizer: str) -> str:
    """A method under an optimiser, as the tables name it."""
    return f"{METHODS[method].label}, {optimizer.capitalize()}"


def figure4() -> str:
    """Steps to axis alignment 0.3: ours from the authors' draws / published."""
    rows = [row for row in read("figure4") if row["published"]]
    sizes = list(dict.fromkeys(row["latent_dim"] for row in rows if row["method"] == "rag"))
    curves: dict[str, dict[str, str]] = {}
    for row in rows:
        cell = f"{number(row['authors_draws'], ',.0f')} / {number(row['published'], ',.0f')}"
        curves.setdefault(label(row["method"], row["optimizer"]), {})[row["latent_dim"]] = cell
    body = [[name, *(cells.get(size, "") for size in sizes)] for name, cells in curves.items()]
    return markdown(["ours / published", *(f"k = {size}" for size in sizes)], body)


TABLES: dict[str, Callable[[], str]] = {"figure4": figure4}
