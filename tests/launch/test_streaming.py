"""Folders of shards through the launchers, and `launch.streaming` at a small size."""

import csv

import numpy as np
import pytest

from lae_jax.errors import InputError
from lae_jax.runs import directory
from launch import streaming, train
from launch.configs import streaming as streaming_config
from launch.configs import train as train_config
from tests.helpers import normal


def test_a_folder_of_shards_trains_as_one_file_does(tmp_path):
    samples = (normal(0, 40, 5) * np.arange(5, 0, -1) + 2).astype(np.float32)
    (tmp_path / "x").mkdir()
    for index, shard in enumerate(np.split(samples, [17, 18])):
        np.save(tmp_path / "x" / f"{index}.npy", shard)
    np.save(tmp_path / "x.npy", samples)
    config = train_config.get_config()
    config.update(latent_dim=2, num_steps=40, precision="float64", batch_size=8)
    for name in ("x", "x.npy"):
        config.dataset = str(tmp_path / name)
        train.run(config, tmp_path / f"run {name}")
    one, other = (directory.read_metrics(tmp_path / f"run {name}") for name in ("x", "x.npy"))
    for column in one:
        np.testing.assert_array_equal(one[column], other[column])
    shard = np.load(tmp_path / "x" / "2.npy")
    shard[3, 1] = np.nan
    np.save(tmp_path / "x" / "2.npy", shard)
    config.dataset = str(tmp_path / "x")
    with pytest.raises(InputError, match=rf"^{tmp_path / 'x' / '2.npy'}: sample 3 is not finite"):
        train.run(config, tmp_path / "bad")


@pytest.mark.parametrize(
    ("kind", "dtype", "fortran_order"),
    [("npy", "float16", False), ("npy", "float16", True), ("parquet", "float32", False)],
)
def test_streaming_measures_and_cleans_up(tmp_path, kind, dtype, fortran_order):
    config = streaming_config.get_config(kind.removeprefix("npy"))
    config.update(num_samples=5001, input_dim=9, num_shards=3, dtype=dtype, fortran_order=fortran_order, repeats=1)
    streaming.run(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["streaming.csv"]
    with open(tmp_path / "streaming.csv") as file:
        (row,) = csv.DictReader(file)
    assert float(row["difference"]) < 1e-10
    assert all(float(row[name]) > 0 for name in ("speed", "peak_mib", "stream_seconds", "read_seconds"))
