import csv

import numpy as np
import pytest
from launch.scaling_table import Table

from lae_jax.data import datasets
from lae_jax.errors import InputError
from lae_jax.figures import paper
from lae_jax.training import settings as experiment
from launch import scaling
from launch.configs import scaling as settings
from launch.scaling_prediction import predicted_steps

COLUMNS = ["method", "optimizer", "latent_dim", "seed", "learning_rate", "steps_to_target", "axis_alignment", "seconds"]


def config(variant="", **fields):
    made = settings.get_config(variant)
    small = {"input_dim": 40, "num_samples": 80, "latent_dims": (2, 3), "num_steps": 1000, "precision": "float64"}
    made.update(small | {"methods": ("rag", "non_uniform_l2"), "optimizers": ("nesterov",)} | fields)
    return made


def rows(workdir):
    """scaling.csv without its timings."""
    with open(workdir / "scaling.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_table_and_figure(tmp_path, capsys):
    scaling.run(config(seeds=(0, 1)), tmp_path)
    with open(tmp_path / "scaling.csv") as file:
        assert file.readline().strip().split(",") == COLUMNS
    found = rows(tmp_path)
    expected = [(method, str(k), str(seed)) for method in ("rag", "non_uniform_l2") for k in (2, 3) for seed in (0, 1)]
    assert [(row["method"], row["latent_dim"], row["seed"]) for row in found] == expected
    assert any(row["steps_to_target"] for row in found)
    for row in found:
        assert (float(row["axis_alignment"]) <= 0.3) == bool(row["steps_to_target"])
    assert (tmp_path / "figure4.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "850" in shown and "predicted_steps" in shown  # the paper's point for RAG at k = 2
    assert not list((tmp_path / "in_flight").glob("*"))


def test_a_finished_sweep_is_left_alone_and_a_stopped_one_goes_on(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    scaling.run(config(num_steps=4000, target=1e-9), whole)
    content = (whole / "scaling.csv").read_bytes()
    # What a kill leaves between the last row of a group and the end of what was kept of it.
    (whole / "in_flight").mkdir(exist_ok=True)
    (whole / "in_flight" / "rag_nesterov_3.npz").write_bytes(b"")
    scaling.run(config(num_steps=4000, target=1e-9), whole)
    assert (whole / "scaling.csv").read_bytes() == content
    assert not list((whole / "in_flight").glob("*"))

    chunk, seen = scaling._Progress.chunk, []

    def stop_at_the_sixth(self, *arguments):
        seen.append(arguments)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return chunk(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(scaling._Progress, "chunk", stop_at_the_sixth)
        with pytest.raises(KeyboardInterrupt):
            scaling.run(config(num_steps=4000, target=1e-9, parallel_jobs=1), parts)
    assert list((parts / "in_flight").glob("*.npz"))
    scaling.run(config(num_steps=4000, target=1e-9, parallel_jobs=1), parts)
    assert rows(parts) == rows(whole)


def test_larger_k_are_not_tried_once_one_misses_the_target(tmp_path, capsys):
    fields = {"methods": ("rag",), "latent_dims": (2, 20), "num_steps": 10}
    scaling.run(config(**fields), tmp_path)
    assert [row["latent_dim"] for row in rows(tmp_path)] == ["2"]
    assert "not tried" in capsys.readouterr().out
    scaling.run(config(**fields, try_beyond_failure=True), tmp_path)
    assert [row["latent_dim"] for row in rows(tmp_path)] == ["2", "20"]


def test_tuning_shows_the_best_learning_rate(tmp_path, capsys):
    scaling.run(config("tune", methods=("rag",), latent_dims=(2,), learning_rates=(1e-6, 2e-4, 10.0)), tmp_path)
    by_rate = {float(row["learning_rate"]): row for row in rows(tmp_path)}
    assert by_rate[2e-4]["steps_to_target"] and not by_rate[1e-6]["steps_to_target"]
    assert by_rate[10.0]["axis_alignment"] == "nan"  # diverged
    with open(tmp_path / "learning_rates.csv", newline="") as file:
        tried = {row["learning_rate"]: row for row in csv.DictReader(file)}
    assert [rate for rate, row in tried.items() if row["won"]] == ["0.0002"] and len(tried) == 3
    assert tried["0.0002"]["median_steps"] == by_rate[2e-4]["steps_to_target"] and not tried["1e-06"]["median_steps"]
    assert " 0.0002 " in capsys.readouterr().out.split("learning rates that won")[1]


@pytest.fixture(scope="module")
def synthetic():
    return datasets.synthetic(input_dim=40, num_samples=80, center=False)


def predicted(synthetic, target=0.3, **fields):
    run = experiment.Settings(**{"latent_dim": 3, "learning_rate": 1e-4, "precision": "float64"} | fields)
    return predicted_steps(experiment.resolve(run, synthetic)[0], synthetic, target)


def test_predicted_steps_of_rag_are_those_of_its_gaps(synthetic):
    """Two latents turn at (d_1 - d_2) / 2 without momentum: rho^(2 t) = target."""
    first, second = synthetic.variances[:2]
    rate = 1 - 1e-4 * (first - second) / 2
    found = predicted(synthetic, method="rag", optimizer="sgd", latent_dim=2)
    assert found == pytest.approx(np.log(0.3) / (2 * np.log(rate)), rel=1e-6)
    assert predicted(synthetic, 0.1, method="rag", optimizer="sgd", latent_dim=2) > found
    # Momentum 0.9 is ten times the learning rate, in slow modes.
    slow, slower = (
        predicted(synthetic, method="rag", optimizer=name, latent_dim=2, learning_rate=1e-7)
        for name in ("nesterov", "sgd")
    )
    assert slow == pytest.approx(slower / 10, rel=1e-2)
    assert predicted(synthetic, method="linear_vae") > 100 * predicted(synthetic, method="rag")


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "rag", "optimizer": "adam"},
        {"method": "rag", "latent_dim": 1},
        {"method": "rag", "learning_rate": 1.0},
        {"method": "lae"},
        {"method": "uniform_l2"},
        {"method": "non_uniform_l2", "penalties": (1.0, 2.0, 1e4)},
    ],
)
def test_no_steps_are_predicted(fields, synthetic):
    assert predicted(synthetic, **fields) is None


def test_median_of_seeds():
    never = float("inf")
    cases = {(3,): 3, (None,): never, (1, None, 2): 2, (1, None, None): never, (5, None): never, (5, 6): 6}
    assert {steps: paper.median_steps(steps) for steps in cases} == cases


def test_the_authors_learning_rates_and_points():
    assert settings.learning_rate("deterministic_nested_dropout", "adam", 50) == 3e-3
    assert settings.learning_rate("deterministic_nested_dropout", "adam", 100) == 1e-2
    assert settings.learning_rate("lae", "adam", 2) is None
    assert [settings.largest_penalty_root(1000, k) for k in (2, 500)] == [10, 10]
    sizes = settings.get_config("full").latent_dims
    for pair, curve in settings.PAPER.items():
        assert pair in settings.LEARNING_RATES and tuple(curve) == sizes[: len(curve)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_dims": ()}, "latent_dims: empty"),
        ({"latent_dims": (2, 3, 2)}, "latent_dims: 2 is given more than once"),
        ({"seeds": (1, 1)}, "seeds: 1 is given more than once"),
        ({"latent_dims": (40,)}, r"latent_dim: 40 is outside 1\.\.39"),
        ({"methods": ("rga",)}, "methods: 'rga' is not known; did you mean 'rag'"),
        ({"optimizers": ("adma",)}, "optimizers: 'adma' is not known; did you mean 'adam'"),
        ({"target": 1.5}, r"target: 1\.5"),
        ({"target": 0.97}, r"target: 0\.97 is met before the first step"),
        ({"num_steps": 25}, "num_steps: 25: .*multiple of record_every"),
        ({"devices": 64}, r"devices: 64 asked for, but there are 1 \(cpu\)"),
        ({"max_memory": 1e-6}, "max_memory: .*does not hold one run"),
    ],
)
def test_bad_input_is_told_in_one_line(fields, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        scaling.run(config(**fields), tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_told_in_one_line(tmp_path):
    sweep = [experiment.Settings(method="rag", latent_dim=2, learning_rate=1e-4)]
    (tmp_path / "scaling.csv").write_text(",".join(COLUMNS) + "\nrag,nesterov,7,0,0.0001,10,0.2,1\n")
    with pytest.raises(InputError, match=r"scaling.csv: 'rag,nesterov,7,.*' is no run of this sweep"):
        Table(tmp_path, sweep)
    (tmp_path / "scaling.csv").write_text(",".join(COLUMNS) + "\nrag,nesterov,2,0,0.0001,1")
    with pytest.raises(InputError, match="is no run of this sweep"):
        Table(tmp_path, sweep)
    (tmp_path / "scaling.csv").unlink()
    (tmp_path / "in_flight").mkdir()
    (tmp_path / "in_flight" / "rag_nesterov_2.npz").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match=r"rag_nesterov_2.npz: cannot be read .*delete it"):
        Table(tmp_path, sweep).in_flight(sweep[0])


def test_a_workdir_of_another_sweep(tmp_path):
    scaling.run(config(num_steps=10), tmp_path)
    with pytest.raises(InputError, match="num_steps = 10, not 20; choose another folder"):
        scaling.run(config(num_steps=20), tmp_path)
