"""The draws of the published runs, against what the authors' program drew (golden/authors.npz)."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from lae_jax.data import authors, datasets
from lae_jax.errors import InputError
from lae_jax.training import settings

# encoder_*, decoder_*: the first and last 40 weights of both layers (MNIST k = 20, synthetic k = 5); first_rows,
# last_row, sums: of the synthetic samples. `edges` are entries of the samples, in C order, whose exact value lies
# within 1e-12 of the middle between two numbers of float32: libraries may round them up or down.
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "authors.npz")
SIZES = {"mnist": (20, 784, authors.loader_draws(60_000)), "synthetic": (5, 1000, 0)}
CHECKSUM = "402c44a3736395c53edde7e610fe52fd432bc9d16cff70bfd1e727b5b8924d1b"


def ends(weights):
    return np.concatenate([np.ravel(weights)[:40], np.ravel(weights)[-40:]])


@pytest.fixture(scope="module")
def samples():
    return authors.synthetic_samples()


@pytest.mark.parametrize("data", SIZES)
def test_initial_weights_are_those_of_the_published_runs(data):
    latent_dim, input_dim, before = SIZES[data]
    weights = authors.initial_weights(latent_dim, input_dim, draws_before=before)
    assert weights.encoder.shape == (latent_dim, input_dim) and weights.decoder.shape == (input_dim, latent_dim)
    for name, values in weights._asdict().items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(ends(values), GOLDEN[f"{name}_{data}"], rtol=0, atol=1e-6 * 1e-4)


@pytest.mark.parametrize("missing", [1, -1])
def test_one_draw_more_or_less_is_another_start(missing):
    latent_dim, input_dim, before = SIZES["mnist"]
    weights = authors.initial_weights(latent_dim, input_dim, draws_before=before - missing)
    for name, values in weights._asdict().items():
        assert np.abs(ends(values) - GOLDEN[f"{name}_mnist"]).max() > 1e-4


def test_scale_and_seed():
    one = authors.initial_weights(3, 7)
    assert np.allclose(authors.initial_weights(3, 7, 2e-4).encoder, 2 * one.encoder, rtol=1e-6, atol=0)
    assert not np.allclose(authors.initial_weights(3, 7, seed=1).encoder, one.encoder)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_the_generator_cannot_take(seed):
    with pytest.raises(InputError, match=f"^seed: {seed}: "):
        authors.initial_weights(5, 20, seed=seed)


def test_fewer_weights_than_a_block_are_refused():
    with pytest.raises(InputError, match=r"^init: 'authors' .* latent_dim 3 x 5 inputs are 15"):
        authors.initial_weights(3, 5)


def test_the_synthetic_samples_are_the_published_ones(samples):
    assert samples.shape == (5000, 1000) and samples.dtype == np.float32
    np.testing.assert_array_equal(samples[:4, :200], GOLDEN["first_rows"])
    np.testing.assert_array_equal(samples[-1], GOLDEN["last_row"])
    np.testing.assert_allclose(samples.sum(axis=0, dtype=float), GOLDEN["sums"], rtol=0, atol=1e-6)


def test_no_digit_of_the_synthetic_samples_has_changed(samples):
    flat = samples.ravel().copy()
    edges = GOLDEN["edges"]
    assert np.all(np.abs(flat[edges] - GOLDEN["edge_values"]) <= np.spacing(np.abs(GOLDEN["edge_values"])))
    flat[edges] = 0
    assert hashlib.sha256(flat.astype("<f4").tobytes()).hexdigest() == CHECKSUM


def test_the_data_set_of_figure_4(samples):
    dataset = datasets.load("authors_synthetic", center=True, input_dim=3)  # fixed, whatever a configuration says
    assert dataset.input_dim == 1000 and dataset.num_samples == 5000 and not dataset.mean.any()
    # Of the sample second moment, in the authors' words "eigs".
    np.testing.assert_allclose(dataset.variances[:3], [144.37548107, 143.74971552, 142.14566368], rtol=1e-8)
    np.testing.assert_array_equal(dataset.load_rows(), samples)


def test_a_run_takes_the_draws_that_its_data_set_asks_for():
    dataset = datasets.load("mnist")
    given = settings.Settings(init="authors", latent_dim=20, representation="dense", precision="float64")
    for seed in (0, 7):  # of masks and batches, which decides nothing here
        run = settings.build(settings.resolve(dataclasses.replace(given, seed=seed), dataset)[0], dataset)
        np.testing.assert_allclose(ends(run.state.params.encoder), GOLDEN["encoder_mnist"], rtol=0, atol=1e-10)
    run = settings.build(settings.resolve(dataclasses.replace(given, init_seed=7), dataset)[0], dataset)
    assert not np.allclose(ends(run.state.params.encoder), GOLDEN["encoder_mnist"], rtol=0, atol=1e-5)
