"""Whatever container the samples come in: the right moments, or one line that says what it is."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.sparse

from lae_jax import METHODS, OPTIMIZERS
from lae_jax.components import Components
from lae_jax.data.datasets import from_samples, load
from lae_jax.errors import InputError
from lae_jax.params import LAEParams
from lae_jax.training import streams
from lae_jax.training.loop import Recipe
from tests.helpers import normal

N, M = 30, 4
SAMPLES = np.round(normal(0, N, M) * [3.0, 2.0, 1.0, 0.5] + [1.0, 2.0, 3.0, 4.0], 1)
MASK = np.zeros((N, M), bool)
MASK[[3, 3, 8], [0, 2, 1]] = True


class Sliced:
    """What an HDF5 or zarr array offers: a shape, a type, and slices."""

    shape, dtype, ndim = SAMPLES.shape, SAMPLES.dtype, 2

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return SAMPLES[rows]


TAKEN = {
    "a mask that hides nothing": np.ma.masked_array(SAMPLES, np.zeros((N, M), bool)),
    "matrix": np.matrix(SAMPLES),
    "csr": scipy.sparse.csr_matrix(SAMPLES),
    "coo array": scipy.sparse.coo_array(SAMPLES),
    "lists": SAMPLES.tolist(),
    "list of rows": list(SAMPLES),
    "jax": jnp.asarray(SAMPLES),
    "jax bfloat16": jnp.asarray(SAMPLES, jnp.bfloat16),
    "bfloat16": SAMPLES.astype(ml_dtypes.bfloat16),
    "float16": SAMPLES.astype(np.float16),
    "big-endian": SAMPLES.astype(">f4"),
    "slices": Sliced(),
}
OBJECTS = SAMPLES.astype(object)
REFUSED = {
    "masked": (np.ma.masked_array(np.where(MASK, -9999.0, SAMPLES), MASK), "3 of 120 values are masked"),
    "objects": (OBJECTS, "holds Python objects, not numbers"),
    "text": (SAMPLES.astype(str), "holds <U"),
    "complex": (SAMPLES * 1j, "holds complex128"),
    "pairs": ((SAMPLES, SAMPLES[:, 0]), r"a tuple of arrays of shape \(30, 4\), \(30,\) \(samples and targets"),
    "list pairs": ([SAMPLES, SAMPLES[:, 0]], "a list of arrays of shape"),
    "a tuple of one": ((SAMPLES,), "a tuple of arrays of shape"),
    "dict": ({"image": SAMPLES, "label": SAMPLES[:, 0]}, "a dict with keys 'image', 'label'"),
    "ragged": ([[1.0, 2.0], [3.0]], "a list that is not an array of numbers"),
    "nothing": (None, "holds Python objects"),
    "NaN": (np.where(MASK, np.nan, SAMPLES), r"[^\n]*3 [^\n]*is not finite; [^\n]*rows: 2 of 30[^\n]*3 values"),
    "netCDF fill": (np.where(MASK, 9.96921e36, SAMPLES), r"values up to 9\.97e\+36, 3 of them, .*missing values\?"),
    "CMIP fill": (np.where(MASK, 1e20, SAMPLES).astype("f4"), r"values up to 1e\+20, 3 of them"),
}
PARAMS = LAEParams(jnp.full((2, M), 0.1), jnp.full((M, 2), 0.1))
FOUND = Components(np.eye(2, M), np.ones(2), np.ones(2), np.zeros(M), 1.0, np.arange(2))


def stream(batch):
    return streams.train_stream(Recipe(METHODS["lae"], OPTIMIZERS["sgd"].build), PARAMS, [batch, batch], 1e-3)


def exact(given):
    """The numbers that a container holds, in double precision."""
    given = given.toarray() if scipy.sparse.issparse(given) else given[:] if isinstance(given, Sliced) else given
    return np.asarray(np.asarray(given), np.float64)


@pytest.mark.parametrize("given", TAKEN.values(), ids=list(TAKEN))
def test_containers_of_numbers_are_taken(given):
    rows = exact(given)
    dataset = from_samples("x", given)
    np.testing.assert_allclose(dataset.mean, rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(dataset.covariance, np.cov(rows.T, bias=True), atol=1e-12)
    np.testing.assert_allclose(dataset.load_rows(), rows - rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(stream(given).mean, rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(FOUND.transform(given), rows[:, :2], rtol=1e-13)


@pytest.mark.parametrize(("given", "line"), REFUSED.values(), ids=list(REFUSED))
def test_what_holds_no_samples_is_named(given, line):
    for use, start in ((lambda: from_samples("x", given), "x: "), (lambda: stream(given), "batches: ")):
        with pytest.raises(InputError, match=rf"^{start}[^\n]*{line}[^\n]*$"):
            use()


def test_a_fill_value_is_found_in_any_block_and_a_wide_range_is_not_one(monkeypatch):
    monkeypatch.setattr("lae_jax.data.moments.BLOCK_BYTES", 8 * M * 4)
    late = SAMPLES.copy()
    late[-1, -1] = -1e20
    with pytest.raises(InputError, match=r"^x: values up to 1e\+20, 1 of them"):
        from_samples("x", late)
    stamps = np.column_stack([1.6e18 + 1e9 * np.arange(N), SAMPLES])  # nanoseconds beside small numbers
    assert from_samples("x", stamps).input_dim == M + 1
    for scale in (1e-30, 1e20, 1e30):
        assert from_samples("x", SAMPLES * scale).input_dim == M


def test_one_line_where_a_file_is_not_of_numbers(tmp_path):
    np.save(tmp_path / "x.npy", SAMPLES.astype(ml_dtypes.bfloat16))
    np.savez(tmp_path / "xy.npz", X=SAMPLES, y=SAMPLES[:, 0])
    scipy.sparse.save_npz(tmp_path / "counts.npz", scipy.sparse.csr_matrix(SAMPLES))
    for name in ("x.npy", "xy.npz", "counts.npz"):
        with pytest.raises(InputError, match=rf"^{tmp_path / name}: holds [^\n]*$"):
            load(str(tmp_path / name))
