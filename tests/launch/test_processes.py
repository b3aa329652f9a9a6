"""Several processes that train one sweep, and what is said where one of them is lost."""

import csv
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import pytest

from lae_jax.errors import InputError
from launch import place, processes, scaling
from launch.configs import scaling as settings

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


def together(workdir):
    """Two processes that train the sweep of FIELDS."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "launch.scaling", f"--workdir={workdir}", f"--coordinator=localhost:{port}"]
    command += ["--num_processes=2", f"--compilation_cache={workdir.parent / 'programs'}"]
    command += [f"--config.{name}={value}" for name, value in FIELDS.items()]
    env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    options = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True, "env": env}
    return [subprocess.Popen([*command, f"--process_id={index}"], **options) for index in range(2)]


def rows(workdir):
    with open(workdir / "runs.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(table):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table]


def test_two_processes_one_of_them_killed_and_both_started_again(tmp_path):
    first, second = together(tmp_path / "two")
    try:
        while not (tmp_path / "two" / "runs.csv").exists():
            assert first.poll() is None and second.poll() is None, second.communicate()[1]
            time.sleep(0.02)
        first.kill()  # the one that the others meet at
        said = second.communicate(timeout=90)[1].replace("\r", "\n").splitlines()
    finally:
        first.kill()
        second.kill()
    assert second.returncode
    errors = [line for line in said if line.startswith("error: ")]
    assert len(errors) == 1 and "process 1" in errors[0] and "start all of them again" in errors[0], said
    assert not [line for line in said if "Traceback" in line or "Fatal" in line]
    finished = rows(tmp_path / "two")
    assert 0 < len(finished) < 4

    for process in together(tmp_path / "two"):
        _, said = process.communicate(timeout=90)
        assert process.returncode == 0, said
    found = rows(tmp_path / "two")
    assert found[: len(finished)] == finished  # their seconds too: they were not run again

    config = settings.get_config()
    config.update(FIELDS)
    scaling.run(config, tmp_path / "one")
    assert without_seconds(found) == without_seconds(rows(tmp_path / "one"))
    assert list((tmp_path / "programs").glob("jit_advance-*"))


@pytest.fixture
def alone(monkeypatch, capfd):
    """The second of two processes, without the other; `os._exit` raises."""
    found = SimpleNamespace(coordinator="localhost:1", num_processes=2, process_id=1)

    def leave(status):
        raise SystemExit(status)

    monkeypatch.setattr(place.flags, "FLAGS", found)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    monkeypatch.setattr(processes.os, "_exit", leave)
    monkeypatch.setattr(processes, "_log_to", lambda path: path.touch())
    return found


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed"), 1, "error: process 1 cannot go on"),
        (InputError("k: 0"), 1, "error: k: 0\n"),
        (KeyboardInterrupt(), 130, ""),
        (None, 0, ""),
    ],
)
def test_how_a_process_ends(error, status, said, alone, tmp_path, capfd):
    left = 0
    try:
        with processes.meeting(tmp_path):
            if error:
                raise error
    except SystemExit as exit_:
        left = exit_.code
    assert left == status
    found = capfd.readouterr().err
    assert found.count("error: ") == bool(said) and said in found
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
