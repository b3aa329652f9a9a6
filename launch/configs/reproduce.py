"""Every figure of the paper at its default size, and a report.

python -m launch.reproduce --workdir=DIR
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Which launchers to run; the fields of each are those of its own configuration."""
    config = ConfigDict()
    config.only = ()  # names of launchers; empty: all
    config.nested_dropout = False  # True: train stochastic nested dropout too, which needs the samples and an hour
    return config
