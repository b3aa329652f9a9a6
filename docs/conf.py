"""The site: `make docs` builds it into docs/_build/html, with every warning an error."""

import os
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

from numpy.typing import ArrayLike
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)  # of the kernels that run the tutorials
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "lae_jax"
author = "the lae_jax developers"
copyright = "the lae_jax developers"
release = re.search(r'__version__ = "(.+)"', (ROOT / "lae_jax" / "__init__.py").read_text())[1]  # type: ignore[index] # it is there

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx-mathjax-offline",  # equations without the network
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "results"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_timeout = 240
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}


def name_array_like(app: Sphinx, function: Callable[..., object], bound: bool) -> None:
    """Call what is `ArrayLike` that, in place of the eight types that it is made of."""
    kinds = getattr(function, "__annotations__", {})
    kinds |= {name: "ArrayLike" for name, kind in kinds.items() if kind == ArrayLike}


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-before-process-signature", name_array_like)


napoleon_google_docstring = True

smartquotes = False  # commands keep their two dashes

html_theme = "sphinx_book_theme"
html_title = "lae_jax"
html_static_path = ["pictures", "style"]
html_css_files = ["site.css"]
# Addresses that exist: [tool.lae_jax] of pyproject.toml. What needs one is left out while it is empty.
addresses = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["lae_jax"]
html_theme_options = {
    "navbar_persistent": [],  # the search of the sidebar is enough
    "show_toc_level": 2,
    "home_page_in_toc": True,
    # Wide tables take the width of the window.
    "secondary_sidebar_items": {"**": ["page-toc"], "theory": [], "results": [], "story": []},
}
if addresses["repository"]:
    html_theme_options |= {
        "repository_url": addresses["repository"],
        "use_repository_button": True,
        "path_to_docs": "docs",
        "launch_buttons": {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org"},
    }
