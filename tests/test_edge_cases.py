"""Starts in any precision, data of any size, files damaged in any way: cases that were once wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lae_jax import rotation_augmented_gradient
from lae_jax.covariance import Dense
from lae_jax.data import sources
from lae_jax.data.datasets import from_samples
from lae_jax.errors import InputError
from lae_jax.training.settings import Settings, build, resolve
from tests.data.test_sources import SAMPLES, complaint, saved
from tests.helpers import assert_close, normal, random_params
from tests.training.test_settings import DATASET, DECODER, ENCODER, M, after, settled, stored


def test_rag_says_that_it_needs_the_weights():
    transform = rotation_augmented_gradient()
    with pytest.raises(ValueError, match="params"):
        transform.update(random_params(9, 3, 4), optax.EmptyState(), covariance=Dense(jnp.eye(4)))


@pytest.mark.parametrize(("method", "optimizer"), [("rag", "nesterov"), ("linear_vae", "sgd")])
def test_a_seed_names_one_run_in_every_exact_representation(method, optimizer):
    ends = [
        after(method=method, optimizer=optimizer, representation=name) for name in ("samples", "dense", "eigenbasis")
    ]
    for end in ends[1:]:
        assert_close(end, ends[0], factor=10_000)


@pytest.mark.parametrize("dtype", [np.int64, np.float16])
@pytest.mark.parametrize("representation", ["dense", "eigenbasis"])
def test_initial_weights_of_any_type_keep_their_digits(tmp_path, dtype, representation):
    encoder, decoder = (4 * ENCODER).astype(dtype), (4 * DECODER).astype(dtype)
    run = build(
        settled(init=stored(tmp_path, encoder=encoder, decoder=decoder), representation=representation), DATASET
    )
    back = run.in_input_coordinates(run.state.params)
    assert_close((back.encoder, back.decoder), (encoder.astype(float), decoder.astype(float)))


def test_a_uniform_penalty_collapses_the_latents_of_small_variance():
    penalty = float(DATASET.variances[1])
    _, notes = resolve(Settings(method="uniform_l2", penalties=(penalty,), latent_dim=3), DATASET)
    assert len(notes) == 1 and "latent 2, 3:" in notes[0]


def test_latent_dim_beyond_the_rank_is_refused():
    flat = from_samples("flat", normal(4, 60, 4) @ normal(5, 4, M))
    settled(flat, latent_dim=4)
    with pytest.raises(InputError, match=r"^latent_dim: 5 is more than the 4 directions"):
        settled(flat, latent_dim=5)


def test_rows_of_float32_data_with_a_large_offset_are_centred():
    samples = (normal(6, 500, M) + 1e6).astype(np.float32)
    dataset = from_samples("x", samples)
    rows = dataset.load_rows().astype(float)
    np.testing.assert_allclose(rows.T @ rows / 500, dataset.covariance, atol=1e-5)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_samples_whose_squares_overflow_are_refused():
    with pytest.raises(InputError, match=r"^x: "):
        from_samples("x", 1e200 * SAMPLES)


def test_a_garbled_npy_header_is_refused(tmp_path):
    path = saved(tmp_path, "x.npy", SAMPLES)
    path.write_bytes(path.read_bytes().replace(b")", b"(", 1))
    assert complaint(sources.load_array, path).startswith(f"{path}: not a readable")


@pytest.mark.parametrize("offset", [6, 8], ids=["encrypted", "compression"])
def test_a_garbled_zip_entry_is_refused(tmp_path, offset):
    path = saved(tmp_path, "x.npz", SAMPLES)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + offset + 2] |= 0x41  # the flags or the method in the directory
    path.write_bytes(content)
    assert complaint(sources.load_array, path).startswith(f"{path}: not a readable")
    assert complaint(sources.load_arrays, path, ["arr_0"]).startswith(f"{path}: not a readable")


@pytest.mark.filterwarnings("error")
def test_float64_without_x64_is_refused_without_a_warning():
    with jax.enable_x64(False), pytest.raises(InputError, match=r"^precision: 'float64' needs .*jax_enable_x64"):
        build(settled(), DATASET)
