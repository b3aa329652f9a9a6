"""The rules on mini-batches, with a learning rate that decays: which alignment they settle at (Appendix I.2).

    python -m launch.minibatch --workdir=DIR --config.data_dir=FOLDER

FOLDER holds the samples of MNIST (or --config.download=True). About five minutes on two cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Rules, batches, and the decay."""
    config = ConfigDict()
    # Rules to train.
    config.methods = (
        *("non_uniform_l2", "nested_dropout", "deterministic_nested_dropout", "linear_vae", "rag", "balanced_rag"),
        *("aligned", "generalized_hebbian", "eigengame_mu"),
    )
    config.dataset = "mnist"
    config.data_dir = ""
    config.max_memory = 0.0
    config.download = False
    config.latent_dim = 20
    config.batch_size = 256
    config.num_steps = 5_000
    config.record_every = 100
    # In units of 1 / sigma_1^2, all tried for every rule; the one with the best alignment at the end is shown.
    config.learning_rates = (0.01, 0.03, 0.1, 0.3)
    config.decay = 0.01  # learning rate at the end in units of that at the start; exponential in between
    config.seed = 0
    config.matmul_precision = "highest"
    config.parallel_jobs = 2  # runs that train at the same time
    return config
