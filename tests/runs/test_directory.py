"""The run directory: written whole, gone on with exactly, never mixed up."""

import contextlib
import dataclasses
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pandas
import pytest

from lae_jax import components, objectives
from lae_jax.data.datasets import from_samples
from lae_jax.errors import InputError
from lae_jax.methods import METHODS, Method
from lae_jax.runs import chunks as run_chunks
from lae_jax.runs import directory, storage
from lae_jax.runs.directory import RunConfig
from lae_jax.training import loop
from tests import kill, launching


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
    names = [
        "metrics.csv",
        "params.npz",
        "components.npz",
        *sorted(f"snapshots/{path.name}" for path in workdir.glob("snapshots/*.npz")),
    ]
    return {name: (workdir / name).read_bytes() for name in names}


def test_leaves_what_is_promised(tmp_path):
    assert directory.execute(config(method="linear_vae", snapshot_steps=(0, 100)), tmp_path / "run")
    workdir = tmp_path / "run"
    history = directory.read_metrics(workdir)
    assert tuple(history) == loop.COLUMNS
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
    assert storage.read_weights(directory.snapshot_path(workdir, 100))["encoder"].shape == (4, 64)


def test_the_same_command_gives_the_same_bytes_and_a_finished_run_is_left_alone(tmp_path):
    for name in ("one", "two"):
        directory.execute(config(), tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    assert not directory.execute(config(), tmp_path / "one")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "killed_after"), [("rag", 1), ("nested_dropout", 5), ("nested_dropout", 10), ("rag", 14)]
)
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, killed_after, method, monkeypatch):
    fields = {"method": method, "snapshot_steps": (0, 50, 100), "num_steps": 150, "latent_dim": 3}
    directory.execute(config(**fields), tmp_path / "whole")
    monkeypatch.setattr(run_chunks, "Pace", lambda: lambda: 1)  # one row a chunk: many places to be killed at
    chunks = 0

    def die(state, history):
        nonlocal chunks
        chunks += 1
        if chunks == killed_after:
            raise KilledError

    with pytest.raises(KilledError):
        directory.execute(config(**fields), tmp_path / "cut", on_chunk=die)
    # What a kill in the middle of a write leaves behind.
    with open(tmp_path / "cut" / "metrics.csv", "ab") as file:
        file.write(b"90,0.12")
    assert directory.execute(config(**fields), tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_killed_at_random_moments(tmp_path, monkeypatch):
    """The launcher itself; `python -m tests.kill` does it a hundred times."""
    scenario = kill.SCENARIOS["batches"]
    monkeypatch.setitem(kill.SCENARIOS, "short", scenario._replace(fields=scenario.fields | {"num_steps": 500}))
    done = list(kill.kills("short", 2, random.Random(0), tmp_path / "runs"))
    assert [name for name, _ in done] == ["SIGKILL", "SIGTERM"]


def interrupt_after(chunks):
    """An `on_chunk` that has the run stop at this one of its chunks."""
    left = iter(range(chunks - 1))

    def on_chunk(state, history):
        if next(left, None) is None:
            raise directory.InterruptedRunError

    return on_chunk


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A run that has been finished in `whole`, and stopped at step 50 in `cut`, where its only checkpoint is."""
    monkeypatch.setattr(run_chunks, "Pace", lambda: lambda: 1)
    fields = {"num_steps": 100, "checkpoint_seconds": 1e9}
    directory.execute(config(**fields), tmp_path / "whole")
    with pytest.raises(directory.InterruptedRunError, match=r"cut is at step 50 of 100, and saved"):
        directory.execute(config(**fields), tmp_path / "cut", on_chunk=interrupt_after(5))
    return config(**fields)


@pytest.mark.parametrize("name", ["job[1]", "a**b", r"back\slash", "what?", "{x}, é #1"])
def test_a_folder_of_any_name_keeps_its_checkpoints(tmp_path, monkeypatch, name):
    monkeypatch.setattr(run_chunks, "Pace", lambda: lambda: 1)
    fields = config(num_steps=20, checkpoint_seconds=1e9)
    with pytest.raises(directory.InterruptedRunError):
        directory.execute(fields, tmp_path / name, on_chunk=interrupt_after(1))
    assert any((tmp_path / name / "checkpoints").iterdir())
    steps = []
    assert directory.execute(fields, tmp_path / name, on_chunk=lambda state, _: steps.append(int(state.step)))
    assert steps == [20]


def test_a_run_that_is_told_to_stop_saves_where_it_is(interrupted, tmp_path):
    steps = []
    assert directory.execute(interrupted, tmp_path / "cut", on_chunk=lambda state, _: steps.append(int(state.step)))
    assert steps == [60, 70, 80, 90, 100]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_time_budget_stops_and_the_same_command_goes_on(tmp_path):
    directory.execute(config(num_steps=60), tmp_path / "whole")
    for _ in range(2):
        with pytest.raises(directory.InterruptedRunError, match=r"max_seconds: 1e-09 are over; .* of 60, and saved"):
            directory.execute(config(num_steps=60, max_seconds=1e-9), tmp_path / "cut")
    assert directory.execute(config(num_steps=60, max_seconds=1e-9), tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_run_that_had_met_its_target_takes_no_further_step(tmp_path):
    fields = {"target": 0.5, "num_steps": 5000, "snapshot_steps": (0, 4000)}
    directory.execute(config(**fields), tmp_path / "run")
    before = contents(tmp_path / "run")
    assert directory.read_metrics(tmp_path / "run")["step"][-1] < 4000
    (tmp_path / "run" / "params.npz").unlink()  # as if killed before it was written
    assert directory.execute(config(**fields), tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with (
        storage.locked(tmp_path / "run"),
        pytest.raises(InputError, match=f"run is in use by process {os.getpid()} on .*; wait for it or"),
    ):
        directory.execute(config(), tmp_path / "run")
    assert directory.execute(config(num_steps=10), tmp_path / "run")  # the file .lock itself means nothing


def test_the_lock_goes_with_its_process(tmp_path):
    code = "import os, sys; from pathlib import Path; from lae_jax.runs.storage import locked"
    code += "; locked(Path(sys.argv[1])).__enter__()"
    subprocess.run([sys.executable, "-c", f"{code}; os.kill(os.getpid(), 9)", str(tmp_path)], cwd=launching.ROOT)
    assert (tmp_path / ".holder").read_text().startswith("process ")
    with storage.locked(tmp_path):
        pass


@contextlib.contextmanager
def largest_file(size):
    """Files cannot grow beyond so many bytes: a write fails as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize(("size", "path"), [(200, "metrics.csv"), (2000, "checkpoints")])
def test_what_cannot_be_written_is_one_line_and_the_last_checkpoint_stays(interrupted, tmp_path, size, path):
    with largest_file(size), pytest.raises(InputError) as raised:
        directory.execute(interrupted, tmp_path / "cut")
    assert str(raised.value).startswith(f"workdir: cannot write {tmp_path / 'cut' / path} (File too large);")
    assert directory.execute(interrupted, tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_half_a_file_is_not_left(tmp_path):
    storage.write_atomically(tmp_path / "file", b"old")
    with largest_file(10), pytest.raises(InputError, match=r"cannot write .*file \(File too large\)"):
        storage.write_atomically(tmp_path / "file", b"new" * 10)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def damage(workdir, steps):
    for step in steps:
        for path in (workdir / "checkpoints" / str(step)).rglob("d/*"):
            path.write_bytes(path.read_bytes()[:20])


def test_a_damaged_checkpoint_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(run_chunks, "Pace", lambda: lambda: 1)
    fields = config(num_steps=100, keep_checkpoints=3)
    directory.execute(fields, tmp_path / "whole")
    with pytest.raises(directory.InterruptedRunError):
        directory.execute(fields, tmp_path / "cut", on_chunk=interrupt_after(5))
    assert sorted(path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()) == ["30", "40", "50"]
    damage(tmp_path / "cut", (40, 50))
    shutil.copytree(tmp_path / "cut", tmp_path / "lost")
    assert directory.execute(fields, tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    damage(tmp_path / "lost", (30,))
    with pytest.raises(InputError, match=r"no checkpoint can be read \(.*\); delete the folder to start again"):
        directory.execute(fields, tmp_path / "lost")


def test_metrics_without_the_row_of_the_checkpoint_are_refused(interrupted, tmp_path):
    (tmp_path / "cut" / "metrics.csv").write_text("step,loss\n0,1.0\n")
    with pytest.raises(InputError, match=r"metrics.csv: has no row of step 50, the last checkpoint"):
        directory.execute(interrupted, tmp_path / "cut")


def test_a_row_that_is_being_written_is_not_read(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"step,loss\n0,1.5\n10,0.")
    np.testing.assert_equal(directory.read_metrics(tmp_path), {"step": [0.0], "loss": [1.5]})


def test_a_profile_of_a_few_steps(tmp_path):
    directory.execute(config(profile_dir=str(tmp_path / "profile")), tmp_path / "run")
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    directory.execute(config(), tmp_path / "without")
    assert contents(tmp_path / "run") == contents(tmp_path / "without")


def test_another_configuration_is_refused_and_nothing_changes(tmp_path):
    directory.execute(config(), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=r"workdir: .*learning_rate = 0.01, not 0.02"):
        directory.execute(config(learning_rate=0.02), tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_raising_num_steps_says_how_to_go_on(tmp_path):
    directory.execute(config(num_steps=10), tmp_path)
    with pytest.raises(InputError, match=r"num_steps = 10, not 20; .*choose another folder with --config.init="):
        directory.execute(config(num_steps=20), tmp_path)


ROWS = np.random.default_rng(0).standard_normal((30, 6)) * np.arange(6, 0, -1)


def test_a_run_on_data_of_ones_own_says_so(tmp_path):
    mine = from_samples("mine", ROWS, scale=2.0, center=False)
    fields = config(latent_dim=2, num_steps=10, learning_rate=1e-4)
    assert directory.execute(fields, str(tmp_path / "run"), mine)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["dataset"], stored["center"], stored["scale"]) == ("mine", False, 2.0)
    assert directory.read_config(str(tmp_path / "run")).dataset == "mine"
    assert not directory.execute(fields, tmp_path / "run", mine)  # the same command again
    directory.check_data(tmp_path / "run", mine)


@pytest.mark.parametrize("change", [0, 1, 2])
def test_other_data_of_the_same_name_size_and_variance_are_told_apart(tmp_path, change):
    directory.execute(config(latent_dim=2, num_steps=10, learning_rate=1e-4), tmp_path, from_samples("mine", ROWS))
    rows = [ROWS[:, ::-1], ROWS + 0.01, np.vstack([ROWS, ROWS[:1]])][change]
    with pytest.raises(InputError, match="was trained on other data than 'mine' is here"):
        directory.check_data(tmp_path, from_samples("mine", rows))
    with pytest.raises(InputError, match="holds a run with data = "):
        directory.execute(config(latent_dim=2, num_steps=10, learning_rate=1e-4), tmp_path, from_samples("mine", rows))


def test_a_fingerprint_forgives_rounding_and_folders_of_before(tmp_path):
    mine = from_samples("mine", ROWS)
    directory.execute(config(latent_dim=2, num_steps=10, learning_rate=1e-4), tmp_path, mine)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    stored["data"]["total_variance"] *= 1 + 1e-13
    del stored["data"]["along_cosine"], stored["method_probe"]
    path.write_text(json.dumps(stored))
    assert not directory.execute(config(latent_dim=2, num_steps=10, learning_rate=1e-4), tmp_path, mine)


@pytest.mark.parametrize("part", ["loss", "rule"])
def test_a_constant_changed_inside_a_method_of_ones_own_is_seen(tmp_path, monkeypatch, part):
    def row(constant):
        def loss(params, data, key, hyperparameter):
            return objectives.reconstruction(params, data) + constant * jnp.sum(jnp.abs(params.encoder))

        def rule(optimizer):
            return optax.chain(optax.add_decayed_weights(constant), optimizer)

        return Method("mine", loss) if part == "loss" else METHODS["lae"]._replace(rule=rule)

    fields = config(method="mine", latent_dim=2, num_steps=10, learning_rate=1e-4)
    monkeypatch.setitem(METHODS, "mine", row(0.01))
    assert directory.execute(fields, tmp_path)
    monkeypatch.setitem(METHODS, "mine", row(0.01))  # another function that says the same
    assert not directory.execute(fields, tmp_path)
    monkeypatch.setitem(METHODS, "mine", row(0.0101))
    with pytest.raises(InputError, match=r"holds a run with method_probe = .*loss or rule gives other numbers now"):
        directory.execute(fields, tmp_path)


def test_the_folder_that_is_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.folder_of("~/run") == tmp_path / "run"
    for address in ("gs://bucket/run", Path("s3://bucket/run")):
        with pytest.raises(InputError, match=r"workdir: .*an address; give a folder"):
            directory.execute(config(), address)
    assert storage.folder_of("C:/run") == Path("C:/run")


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("mine\n")
    with pytest.raises(InputError, match=r"^workdir: .* holds metrics.csv but no config.json"):
        directory.execute(config(), tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == "mine\n"


def test_an_unwritable_workdir_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"workdir: cannot write .*file/run") as raised:
        directory.execute(config(), tmp_path / "file" / "run")
    assert "\n" not in str(raised.value)


def test_a_corrupt_config_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        directory.execute(config(), tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="holds no fields"):
        directory.execute(config(), tmp_path)


def test_divergence_keeps_what_was_recorded(tmp_path):
    with pytest.raises(loop.DivergenceError) as raised:
        directory.execute(config(method="lae", optimizer="sgd", learning_rate=1e3, num_steps=1000), tmp_path / "run")
    history = directory.read_metrics(tmp_path / "run")
    assert np.isfinite(history["loss"]).all()
    assert history["step"][-1] < raised.value.step
    assert not directory.is_finished(tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_steps": -1}, "num_steps: -1"),
        ({"record_every": 0}, "record_every: 0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints: 0"),
        ({"max_seconds": -1.0}, "max_seconds: -1.0"),
        ({"max_seconds": float("nan")}, "max_seconds: nan"),
        ({"snapshot_steps": (15,)}, "snapshot_steps: 15"),
        ({"snapshot_steps": (1000,)}, "snapshot_steps: 1000"),
    ],
)
def test_bad_fields(tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        directory.execute(config(**fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_field_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'learning_rate'"):
        directory.from_fields({"learningrate": 1.0})


def test_other_weights_in_the_file_of_init_are_another_run(tmp_path):
    weights = {"encoder": np.ones((2, 64)), "decoder": np.ones((64, 2))}
    np.savez(tmp_path / "w.npz", **weights)
    fields = config(num_steps=0, latent_dim=2, init=str(tmp_path / "w.npz"))
    assert directory.execute(fields, tmp_path / "run")
    assert not directory.execute(fields, tmp_path / "run")  # the same command again
    np.savez(tmp_path / "w.npz", **weights | {"decoder": np.arange(128.0).reshape(64, 2)})
    with pytest.raises(InputError, match=r"holds a run with init_weights = .*the file of init holds other weights now"):
        directory.execute(fields, tmp_path / "run")


def test_weights_come_back_in_input_coordinates(tmp_path):
    """Final weights of one run are the initial weights of the next: `init` reads params.npz."""
    directory.execute(config(num_steps=100), tmp_path / "first")
    directory.execute(config(num_steps=0, init=str(tmp_path / "first" / "params.npz")), tmp_path / "second")
    last, first = directory.read_metrics(tmp_path / "first"), directory.read_metrics(tmp_path / "second")
    assert first["loss"][0] == pytest.approx(last["loss"][-1], rel=1e-12)
    for name, value in storage.read_weights(tmp_path / "first" / "params.npz").items():
        np.testing.assert_allclose(storage.read_weights(tmp_path / "second" / "params.npz")[name], value, atol=1e-14)


def test_a_run_on_columns_of_a_table_keeps_their_names(tmp_path):
    rows = np.random.default_rng(0).standard_normal((30, 3)) * [3, 2, 1]
    pandas.DataFrame(rows, columns=["a", "b", "c"]).assign(text="x").to_parquet(tmp_path / "x.parquet")
    fields = directory.from_fields(
        {
            "dataset": str(tmp_path / "x.parquet"),
            "columns": ("b", "a", "c"),
            "latent_dim": 2,
            "num_steps": 10,
            "learning_rate": 1e-3,
        }
    )
    directory.execute(fields, tmp_path / "run")
    assert components.load(tmp_path / "run" / "components.npz").feature_names.tolist() == ["b", "a", "c"]
    with pytest.raises(InputError, match=r"holds a run with columns = \['b', 'a', 'c'\], not \['a', 'b', 'c'\]"):
        directory.execute(dataclasses.replace(fields, columns=("a", "b", "c")), tmp_path / "run")
    with pytest.raises(InputError, match=r"^columns: \(1, 2\): must be names$"):
        directory.from_fields({"columns": (1, 2)})


def test_a_folder_of_before_there_were_columns_goes_on(tmp_path):
    directory.execute(config(num_steps=0), tmp_path)
    path = tmp_path / "config.json"
    said = json.loads(path.read_text())
    assert said.pop("columns") == []
    path.write_text(json.dumps(said))
    assert not directory.execute(config(num_steps=0), tmp_path)
