import csv

import numpy as np
import pytest

from lae_jax.errors import InputError
from launch import common, compare
from launch import scaling as launch_scaling
from launch.configs import compare as settings
from launch.configs import scaling


def config(variant="", **fields):
    made = settings.get_config(variant)
    made.problems = (("digits", 3, 200),)
    small = {"methods": ("oja", "aligned"), "learning_rates": (0.03, 0.1, 30.0), "timing_seconds": 1e-3}
    made.update(small | {"precision": "float64"} | fields)
    return made


def rows(workdir, table):
    with open(workdir / f"{table}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_tables_and_figures(tmp_path, capsys, monkeypatch):
    compare.run(config(seeds=(0, 1)), tmp_path)
    table = {(row["latent_dim"], row["method"]): row for row in rows(tmp_path, "compare")}
    assert list(table) == [("3", "oja"), ("3", "aligned")]
    best = table["3", "aligned"]
    assert best["learning_rate"] == "0.1" and best["seeds"] == "2" and best["fraction_of_rates"] == "0.667"
    steps = [int(best[f"steps_{target}"]) for target in ("0.3", "0.1", "0.01", "0.001")]
    assert steps[0] > 0 and steps == sorted(steps) and steps[-1] <= 100
    assert int(best["lowest_0.001"]) <= steps[-1] <= int(best["highest_0.001"])
    assert float(best["dense_seconds"]) > 0 and float(best["axis_alignment"]) <= 0.001
    oja = table["3", "oja"]  # the subspace alone: no rate gets it to the last target
    assert not oja["steps_0.001"] and not oja["dense_seconds"] and oja["fraction_of_rates"] == "0.0"
    assert len(rows(tmp_path, "runs")) == 2 * (3 + 1)  # the grid, and the best rate with the second seed
    diverged = [row for row in rows(tmp_path, "grid") if row["learning_rate"] == "30.0"]
    assert len(diverged) == 2 and not any(row["steps_0.3"] for row in diverged)
    for row in rows(tmp_path, "exact"):
        # Incremental PCA keeps k components of each batch and is not exact.
        assert float(row["axis_alignment"]) < 1e-3 or "Incremental" in row["solver"]
    for picture in ("compare_digits.png", "robustness_digits.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert "digits, k = 3: steps to axis alignment" in capsys.readouterr().out

    # Again: what is finished is left alone.
    monkeypatch.setattr(compare, "load", None)
    compare.run(config(seeds=(0, 1)), tmp_path)
    assert "digits, k = 3: finished already" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds a run with seeds"):
        compare.run(config(), tmp_path)


@pytest.mark.parametrize("launcher", ["compare", "scaling"])
def test_other_data_in_a_file_of_the_same_name_are_another_experiment(launcher, tmp_path, monkeypatch):
    def stop(*_):
        raise InterruptedError

    monkeypatch.setattr(common, "run_in_threads", stop)
    made = config() if launcher == "compare" else scaling.get_config()
    if launcher == "compare":
        made.problems = ((str(tmp_path / "x.npy"), 2, 10),)
    else:
        made.update(dataset=str(tmp_path / "x.npy"), latent_dims=(2,), methods=("rag",))
    rows = np.random.default_rng(0).standard_normal((9, 4))
    for data, told in ((rows, InterruptedError), (rows, InterruptedError), (2 * rows, InputError)):
        np.save(tmp_path / "x.npy", data)
        with pytest.raises(told, match=r"holds a run with data" if told is InputError else None):
            {"compare": compare, "scaling": launch_scaling}[launcher].run(made, tmp_path / "out")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ("algined",)}, "methods: 'algined' is not known; did you mean 'aligned'"),
        ({"optimizer": "nestrov"}, "optimizer: 'nestrov' is not known; did you mean 'nesterov'"),
        ({"learning_rates": ()}, "learning_rates: empty"),
        ({"robust_target": 0.5}, "robust_target: 0.5 is not one of the targets"),
        ({"targets": (0.01, 0.1)}, r"targets: \(0\.01, 0\.1\): must decrease"),
        ({"problems": (("digits", "k3", 10),)}, r"problems: \('digits', 'k3', 10\): must be \(data set, latent size"),
        ({"problems": ("digits", 3, 10)}, "problems: 'digits': must be"),
        ({"problems": (("digitss", 3, 10),)}, "dataset: 'digitss' is not known"),
        ({"problems": (("digits", 64, 10),)}, r"latent_dim: 64 is outside 1\.\.63"),
    ],
)
def test_bad_input_is_told_in_one_line(fields, message, tmp_path):
    made = config(**{name: value for name, value in fields.items() if name != "problems"})
    if "problems" in fields:
        made.problems = fields["problems"]
    with pytest.raises(InputError, match=message) as caught:
        compare.run(made, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_data_set_whose_samples_are_missing_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "load", lambda name, **_: (_ for _ in ()).throw(InputError(f"{name}: no samples")))
    made = config()
    made.problems = (("fashion_mnist", 2, 10),)
    with pytest.raises(InputError, match="nothing was compared"):
        compare.run(made, tmp_path)
    assert "left out: fashion_mnist: no samples" in capsys.readouterr().err
    assert settings.get_config("full").seeds == (0, 1, 2)
    with pytest.raises(InputError, match="variant: 'ful' is not known; did you mean 'full'"):
        settings.get_config("ful")
