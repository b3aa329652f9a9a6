"""The covariance of a file larger than the memory it is given, against reading and products alone.

    python -m launch.streaming --workdir=DIR

Two to four minutes on two cores; needs 4 GiB of disk in DIR, which are freed at the end.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """4 GiB of float32."""
    config = ConfigDict()
    config.num_samples = 1_048_576  # n
    config.input_dim = 1024  # m
    config.num_shards = 1  # files they are in
    config.dtype = "float32"  # of the numbers on disk
    config.fortran_order = False  # whether the files hold column after column
    config.repeats = 1  # streaming, reading and products are timed in turn this many times; medians are given
    config.data_seed = 0
    return config
