"""Kills launchers at random moments, starts them again, and compares what they end with to a run that was left alone.

    python -m tests.kill [--kills=100] [--seed=0] [--only=SCENARIO]

After every kill the folder must hold no file that cannot be read and no lock. A scenario is a row of SCENARIOS.
"""

import argparse
import collections
import contextlib
import csv
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lae_jax.runs import storage
from tests import launching

TERMINATED = (128 + signal.SIGTERM, -signal.SIGTERM)  # told by the launcher, or before it listens
UNFINISHED = (".part", ".orbax-checkpoint-tmp")  # how the names of files end while they are written


class Scenario(NamedTuple):
    """A launcher with its fields, and what must come out of it byte for byte."""

    launcher: str
    fields: dict[str, object]
    results: Callable[[Path], dict[str, object]]
    prepare: Callable[[Path], dict[str, object]] = lambda base: {}  # further fields, of files it makes in a folder
    moments: tuple[str, ...] = ("anywhere", "running", "writing")  # as `wait` knows them, for one to be drawn


def files_of_a_run(workdir):
    paths = [workdir / "metrics.csv", *workdir.glob("*.npz"), *workdir.glob("snapshots/*.npz")]
    return {str(path.relative_to(workdir)): path.read_bytes() for path in paths}


def shards(base):
    """Samples that take about as long to read as the steps that follow."""
    (base / "shards").mkdir()
    generator = np.random.default_rng(0)
    for index in range(8):
        np.save(base / "shards" / f"{index}.npy", generator.standard_normal((16_000, 256), np.float32))
    return {"dataset": str(base / "shards")}


def table_of_a_sweep(workdir):
    with open(workdir / "runs.csv", newline="") as file:
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    return {"runs.csv": rows, "left in flight": [path.name for path in workdir.glob("in_flight/*")]}


DIGITS = {"dataset": "digits", "latent_dim": 3, "record_every": 50}
SCENARIOS = {
    "train": Scenario(
        "train",
        {**DIGITS, "num_steps": 100_000, "checkpoint_seconds": 0.0, "snapshot_steps": (0, 10_000, 50_000)},
        files_of_a_run,
    ),
    "vae": Scenario(
        "train",
        {**DIGITS, "num_steps": 20_000, "checkpoint_seconds": 0.2, "method": "linear_vae", "optimizer": "adam"},
        files_of_a_run,
    ),
    "batches": Scenario(
        "train",
        {**DIGITS, "num_steps": 4_000, "checkpoint_seconds": 0.0, "batch_size": 50, "method": "nested_dropout"},
        files_of_a_run,
    ),
    "streaming": Scenario(
        "train",
        {"latent_dim": 3, "record_every": 50, "num_steps": 10_000, "checkpoint_seconds": 0.0},
        files_of_a_run,
        shards,
        ("anywhere", "anywhere", "writing"),  # the others come after the reading
    ),
    "sweep": Scenario(
        "scaling",
        {"dataset": "synthetic", "init": "", "seeds": (0,), "input_dim": 40, "num_samples": 80, "latent_dims": (2, 3),
         "num_steps": 10_000, "target": 1e-9,
         "methods": ("rag", "non_uniform_l2"), "optimizers": ("nesterov",)},
        table_of_a_sweep,
    ),
}  # fmt: skip


def start(scenario: Scenario, workdir: Path) -> multiprocessing.Process:
    fields = [f"--config.{name}={value}" for name, value in scenario.fields.items()]
    flags = [f"--workdir={workdir}", f"--compilation_cache={workdir.parent / 'programs'}"]
    return launching.start(scenario.launcher, [*flags, *fields], told_by(workdir), told_by(workdir))


def told_by(workdir: Path) -> Path:
    """Where the output of its last process goes."""
    return workdir.with_name(workdir.name + ".txt")


def to_the_end(scenario: Scenario, workdir: Path) -> float:
    """Let it run, and give the seconds that took."""
    begun = time.monotonic()
    process = start(scenario, workdir)
    process.join()
    assert process.exitcode == 0, told_by(workdir).read_text()
    return time.monotonic() - begun


def being_written(workdir: Path) -> bool:
    folders = (workdir, workdir / "checkpoints", workdir / "snapshots", workdir / "in_flight")
    return any(name.endswith(UNFINISHED) for folder in folders if folder.is_dir() for name in os.listdir(folder))


def wait(
    process: multiprocessing.Process, workdir: Path, seconds: float, moments: tuple[str, ...], chance: random.Random
) -> str:
    """Until a moment to kill at: any at all, one after the folder was touched, or one in the middle of a write."""
    kind = chance.choice(moments)
    before = workdir.stat().st_mtime_ns if workdir.exists() else 0
    deadline = time.monotonic() + seconds * chance.random()
    while kind == "anywhere" and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.005)
    while kind == "running" and process.is_alive():
        if workdir.exists() and workdir.stat().st_mtime_ns != before:
            time.sleep(chance.random() * seconds / 2)
            break
        time.sleep(0.005)
    skipped = chance.randrange(8)  # writes to let pass
    while kind == "writing" and process.is_alive():
        if being_written(workdir):
            skipped -= 1
            if skipped < 0:
                time.sleep(chance.random() * 0.003)
                break
            time.sleep(0.02)
    return kind


def check_folder(workdir: Path) -> None:
    """Everything there can be read, and nothing holds it."""
    for path in workdir.rglob("*.npz"):
        with np.load(path) as stored:
            assert all(stored[name].dtype.kind in "fi" for name in stored), path
    for path in workdir.glob("*.json"):
        json.loads(path.read_text())
    path = workdir / "metrics.csv"
    if path.exists() and path.stat().st_size:
        assert len(set(map(len, storage.read_csv(path).values()))) == 1
    for row in storage.read_rows(workdir / "runs.csv"):
        assert None not in row.values(), row
    for path in workdir.glob("*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), path
    if workdir.exists():
        with storage.locked(workdir):
            pass


def kills(name: str, count: int, chance: random.Random, base: Path) -> Iterator[tuple[str, str]]:
    """Kill `count` times, and yield (signal, moment) of each. Raises AssertionError at whatever is not as it was."""
    scenario, whole, signals = SCENARIOS[name], base / "whole", (signal.SIGKILL, signal.SIGTERM)
    base.mkdir(exist_ok=True)
    scenario = scenario._replace(fields={**scenario.fields, **scenario.prepare(base)})
    seconds = to_the_end(scenario, whole)
    expected, done, attempt = scenario.results(whole), 0, 0
    assert expected
    while done < count:
        attempt += 1
        workdir = base / f"cut{attempt}"
        finished = False
        while not finished and done < count:
            process, number = start(scenario, workdir), signals[done % 2]
            moment = wait(process, workdir, seconds, scenario.moments, chance)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
            process.join()
            finished, told = process.exitcode == 0, told_by(workdir).read_text() if told_by(workdir).exists() else ""
            if not finished:
                assert process.exitcode in (TERMINATED if number == signal.SIGTERM else (-number,)), told
                assert "Traceback" not in told, told
                check_folder(workdir)
                done += 1
                yield number.name, moment if "step/s" in told else "before its steps"
        to_the_end(scenario, workdir)
        check_folder(workdir)
        found = scenario.results(workdir)
        different = {key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)}
        assert not different, f"{sorted(different)} in {workdir} differ from those in {whole}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SCENARIOS)
    options = parser.parse_args()
    names = [options.only] if options.only else list(SCENARIOS)
    chance, counts = random.Random(options.seed), collections.Counter()
    with tempfile.TemporaryDirectory() as base:
        for index, name in enumerate(names):
            share = options.kills * (index + 1) // len(names) - options.kills * index // len(names)
            for signal_name, moment in kills(name, share, chance, Path(base) / name):
                counts[name, signal_name, moment] += 1
                print(f"{counts.total():4d}  {name:10} {signal_name:8} {moment}", flush=True)
    for (name, signal_name, moment), number in sorted(counts.items()):
        print(f"{name:10} {signal_name:8} {moment:16} {number:4d}")
    print(f"{counts.total()} kills; every run ended with the bits of one that was left alone")


if __name__ == "__main__":
    main()
