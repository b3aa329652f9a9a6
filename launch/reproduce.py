"""Every figure, one launcher after the other, and a report that links them.

python -m launch.reproduce --workdir=DIR [--config.FIELD=VALUE ...]
"""

import csv
import importlib
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lae_jax.errors import unknown_name
from lae_jax.runs import storage
from launch import common
from launch.sections import FIGURES, Figure

# Of the tables with published values.
COLUMNS = ("method", "optimizer", "latent_dim", "step", "published", "authors_draws", "difference", "ratio",
           "median", "lowest", "highest")  # fmt: skip


def run(config: ConfigDict, workdir: Path) -> None:
    """Run the launchers of FIGURES in folders of their own; report.md links what they made."""
    for name in config.only:
        if name not in FIGURES:
            raise unknown_name("only", name, FIGURES)
    report, device = workdir / "report.md", jax.devices()[0]
    text = f"# Reproduction\n\njax {jax.__version__} on {device.platform} {device.device_kind}\n"
    for name, figure in FIGURES.items():
        if config.only and name not in config.only:
            continue
        print(f"\n== {name}: {figure.title}", flush=True)
        text += _section(name, figure, config, workdir / name)
        storage.write_atomically(report, text.encode())  # what is there can be read while the rest is made
    print(f"\nwrote {report}")


def _section(name: str, figure: Figure, options: ConfigDict, folder: Path) -> str:
    launcher = importlib.import_module(f"launch.{name}")
    config = importlib.import_module(f"launch.configs.{name}").get_config()
    figure.adapt(config, options)
    start = time.perf_counter()
    launcher.run(config, folder)
    text = f"\n## {figure.title}\n\n`python -m launch.{name}`, {time.perf_counter() - start:.0f} s."
    text += f" Left out: {figure.left_out}.\n" * bool(figure.left_out)
    text += "".join(f"\n![{path.stem}]({name}/{path.name})\n" for path in sorted(folder.glob("*.png")))
    if figure.table:
        text += f"\n{_published(folder / figure.table)}"
    return (
        text
        + "\nTables: "
        + ", ".join(f"[{path.name}]({name}/{path.name})" for path in sorted(folder.glob("*.csv")))
        + "\n"
    )


def _published(path: Path) -> str:
    """The rows of a table with a published value, as Markdown."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["published"]]
    columns = [name for name in COLUMNS if rows and name in rows[0]]
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    common.main(run, "reproduce.py")
