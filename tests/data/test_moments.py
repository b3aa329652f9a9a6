"""Mean and covariance of files against numpy on the same samples in memory, to 1e-10."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from lae_jax.data import moments, sources
from lae_jax.data.datasets import from_samples, load
from lae_jax.data.shards import StoredSamples
from tests.data.test_sources import complaint
from tests.helpers import normal, on_devices

N, M = 47, 6
SAMPLES = 5 * normal(0, N, M) + 3 * np.arange(M)


def write(folder, samples, cuts=(), order="C"):
    """A folder of shards, cut before these rows; one of them may be empty."""
    folder.mkdir()
    for index, shard in enumerate(np.split(samples, cuts)):
        np.save(folder / f"{index:03d}.npy", np.asarray(shard, order=order))
    return folder


def assert_moments(dataset, samples):
    rows = np.asarray(samples, np.float64).reshape(len(samples), -1)
    centred = rows - rows.mean(axis=0)
    covariance = centred.T @ centred / len(rows)
    np.testing.assert_allclose(dataset.mean, rows.mean(axis=0), rtol=0, atol=1e-10 * np.abs(rows).max())
    np.testing.assert_allclose(dataset.covariance, covariance, rtol=0, atol=1e-10 * np.abs(covariance).max())
    assert np.array_equal(dataset.covariance, dataset.covariance.T)
    np.testing.assert_allclose(dataset.load_rows(), centred, atol=1e-6 * np.abs(rows).max())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ">f4", "u1", "i4", "?"])
def test_shards_of_every_type_and_order(tmp_path, monkeypatch, dtype, order):
    samples = (20 * abs(SAMPLES)).astype(dtype) if dtype != "?" else SAMPLES > 6
    monkeypatch.setattr(moments, "BLOCK_BYTES", 8 * M * 5)
    monkeypatch.setattr("lae_jax.data.shards._PAGE_BYTES", 28)
    folder = write(tmp_path / "x", samples, (3, 3, 20, 21, 40), order)
    dataset = load(str(folder))
    assert dataset.num_samples == N
    assert_moments(dataset, samples)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("num_samples", [2, 3, 9])
def test_fewer_samples_than_inputs_and_images(tmp_path, num_samples, order):
    samples = normal(1, num_samples, 3, 4).astype(np.float32)
    dataset = load(str(write(tmp_path / "x", samples, (1,), order)))
    assert dataset.image_shape == (3, 4) and dataset.variances.shape == (12,)
    assert_moments(dataset, samples)
    assert (dataset.variances[num_samples - 1 :] < 1e-12 * dataset.variances[0]).all()


@pytest.mark.parametrize("order", ["C", "F"])
def test_any_slice_of_any_shards(tmp_path, order):
    folder = write(tmp_path / "x", SAMPLES, (1, 1, 2, 30, 47), order)
    samples = sources.load_array(folder)
    assert samples.shape == (N, M) and samples.dtype == np.float64
    for start in range(0, N + 2, 7):
        for stop in (start, start + 1, start + 8, N, N + 5):
            assert np.array_equal(samples[start:stop], SAMPLES[start:stop])
    assert np.array_equal(np.asarray(samples), SAMPLES)


def test_progress_counts_every_sample_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "BLOCK_BYTES", 8 * M * 20)
    seen = []
    load(str(write(tmp_path / "x", SAMPLES, (11,))), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(20, N), (40, N), (N, N)]


def test_no_page_of_a_file_in_fortran_order_is_read_twice():
    class Wide:
        shape, least_rows = (10**6, 8192), 1024

    assert moments.rows_per_block(Wide()) == 1024 > moments.BLOCK_BYTES // (8 * 8192)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample_that_is_not_finite_is_named_by_its_shard(tmp_path, monkeypatch, value):
    monkeypatch.setattr(moments, "BLOCK_BYTES", 8 * M * 4)
    samples = SAMPLES.copy()
    samples[33, 2] = value
    folder = write(tmp_path / "x", samples, (11, 30))
    assert complaint(load, str(folder)).startswith(f"{folder / '002.npy'}: sample 3 is not finite")


BAD_SHARDS = {
    "width": (SAMPLES[:, :5], r"samples of shape \(5,\); those of .*000.npy have \(6,\)"),
    "rank": (SAMPLES.reshape(N, 2, 3), r"samples of shape \(2, 3\)"),
    "kind": (SAMPLES.astype(np.int64), "holds int64, .*000.npy float64"),
    "complex": (SAMPLES * 1j, "holds complex128; samples are real"),
    "one axis": (SAMPLES[0], r"shape \(6,\)"),
}


@pytest.mark.parametrize(("shard", "reason"), BAD_SHARDS.values(), ids=list(BAD_SHARDS))
def test_a_shard_unlike_the_first_is_named(tmp_path, shard, reason):
    folder = write(tmp_path / "x", SAMPLES, (10,))
    np.save(folder / "001.npy", shard)
    with pytest.raises(ValueError, match=f"^{folder / '001.npy'}: {reason}"):
        load(str(folder))


def test_folders_that_are_no_samples(tmp_path):
    (tmp_path / "x").mkdir()
    assert "holds no .npy files" in complaint(load, str(tmp_path / "x"))
    np.save(tmp_path / "x" / "0.npy", SAMPLES[:1])
    assert "at least 2 samples" in complaint(load, str(tmp_path / "x"))
    (tmp_path / "x" / "1.npy").write_bytes((tmp_path / "x" / "0.npy").read_bytes()[:-1])
    assert complaint(load, str(tmp_path / "x")).startswith(f"{tmp_path / 'x' / '1.npy'}: not a readable")


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path):
    np.save(tmp_path / "x.npy", SAMPLES)
    samples = StoredSamples([tmp_path / "x.npy"])
    np.save(tmp_path / "x.npy", SAMPLES[:-1])
    assert complaint(samples.__getitem__, slice(0, 5)) == f"{tmp_path / 'x.npy'}: was changed while it was read"


def test_samples_beyond_memory_say_what_to_do_instead(monkeypatch):
    dataset = from_samples("x", SAMPLES)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1024))  # a machine of 1024 bytes
    text = complaint(dataset.load_rows)
    assert text.startswith("x: its samples take ") and "batch_size 0" in text and "lae_jax.fit_stream" in text


ON_DEVICES = """
import jax, numpy as np
from lae_jax.data import moments
samples = np.random.default_rng(0).standard_normal((1003, 7)).astype(np.float32) + 3
moments.BLOCK_BYTES = 8 * 7 * 90  # blocks of 90 rows: no multiple of 4, and a ragged last one
add, used = moments._add, []
moments._add = lambda sums, block: used.append(len(sums.sharding.device_set)) or add(sums, block)
mean, covariance = moments.accumulate("x", samples)
assert used == [4] * 12  # the sums, on every device
np.testing.assert_allclose(mean, samples.astype(float).mean(axis=0), atol=1e-12)
np.testing.assert_allclose(covariance, np.cov(samples.astype(float).T, bias=True), atol=1e-12)
assert not jax.config.jax_enable_x64
print("same", len(jax.devices()))
"""


def test_rows_are_shared_among_devices():
    done = on_devices(4, ON_DEVICES)
    assert done.stdout == "same 4\n", done.stderr
