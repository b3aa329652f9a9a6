"""Figure 1: the loss of the non-uniform objective on a plane through its optimum, k = 2.

python -m launch.surface --workdir=DIR
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Variances and penalties of the two latents, and the two descents drawn on the surface."""
    config = ConfigDict()
    config.variances = (4.0, 2.0)
    config.penalties = (0.2, 0.6)
    config.start_radius = 0.25
    config.start_angle = 2.3  # radians
    config.learning_rate = 0.02
    config.num_steps = 400
    config.resolution = 161
    return config
