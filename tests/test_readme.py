"""The README and the site say what is so: Python is run, commands exist, numbers are those of docs/results."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from docs import render
from docs.tables import TABLES
from lae_jax.methods import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", README, re.S | re.M))


def check_components(names):
    assert names["fit"].history["axis_alignment"][-1] < 1e-3
    assert names["scores"].shape == (1797, 5)


def check_rag(names):
    _, components = jnp.linalg.eigh(names["C"])
    decoder = names["params"].decoder
    cosines = jnp.abs(components[:, ::-1][:, :3].T @ (decoder / jnp.linalg.norm(decoder, axis=0)))
    np.testing.assert_allclose(cosines, jnp.eye(3), atol=0.03)


def check_bound(names):
    found = names["found"]
    assert found.condition_number == pytest.approx(found.autodiff_condition_number, rel=1e-8)
    assert found.bounds and not found.violated and max(found.bounds.values()) <= found.condition_number


def check_batch(names):
    assert names["losses"].shape == (3,)
    alone = names["objectives"].l2(
        names["gaussian"](names["jax"].random.key(5), 5, 20, 0.1), names["C"], names["penalties"][:5]
    )
    assert float(names["losses"][1]) == pytest.approx(float(alone), rel=1e-6)


CHECKS = {
    "Components of your own data": check_components,
    "RAG in your own optax code": check_rag,
    "A bound held against `jax.hessian`": check_bound,
    "One program for many latent sizes": check_batch,
}


@pytest.mark.parametrize("title", CHECKS)
def test_python_of_the_readme(title):
    assert BLOCKS.keys() == CHECKS.keys()
    names: dict = {}
    exec(compile(BLOCKS[title], f"README: {title}", "exec"), names)
    CHECKS[title](names)


def test_the_readme_is_one_screen_after_another():
    assert len(README.splitlines()) <= 150
    assert len(README.split()) <= 1200  # as `wc -w` counts: with code, tables and addresses


def sentences(page):
    """Those of a page, without code, tables, headings and pictures."""
    prose = re.sub(r"```.*?```|<!--.*?-->|^(?:\||    |#|!\[)[^\n]*", "", page, flags=re.S | re.M)
    for paragraph in re.split(r"\n\s*\n|\n- ", prose):
        yield from re.split(r"(?<=[.:!?])\s+(?=[A-Z`*\[])", " ".join(paragraph.split()))


def test_no_sentence_of_the_readme_is_long():
    longest = max(sentences(README), key=lambda sentence: len(sentence.split()))
    assert len(longest.split()) <= 30, longest


@pytest.mark.parametrize("page", render.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_numbers_are_those_of_the_results(page):
    assert render.filled(page.read_text(), TABLES) == page.read_text(), "run python -m docs.render"


def test_every_result_says_what_made_it():
    for table in render.RESULTS.glob("*.csv"):
        assert {"command", "commit", "date", "machine", "versions", "seconds"} <= render.about(table.stem).keys(), table


def test_every_launcher_named_exists():
    for name in set(re.findall(r"python -m launch\.(\w+)", README)):
        assert (ROOT / "launch" / f"{name}.py").is_file(), name


def test_every_file_named_exists():
    for name in set(re.findall(r"`((?:tests|docs|launch)/[\w/]+\.\w+)`", README)):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / name).exists(), name


def test_every_method_has_a_page():
    missing = [name for name in METHODS if not (ROOT / "docs" / "methods" / f"{name}.md").is_file()]
    assert not missing
