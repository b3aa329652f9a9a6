"""Every rule the paper names side by side: steps and seconds to an aligned solution, beside exact solvers.

    python -m launch.compare --workdir=DIR
    python -m launch.compare --workdir=DIR --config=launch/configs/compare.py:full

The default is scikit-learn's digits at k = 10 and MNIST at k = 20, one seed, minutes on two cores; `full` adds
larger k, Fashion-MNIST where its samples are found, the data of Figure 4 up to k = 500, and three seeds.
"""

import numpy as np
from ml_collections import ConfigDict

from lae_jax.methods import METHODS
from launch.configs import check_variant

VARIANTS = {"full": "larger k, Fashion-MNIST, the data of Figure 4, three seeds"}


def get_config(variant: str = "") -> ConfigDict:
    """Data sets and sizes, the grid of learning rates, and the distances to reach. `variant`: "" or "full"."""
    check_variant(variant, VARIANTS)
    config = ConfigDict()
    # Stochastic nested dropout needs the samples and hours: `launch.mnist` has it.
    config.methods = tuple(name for name, method in METHODS.items() if not method.needs_samples)
    config.optimizer = "nesterov"
    # Two decades in units of 1 / sigma_1^2, the same for every rule; in numbers where the optimiser is Adam.
    config.learning_rates = tuple(float(f"{rate:.3g}") for rate in np.logspace(-2, 0, 7))
    config.seeds = (0,)  # the first chooses the learning rate, all are run with it
    config.targets = (0.3, 0.1, 0.01, 0.001)  # axis alignments to reach
    config.robust_target = 0.01  # what a learning rate has to reach to count as one that works
    # (data set, latent size, most steps of a run): --config.problems="(('wine.npy', 3, 500),)"
    config.problems = (("digits", 10, 5_000), ("mnist", 20, 10_000))
    config.record_every = 10
    config.timing_seconds = 0.3  # spent on the time of a step of each rule, over the dense covariance
    config.data_dir = ""
    config.max_memory = 0.0
    config.precision = "float32"
    config.matmul_precision = "highest"
    config.parallel_jobs = 2  # rules that train at the same time
    if variant == "full":
        config.seeds = (0, 1, 2)
        images = {20: 10_000, 50: 5_000, 100: 3_000}
        figure4 = {2: 10_000, 10: 10_000, 20: 10_000, 50: 5_000, 100: 3_000, 200: 1_500, 500: 1_000}
        steps = {"digits": {5: 10_000, 20: 10_000}, "mnist": images, "fashion_mnist": images, "synthetic": figure4}
        config.problems = tuple((name, size, most) for name, sizes in steps.items() for size, most in sizes.items())
    return config
