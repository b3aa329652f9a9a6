"""A non-linear autoencoder on MNIST, its latents ordered by RAG or by nested dropout or not at all.

python -m launch.ordered_latents --workdir=DIR --config.data_dir=FOLDER
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The network, and what every way shares."""
    config = ConfigDict()
    config.dataset = "mnist"
    config.data_dir = ""
    config.download = False
    config.held_out = 10_000  # the last samples, that no way trains on
    config.hidden = (128, 64)  # widths of the encoder's hidden layers; the decoder has them reversed
    config.latent_dim = 16
    config.batch_size = 256
    config.learning_rate = 1e-3
    config.num_steps = 3000
    config.seed = 0
    config.precision = "float32"
    config.matmul_precision = "highest"
    config.max_memory = 0.0
    return config
