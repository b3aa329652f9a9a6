"""Several processes that do one thing, and what is said where one of them is lost."""

import csv
import functools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lae_jax.errors import InputError
from lae_jax.runs import directory
from lae_jax.runs.directory import InterruptedRunError
from lae_jax.training.loop import DivergenceError
from launch import common, place, processes, scaling, train
from launch.configs import scaling as settings
from launch.configs import train as train_settings
from tests import launching
from tests.helpers import normal

FIELDS = {
    "dataset": "synthetic",
    "init": "",
    "seeds": (0,),
    "input_dim": 40,
    "num_samples": 80,
    "latent_dims": (2, 3),
    "methods": ("non_uniform_l2", "rag"),
    "optimizers": ("nesterov",),
    "num_steps": 20_000,
    "target": 1e-9,
    "precision": "float64",
}


def together(launcher, workdir, fields):
    """Two processes of a launcher, and where each says what it has to say."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = [f"--workdir={workdir}", f"--coordinator=localhost:{port}", "--num_processes=2"]
    flags += [f"--compilation_cache={workdir.parent / 'programs'}"]
    flags += [f"--config.{name}={value}" for name, value in fields.items()]
    said = [workdir.with_name(f"{workdir.name}_{index}.txt") for index in range(2)]
    start = functools.partial(launching.start, launcher, output=Path(os.devnull))
    return [start([*flags, f"--process_id={index}"], errors=path) for index, path in enumerate(said)], said


def to_the_end(launcher, workdir, fields):
    processes, said = together(launcher, workdir, fields)
    for process, path in zip(processes, said, strict=True):
        process.join(90)
        assert process.exitcode == 0, path.read_text()


def the_error(said):
    """The one line that a process has left, by one that outlives it."""
    for _ in range(500):
        if "error: " in said.read_text():
            break
        time.sleep(0.02)
    lines = said.read_text().replace("\r", "\n").splitlines()
    [error] = [line for line in lines if line.startswith("error: ")] or [lines]
    assert not [line for line in lines if "Traceback" in line or "Fatal" in line]
    return error


def rows(workdir):
    with open(workdir / "runs.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(table):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table]


def test_two_processes_one_of_them_killed_and_both_started_again(tmp_path):
    (first, second), said = together("scaling", tmp_path / "two", FIELDS)
    try:
        while not (tmp_path / "two" / "runs.csv").exists():
            assert first.is_alive() and second.is_alive(), said[1].read_text()
            time.sleep(0.02)
        first.kill()  # the one that the others meet at
        second.join(90)
        line = the_error(said[1])
    finally:
        first.kill()
        second.kill()
    assert second.exitcode
    assert "process 1" in line and "start all of them again" in line
    finished = rows(tmp_path / "two")
    assert 0 < len(finished) < 4

    to_the_end("scaling", tmp_path / "two", FIELDS)
    found = rows(tmp_path / "two")
    assert found[: len(finished)] == finished  # their seconds too: they were not run again

    config = settings.get_config()
    config.update(FIELDS)
    scaling.run(config, tmp_path / "one")
    assert without_seconds(found) == without_seconds(rows(tmp_path / "one"))
    assert list((tmp_path / "programs").glob("jit_advance-*"))


def test_a_process_waits_for_the_others_no_longer_than_it_is_told(tmp_path):
    flags = ["--coordinator=localhost:1", "--num_processes=2", "--process_id=1", "--wait_seconds=1"]
    said = tmp_path / "said.txt"
    process = launching.start("train", [f"--workdir={tmp_path}", *flags], Path(os.devnull), said)
    process.join(30)
    line = the_error(said)
    assert process.exitcode and "process 1 cannot go on" in line and "within 1 seconds" in line, line


def test_two_processes_train_on_their_parts_of_the_samples_as_one_does_on_all(tmp_path):
    (tmp_path / "x").mkdir()
    for index, count in enumerate((6, 7, 8)):  # an odd number: the last part is filled up
        np.save(tmp_path / "x" / f"{index}.npy", normal(index, count, 5) * np.arange(5, 0, -1) + 2)
    fields = {"dataset": str(tmp_path / "x"), "method": "nested_dropout", "latent_dim": 2, "batch_size": 8}
    fields |= {"num_steps": 20, "precision": "float64", "init_scale": 0.1, "snapshot_steps": (10,)}
    to_the_end("train", tmp_path / "two", fields)
    config = train_settings.get_config()
    config.update(fields)
    train.run(config, tmp_path / "one")
    one, two = (directory.read_metrics(tmp_path / name) for name in ("one", "two"))
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-10, atol=1e-10, err_msg=name)
    for name in ("params.npz", "components.npz", "snapshots/000000010.npz", "components.png"):
        assert (tmp_path / "two" / name).is_file()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, place.Place(2)),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_PROCID": "0"}, None),  # a script of sbatch, not what srun has started
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, place.Place(1)),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_without_flags_a_scheduler_tells_where_this_is(environment, expected, alone, monkeypatch):
    vars(alone).update(coordinator=None, num_processes=1, process_id=0)
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert place.place() == expected


@pytest.fixture
def alone(monkeypatch, capfd):
    """The second of two processes, without the other; `os._exit` raises."""
    found = SimpleNamespace(coordinator="localhost:1", num_processes=2, process_id=1, wait_seconds=45)

    def leave(status):
        raise SystemExit(status)

    monkeypatch.setattr(place.flags, "FLAGS", found)
    monkeypatch.setattr(common.flags, "FLAGS", found)
    monkeypatch.setattr(common.signal, "signal", lambda *_: None)
    monkeypatch.setattr(common.app, "run", lambda start, flags_parser: sys.exit(start(["train"])))
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    monkeypatch.setattr(place.os, "_exit", leave)
    monkeypatch.setattr(processes, "_log_to", lambda path: path.touch())
    return found


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed"), 1, "error: process 1 cannot go on"),
        (InputError("k: 0"), 1, "error: k: 0\n"),
        (DivergenceError(5), 1, "error: the loss is not finite"),
        (InterruptedRunError("saved"), os.EX_TEMPFAIL, "stopped: saved\n"),
        (None, 0, ""),
    ],
)
def test_how_a_process_ends(error, status, said, alone, tmp_path, capfd):
    def run(config, workdir):
        if error:
            raise error

    vars(alone).update(workdir=tmp_path, config=None, compilation_cache=None)
    with pytest.raises(SystemExit) as left:
        common.main(processes.together(run), "train.py")
    assert left.value.code == status
    found = capfd.readouterr().err
    assert found.count("error: ") == said.startswith("error") and said in found
    assert ("Gloo" in (tmp_path / "process_1.log").read_text()) == (type(error) is ValueError)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coordinator": None}, "num_processes: 2 need a --coordinator=HOST:PORT"),
        ({"process_id": 2}, r"process_id: 2 is outside 0\.\.1"),
    ],
)
def test_flags_that_name_no_meeting(fields, message, alone, tmp_path):
    vars(alone).update(fields)
    with pytest.raises(InputError, match=message), processes.meeting(tmp_path):
        pass


CACHED = """
import sys, jax, jax.numpy as jnp
from pathlib import Path
from launch import switches

switches.cache_programs(Path(sys.argv[1]))
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None)
for expected in (0, 1):  # a tiny program, compiled and forgotten
    jax.jit(lambda x: x + 1)(2.0)
    assert len(hits) == expected, hits
    jax.clear_caches()
"""


def test_small_programs_are_kept_for_a_later_start(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", CACHED, tmp_path / "programs"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
