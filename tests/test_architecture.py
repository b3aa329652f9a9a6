"""The house as it is meant to stand: who imports whom, how long, and with what docstrings."""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lae_jax import fitting
from lae_jax.training.loop import Problem, Recipe
from lae_jax.training.settings import Experiment, Settings

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "lae_jax").rglob("*.py"))
LAUNCHERS = sorted((ROOT / "launch").rglob("*.py"))
EVERY = pytest.mark.parametrize("path", LIBRARY + LAUNCHERS, ids=lambda path: str(path.relative_to(ROOT)))

# Each room may import those on lines before its own; rooms of one folder those of it that stand before it.
ORDER = [
    *("errors", "params", "covariance"),
    *("objectives", "hyperparameters", "metrics", "transformations", "rotation"),
    *("baselines", "latent_layers"),
    *("data.tables", "data.arrays", "data.hosts", "data.spectra", "data.shards", "data.table_files", "data.sources"),
    *("data.moments", "data.memory", "data.batches", "data.dataset"),
    *("data.authors", "data.datasets", "data.layouts", "data.representations", "data.fingerprints", "data.benchmark"),
    *("training.alternation", "training.low_rank", "training.history", "methods", "training.units", "components"),
    *("theory.graded", "theory.eigenvalues", "theory.landscape", "theory.nested_dropout", "theory.blocks"),
    *("theory.closed_form", "theory.hessian", "theory.bounds", "theory.best"),
    *("theory.flows", "theory.rates", "theory.learning_dynamics", "theory.noise", "theory.adam_floor"),
    *("theory.linear_vae", "theory.penalties", "theory.verify", "theory.tables"),
    *(
        "training.claims",
        "training.merging",
        "training.loop",
        "training.streams",
        "training.populations",
        "training.limits",
        "training.settings",
        "training.memory",
    ),
    *(
        "training.batch",
        "training.sweeps",
        "training.exact",
        "training.benchmark",
        "training.paired",
        "training.networks",
        "training.minibatches",
        "training.communication",
    ),
    *("fitting", "streaming", "sklearn", "runs.threads", "runs.storage", "runs.checkpoints", "runs.chunks"),
    "runs.directory",
    *("runs.dynamics", "runs.tables", "runs.experiments", "runs.comparison"),
    *("figures.style", "figures.dynamics", "figures.agreement", "figures.paper", "figures.scaling"),
    *("figures.comparison", "figures.latents", "figures.components", "figures.theory", "figures.spectra"),
]
FORBIDDEN = {"absl", "ml_collections", "tqdm", "tensorboardX", "launch", "tests", "helpers"}
MAX_LINES, MAX_LAUNCHER_LINES = 300, 99
MOST_FILES, MOST_FOLDERS = 16, 5  # of the library's top level
CARRIERS = (Settings, Experiment, Recipe, Problem)  # of what decides a run
MOST_FILES_OF_A_WALK = 6


def tree(path):
    return ast.parse(path.read_text())


def imports(path):
    """The dotted name of everything imported, also inside functions; `from a import b` counts as a.b."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(path):
    """The rooms of the library that a file imports."""
    for name in imports(path):
        if name.split(".")[0] == "lae_jax":
            parts = name.split(".")[1:]
            yield ".".join(parts[:2] if (ROOT / "lae_jax" / parts[0]).is_dir() else parts[:1])


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_imports_one_way(path):
    used, room = set(rooms(path)), module_name(path).removeprefix("lae_jax.")
    if path.name == "__init__.py":
        assert used <= {*ORDER}
        return
    assert room in ORDER, f"{room} has no place in ORDER yet: give it one"
    later = used - {*ORDER[: ORDER.index(room)]}
    assert not later, f"{path.name} imports {later}, which are not before it"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_knows_no_launcher_flags_or_plots(path):
    used = {name.split(".")[0] for name in imports(path)}
    # A stream may take days, and has no launcher.
    allowed = {"tqdm"} if path.name in ("streaming.py", "batches.py") else set()
    assert not used & FORBIDDEN - allowed
    assert "matplotlib" not in used or path.parent.name == "figures"


def test_the_top_level_stays_small():
    files = [path.name for path in (ROOT / "lae_jax").glob("*.py")]
    folders = [path.parent.name for path in (ROOT / "lae_jax").glob("*/__init__.py")]
    assert len(files) <= MOST_FILES, files
    assert len(folders) <= MOST_FOLDERS, folders


def test_the_settings_of_a_run_reach_the_compiled_loop_through_few_files():
    """The files with a function that is handed the settings, or what is made of them, by `fit` or on its behalf."""
    passed = set()

    def watch(frame, event, _):
        ours = event == "call" and frame.f_code.co_filename.startswith(str(ROOT / "lae_jax"))
        if ours and any(isinstance(value, CARRIERS) for value in list(frame.f_locals.values())):
            passed.add(frame.f_code.co_filename)

    rows = np.random.default_rng(0).standard_normal((9, 4))
    fitting.fit(rows, 2, num_steps=3)  # compiles, in millions of calls that need not be watched
    sys.setprofile(watch)
    try:
        fitting.fit(rows, 2, num_steps=3)
    finally:
        sys.setprofile(None)
    assert str(ROOT / "lae_jax" / "training" / "loop.py") in passed
    assert len(passed) < MOST_FILES_OF_A_WALK, passed  # and `fitting`, where it begins


def test_launchers_import_without_circles():
    graph = {module_name(path): {name for name in imports(path) if name.startswith("launch.")} for path in LAUNCHERS}
    edges = {
        name: {other for other in graph if any(f"{use}.".startswith(f"{other}.") for use in uses)}
        for name, uses in graph.items()
    }
    while edges:
        leaves = {name for name, uses in edges.items() if not uses & edges.keys() - {name}}
        assert leaves, f"circle among {sorted(edges)}"
        edges = {name: uses for name, uses in edges.items() if name not in leaves}


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_launchers_define_no_flags_when_imported(path):
    """Two launchers with a flag of one name could not be imported together."""
    at_import = [node for node in tree(path).body if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.If)]
    calls = [node.func for top in at_import for node in ast.walk(top) if isinstance(node, ast.Call)]
    assert not [call for call in calls if ast.unparse(call).split(".")[-1].startswith(("DEFINE", "define"))]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_leaves_the_configuration_of_jax_alone(path):
    calls = [ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    assert not {"jax.config.update", "config.update"} & set(calls)


@EVERY
def test_a_type_error_that_is_ignored_has_its_reason_beside_it(path):
    bare = [line for line in path.read_text().splitlines() if "type: ignore" in line]
    bare = [line for line in bare if not re.search(r"# type: ignore\[[a-z, -]+\] +# \w", line)]
    assert not bare, f"{path.name}: {bare}"


@EVERY
def test_everything_public_has_a_docstring(path):
    if not path.read_text().strip():
        return
    module = tree(path)
    assert ast.get_docstring(module), path.name
    kinds = ast.FunctionDef | ast.ClassDef
    classes = [node for node in module.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    public = [
        node for body in (module.body, *(each.body for each in classes)) for node in body if isinstance(node, kinds)
    ]
    public = [node for node in public if "overload" not in map(ast.unparse, node.decorator_list)]  # types alone
    bare = [node.name for node in public if not node.name.startswith("_") and not ast.get_docstring(node)]
    assert not bare, f"{path.name}: no docstring in {bare}"


@EVERY
def test_modules_stay_short(path):
    most = MAX_LAUNCHER_LINES if path.parent == ROOT / "launch" else MAX_LINES
    assert len(path.read_text().splitlines()) <= most
