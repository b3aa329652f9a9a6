"""What `launch.train` leaves beside the weights, and `launch.evaluate` on it."""

import csv
import json
import shutil

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lae_jax import components
from lae_jax.errors import InputError
from lae_jax.runs import directory
from launch import evaluate, tensorboard, train
from launch.configs import evaluate as evaluate_config
from launch.configs import train as train_config


def config_of(module, **fields):
    config = module.get_config()
    config.update(fields)
    return config


FIELDS = {"dataset": "digits", "latent_dim": 4, "method": "aligned", "num_steps": 1000, "precision": "float64"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train.run(config_of(train_config, **FIELDS, tensorboard=True, snapshot_steps=(0, 500)), workdir)
    return workdir


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_components_are_written_and_drawn(finished):
    found = components.load(finished / "components.npz")
    assert found.components.shape == (4, 64) and found.scale == 1 / 16
    images = load_digits().data
    assert found.transform(images).shape == (len(images), 4)
    assert (finished / "components.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_has_scalars_and_images(finished):
    (events,) = (finished / "tensorboard").iterdir()
    content = events.read_bytes()
    assert content.count(b"axis_alignment") == 100 and content.count(b"decoder") == 3


def test_a_finished_run_is_left_alone(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    train.run(config_of(train_config, **FIELDS, snapshot_steps=(0, 500)), finished)
    assert "finished already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_missing_tensorboard_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[tensorboard\]'"):
        tensorboard.Board(tmp_path)


def test_against_exact_pca(finished, tmp_path, capsys):
    evaluate.run(config_of(evaluate_config, run=str(finished)), tmp_path)
    table = rows(tmp_path / "evaluation.csv")
    assert len(table) == 4
    for index, row in enumerate(table, 1):
        assert int(row["component"]) == int(row["latent"]) == index
        assert float(row["cosine"]) > 1 - 1e-8 and float(row["relative_error"]) < 1e-8
    said = capsys.readouterr().out
    assert "exact PCA" in said and "evaluation.csv" in said


def test_on_other_data(finished, tmp_path):
    """The same images without their scale, from a file: the same directions, 16^2 times the variance."""
    np.save(tmp_path / "digits.npy", load_digits().data)
    other = {"dataset": str(tmp_path / "digits.npy"), "scale": 1.0}
    evaluate.run(config_of(evaluate_config, run=str(finished), **other), tmp_path)
    found = components.load(finished / "components.npz")
    for row, variance in zip(rows(tmp_path / "evaluation.csv"), found.explained_variance, strict=True):
        assert float(row["cosine"]) > 1 - 1e-8
        assert float(row["explained_variance"]) == pytest.approx(16**2 * variance)


def test_a_run_on_data_that_its_fields_do_not_find_is_not_measured_on_what_they_find(finished, tmp_path):
    """A Dataset made in Python and named `digits`, where the launcher would load scikit-learn's."""
    shutil.copytree(finished, tmp_path / "run")
    stored = json.loads((finished / "config.json").read_text())
    stored["data"]["along_cosine"][0] += 1.0
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="was trained on other data than 'digits' is here"):
        evaluate.run(config_of(evaluate_config, run=str(tmp_path / "run")), tmp_path)
    evaluate.run(config_of(evaluate_config, run=str(tmp_path / "run"), dataset="digits"), tmp_path)


def test_bad_input_is_one_line(finished, tmp_path):
    with pytest.raises(InputError, match=r"config.json: not the configuration of a run \(.*No such file"):
        evaluate.run(config_of(evaluate_config), tmp_path)
    with pytest.raises(InputError, match=r"dataset: mnist has 784 inputs, but the run in .* has 64"):
        evaluate.run(config_of(evaluate_config, run=str(finished), dataset="mnist"), tmp_path)
    with pytest.raises(KilledError):
        directory.execute(directory.RunConfig(**FIELDS), tmp_path / "unfinished", on_chunk=kill)
    with pytest.raises(InputError, match=r"is not finished; give its command of launch.train again"):
        evaluate.run(config_of(evaluate_config), tmp_path / "unfinished")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="not the configuration of a run"):
        evaluate.run(config_of(evaluate_config), tmp_path)


class KilledError(Exception):
    pass


def kill(state, history):
    raise KilledError
