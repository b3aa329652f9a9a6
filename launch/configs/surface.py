"""Figure 1: the loss of the non-uniform objective on a plane through its optimum, k = 2.

python -m launch.surface --workdir=DIR
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Variances and penalties of the two latents, and the two descents drawn on the surface."""
    config = ConfigDict()
    config.variances = (4.0, 2.0)  # sigma_1^2 > sigma_2^2
    config.penalties = (0.2, 0.6)  # lambda_1 < lambda_2 < sigma_2^2
    config.start_radius = 0.25  # of the point both descents start from
    config.start_angle = 2.3  # of that point, in radians
    config.learning_rate = 0.02  # of both descents
    config.num_steps = 400  # of both descents
    config.resolution = 161  # grid points along each axis
    config.max_memory = 0.0
    return config
