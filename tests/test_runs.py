"""The run directory: written whole, gone on with exactly, never mixed up."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lae_jax import runs, storage, training
from lae_jax.errors import InputError
from lae_jax.runs import RunConfig


def config(**fields):
    defaults = {
        "dataset": "digits",
        "latent_dim": 4,
        "num_steps": 200,
        "checkpoint_seconds": 0.0,
        "learning_rate": 0.01,
        "precision": "float64",
    }
    return RunConfig(**{**defaults, **fields})


def contents(workdir):
    names = ["metrics.csv", "params.npz", *sorted(path.name for path in (workdir / "snapshots").glob("*.npz"))]
    folder = {"metrics.csv": workdir, "params.npz": workdir}
    return {name: (folder.get(name, workdir / "snapshots") / name).read_bytes() for name in names}


def test_leaves_what_is_promised(tmp_path):
    assert runs.execute(config(method="linear_vae", snapshot_steps=(0, 100)), tmp_path / "run")
    workdir = tmp_path / "run"
    history = runs.read_metrics(workdir)
    assert tuple(history) == training.COLUMNS
    assert history["step"].tolist() == list(range(0, 201, 10))
    description = json.loads((workdir / "config.json").read_text())
    assert description["latent_dim"] == 4 and description["representation"] == "eigenbasis"
    assert description["momentum"] == 0.9 and "jax" in description["versions"] and description["device"]
    with np.load(workdir / "params.npz") as stored:
        shapes = {name: stored[name].shape for name in stored}
    assert shapes == {
        "encoder": (4, 64),
        "decoder": (64, 4),
        "latent_log_variance": (4,),
        "noise_log_variance": (),
    }
    assert any((workdir / "checkpoints").iterdir())
    assert storage.read_weights(runs.snapshot_path(workdir, 100))["encoder"].shape == (4, 64)


def test_the_same_command_gives_the_same_bytes_and_a_finished_run_is_left_alone(tmp_path):
    for name in ("one", "two"):
        runs.execute(config(), tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    assert not runs.execute(config(), tmp_path / "one")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}


class KilledError(Exception):
    pass


@pytest.mark.parametrize("killed_after", [1, 5, 10, 14])
@pytest.mark.parametrize("method", ["rag", "nested_dropout"])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, killed_after, method, monkeypatch):
    fields = {"method": method, "snapshot_steps": (0, 50, 100), "num_steps": 150, "latent_dim": 3}
    runs.execute(config(**fields), tmp_path / "whole")
    monkeypatch.setattr(runs, "_Pace", lambda: lambda: 1)  # one row a chunk: many places to be killed at
    chunks = 0

    def kill(state, history):
        nonlocal chunks
        chunks += 1
        if chunks == killed_after:
            raise KilledError

    with pytest.raises(KilledError):
        runs.execute(config(**fields), tmp_path / "cut", on_chunk=kill)
    # What a kill in the middle of a write leaves behind.
    with open(tmp_path / "cut" / "metrics.csv", "ab") as file:
        file.write(b"90,0.12")
    assert runs.execute(config(**fields), tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_sigkill_at_any_point(tmp_path):
    """The launcher itself, killed a few times at moments of its own choosing."""
    fields = ["--config.dataset=digits", "--config.latent_dim=4", "--config.num_steps=60000"]
    fields += ["--config.checkpoint_seconds=0", "--config.snapshot_steps=(20000,)"]
    command = [sys.executable, "-m", "launch.train", *fields]
    subprocess.run([*command, f"--workdir={tmp_path / 'whole'}"], check=True, capture_output=True)
    for delay in (0.2, 0.7, 1.1):
        process = subprocess.Popen([*command, f"--workdir={tmp_path / 'cut'}"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (tmp_path / "cut" / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, f"--workdir={tmp_path / 'cut'}"], check=True, capture_output=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_another_configuration_is_refused_and_nothing_changes(tmp_path):
    runs.execute(config(), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=r"workdir: .*learning_rate = 0.01, not 0.02"):
        runs.execute(config(learning_rate=0.02), tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("mine\n")
    with pytest.raises(InputError, match=r"holds metrics.csv but no config.json"):
        runs.execute(config(), tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == "mine\n"


def test_an_unwritable_workdir_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"workdir: cannot write .*file/run") as raised:
        runs.execute(config(), tmp_path / "file" / "run")
    assert "\n" not in str(raised.value)


def test_a_corrupt_config_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        runs.execute(config(), tmp_path)


def test_divergence_keeps_what_was_recorded(tmp_path):
    with pytest.raises(training.DivergenceError) as raised:
        runs.execute(config(method="lae", optimizer="sgd", learning_rate=1e3, num_steps=1000), tmp_path / "run")
    history = runs.read_metrics(tmp_path / "run")
    assert np.isfinite(history["loss"]).all()
    assert history["step"][-1] < raised.value.step
    assert not runs.is_finished(tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_steps": -1}, "num_steps: -1"),
        ({"record_every": 0}, "record_every: 0"),
        ({"snapshot_steps": (15,)}, "snapshot_steps: 15"),
        ({"snapshot_steps": (1000,)}, "snapshot_steps: 1000"),
    ],
)
def test_bad_fields(tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        runs.execute(config(**fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_field_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'learning_rate'"):
        runs.from_fields({"learningrate": 1.0})


def test_weights_come_back_in_input_coordinates(tmp_path):
    """Final weights of one run are the initial weights of the next: `init` reads params.npz."""
    runs.execute(config(num_steps=100), tmp_path / "first")
    runs.execute(config(num_steps=0, init=str(tmp_path / "first" / "params.npz")), tmp_path / "second")
    last, first = runs.read_metrics(tmp_path / "first"), runs.read_metrics(tmp_path / "second")
    assert first["loss"][0] == pytest.approx(last["loss"][-1], rel=1e-12)
    for name, value in storage.read_weights(tmp_path / "first" / "params.npz").items():
        np.testing.assert_allclose(storage.read_weights(tmp_path / "second" / "params.npz")[name], value, atol=1e-14)
