"""One run of the authors' synthetic experiment (Figure 4): m = 1000, 5000 samples, not centred.

python -m launch.train --workdir=DIR --config=launch/configs/train_synthetic.py --config.latent_dim=K
"""

from ml_collections import ConfigDict

from launch.configs import train


def get_config() -> ConfigDict:
    """RAG at the authors' learning rate, 50,000 steps, until alignment 0.3."""
    config = train.get_config()
    config.dataset = "synthetic"
    config.learning_rate = 1e-4
    config.num_steps = 50_000
    config.target = 0.3
    return config
