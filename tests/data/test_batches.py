"""Batches that are read once give what the same samples give at once, or one line."""

import numpy as np
import pandas
import polars
import pyarrow
import pytest

from lae_jax import fit, fit_stream
from lae_jax.data.datasets import from_batches, from_samples
from lae_jax.errors import InputError
from tests.helpers import normal

N, M = 60, 4
ROWS = np.round(normal(0, N, M) * [3.0, 2.0, 1.0, 0.5], 2) + np.array([1e6, 2.0, 3.0, 4.0])
PARTS = np.split(ROWS, [1, 2, 30, 30 + 11])
NAMES = ["a", "b", "c", "d"]
KINDS = {
    "arrays": lambda rows: rows,
    "pandas": lambda rows: pandas.DataFrame(rows, columns=NAMES),
    "polars": lambda rows: polars.DataFrame(rows, schema=NAMES),
    "record batches": lambda rows: pyarrow.record_batch(list(rows.T), names=NAMES),
    "images": lambda rows: rows.reshape(-1, 2, 2),
}


def read(batches, **options):
    return from_batches(batches, progress=False, **options)


@pytest.mark.parametrize("options", [{}, {"scale": 0.5, "center": False}], ids=["", "scaled"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_batches_give_the_data_set_of_their_samples(kind, options, monkeypatch):
    monkeypatch.setattr("lae_jax.data.moments.BLOCK_BYTES", 8 * M * 9)
    found, whole = read((KINDS[kind](part) for part in PARTS), **options), from_samples("x", ROWS, **options)
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-14)
    scale = np.abs(whole.covariance).max()
    np.testing.assert_allclose(found.covariance, whole.covariance, rtol=1e-13, atol=1e-13 * scale)
    np.testing.assert_allclose(found.variances, whole.variances, rtol=1e-12, atol=1e-13 * scale)
    assert found.num_samples == N and found.image_shape == ((2, 2) if kind == "images" else None)
    assert found.columns == (None if kind in ("arrays", "images") else tuple(NAMES))
    other_cut = read([KINDS[kind](ROWS)], **options)
    np.testing.assert_array_equal(other_cut.covariance, found.covariance)


def test_a_large_offset_does_not_cancel(monkeypatch):
    monkeypatch.setattr("lae_jax.data.moments.BLOCK_BYTES", 8 * M * 9)
    far = np.round(ROWS) + 1e9  # whole numbers, so that the exact covariance is that of the numbers near 0
    near = np.cov(np.round(ROWS).T, bias=True)
    np.testing.assert_allclose(read([far]).covariance, near, atol=1e-12 * np.abs(near).max())


def test_what_reads_samples_says_that_they_are_gone():
    dataset = read([ROWS - ROWS.mean(axis=0)])
    assert fit(dataset, 2, "alternation", num_steps=1).components.components.shape == (2, M)
    with pytest.raises(InputError, match=r"^batches: its samples were read once and are gone; [^\n]*$"):
        fit(dataset, 2, "lae", batch_size=8, num_steps=1)


REFUSED = {
    "none": ([], "no samples; need at least 2"),
    "one sample": ([ROWS[:1]], "1 samples; need at least 2"),
    "other width": ([ROWS, ROWS[:, :3]], r"batch 1 has shape \(60, 3\); need \(n_i, 4\)"),
    "NaN": ([ROWS, np.where(ROWS[3, 2] == ROWS, np.nan, ROWS)], "row 3 of batch 1 is not finite"),
    "text": ([ROWS, ROWS.astype(str)], "batch 1 holds <U"),
    "other names": (
        [KINDS["pandas"](ROWS), polars.DataFrame(ROWS, schema=["a", "c", "b", "d"])],
        "batch 1 has other columns than before: 'c' in the place of 'b'; all parts",
    ),
    "one number": ([ROWS[:, :1]], "samples of 1 numbers; need 2 to 8192"),
    "too wide": ([np.ones((2, 8193))], "samples of 8193 numbers; need 2 to 8192: lae_jax.fit_stream"),
    "no variation": ([np.ones((9, 3))], "the samples do not vary"),
}


@pytest.mark.parametrize(("batches", "line"), REFUSED.values(), ids=list(REFUSED))
def test_batches_that_are_not_samples_are_named(batches, line):
    with pytest.raises(InputError, match=rf"^batches: {line}[^\n]*$"):
        read(batches)


def test_names_reach_the_components_of_a_stream():
    frames = [KINDS["pandas"](part) for part in (ROWS[:30], ROWS[30:])]
    found = fit_stream(frames, 2, progress=False, precision="float64")
    assert found.components.feature_names.tolist() == NAMES
    assert fit_stream([ROWS], 2, progress=False, precision="float64").components.feature_names is None
    with pytest.raises(InputError, match=r"^batches: batch 1 has other columns than before"):
        fit_stream([frames[0], frames[1].rename(columns={"a": "z"})], 2, progress=False, precision="float64")
