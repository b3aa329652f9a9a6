"""What devices exchange in a step, for every rule and layout, as compiled for 2, 4 and 8 virtual devices.

    python -m launch.communication --workdir=DIR

About two minutes on two cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Rules, layouts and sizes; the counts do not depend on the numbers."""
    config = ConfigDict()
    # Rules to compile a step of.
    config.methods = ("rag", "aligned", "alternation", "nested_dropout")
    # Numbers of virtual devices.
    config.devices = (2, 4, 8)
    config.input_dim = 1024  # m
    config.num_samples = 1536  # n
    config.batch_size = 96  # b
    config.latent_dim = 8  # k
    return config
