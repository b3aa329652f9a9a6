"""What is told of memory before it is spent."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from lae_jax.data import memory as reading
from lae_jax.data.datasets import from_samples, load
from lae_jax.errors import InputError
from lae_jax.runs import directory
from lae_jax.training import memory
from lae_jax.training.settings import Settings, resolve
from tests.helpers import normal

ROWS = normal(0, 40, 6)


def resolved(**fields):
    dataset = from_samples("x", ROWS)
    return resolve(Settings(**{"method": "rag", "latent_dim": 2, **fields}), dataset)[0], dataset


def test_what_is_kept_decides_what_is_estimated():
    one, dataset = resolved(representation="eigenbasis")
    dense, samples = (resolved(representation=form)[0] for form in ("dense", "samples"))
    sizes = [memory.estimate(run, dataset).device for run in (one, dense, samples)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[2]
    # Samples in float64 take twice as much as in float32, and the weights of two latents twice as much as of one.
    double = memory.estimate(resolved(representation="samples", precision="float64")[0], dataset)
    assert double.device == 2 * sizes[2]
    assert memory.largest([one, dense], dataset) == max(memory.estimate(run, dataset) for run in (one, dense))
    assert str(reading.Estimate(2**30, 2**28)) == "about 1 GiB a process, 256 MiB a device"


@pytest.mark.parametrize(
    ("shape", "squares", "copies"), [((10_000, 2000), 5, 0), ((100, 2000), 0, 5), ((9000, 9000), 0, 1)],
    ids=["covariance", "few", "wide"],
)  # fmt: skip
def test_a_spectrum_is_estimated_by_how_it_is_computed(shape, squares, copies):
    needed = 8 * (squares * shape[1] ** 2 + copies * shape[0] * shape[1])
    assert needed < reading.of_reading(shape, np.float64) < 1.3 * needed + 2 * reading.BLOCK_BYTES


def test_nothing_is_read_where_it_does_not_fit(tmp_path):
    class Unread:
        shape, dtype, ndim = (9000, 9000), np.dtype("f4"), 2

        def __getitem__(self, rows):
            raise AssertionError("was read")

    with pytest.raises(InputError, match=r"^x: the spectrum of 9000 x 9000 numbers takes .* of 256 MiB .*columns"):
        from_samples("x", Unread(), max_memory=2**28)
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(InputError, match=r"x\.npy: the spectrum .* of 10\.2 MiB of memory; take fewer columns"):
        load(str(tmp_path / "x.npy"), max_memory=2**30 / 100)
    fields = directory.from_fields({"dataset": str(tmp_path / "x.npy"), "max_memory": 0.01})
    with pytest.raises(InputError, match=r"of 10\.2 MiB of memory"):
        directory.load_dataset(fields)


@pytest.mark.parametrize("limit", [2**28, None], ids=["max_memory", "the machine"])
def test_a_run_that_does_not_fit_says_what_would(limit, monkeypatch):
    run, dataset = resolved()
    if limit is None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**28))
    with pytest.raises(
        InputError,
        match=r"^max_memory: 256 MiB a process do not hold this run, .* fewer columns, more devices .*fit_stream",
    ):
        memory.largest([run], dataset, limit)
    assert memory.largest([run], dataset, 2**30).process < 2**30


def test_what_a_scheduler_allows_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_GROUP_LIMIT", tmp_path / "memory.max")
    whole = psutil.virtual_memory().total
    for content, limit in ((None, whole), ("max", whole), ("1024", 1024), (str(2 * whole), whole)):
        if content:
            (tmp_path / "memory.max").write_text(content)
        assert reading.of_machine() == limit
