"""The figure launchers at toy size: every file they promise, and what they say where data are missing."""

import csv

import numpy as np
import pytest
from ml_collections import ConfigDict

from lae_jax.data import authors, sources
from lae_jax.errors import InputError
from lae_jax.runs import directory, dynamics, storage
from launch import benchmark, mnist, reproduce
from launch.configs import authors as published
from launch.configs import benchmark as benchmark_config
from launch.configs import mnist as mnist_config
from launch.configs import reproduce as reproduce_config
from tests.helpers import normal


@pytest.fixture
def no_samples(monkeypatch, tmp_path):
    monkeypatch.delenv(sources.ENVIRONMENT, raising=False)
    monkeypatch.setattr(sources, "cache_folder", lambda name: tmp_path / "cache" / name)


def small(full=mnist_config.get_config):
    config = full()
    config.num_steps, config.snapshot_steps, config.latent_dim, config.seeds = 20, (0, 20), 4, (0,)
    config.precision = "float64"  # as the rest of the suite
    config.methods = ("non_uniform_l2", "rag", "nested_dropout")
    return config


def rows(path):
    with open(path) as file:
        return {(row["method"], row["optimizer"]): row for row in csv.DictReader(file)}


def test_mnist_draws_and_tabulates_and_says_what_nested_dropout_needs(tmp_path, no_samples, capsys):
    mnist.run(small(), tmp_path / "out")
    table = rows(tmp_path / "out" / "comparison.csv")
    own = table["rag", "nesterov"]
    assert float(own["authors_draws"]) > 0 and own["authors_draws"] != own["median"]
    assert own["lowest"] == own["median"] == own["highest"] and own["seeds"] == "1" and own["step"] == "20"
    assert own["learning_rate"] == "0.003" and not own["published"]  # k = 4 is another setting than the paper's
    assert "set data_dir to a folder" in table["nested_dropout", "adam"]["note"]
    started = storage.read_weights(tmp_path / "out/runs/rag_nesterov_authors/snapshots/000000000.npz")
    expected = authors.initial_weights(4, 784, draws_before=authors.loader_draws(60_000))
    np.testing.assert_allclose(started["encoder"], expected.encoder, rtol=0, atol=1e-15)
    for picture in ("figure2.png", "figure3.png"):
        assert (tmp_path / "out" / picture).exists()
    assert "figure2.png" in capsys.readouterr().out


def test_own_data_rates_penalties_and_prior(tmp_path):
    np.save(tmp_path / "mine.npy", normal(0, 30, 5))
    config = small()
    config.methods, config.optimizers = ("uniform_l2", "non_uniform_l2", "deterministic_nested_dropout"), ("sgd",)
    config.dataset, config.latent_dim, config.penalties, config.prior = (
        str(tmp_path / "mine.npy"),
        2,
        (0.01, 0.04),
        (0.3, 0.7),
    )
    config.learning_rates = ConfigDict({"uniform_l2": {"sgd": 0.03125}})
    mnist.run(config, tmp_path / "out")
    runs = {path.name: directory.read_config(path) for path in (tmp_path / "out" / "runs").iterdir()}
    assert sorted(runs) == [f"{name}_sgd_seed0" for name in sorted(config.methods)]
    assert runs["uniform_l2_sgd_seed0"].penalties == (pytest.approx(0.0225),)
    assert runs["uniform_l2_sgd_seed0"].learning_rate == 0.03125 != runs["non_uniform_l2_sgd_seed0"].learning_rate
    assert runs["non_uniform_l2_sgd_seed0"].penalties == (0.01, 0.04)
    assert runs["deterministic_nested_dropout_sgd_seed0"].prior == (0.3, 0.7)
    assert not any(
        row["published"] or row["authors_draws"] for row in rows(tmp_path / "out" / "comparison.csv").values()
    )


def test_published_values_stand_beside_the_curves_at_the_same_steps():
    config = mnist_config.get_config()
    assert published.is_published(config)
    readings = published.mnist_readings()
    assert readings["linear_vae", "nesterov"][10_000] == (0.447, None)
    history = {"step": np.arange(0, 30_010, 10), "axis_alignment": np.linspace(1, 0, 3001)}
    history["subspace_distance"] = history["axis_alignment"] / 2
    planned = {"x": directory.RunConfig(method="rag", learning_rate=0.1)}
    found = {
        ("rag", "nesterov"): dynamics.Learned(
            history, [history, {**history, "axis_alignment": 0 * history["step"]}], None
        )
    }
    table = dynamics.table(planned, found, readings, published.MNIST_STEPS, {})
    assert [row["step"] for row in table] == [1_000, 5_000, 10_000, 20_000, 30_000]
    row = table[1]
    assert float(row["authors_draws"]) == pytest.approx(5 / 6, rel=1e-5) and row["published"] == "0.042"
    assert float(row["difference"]) == pytest.approx(5 / 6 - 0.042, rel=1e-5)
    assert (float(row["lowest"]), float(row["median"])) == (0, pytest.approx(5 / 12, rel=1e-5))
    assert table[3]["published"] == table[3]["difference"] == ""  # hidden by another curve


def test_a_diverging_run_is_named_and_the_others_are_kept(tmp_path, no_samples):
    config = small()
    config.learning_rates = ConfigDict({"rag": {"nesterov": 1e6}})
    with pytest.raises(InputError, match=r"rag/nesterov: .*not finite at step"):
        mnist.run(config, tmp_path / "out")
    table = rows(tmp_path / "out" / "comparison.csv")
    assert "not finite" in table["rag", "nesterov"]["note"] and not table["rag", "nesterov"]["authors_draws"]
    assert table["non_uniform_l2", "nesterov"]["authors_draws"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("learning_rates", ConfigDict({"ragg": {"nesterov": 1.0}}), "did you mean 'rag'"),
        ("methods", ("ragg",), "did you mean 'rag'"),
        ("optimizers", ("adams",), "did you mean 'adam'"),
        ("dataset", "digit", "did you mean 'digits'"),
    ],
)
def test_unknown_names(tmp_path, field, value, message):
    config = small()
    config[field] = value
    with pytest.raises(InputError, match=message):
        mnist.run(config, tmp_path)


def test_reproduce_links_what_it_made(tmp_path, no_samples, monkeypatch):
    monkeypatch.setattr(mnist_config, "get_config", small)
    config = reproduce_config.get_config()
    config.only = ("mnist",)
    reproduce.run(config, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "mnist/figure2.png" in report and "mnist/comparison.csv" in report
    assert "stochastic nested dropout, which needs" in report
    (tmp_path / "made.csv").write_text("method,published,authors_draws,note\nrag,0.5,0.4,x\nlae,,0.1,y\n")
    assert reproduce._published(tmp_path / "made.csv") == (
        "| method | published | authors_draws |\n| --- | --- | --- |\n| rag | 0.5 | 0.4 |\n"
    )
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
    config.theory_pairs = 5
    config.lanczos, config.stream_sizes = (), ()  # as tests of `training.paired` measure them
    config.methods = ("non_uniform_l2", "nested_dropout", "linear_vae", "rag", "aligned")  # one of each kind
    benchmark.run(config, tmp_path)
    with open(tmp_path / "benchmark.csv") as file:
        table = list(csv.DictReader(file))
    assert {"rag, eigenbasis, k = 5", "nested_dropout, samples, k = 3, 2 runs", "2 runs, k = 2: batch / loop"} <= {
        row["what"] for row in table
    }
    assert all(float(row["value"]) > 0 for row in table)
