"""Figures 2 and 3: every model of the paper on MNIST, k = 20, under Nesterov and Adam.

    python -m launch.mnist --workdir=DIR

The ten deterministic runs of 30,000 steps take about a minute on two cores. Nested dropout needs
the samples (--config.data_dir=FOLDER or --config.download=True) and takes over an hour a run there.
"""

from ml_collections import ConfigDict

from launch.configs import authors


def get_config() -> ConfigDict:
    """The authors' settings."""
    config = ConfigDict()
    config.learning_rates = ConfigDict(authors.MNIST_LEARNING_RATES)  # by method and optimiser
    config.optimizers = ("nesterov", "adam")  # names in OPTIMIZERS
    config.latent_dim = 20
    config.num_steps = 30_000
    config.record_every = 10
    config.snapshot_steps = (0, 1_000, 5_000, 10_000)  # Figure 3; those beyond num_steps are left out
    config.seeds = (0,)  # of initial weights
    config.parallel_runs = 2  # runs that train at the same time
    config.data_dir = ""
    config.download = False
    config.precision = "float32"
    config.matmul_precision = "highest"
    return config
