"""The figure launchers at toy size: every file they promise, and what they say where data are missing."""

import csv

import pytest

from lae_jax.data import sources
from lae_jax.errors import InputError
from launch import benchmark, mnist, reproduce
from launch.configs import benchmark as benchmark_config
from launch.configs import mnist as mnist_config
from launch.configs import reproduce as reproduce_config


@pytest.fixture
def no_samples(monkeypatch, tmp_path):
    monkeypatch.delenv(sources.ENVIRONMENT, raising=False)
    monkeypatch.setattr(sources, "cache_folder", lambda name: tmp_path / "cache" / name)


def small(full=mnist_config.get_config):
    config = full()
    config.num_steps, config.snapshot_steps, config.latent_dim = 20, (0, 20), 4
    config.precision = "float64"  # as the rest of the suite
    for method in ("uniform_l2", "linear_vae", "deterministic_nested_dropout"):
        del config.learning_rates[method]
    return config


def rows(path):
    with open(path) as file:
        return {(row["method"], row["optimizer"]): row for row in csv.DictReader(file)}


def test_mnist_draws_and_tabulates_and_says_what_nested_dropout_needs(tmp_path, no_samples, capsys):
    mnist.run(small(), tmp_path / "out")
    table = rows(tmp_path / "out" / "comparison.csv")
    assert float(table["rag", "nesterov"]["axis_alignment"]) > 0
    assert table["rag", "nesterov"]["paper"] == "0.000"
    assert "set data_dir to a folder" in table["nested_dropout", "adam"]["note"]
    for picture in ("figure2.png", "figure3.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 10_000
    assert "figure2.png" in capsys.readouterr().out


def test_a_diverging_run_is_named_and_the_others_are_kept(tmp_path, no_samples):
    config = small()
    config.learning_rates.rag.nesterov = 1e6
    with pytest.raises(InputError, match="not finite at step"):
        mnist.run(config, tmp_path / "out")
    table = rows(tmp_path / "out" / "comparison.csv")
    assert "not finite" in table["rag", "nesterov"]["note"] and not table["rag", "nesterov"]["axis_alignment"]
    assert table["non_uniform_l2", "nesterov"]["axis_alignment"]


def test_unknown_method_in_the_table_of_rates(tmp_path):
    config = small()
    config.learning_rates.ragg = {"nesterov": 1.0, "adam": 1.0}
    with pytest.raises(InputError, match="did you mean 'rag'"):
        mnist.run(config, tmp_path)


def test_reproduce_links_what_it_made(tmp_path, no_samples, monkeypatch):
    monkeypatch.setattr(mnist_config, "get_config", small)
    config = reproduce_config.get_config()
    config.only = ("mnist",)
    reproduce.run(config, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "mnist/figure2.png" in report and "mnist/comparison.csv" in report
    config.only = ("minst",)
    with pytest.raises(InputError, match="did you mean 'mnist'"):
        reproduce.run(config, tmp_path)


def test_benchmark_measures_every_method(tmp_path):
    config = benchmark_config.get_config()
    config.input_dim, config.num_samples, config.latent_dim, config.large_latent_dims = 12, 40, 3, (5,)
    config.spectrum_sizes = ((12, 3),)
    config.start_options, config.shared_runs, config.shared_samples = (), 2, 20
    config.batch_latent_dims, config.batch_runs, config.batch_steps, config.batch_input_dim = (2,), 2, 20, 12
    config.repeats, config.seconds, config.memory_steps = 1, 1e-4, 0
    config.methods = ("non_uniform_l2", "nested_dropout", "linear_vae", "rag", "aligned")  # one of each kind
    benchmark.run(config, tmp_path)
    with open(tmp_path / "benchmark.csv") as file:
        table = list(csv.DictReader(file))
    assert {"rag, eigenbasis, k = 5", "nested_dropout, samples, k = 3, 2 runs", "2 runs, k = 2: batch / loop"} <= {
        row["what"] for row in table
    }
    assert all(float(row["value"]) > 0 for row in table)
