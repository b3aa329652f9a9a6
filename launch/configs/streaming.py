"""The components of a file larger than the memory it is given, against reading and products alone.

    python -m launch.streaming --workdir=DIR

Two to four minutes on two cores; needs 4 GiB of disk in DIR, which are freed at the end.
"""

from ml_collections import ConfigDict

from launch.configs import check_variant

VARIANTS = {"parquet": "2 GiB in a Parquet file of 20 columns"}


def get_config(variant: str = "") -> ConfigDict:
    """4 GiB of float32 in a .npy file, or 2 GiB of float64 in a Parquet file."""
    check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.num_samples = 1_048_576  # n
    config.input_dim = 1024  # m
    config.num_shards = 1  # files they are in
    config.dtype = "float32"  # of the numbers on disk
    config.fortran_order = False  # whether the files hold column after column
    config.repeats = 1  # streaming, reading and products are timed in turn this many times; medians are given
    config.data_seed = 0
    config.format = "npy"  # of the files: npy, or parquet (the order of its numbers is its own)
    config.max_memory = 0.0
    if variant == "parquet":
        config.update(num_samples=13_421_773, input_dim=20, dtype="float64", format="parquet", repeats=3)
    return config
