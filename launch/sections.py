"""What the report of `launch.reproduce` shows, section by section, and what it leaves out."""

from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from lae_jax.methods import METHODS


def _mnist(config: ConfigDict, options: ConfigDict) -> None:
    if not options.nested_dropout:
        config.methods = tuple(name for name in config.methods if not METHODS[name].needs_samples)
    if not options.full:
        config.seeds = ()


def _as_it_is(config: ConfigDict, options: ConfigDict) -> None:
    pass


def _hessian(config: ConfigDict, options: ConfigDict) -> None:
    if not options.full:
        config.spectra, config.latent_dims, config.matrix_free = ("mnist", "linear"), (2, 4, 8, 12), ()


def _compare(config: ConfigDict, options: ConfigDict) -> None:
    if not options.full:
        config.problems = tuple(problem for problem in config.problems if problem[0] == "digits")


def _scaling(config: ConfigDict, options: ConfigDict) -> None:
    if not options.full:
        config.seeds, config.latent_dims = (), tuple(size for size in config.latent_dims if size <= 50)


class Figure(NamedTuple):
    """A section of the report."""

    title: str
    left_out: str = ""  # what the launcher alone shows beyond this, and why not here
    adapt: Callable[[ConfigDict, ConfigDict], None] = _as_it_is  # changes its configuration, given ours
    table: str = ""  # whose rows with a published value are shown


# Figures of the paper first.
FIGURES = {
    "surface": Figure("Figure 1: the loss of non-uniform l2 on a plane through its optimum"),
    "mnist": Figure(
        "Figures 2 and 3: learning dynamics on MNIST, k = 20",
        "seeds of ours as a band around the authors' draws (`--config.full=True`); stochastic nested dropout, which"
        " needs MNIST's samples and an hour a run; its masks were drawn on a GPU and cannot be drawn again"
        " (`--config.nested_dropout=True` trains it)",
        _mnist,
        "comparison.csv",
    ),
    "scaling": Figure(
        "Figure 4: steps to an axis-aligned solution against the latent dimension",
        "seeds of ours and k = 100, four minutes (`--config.full=True`); k beyond 100 and stochastic nested dropout,"
        " an hour (`--config=launch/configs/scaling.py:full` of the launcher)",
        _scaling,
        table="scaling.csv",
    ),
    "hessian": Figure(
        "Sections 4.3 and 5: condition numbers beside their bounds",
        "two of four spectra, k = 20 and the matrix-free check (`--config.full=True`)",
        _hessian,
    ),
    "compare": Figure(
        "Every rule the paper names side by side, and one that beats RAG",
        "MNIST, two minutes (`--config.full=True`); larger k, Fashion-MNIST and the data of Figure 4, hours"
        " (`--config=launch/configs/compare.py:full` of the launcher)",
        _compare,
    ),
    "limits": Figure(
        "Appendix I.2: rules on mini-batches beside the statistical limit",
        "the samples of MNIST and streams of 5,000 batches: `--config=launch/configs/limits.py:mnist`, `:long`",
    ),
}
