"""One run of the authors' MNIST experiment, k = 20, 30,000 steps under Nesterov.

    python -m launch.train --workdir=DIR --config=launch/configs/train_mnist.py:METHOD

METHOD is one of uniform_l2, non_uniform_l2, rag, nested_dropout, deterministic_nested_dropout,
linear_vae. For Adam, give its learning rate as well: --config.optimizer=adam --config.learning_rate=...
"""

from ml_collections import ConfigDict

from launch.configs import authors, check_variant, train

VARIANTS = {name: f"{name} at the authors' settings" for name in authors.MNIST_LEARNING_RATES}


def get_config(method: str = "rag") -> ConfigDict:
    """The defaults with the authors' learning rate and penalties."""
    check_variant(method, VARIANTS)
    config = train.get_config()
    config.method = method
    config.learning_rate = authors.MNIST_LEARNING_RATES[method]["nesterov"]
    config.penalties = authors.penalties(method, config.latent_dim)
    return config
