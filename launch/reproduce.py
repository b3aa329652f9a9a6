"""Every figure, one launcher after the other, and a report that links them.

python -m launch.reproduce --workdir=DIR [--config.FIELD=VALUE ...]
"""

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lae_jax.errors import unknown_name
from lae_jax.methods import METHODS
from lae_jax.runs import storage
from launch import common


def _mnist(config: ConfigDict, options: ConfigDict) -> None:
    if not options.nested_dropout:
        config.methods = tuple(name for name in config.methods if not METHODS[name].needs_samples)


def _as_it_is(config: ConfigDict, options: ConfigDict) -> None:
    pass


def _hessian(config: ConfigDict, options: ConfigDict) -> None:
    # The whole table takes longer than everything else here; the figure is made of these.
    config.spectra, config.latent_dims, config.matrix_free = ("mnist", "linear"), (2, 4, 8, 12), ()


# launcher -> what it shows, and what to change in its configuration given ours
FIGURES: dict[str, tuple[str, Callable[[ConfigDict, ConfigDict], None]]] = {
    "surface": ("Figure 1: the loss of non-uniform l2 on a plane through its optimum", _as_it_is),
    "mnist": ("Figures 2 and 3: learning dynamics on MNIST, k = 20", _mnist),
    "hessian": ("Sections 4.3 and 5: condition numbers beside their bounds", _hessian),
    "compare": ("Every rule the paper names side by side, and one that beats RAG", _as_it_is),
    # Takes the longest, so it comes last.
    "scaling": ("Figure 4: steps to an axis-aligned solution against the latent dimension", _as_it_is),
}


def run(config: ConfigDict, workdir: Path) -> None:
    """Run the launchers of FIGURES in folders of their own; report.md links what they made."""
    for name in config.only:
        if name not in FIGURES:
            raise unknown_name("only", name, FIGURES)
    report, device = workdir / "report.md", jax.devices()[0]
    text = f"# Reproduction\n\njax {jax.__version__} on {device.platform} {device.device_kind}\n"
    for name, (title, adapt) in FIGURES.items():
        if config.only and name not in config.only:
            continue
        print(f"\n== {name}: {title}", flush=True)
        text += _section(name, title, adapt, config, workdir / name)
        storage.write_atomically(report, text.encode())  # what is there can be read while the rest is made
    print(f"\nwrote {report}")


def _section(
    name: str, title: str, adapt: Callable[[ConfigDict, ConfigDict], None], options: ConfigDict, folder: Path
) -> str:
    launcher: Any = importlib.import_module(f"launch.{name}")
    config = importlib.import_module(f"launch.configs.{name}").get_config()
    adapt(config, options)
    start = time.perf_counter()
    launcher.run(config, folder)
    seconds = time.perf_counter() - start
    pictures = "".join(f"\n![{path.stem}]({name}/{path.name})\n" for path in sorted(folder.glob("*.png")))
    tables = ", ".join(f"[{path.name}]({name}/{path.name})" for path in sorted(folder.glob("*.csv")))
    return f"\n## {title}\n\n`python -m launch.{name}`, {seconds:.0f} s. Tables: {tables}\n{pictures}"


if __name__ == "__main__":
    common.main(run, "reproduce.py")
