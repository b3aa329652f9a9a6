"""fit_stream: the components of what was read, whatever the batches, interrupted or not."""

import itertools
import os
import socket
from unittest import mock

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from lae_jax import InputError, fit_stream, streaming
from lae_jax.data import hosts
from lae_jax.training import low_rank
from tests import launching, together
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


def test_two_processes_find_what_one_does_and_go_on_where_they_stopped(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    jobs = {"moments_of_batches": together.moments_of_batches, "resumed_stream": together.stream}
    processes = [
        launching.PROCESSES.Process(
            target=together.take_part, args=(",".join(jobs), str(tmp_path / "two"), address, "2", str(index))
        )
        for index in range(2)
    ]
    with mock.patch.dict(os.environ, JAX_PLATFORMS="cpu"):
        for process in processes:
            process.start()
    alone = {name: job(tmp_path / "one") for name, job in jobs.items()}
    for index, process in enumerate(processes):
        process.join(60)
        assert process.exitcode == 0
        for job, values in alone.items():
            with np.load(tmp_path / f"two_{job}_{index}.npz") as found:
                for name, value in values.items():
                    np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-12, err_msg=f"{job} {name}")


KEPT = {  # batches in the file and in the one half written: of this process, of the other; those to go on from
    "first ever": ((None, 4), (None, None), None),
    "first, in place": ((None, 4), (4, None), 4),
    "before either": ((4, 8), (4, None), 4),
    "before both": ((4, 8), (4, 8), 8),
    "after one": ((4, 8), (8, None), 8),
    "after the other": ((8, None), (4, 8), 8),
    "lost": ((4, None), (None, None), "a process has none"),
    "of another stream": ((4, None), ("another", None), "process 1 cannot go on"),
}


@pytest.mark.parametrize(("here", "there", "expected"), KEPT.values(), ids=list(KEPT))
def test_of_two_processes_that_were_killed_as_they_saved_both_take_the_last_that_both_have(
    here, there, expected, tmp_path, monkeypatch
):
    rule, path = low_rank.stream_rule(K, M), tmp_path / "x.npz"
    state = low_rank.start(rule, M)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "any_of", lambda *flags: list(flags))
    told = np.array([[0 if each in (None, "another") else each for each in there] + [there[0] == "another"]])
    monkeypatch.setattr(hosts, "from_each", lambda array: np.concatenate([array[None], told]))
    for seen, place in zip(here, (path, path.with_name("x.npz.part")), strict=True):
        if seen:
            streaming._save(tmp_path / "saved", rule, 0, state, [], seen)
            (tmp_path / "saved").rename(place)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=rf"^checkpoint: [^\n]*{expected}"):
            streaming._kept(path, rule, M, 0)
    else:
        kept = streaming._kept(path, rule, M, 0)
        assert (kept and kept[2]) == expected


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
