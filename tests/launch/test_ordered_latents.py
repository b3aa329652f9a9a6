"""The non-linear autoencoder at toy size, and what the launcher says where something is missing."""

import csv
import sys

import numpy as np
import pytest

from lae_jax.data import sources
from lae_jax.errors import InputError
from launch import ordered_latents
from launch.configs.ordered_latents import get_config


def toy(**changes):
    config = get_config()
    config.update({"dataset": "digits", "held_out": 300, "hidden": (16,), "latent_dim": 4, "batch_size": 64})
    config.update({"num_steps": 300, "learning_rate": 1e-2, "precision": "float64"} | changes)
    return config


def test_the_frame_orders_the_latents_and_leaves_the_full_error_alone(tmp_path, capsys):
    ordered_latents.run(toy(), tmp_path / "out")
    errors: dict[str, list[float]] = {}
    with open(tmp_path / "out" / "ordered_latents.csv") as file:
        for row in csv.DictReader(file):
            assert int(row["kept"]) == len(errors.setdefault(row["way"], []))
            errors[row["way"]].append(float(row["error"]))
    plain, turned, nested, rotated, pca = map(np.array, errors.values())
    np.testing.assert_allclose(turned[[0, -1]], plain[[0, -1]], rtol=1e-9)  # the same network but for its axes
    np.testing.assert_allclose(turned, rotated, rtol=0.02)  # which are the principal ones, to a batch's noise
    assert np.mean(turned) < 0.95 * np.mean(plain)
    assert np.mean(nested) < np.mean(turned)
    assert np.all(np.diff(nested) < 0) and np.all(np.diff(pca) < 0)
    assert (tmp_path / "out" / "ordered_latents.png").stat().st_size > 10_000
    assert "ordered_latents.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 1796}, "held_out: 1796 of 1797 samples"),
        ({"hidden": (16, 0)}, r"hidden: \(16, 0\); must be positive"),
        ({"latent_dim": 65}, "latent_dim: 65; digits has 64 inputs"),
        ({"precision": "float16"}, "precision: 'float16' is not known"),
        ({"num_steps": 0}, "num_steps: 0; must be positive"),
        ({"learning_rate": 1e80, "num_steps": 20}, "learning_rate: 1e[+]80: the loss is not finite"),
        ({"dataset": "digit"}, "did you mean 'digits'"),
    ],
)
def test_bad_fields_are_one_line(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        ordered_latents.run(toy(**changes), tmp_path)


def test_missing_samples_are_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv(sources.ENVIRONMENT, raising=False)
    monkeypatch.setattr(sources, "cache_folder", lambda name: tmp_path / "cache" / name)
    with pytest.raises(InputError, match=r"mnist: no samples in .*: set data_dir to a folder"):
        ordered_latents.run(get_config(), tmp_path)


def test_missing_flax_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flax", None)
    with pytest.raises(InputError, match=r"flax: not installed.*\.\[test\]"):
        ordered_latents.run(toy(), tmp_path)
