"""How fast a step is, beside the matrix products it cannot do without, measured in the same run.

    python -m launch.benchmark --workdir=DIR

About three minutes on two cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """MNIST's size for every method and representation, and RAG on larger latents."""
    config = ConfigDict()
    config.input_dim = 784
    config.num_samples = 60_000
    config.methods = (
        *("lae", "uniform_l2", "non_uniform_l2", "nested_dropout", "deterministic_nested_dropout", "linear_vae"),
        *("rag", "aligned"),
    )
    config.latent_dim = 20
    config.large_latent_dims = (100, 500)  # RAG in the eigenbasis
    config.spectrum_sizes = ((784, 20), (1000, 500))  # (m, k) of closed-form Hessian spectra
    config.repeats = 7  # step and products are timed in turn this many times; medians are given
    config.seconds = 0.3  # least time of one measurement
    config.memory_steps = 30_000  # length of the run whose peak memory is taken; 0 leaves it out
    config.matmul_precision = "highest"
    return config
