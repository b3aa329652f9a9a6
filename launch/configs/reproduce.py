"""Every figure of the paper, and a report, in five minutes on two cores; with `full`, each at its default size.

python -m launch.reproduce --workdir=DIR
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Which launchers to run; the fields of each are those of its own configuration."""
    config = ConfigDict()
    config.only = ()  # names of launchers; empty: all
    config.full = False  # True: seeds as bands, every spectrum, MNIST under every rule, Figure 4 to k = 100; 15 minutes
    config.nested_dropout = False  # True: train stochastic nested dropout too, which needs the samples and an hour
    return config
