"""fit_stream: the components of what was read, whatever the batches, interrupted or not."""

import itertools

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from lae_jax import InputError, fit_stream, streaming
from tests.helpers import normal

M, K = 10, 3
SAMPLES = normal(0, 900, M) * np.linspace(3, 0.3, M) + np.arange(M)


def batches(size=64, samples=SAMPLES):
    return (samples[first : first + size] for first in range(0, len(samples), size))


def fitted(stream, **options):
    return fit_stream(stream, K, progress=False, **options)


def assert_same_bits(first, second):
    for name in ("components", "explained_variance", "mean"):
        np.testing.assert_array_equal(getattr(first.components, name), getattr(second.components, name))
    np.testing.assert_array_equal(first.history["error"], second.history["error"])


def test_digits_are_read_as_scikit_learn_reads_them():
    images = load_digits().images
    found = fit_stream((images[first : first + 100] for first in range(0, 1797, 100)), 6, spare=40, progress=False)
    exact = PCA(6).fit(images.reshape(1797, 64))
    np.testing.assert_allclose(found.components.components, exact.components_, atol=2e-3)
    np.testing.assert_allclose(found.components.explained_variance, exact.explained_variance_ * 1796 / 1797, rtol=1e-4)
    np.testing.assert_allclose(found.components.explained_variance_ratio, exact.explained_variance_ratio_, rtol=1e-4)
    coordinates = found.components.transform(images.reshape(1797, 64))
    np.testing.assert_allclose(coordinates, exact.transform(images.reshape(1797, 64)), atol=0.1)
    np.testing.assert_array_equal(found.params.encoder, found.params.decoder.T)
    np.testing.assert_allclose(found.params.encoder, found.components.components, atol=1e-6)
    assert found.settings.latent_dim == 6 and not found.notes
    assert found.history["samples"].tolist() == [1024]


@pytest.mark.parametrize("size", [1, K - 1, 900])
def test_batches_of_any_size_give_the_same(size):
    assert_same_bits(fitted(batches(size)), fitted(batches()))


def broken(stream, after):
    yield from itertools.islice(stream, after)
    raise ConnectionError("the source is gone")


@pytest.mark.parametrize("replayed", [True, False])
def test_an_interrupted_stream_goes_on_with_the_same_bits(tmp_path, replayed):
    path = tmp_path / "stream.npz"
    for after in (3, 9):
        stream = batches() if replayed or after == 3 else itertools.islice(batches(), 3, None)
        with pytest.raises(ConnectionError):
            fitted(broken(stream, after if replayed else after - 3 * (after > 3)), checkpoint=path, replayed=replayed)
    rest = batches() if replayed else itertools.islice(batches(), 9, None)
    whole = fitted(rest, checkpoint=path, replayed=replayed, input_dim=M)
    assert_same_bits(whole, fitted(batches()))
    assert_same_bits(fitted(batches(), checkpoint=path), whole)  # nothing is left to read
    assert [each.name for each in tmp_path.iterdir()] == ["stream.npz"]


def test_checkpoints_are_written_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    path = tmp_path / "stream.npz"

    def watched():
        for index, batch in enumerate(batches()):
            assert path.exists() == (index > 0)
            yield batch

    fitted(watched(), checkpoint=path)


@pytest.mark.parametrize(("option", "value"), [("forget", 0.1), ("seed", 1), ("spare", 2), ("center", False)])
def test_a_checkpoint_of_another_stream_is_refused(tmp_path, option, value):
    fitted(batches(), checkpoint=tmp_path / "stream.npz")
    with pytest.raises(InputError, match=r"^checkpoint: .*stream\.npz is of a stream with"):
        fitted(batches(), checkpoint=tmp_path / "stream.npz", **{option: value})


BAD = {
    "none": ([], "there are none"),
    "another width": ([SAMPLES, SAMPLES[:, :4]], r"batch 1 has shape \(900, 4\); need \(n_i, 10\)"),
    "pairs": ([(SAMPLES, SAMPLES[:, 0])], r"batch 0 a tuple of arrays.*samples and targets"),
    "NaN": ([SAMPLES, np.full((2, M), np.nan)], "row 0 of batch 1 is not finite"),
    "a constant": ([np.ones((5, M))], "the samples do not vary"),
    "fill values": ([SAMPLES, np.full((2, M), 1e20)], r"values up to 1e\+20, 20 of them"),
}


@pytest.mark.parametrize(("stream", "line"), BAD.values(), ids=list(BAD))
def test_bad_batches_are_named(stream, line):
    with pytest.raises(InputError, match=f"^batches: [^\n]*{line}[^\n]*$"):
        fitted(stream)


def test_fewer_directions_than_latents_are_noted():
    found = fitted([np.outer(normal(1, 40), np.ones(M)) + np.outer(normal(2, 40), np.arange(M))])
    assert len(found.components.components) == 2 and found.notes == ("latent_dim: 3: the samples vary in 2 directions",)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_any_unit(scale):
    found, plain = fitted(batches(samples=SAMPLES * scale)), fitted(batches())
    np.testing.assert_allclose(found.components.components, plain.components.components, atol=1e-4)
    np.testing.assert_allclose(
        found.components.explained_variance / scale**2, plain.components.explained_variance, rtol=1e-5
    )
