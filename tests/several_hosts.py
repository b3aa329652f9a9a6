"""Launchers as several processes of one machine: their numbers and memory beside one process's, and what a kill leaves.

    nice -n 10 python -m tests.several_hosts [--kills=20] [--seed=0] [--only=numbers|memory|kills]

Prints a row for each check; ends at the first that fails. About forty minutes on two cores, and 2 GiB of disk.
"""

import argparse
import contextlib
import csv
import functools
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import numpy as np

from launch import watched
from tests import launching

ROOT = Path(__file__).parents[1]
Found = TypeVar("Found")


_LONGEST_PAUSE = 10.0  # seconds; processes that hear nothing of each other for 30 rightly end
_pauses: list[float] = []


def _watch() -> None:
    """Note for how long this machine, or all of its processes, did nothing: that says nothing of them."""
    while True:
        begun = time.monotonic()
        time.sleep(0.2)
        if (pause := time.monotonic() - begun - 0.2) > 2:
            _pauses.append(pause)


def undisturbed(run: Callable[[], Found]) -> Found:
    """What this gives; again, where it fails in a long pause."""
    while True:
        before = sum(_pauses)
        try:
            return run()
        except AssertionError:
            if sum(_pauses) - before < _LONGEST_PAUSE:
                raise


def address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def started(launcher: str, count: int, workdir: Path, fields: Mapping[str, object]) -> list[subprocess.Popen[str]]:
    flags = [f"--workdir={workdir}", *(f"--config.{name}={value}" for name, value in fields.items())]
    where = address()
    found = []
    for index in range(count):
        meeting = [f"--coordinator={where}", f"--num_processes={count}", f"--process_id={index}"] if count > 1 else []
        command = [sys.executable, "-c", watched.SCRIPT, launcher, *flags, *meeting]
        output = open(workdir.with_name(f"{workdir.name}_{index}.txt"), "w")  # noqa: SIM115 (the child's)
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        found.append(subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, text=True, env=environment))
    return found


def told(workdir: Path, index: int) -> str:
    return workdir.with_name(f"{workdir.name}_{index}.txt").read_text()


def to_the_end(launcher: str, count: int, workdir: Path, fields: Mapping[str, object]) -> list[float]:
    """Peak memory of each process, MiB."""
    return undisturbed(lambda: _to_the_end(launcher, count, workdir, fields))


def _to_the_end(launcher: str, count: int, workdir: Path, fields: Mapping[str, object]) -> list[float]:
    for index, process in enumerate(started(launcher, count, workdir, fields)):
        logs = [path.read_text()[-3000:] for path in sorted(workdir.glob("process_*.log"))] if process.wait() else []
        assert process.returncode == 0, "\n".join([told(workdir, index), *logs])
    return [int(re.findall(r"peak (\d+) kB", told(workdir, index))[0]) / 1024 for index in range(count)]


def difference(first: Path, second: Path) -> float:
    """The largest difference between two tables of numbers, over the largest entry of each column (at least 1)."""
    tables = []
    for path in (first, second):
        with open(path, newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1]) and tables[0][0].keys() == tables[1][0].keys()
    worst = 0.0
    for name in tables[0][0]:
        with contextlib.suppress(ValueError):
            one, other = (np.array([float(row[name]) for row in table]) for table in tables)
            worst = max(worst, float(np.abs(one - other).max() / max(1.0, np.abs(one).max())))
    return worst


def shards(folder: Path, count: int, rows: int, columns: int) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    scales = np.linspace(3, 1, columns, dtype=np.float32)
    for index in range(count):
        np.save(folder / f"{index}.npy", 5 + generator.standard_normal((rows, columns), np.float32) * scales)
    return folder


def jobs_started(job: str, count: int, result: Path, *rest: object) -> list[subprocess.Popen[str]]:
    """A job of `tests.together` in `count` processes."""
    where, found = address(), []
    for index in range(count):
        command = [sys.executable, "-m", "tests.together", job, result, where, count, index, *rest]
        output = open(result.with_name(f"{result.name}_{index}.txt"), "w")  # noqa: SIM115 (the child's)
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        found.append(
            subprocess.Popen(
                list(map(str, command)), cwd=ROOT, stdout=output, stderr=output, text=True, env=environment
            )
        )
    return found


def job_done(job: str, count: int, result: Path, *rest: object) -> list[dict[str, np.ndarray]]:
    """What each process has found."""
    return undisturbed(lambda: _job_done(job, count, result, *rest))


def _job_done(job: str, count: int, result: Path, *rest: object) -> list[dict[str, np.ndarray]]:
    for index, process in enumerate(jobs_started(job, count, result, *rest)):
        assert process.wait() == 0, told(result, index)
    return [dict(np.load(f"{result}_{job}_{index}.npz")) for index in range(count)]


def check_jobs(base: Path, folder: Path, counts: Sequence[int]) -> None:
    for job, rest in {"moments_of_files": [folder], "moments_of_batches": [], "stream": []}.items():
        [alone] = job_done(job, 1, base / f"{job}1", *rest)
        for count in counts:
            found = job_done(job, count, base / f"{job}{count}", *rest)
            wrong = {
                name: max(np.abs(each[name] - value).max() / np.abs(value).max() for each in found)
                for name, value in alone.items()
            }
            assert max(wrong.values()) < 1e-12, (job, count, wrong)
            said = ", ".join(f"{name} {value:.2g}" for name, value in wrong.items())
            print(f"{job}, {count} processes: {said} of the largest", flush=True)


RUNS: dict[str, dict[str, object]] = {
    "eigenbasis": {"method": "rag"},
    "dense": {"method": "rag", "optimizer": "adam"},
    "samples": {"method": "nested_dropout"},
    "batches": {"method": "balanced_rag", "batch_size": 50},
    "wide": {"method": "aligned", "num_steps": 20},  # decomposed by all of them together
}


def check_runs(base: Path, folder: Path, wide: Path, counts: Sequence[int]) -> None:
    common = {"dataset": folder, "latent_dim": 3, "num_steps": 100, "precision": "float64"}
    for name, fields in RUNS.items():
        one = base / f"{name}1"
        common["dataset"] = wide if name == "wide" else folder
        to_the_end("train", 1, one, {**common, **fields})
        to_the_end("evaluate", 1, base / f"{name}1_evaluated", {"run": one})
        for count in counts:
            several = base / f"{name}{count}"
            to_the_end("train", count, several, {**common, **fields})
            wrong = difference(one / "metrics.csv", several / "metrics.csv")
            to_the_end("evaluate", count, base / f"{several.name}_evaluated", {"run": one})
            other = difference(
                base / f"{name}1_evaluated" / "evaluation.csv", base / f"{several.name}_evaluated" / "evaluation.csv"
            )
            assert max(wrong, other) < 1e-10, (name, count, wrong, other)
            print(f"{name}, {count} processes: metrics.csv {wrong:.2g}, evaluation.csv {other:.2g}", flush=True)


def check_tables(base: Path, folder: Path, counts: Sequence[int]) -> None:
    """Launchers that tabulate: rules on mini-batches in float32, and files to their covariance."""
    rules = ("nested_dropout", "rag", "aligned")
    sizes = {"latent_dim": 3, "batch_size": 50, "num_steps": 200, "record_every": 10}
    fields = {"dataset": folder, "methods": rules, "learning_rates": (0.1,), **sizes}
    to_the_end("minibatch", 1, base / "minibatch1", fields)
    for count in counts:
        to_the_end("minibatch", count, base / f"minibatch{count}", fields)
        wrong = difference(base / "minibatch1" / "minibatch.csv", base / f"minibatch{count}" / "minibatch.csv")
        assert wrong < 1e-4, wrong
        print(f"minibatch, {count} processes: minibatch.csv {wrong:.2g}", flush=True)
    for count in (1, *counts):
        sizes = {"num_samples": 100_003, "input_dim": 64, "num_shards": 3}
        to_the_end("streaming", count, base / f"streaming{count}", sizes)
        with open(base / f"streaming{count}" / "streaming.csv", newline="") as file:
            [row] = csv.DictReader(file)
        assert int(row["processes"]) == count and float(row["difference"]) < 1e-12, row
        print(f"streaming, {count} processes: covariance {float(row['difference']):.2g} of the largest", flush=True)


def check_memory(base: Path, small: Path, counts: Sequence[int]) -> None:
    folder = shards(base / "large", 8, 32_768, 1024)  # 1 GiB
    fields = {"latent_dim": 3, "num_steps": 20, "batch_size": 256}
    [libraries] = to_the_end("train", 1, base / "libraries", {**fields, "dataset": small})
    [one] = to_the_end("train", 1, base / "memory1", {**fields, "dataset": folder})
    for count in counts:
        most = max(to_the_end("train", count, base / f"memory{count}", {**fields, "dataset": folder}))
        part = (most - libraries) / (one - libraries)
        print(
            f"memory, {count} processes: at most {most:.0f} MiB, one {one:.0f}, libraries {libraries:.0f}: {part:.0%}"
        )
        assert part <= 0.6


def results(workdir: Path) -> dict[str, bytes]:
    return {name: (workdir / name).read_bytes() for name in ("metrics.csv", "params.npz", "components.npz")}


def forked(workdir: Path, fields: Mapping[str, object]) -> list[BaseProcess]:
    """Two processes of launch.train, that import nothing and compile nothing that one before them has."""
    where = address()
    found: list[BaseProcess] = []
    flags = [f"--workdir={workdir}", f"--coordinator={where}", "--num_processes=2"]
    flags += [f"--compilation_cache={workdir.parent / 'programs'}"]
    flags += [f"--config.{name}={value}" for name, value in fields.items()]
    for index in range(2):
        said = workdir.with_name(f"{workdir.name}_{index}.txt")
        found.append(launching.start("train", [*flags, f"--process_id={index}"], said, said))
    return found


def forked_to_the_end(workdir: Path, fields: Mapping[str, object]) -> None:
    for index, process in enumerate(forked(workdir, fields)):
        process.join()
        assert process.exitcode == 0, told(workdir, index)


def check_kills(base: Path, folder: Path, name: str, kills: int, chance: random.Random) -> None:
    """SIGKILL of one of two processes at any moment: the other ends with one line, and the same command goes on."""
    fields = {
        "dataset": folder, "latent_dim": 3, "num_steps": 100, "record_every": 5,
        "checkpoint_seconds": 0.0, "precision": "float64", **RUNS[name],
    }  # fmt: skip
    undisturbed(lambda: forked_to_the_end(base / f"{name}_compiled", fields))
    begun = time.monotonic()
    undisturbed(lambda: forked_to_the_end(base / f"{name}_whole", fields))
    seconds, done, attempt, slowest = time.monotonic() - begun, 0, 0, 0.0
    expected = results(base / f"{name}_whole")
    while done < kills:
        attempt += 1
        workdir, finished = base / f"{name}_cut{attempt}", False
        while not finished and done < kills:
            logs = [workdir / f"process_{index}.log" for index in range(2)]
            for log in logs:
                log.unlink(missing_ok=True)
            before, begun, processes = sum(_pauses), time.monotonic(), forked(workdir, fields)
            deadline = begun + seconds * chance.random()
            while time.monotonic() < deadline or not all(map(Path.exists, logs)):  # both are there to notice
                if any(process.exitcode is not None for process in processes):
                    break
                time.sleep(0.01)
            victim = chance.randrange(2)
            processes[victim].kill()
            killed = time.monotonic()
            for process in processes:
                process.join()
            statuses = [process.exitcode for process in processes]
            finished = statuses == [0, 0]
            if finished or statuses[victim] == 0 or sum(_pauses) - before > 2:
                continue
            done += 1
            if statuses[1 - victim] == 0:  # only the picture was missing
                assert (workdir / "params.npz").exists()
                print(f"{name} {done:3d}  process {victim} killed, when all was written", flush=True)
                continue
            while "error: " not in told(workdir, 1 - victim) and time.monotonic() - killed < 60:
                time.sleep(0.02)  # who says it outlives the process
            waited, said = time.monotonic() - killed, told(workdir, 1 - victim).replace("\r", "\n").splitlines()
            slowest, steps = max(slowest, waited), (workdir / "checkpoints").glob("[0-9]*")
            step = max([0, *(int(path.name) for path in steps if path.name.isdigit())])
            after = f"after {killed - begun:4.1f} s, checkpoint of step {step}"
            print(f"{name} {done:3d}  process {victim} killed {after}; noticed in {waited:.1f} s", flush=True)
            errors = [line for line in said if line.startswith("error: ")]
            assert statuses[1 - victim] and waited < 60, said
            assert len(errors) == 1 and f"process {1 - victim} cannot go on" in errors[0], said
            assert not [line for line in said if "Traceback" in line or "Fatal" in line], said
        undisturbed(functools.partial(forked_to_the_end, workdir, fields))
        assert results(workdir) == expected, f"{workdir} differs from {base / f'{name}_whole'}"
    print(f"{name}: {done} kills; noticed within {slowest:.1f} s; every run ended with the bits of one left alone")


def check_killed_streams(base: Path, kills: int, chance: random.Random) -> None:
    """SIGKILL of one of two processes that stream: the same call goes on, and ends with the same bits."""
    begun = time.monotonic()
    whole = job_done("slow_stream", 2, base / "stream_whole")
    seconds, result = time.monotonic() - begun, base / "stream_cut"
    for done in range(1, kills + 1):
        processes = jobs_started("slow_stream", 2, result)
        time.sleep(seconds * chance.uniform(0.3, 1))
        victim = chance.randrange(2)
        processes[victim].kill()
        killed = time.monotonic()
        statuses = [process.wait(timeout=600) for process in processes]
        kept = base / "stream_cut_slow_stream.kept.npz"
        batches = int(np.load(kept)["batches"]) if kept.exists() else 0
        told_after = f"the other ended with {statuses[1 - victim]} in {time.monotonic() - killed:.1f} s"
        print(f"stream {done:3d}  process {victim} killed, {batches} batches kept; {told_after}", flush=True)
        if batches > 15 or done % 3 == 0 or done == kills:
            for one, other in zip(job_done("slow_stream", 2, result), whole, strict=True):
                assert all(np.array_equal(one[name], other[name]) for name in other)
            for path in base.glob("stream_cut*"):
                path.unlink()
    print(f"stream: {kills} kills; every one ended with the bits of one left alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("numbers", "memory", "kills"))
    options = parser.parse_args()
    threading.Thread(target=_watch, daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        small = shards(base / "shards", 3, 167, 20)  # rows that two and four do not divide
        if options.only in (None, "numbers"):
            check_jobs(base, small, (2, 4))
            check_tables(base, small, (2, 4))
            check_runs(base, small, shards(base / "wide", 3, 17, 1100), (2, 4))
        if options.only in (None, "memory"):
            check_memory(base, small, (2, 4))
        if options.only in (None, "kills"):
            chance = random.Random(options.seed)
            for name in ("batches", "eigenbasis", "dense", "samples"):
                check_kills(base, small, name, options.kills // (1 if name == "batches" else 5), chance)
            check_killed_streams(base, options.kills // 2, chance)


if __name__ == "__main__":
    main()
