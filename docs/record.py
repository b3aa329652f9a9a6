"""Run a launcher or a check and keep its table in docs/results, with what made it.

    python -m docs.record NAME [NAME ...] | --all

NAME is a table of RECIPES below. `results/NAME` is the workdir, so a recording that was stopped goes on.
"""

import argparse
import csv
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from docs.render import RESULTS


class Recipe(NamedTuple):
    """A launcher, or a module of tests, with its flags, and the table in its workdir that is kept."""

    launcher: str
    table: str = ""  # none: what it took is all that is kept
    flags: tuple[str, ...] = ()


RECIPES = {
    "surface": Recipe("surface"),
    "figure2": Recipe("mnist", "comparison.csv"),
    "figure4_default": Recipe("scaling", "scaling.csv"),
    "figure4": Recipe("scaling", "scaling.csv", ("--config=launch/configs/scaling.py:full", "--config.seeds=()")),
    "figure4_seeds": Recipe(
        "scaling",
        "scaling.csv",
        (
            "--config.methods=('non_uniform_l2','deterministic_nested_dropout','rag','aligned')",
            *("--config.optimizers=('nesterov',)", "--config.latent_dims=(2,5,10,20)"),
            f"--config.seeds={tuple(range(20))}",
        ),
    ),
    "bounds": Recipe("hessian", "hessian.csv"),
    "rules": Recipe("compare", "compare.csv"),
    "streams": Recipe("limits", "limits.csv"),
    "streams_drift": Recipe(
        "limits", "drift.csv", ("--config.problems=(('digits', 10, 7),)", "--config.rules=('low_rank_history',)")
    ),
    "streams_mnist": Recipe("limits", "limits.csv", ("--config=launch/configs/limits.py:mnist",)),
    "streams_long": Recipe("limits", "limits.csv", ("--config=launch/configs/limits.py:long",)),
    "streams_wide": Recipe("limits", "limits.csv", ("--config=launch/configs/limits.py:wide",)),
    "streams_eigengame": Recipe("limits", "limits.csv", ("--config=launch/configs/limits.py:eigengame",)),
    "solvers": Recipe("benchmark", "benchmark.csv", ("--config=launch/configs/benchmark.py:solvers",)),
    "benchmark": Recipe("benchmark", "benchmark.csv"),
    "streaming_parquet": Recipe("streaming", "streaming.csv", ("--config=launch/configs/streaming.py:parquet",)),
    "communication": Recipe("communication", "communication.csv"),
    "noise_floor": Recipe(
        "noise_floor",
        "noise_floor.csv",
        (
            *("--config.dataset=mnist", "--config.num_components=16", "--config.learning_rates=(0.05, 0.15)"),
            *("--config.num_steps=5000", "--config.runs=1"),
        ),
    ),
    "krylov_steps": Recipe("tests.krylov_steps", "krylov_steps.csv"),
    "scales": Recipe("tests.scales", "scales.csv"),
    "reproduce": Recipe("reproduce"),
}


def machine() -> str:
    """The processor, its cores and the accelerator, in words."""
    import jax

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    device = jax.devices()[0]
    accelerator = "" if device.platform == "cpu" else f", {device.device_kind}"
    return f"{os.cpu_count()} cores of {model}{accelerator}"


def quoted(argument: str) -> str:
    """An argument as a shell takes it: tuples in double quotes, because there are single ones within."""
    flag, _, value = argument.partition("=")
    return argument if shlex.quote(argument) == argument else f'{flag}="{value}"'


def record(name: str) -> None:
    """Run the recipe and keep its table."""
    recipe, workdir = RECIPES[name], Path("results") / name
    module = recipe.launcher if "." in recipe.launcher else f"launch.{recipe.launcher}"
    arguments = ["-m", module, f"--workdir={workdir}", *recipe.flags]
    begun = time.monotonic()
    subprocess.run([sys.executable, *arguments], check=True)
    seconds = time.monotonic() - begun
    keep(name, workdir / recipe.table, " ".join(["python", *map(quoted, arguments)]), seconds)


def keep(name: str, table: Path, command: str, seconds: float) -> None:
    """Copy a table, where there is one, into docs/results, with what made it beside it."""
    RESULTS.mkdir(exist_ok=True)
    if table.is_file():
        with open(table, newline="") as file:
            rows = [[cell.replace(str(Path.home()), "~") for cell in row] for row in csv.reader(file)]
        with open(RESULTS / f"{name}.csv", "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    about = {
        "command": command,
        "commit": commit.stdout.strip(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{each: metadata.version(each) for each in ("jax", "optax")},
        },
        "seconds": round(seconds),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")


def main() -> None:
    """Record each table named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(RECIPES))
    parser.add_argument("--all", action="store_true", help="every recipe")
    options = parser.parse_args()
    for name in RECIPES if options.all else options.names:
        if name not in RECIPES:
            parser.error(f"{name}: no such recipe; known: {', '.join(RECIPES)}")
        record(name)


if __name__ == "__main__":
    main()
