"""Penalties between the paper's and those of the best condition number (footnote 2, Appendix I.1).

python -m launch.penalties --workdir=DIR

Half a minute on digits.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Data, settings, and how long a run may take."""
    config = ConfigDict()
    config.dataset = "digits"  # a name, or a file of samples
    config.data_dir = ""
    config.download = False
    config.latent_dim = 5
    config.num_settings = 6  # on the geometric path between the two, both included
    config.seeds = (0, 1, 2)  # of initial weights
    config.targets = (0.3, 0.1, 0.01)  # alignments; a run ends at the smallest
    config.learning_rate = 0.1  # in units of 1 / sigma_1^2
    config.momentum = 0.9
    config.num_steps = 100_000  # at most
    config.record_every = 10
    config.max_memory = 0.0
    return config
