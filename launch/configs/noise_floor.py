"""Where stochastic nested dropout settles: predicted, and measured from the optimum on (Section 5).

python -m launch.noise_floor --workdir=DIR

Half a minute on digits. `--config.dataset=mnist` needs MNIST's samples. Under Adam:
`--config.optimizer=adam --config.learning_rates="(3e-4,1e-3)"`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Data, the prior, and how long the runs are."""
    config = ConfigDict()
    config.dataset = "digits"  # a name, or a file of samples
    config.data_dir = ""
    config.download = False
    config.num_components = 10  # of the data, the leading ones: the others only add to the distances
    config.prior = (0.4, 0.3, 0.3)  # p_B, which says k too
    config.optimizer = "nesterov"  # or sgd, adam
    config.learning_rates = (0.02, 0.06)  # of data in units of sigma_1
    config.momentum = 0.9  # of nesterov
    config.num_steps = 10_000
    config.runs = 8  # with masks of their own, averaged
    config.max_memory = 0.0
    return config
