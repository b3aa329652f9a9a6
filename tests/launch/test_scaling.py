import csv

import numpy as np
import pytest

from lae_jax.data import datasets
from lae_jax.errors import InputError
from lae_jax.training import settings as experiment
from launch import common, scaling
from launch.configs import scaling as settings
from launch.scaling_prediction import predicted_steps


def config(variant="", **fields):
    made = settings.get_config(variant)
    small = {"dataset": "synthetic", "input_dim": 40, "num_samples": 80, "latent_dims": (2, 3), "num_steps": 1000}
    small |= {"precision": "float64", "methods": ("rag", "non_uniform_l2"), "optimizers": ("nesterov",)}
    made.update(small | {"init": "", "seeds": (0,)} | fields)
    return made


def rows(workdir, name="runs", without=("seconds",)):
    """A table without its timings."""
    with open(workdir / f"{name}.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name not in without} for row in csv.DictReader(file)]


def test_tables_and_figure(tmp_path, capsys):
    made = config(init="authors", seeds=(0, 1), seeds_up_to=2)
    scaling.run(made, tmp_path)
    found = rows(tmp_path)
    starts = {"2": [("authors", "1234"), ("gaussian", "0"), ("gaussian", "1")], "3": [("authors", "1234")]}
    expected = [(method, k, *start) for method in made.methods for k in starts for start in starts[k]]
    assert [(row["method"], row["latent_dim"], row["init"], row["seed"]) for row in found] == expected
    assert any(row["steps_0.3"] for row in found)
    for row in found:
        assert (float(row["axis_alignment"]) <= 0.3) == bool(row["steps_0.3"])
    points = rows(tmp_path, "scaling")
    assert [row["seeds"] for row in points] == ["2", "0", "2", "0"] and points[0]["published"] == "850"
    assert float(points[0]["authors_draws"]) == float(found[0]["steps_0.3"] or "inf")
    assert (tmp_path / "figure4.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "850" in shown and "authors_draws" in shown
    assert not list((tmp_path / "in_flight").glob("*"))


def test_masks_that_cannot_be_drawn_again_have_the_seeds_alone():
    small = datasets.synthetic(input_dim=40, num_samples=80, center=False)
    made = config(init="authors", methods=("nested_dropout", "rag"), seeds=(5, 6), seeds_up_to=2)
    keys = list(settings.plan(made, small))
    assert [(key[0], key[2], key[4]) for key in keys] == [
        *[("nested_dropout", k, seed) for k in ("2", "3") for seed in ("5", "6")],
        *[("rag", "2", seed) for seed in ("1234", "5", "6")],
        ("rag", "3", "1234"),
    ]


def test_a_finished_sweep_is_left_alone_and_a_stopped_one_goes_on(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    made = config(num_steps=4000, target=1e-9, parallel_jobs=1)
    scaling.run(made, whole)
    content = (whole / "runs.csv").read_bytes()
    # What a kill leaves between the last row of a group and the end of what was kept of it.
    (whole / "in_flight").mkdir(exist_ok=True)
    (whole / "in_flight" / "rag_nesterov_3_0.npz").write_bytes(b"")
    scaling.run(made, whole)
    assert (whole / "runs.csv").read_bytes() == content
    assert not list((whole / "in_flight").glob("*"))

    advance, seen = common.Progress.advance, []

    def stop_at_the_sixth(self, *arguments):
        seen.append(arguments)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return advance(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(common.Progress, "advance", stop_at_the_sixth)
        with pytest.raises(KeyboardInterrupt):
            scaling.run(made, parts)
    assert list((parts / "in_flight").glob("*.npz"))
    scaling.run(made, parts)
    assert rows(parts) == rows(whole)


def test_larger_k_are_not_tried_once_one_misses_the_target(tmp_path, capsys):
    fields = {"methods": ("rag",), "latent_dims": (2, 20), "num_steps": 10}
    scaling.run(config(**fields), tmp_path)
    assert [row["latent_dim"] for row in rows(tmp_path)] == ["2"]
    assert "not tried, because a smaller k missed the target: rag/nesterov k = 20" in capsys.readouterr().out
    scaling.run(config(**fields, try_beyond_failure=True), tmp_path)
    assert [row["latent_dim"] for row in rows(tmp_path)] == ["2", "20"]


def test_tuning_shows_the_best_learning_rate(tmp_path):
    scaling.run(config("tune", methods=("rag",), latent_dims=(2,), learning_rates=(1e-6, 2e-4, 10.0)), tmp_path)
    by_rate = {float(row["learning_rate"]): row for row in rows(tmp_path)}
    assert by_rate[2e-4]["steps_0.3"] and not by_rate[1e-6]["steps_0.3"]
    assert by_rate[10.0]["axis_alignment"] == "nan"  # diverged
    tried = {row["learning_rate"]: row for row in rows(tmp_path, "learning_rates")}
    assert [rate for rate, row in tried.items() if row["won"]] == ["0.0002"] and len(tried) == 3
    assert tried["0.0002"]["median_steps"] == by_rate[2e-4]["steps_0.3"] and tried["1e-06"]["median_steps"] == "inf"
    (point,) = rows(tmp_path, "scaling")
    assert point["learning_rate"] == "0.0002" and point["median"] == by_rate[2e-4]["steps_0.3"]


@pytest.fixture(scope="module")
def synthetic():
    return datasets.synthetic(input_dim=40, num_samples=80)


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
        ({"seeds": ()}, "seeds: empty"),
        ({"dataset": "authors_synthetic"}, "input_dim: 40: is of dataset 'synthetic'"),
        ({"init": "author"}, "init: 'author': 'authors' for"),
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


def test_a_workdir_of_another_sweep(tmp_path):
    scaling.run(config(num_steps=10), tmp_path)
    with pytest.raises(InputError, match="num_steps = 10, not 20; a run ends where it was planned to"):
        scaling.run(config(num_steps=20), tmp_path)
