"""The stationary points of Eq. (3) and of nested dropout by loss and Morse index.

python -m launch.landscape --workdir=DIR
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A spectrum, and penalties and a prior of as many latents."""
    config = ConfigDict()
    config.variances = (4.0, 2.5, 1.6, 0.7, 0.2)  # sigma_1^2 > sigma_2^2 > ...
    config.penalties = (0.1, 0.4, 1.0)  # of Eq. (3), ascending
    config.prior = (0.5, 0.3, 0.2)  # of nested dropout, sums to 1
    config.most_points = 100_000  # more are refused
    return config
