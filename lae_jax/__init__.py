"""How linear autoencoders learn principal components: objectives, update rules, spectra, sweeps."""

from lae_jax.methods import METHODS as METHODS
from lae_jax.methods import OPTIMIZERS as OPTIMIZERS
from lae_jax.params import LAEParams as LAEParams
from lae_jax.params import VAEParams as VAEParams
from lae_jax.rotation import rotation_augmented_gradient as rotation_augmented_gradient

__version__ = "0.1.0"
