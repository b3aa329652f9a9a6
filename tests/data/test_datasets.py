"""Moments and spectra against plain numpy on the same samples, in every type and layout."""

import gzip
import hashlib
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax.covariance import Dense, Diagonal, Samples
from lae_jax.data import datasets, sources, spectra
from lae_jax.data import moments as moments_module
from lae_jax.data.datasets import DATASETS, from_samples, load
from lae_jax.data.moments import image_moments
from lae_jax.data.representations import REPRESENTATIONS, represent
from lae_jax.errors import InputError
from tests.helpers import normal, orthogonal

N, M = 50, 6
SAMPLES = normal(0, N, M) @ np.diag([3.0, 2.0, 1.5, 1.0, 0.5, 0.1]) @ orthogonal(1, M) + np.arange(M)


def moments(samples, scale=1.0, center=True):
    """Mean, covariance and centred rows by two passes of numpy in float64."""
    rows = scale * np.asarray(samples, np.float64).reshape(len(samples), -1)
    mean = rows.mean(axis=0) if center else np.zeros(rows.shape[1])
    rows = rows - mean
    return mean, rows.T @ rows / len(rows), rows


def assert_consistent(dataset):
    """The spectrum is that of the covariance, in the order and with the signs promised."""
    variances, components = dataset.variances, dataset.components
    size = dataset.input_dim
    assert variances.shape == (size,) and components.shape == dataset.covariance.shape == (size, size)
    assert np.array_equal(dataset.covariance, dataset.covariance.T)
    assert (np.diff(variances) <= 0).all() and variances[-1] >= 0
    np.testing.assert_allclose(components.T @ components, np.eye(size), atol=1e-12)
    np.testing.assert_allclose((components * variances) @ components.T, dataset.covariance, atol=1e-12 * variances[0])
    assert dataset.total_variance == pytest.approx(variances.sum(), rel=1e-12)
    largest = np.abs(components).argmax(axis=0)
    assert (components[largest, np.arange(size)] > 0).all()


@pytest.mark.parametrize("center", [True, False], ids=["centred", "as is"])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_moments_are_those_of_the_samples(scale, center):
    dataset = from_samples("x", SAMPLES, scale=scale, center=center)
    mean, covariance, rows = moments(SAMPLES, scale, center)
    assert (dataset.name, dataset.num_samples, dataset.input_dim, dataset.image_shape) == ("x", N, M, None)
    np.testing.assert_allclose(dataset.mean, mean, atol=1e-14)
    np.testing.assert_allclose(dataset.covariance, covariance, atol=1e-13)
    np.testing.assert_allclose(dataset.load_rows(), rows, atol=1e-14)
    assert_consistent(dataset)


LAYOUTS = {
    "float32": SAMPLES.astype(np.float32),
    "float16": SAMPLES.astype(np.float16),
    "big-endian": SAMPLES.astype(">f8"),
    "uint8": np.random.default_rng(2).integers(0, 256, (N, M), dtype=np.uint8),
    "int64": np.random.default_rng(3).integers(-9, 9, (N, M)),
    "bool": SAMPLES > 1,
    "Fortran": np.asfortranarray(SAMPLES),
    "strided": np.repeat(SAMPLES, 2, axis=1)[:, ::2],
    "images": SAMPLES.reshape(N, 2, 3),
    "Fortran images": np.asfortranarray(SAMPLES.reshape(N, 2, 3)),
}


@pytest.mark.parametrize("samples", LAYOUTS.values(), ids=list(LAYOUTS))
def test_every_type_and_layout(samples):
    dataset = from_samples("x", samples)
    mean, covariance, rows = moments(samples)
    # Reading is exact in float64 whatever the type; only the rows are handed on in single precision.
    np.testing.assert_allclose(dataset.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(dataset.covariance, covariance, atol=1e-13 * covariance.max())
    loaded = dataset.load_rows()
    assert loaded.dtype == (np.float64 if samples.dtype == np.float64 else np.float32)
    np.testing.assert_allclose(loaded, rows, atol=1e-6 * np.abs(rows).max())
    assert dataset.image_shape == ((2, 3) if samples.ndim == 3 else None)
    assert_consistent(dataset)


@pytest.mark.parametrize("rows_per_chunk", [1, 3, 7, N - 1, N])
def test_chunks_do_not_show(monkeypatch, rows_per_chunk):
    whole = from_samples("x", SAMPLES)
    monkeypatch.setattr(moments_module, "BLOCK_BYTES", 8 * M * rows_per_chunk)
    pieces = from_samples("x", SAMPLES)
    np.testing.assert_allclose(pieces.mean, whole.mean, atol=1e-14)
    np.testing.assert_allclose(pieces.covariance, whole.covariance, atol=1e-13)


@pytest.mark.parametrize("center", [True, False], ids=["centred", "as is"])
def test_an_offset_of_a_million_does_not_cancel(monkeypatch, center):
    monkeypatch.setattr(moments_module, "BLOCK_BYTES", 8 * M * 9)
    samples = SAMPLES + 1e6
    dataset = from_samples("x", samples, center=center)
    _, covariance, _ = moments(samples, center=center)
    # Uncentred, the second moment itself is of order 1e12.
    np.testing.assert_allclose(dataset.covariance, covariance, rtol=1e-14 if not center else 0, atol=1e-9)
    if center:
        np.testing.assert_allclose(dataset.variances, np.linalg.eigvalsh(covariance)[::-1], rtol=1e-8)
    assert_consistent(dataset)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 7, N - 1])
def test_the_first_sample_that_is_not_finite_is_named(monkeypatch, value, where):
    monkeypatch.setattr(moments_module, "BLOCK_BYTES", 8 * M * 3)
    samples = SAMPLES.copy()
    samples[where, 2] = samples[-1, 0] = value
    with pytest.raises(InputError, match=rf"^x: sample {where} is not finite[^\n]*$"):
        from_samples("x", samples)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1])
def test_samples_that_do_not_vary_are_refused(value):
    with pytest.raises(InputError, match=r"^x: the samples do not vary"):
        from_samples("x", np.full((N, M), value))
    if value:
        assert from_samples("x", np.full((N, M), value), center=False).total_variance == pytest.approx(M * value**2)


@pytest.mark.parametrize("num_samples", [5, 40], ids=["few", "many"])
@pytest.mark.parametrize("center", [True, False], ids=["centred", "as is"])
def test_wide_data_without_their_covariance(monkeypatch, num_samples, center):
    """Beyond the widest covariance only leading components are kept, from the samples themselves."""
    monkeypatch.setattr(spectra, "WIDEST_COVARIANCE", 8)
    monkeypatch.setattr(spectra, "NARROW_RANK", 4)
    width = 12
    samples = normal(4, num_samples, width) * np.linspace(3, 0.5, width) + 1
    dataset = from_samples("x", samples, scale=2.0, center=center)
    _, covariance, rows = moments(samples, 2.0, center)
    rank = 4 if num_samples == 40 else 5
    variances, components = np.linalg.eigh(covariance)
    assert dataset.covariance is None
    np.testing.assert_allclose(dataset.variances, variances[::-1][:rank], atol=1e-11)
    aligned = np.abs(np.sum(dataset.components * components[:, ::-1][:, :rank], axis=0))
    np.testing.assert_allclose(aligned[: min(rank, num_samples - 1)], 1, atol=1e-9)
    assert dataset.total_variance == pytest.approx(variances.sum(), rel=1e-12)
    np.testing.assert_allclose(represent(dataset, "samples", jnp.float64).rows, rows, atol=1e-14)
    for name in ("eigenbasis", "dense"):
        with pytest.raises(InputError, match=r"^representation: x has 12 inputs.*'samples'"):
            represent(dataset, name, jnp.float64)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_representations_are_the_covariance(dtype):
    dataset = from_samples("x", SAMPLES)
    forms = {name: represent(dataset, name, dtype) for name in REPRESENTATIONS}
    assert {name: type(form) for name, form in forms.items()} == {
        "eigenbasis": Diagonal,
        "dense": Dense,
        "samples": Samples,
    }
    identity, basis = jnp.eye(M, dtype=dtype), dataset.components
    atol = 100 * float(jnp.finfo(dtype).eps) * dataset.variances[0]
    for name, form in forms.items():
        matrix = form @ identity
        assert matrix.dtype == dtype
        expected = basis.T @ dataset.covariance @ basis if name == "eigenbasis" else dataset.covariance
        np.testing.assert_allclose(matrix, expected, atol=atol)
        assert float(form.trace) == pytest.approx(dataset.total_variance, abs=M * atol)


def test_an_unknown_representation_names_the_nearest():
    with pytest.raises(InputError, match=r"^representation: 'densee' is not known; did you mean 'dense'"):
        represent(from_samples("x", SAMPLES), "densee", jnp.float64)


# Image sets


@pytest.fixture(scope="module")
def mnist():
    return datasets.mnist()


def test_mnist_ships_as_moments(mnist):
    assert (mnist.num_samples, mnist.input_dim, mnist.image_shape) == (60_000, 784, (28, 28))
    assert_consistent(mnist)
    assert mnist.variances[0] == pytest.approx(5.1168, abs=5e-5)
    assert mnist.variances[19] == pytest.approx(0.6078, abs=5e-5)
    # The well-known mean and standard deviation over all pixels.
    assert mnist.mean.mean() == pytest.approx(0.1307, abs=5e-5)
    assert np.sqrt(np.mean(np.diag(mnist.covariance) + mnist.mean**2) - mnist.mean.mean() ** 2) == pytest.approx(
        0.3081, abs=5e-5
    )


def test_mnist_moments_are_those_of_whole_numbers(mnist):
    sums = mnist.mean * 255 * 60_000
    products = (mnist.covariance + np.outer(mnist.mean, mnist.mean)) * 255**2 * 60_000
    for whole, rounding in ((sums, 1e-6), (products, 1e-2)):
        assert np.abs(whole - np.round(whole)).max() < rounding
    # x^2 and x are both even or both odd, and no product is above the largest pixel times the sum.
    assert not ((np.round(np.diag(products)) - np.round(sums)) % 2).any()
    assert (products <= 255 * np.minimum.outer(sums, sums) + 1).all()


def test_mnist_options(mnist):
    raw = datasets.mnist(scale=1.0, center=False)
    assert not raw.mean.any()
    np.testing.assert_allclose(raw.covariance / 255**2, mnist.covariance + np.outer(mnist.mean, mnist.mean), atol=1e-13)


IMAGES = np.random.default_rng(5).integers(0, 256, (9, 2, 3), dtype=np.uint8)


@pytest.fixture
def tiny_images(monkeypatch, tmp_path):
    """A folder whose files stand for both image sets, and an empty cache."""
    content = struct.pack(">4B3I", 0, 0, 8, 3, *IMAGES.shape) + IMAGES.tobytes()
    for name in ("mnist", "fashion_mnist"):
        monkeypatch.setitem(sources.IMAGE_SETS, name, sources.ImageSet(hashlib.sha256(content).hexdigest(), ()))
    monkeypatch.setattr(sources, "cache_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv(sources.ENVIRONMENT, raising=False)
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    return str(folder)


def test_fashion_mnist_is_read_from_its_files(tiny_images):
    dataset = load("fashion_mnist", data_dir=tiny_images)
    mean, covariance, rows = moments(IMAGES, 1 / 255)
    np.testing.assert_allclose(dataset.mean, mean, atol=1e-15)
    np.testing.assert_allclose(dataset.covariance, covariance, atol=1e-14)
    np.testing.assert_allclose(dataset.load_rows(), rows, atol=1e-6)
    assert dataset.num_samples == 9 and dataset.load_rows().dtype == np.float32
    with pytest.raises(InputError, match=r"^fashion_mnist: no samples in .*data_dir"):
        load("fashion_mnist")


def test_mnist_looks_for_samples_only_when_they_are_wanted(monkeypatch, tmp_path, tiny_images):
    samples_of_tiny = from_samples("tiny", IMAGES)
    triangle = np.array([IMAGES.reshape(9, 6).T.astype(int) @ IMAGES.reshape(9, 6)])[0][np.triu_indices(6)]
    file = tmp_path / "moments.npz"
    np.savez(file, num_samples=9, sums=IMAGES.reshape(9, 6).sum(axis=0, dtype=int), second_moments=triangle)
    monkeypatch.setattr(datasets, "MOMENTS_FILE", file)
    dataset = load("mnist", data_dir=tiny_images, scale=1.0)
    np.testing.assert_allclose(dataset.covariance, samples_of_tiny.covariance, atol=1e-9)
    np.testing.assert_allclose(dataset.load_rows(), samples_of_tiny.load_rows(), atol=1e-3)
    homeless = load("mnist")
    with pytest.raises(InputError, match=r"^mnist: no samples in .*data_dir"):
        homeless.load_rows()


def test_image_moments_are_exact_beyond_one_block():
    images = np.random.default_rng(6).integers(250, 256, (9000, 2, 2), dtype=np.uint8)
    sums, products = image_moments(images)
    flat = images.reshape(9000, 4).astype(np.int64)
    assert sums.dtype == products.dtype == np.int64
    assert np.array_equal(sums, flat.sum(axis=0)) and np.array_equal(products, flat.T @ flat)


# The table


def test_digits():
    dataset = load("digits")
    assert (dataset.num_samples, dataset.input_dim, dataset.image_shape) == (1797, 64, (8, 8))
    assert_consistent(dataset)
    assert 0 < dataset.mean.max() < 1


def test_synthetic_has_the_spectrum_that_was_asked_for():
    options = {"input_dim": 20, "num_samples": 20_000, "largest": 50.0, "smallest": 2.0}
    dataset = load("synthetic", **options)
    assert_consistent(dataset)
    # The largest relative error of an eigenvalue of a sample is about 2 sqrt(m / n).
    np.testing.assert_allclose(dataset.variances, np.linspace(50, 2, 20), rtol=3 * np.sqrt(20 / 20_000))
    assert np.abs(dataset.covariance - np.diag(np.diag(dataset.covariance))).max() > 1
    assert np.array_equal(load("synthetic", **options).covariance, dataset.covariance)
    assert not np.allclose(load("synthetic", data_seed=1, **options).covariance, dataset.covariance, atol=0.1)


def test_a_file_of_ones_own(tmp_path):
    expected = from_samples("x", SAMPLES, scale=0.5, center=False)
    np.save(tmp_path / "x.npy", SAMPLES)
    np.savez(tmp_path / "x.npz", SAMPLES)
    for name in ("x.npy", "x.npz"):
        dataset = load(str(tmp_path / name), scale=0.5, center=False, data_dir="unused", download=True)
        assert np.array_equal(dataset.covariance, expected.covariance)
        np.testing.assert_allclose(dataset.load_rows(), expected.load_rows())


def test_options_that_a_data_set_does_not_take_are_left_out():
    assert np.array_equal(load("digits", data_dir="none", input_dim=3).covariance, load("digits").covariance)


@pytest.mark.parametrize(
    ("name", "nearest"), [("minst", "mnist"), ("fashion-mnist", "fashion_mnist"), ("digit", "digits")]
)
def test_an_unknown_name_offers_the_nearest_and_lists_the_rest(name, nearest):
    with pytest.raises(InputError) as caught:
        load(name)
    text = str(caught.value)
    assert text.startswith(f"dataset: {name!r} is not known") and "\n" not in text
    assert f"did you mean '{nearest}" in text
    assert all(known in text for known in [*DATASETS, ".npy", ".npz"])


PATHS = {  # name -> what the line says
    "gone.npy": "'gone.npy': not a readable|no such file",
    "wine.xlsx": "'wine.xlsx': files of type .xlsx are not read",
    "gone.csv": "'gone.csv': there is no such file",
    "some/folder": "'some/folder': there is no such file",
    "digits": "say './digits'",
}


@pytest.mark.parametrize(("name", "line"), PATHS.items(), ids=list(PATHS))
def test_a_path_is_answered_as_a_path(monkeypatch, tmp_path, name, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    np.save(tmp_path / "digits" / "0.npy", SAMPLES)
    (tmp_path / "wine.xlsx").write_text("1,2")
    with pytest.raises(InputError, match=line if name != "gone.npy" else "gone.npy"):
        load(name)
    assert load("./digits").input_dim == M


@pytest.mark.parametrize("name", ["digits", "synthetic", "mnist"])
def test_a_mistyped_option_is_refused_with_the_nearest(name):
    with pytest.raises(InputError, match=r"^option: 'sclae' is not known; did you mean 'scale'"):
        load(name, sclae=2.0)


@pytest.mark.parametrize("center", [True, False], ids=["centred", "as is"])
def test_fewer_samples_than_inputs_are_decomposed_themselves(monkeypatch, center):
    """Beyond the width from which an m x m matrix costs more; the same variances, directions and total."""
    samples = normal(5, 7, 40) + 2
    dense = from_samples("x", samples, center=center)
    monkeypatch.setattr(spectra, "NARROW_WIDTH", 20)
    narrow = from_samples("x", samples.astype(np.float32), center=center)
    assert narrow.covariance is None and dense.covariance is not None and narrow.components.shape == (40, 7)
    np.testing.assert_allclose(narrow.variances, dense.variances[:7], rtol=1e-5, atol=1e-6 * dense.variances[0])
    np.testing.assert_allclose(narrow.components[:, :5], dense.components[:, :5], atol=1e-5)
    assert narrow.total_variance == pytest.approx(dense.total_variance, rel=1e-6)


def _mirrored():
    half = normal(6, 40, 6) * [3, 2, 1, 0.7, 0.5, 0.3]
    return np.concatenate([half, half[:, ::-1]])


TIES = {
    "two standardised columns": np.column_stack([normal(7, 50, 1), -normal(7, 50, 1) + 0.5 * normal(8, 50, 1)]),
    "mirrored profiles": _mirrored(),
}


@pytest.mark.parametrize("samples", TIES.values(), ids=list(TIES))
def test_one_sign_where_two_entries_are_as_large(samples):
    """At every scale, order of the rows and error of rounding or training."""
    samples = (samples - samples.mean(axis=0)) / samples.std(axis=0) if samples.shape[1] == 2 else samples
    wanted = from_samples("x", samples).components
    for scale in (0.1, 3.0, 1 / 255):
        np.testing.assert_allclose(from_samples("x", samples[::-1], scale=scale).components, wanted, atol=1e-7)
    for seed in range(10):
        noisy = np.where(seed % 2, -1, 1) * wanted + 1e-5 * normal(seed, *wanted.shape)
        np.testing.assert_allclose(spectra.oriented(noisy), wanted, atol=1e-4)


def test_rows_of_float32_data_with_a_large_offset_are_centred():
    samples = (normal(6, 500, M) + 1e6).astype(np.float32)
    dataset = from_samples("x", samples)
    rows = dataset.load_rows().astype(float)
    np.testing.assert_allclose(rows.T @ rows / 500, dataset.covariance, atol=1e-5)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_samples_whose_squares_overflow_are_refused():
    with pytest.raises(InputError, match=r"^x: "):
        from_samples("x", 1e200 * SAMPLES)


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 300 + ".npy", "a\0b"], ids=["long", "long path", "zero byte"])
def test_what_no_file_can_be_called_is_no_data_set(name):
    with pytest.raises(InputError) as caught:
        load(name)
    assert "\n" not in str(caught.value)
