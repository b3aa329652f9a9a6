"""How linear autoencoders learn principal components: objectives, update rules, spectra, sweeps.

In one call
    fit                          data, latent size, method -> weights, components, history
    fit_many                     the same over latent sizes, seeds and learning rates, as batches
    fit_stream                   from batches that are seen once, of any size and number
    Fit, Components, Dataset     what comes back, what it holds, and what data become
    components_of                the principal components that weights of one's own amount to
    datasets                     MNIST, Fashion-MNIST, digits, synthetic, files and arrays

The tables
    METHODS, OPTIMIZERS          the tables, name -> row
    Method, Optimizer            a row of one's own

By hand, under jax.jit, jax.grad and jax.vmap
    objectives                   the losses of the paper as pure functions of (params, C)
    metrics                      distances to the ordered components: Definitions 6.1, 7.1 and 7.2
    LAEParams, VAEParams         weights
    stack_latents                weights of several latent sizes as one batch, zero-padded
    unstack_latents              and back
    rotation_augmented_gradient  Algorithm 1 as an optax transformation
    rotating_frame               exact rotations around any optimiser
    aligned_descent              the recommended rule

Theory, in closed form
    landscape                    stationary points and global optima: Theorems 1 to 3
    closed_form                  Hessian spectra at the optimum, at any size
    verify                       condition number at an optimum: exact, by jax.hessian, and every bound below it
    OBJECTIVES                   the objectives that are known there
    bounds                       bounds on condition numbers: Sections 4.3 and 5, and sharper ones

    InputError                   bad input, told in one line
"""

from lae_jax import metrics, objectives
from lae_jax.components import Components, components_of
from lae_jax.data import datasets
from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError
from lae_jax.fitting import Fit, fit, fit_many
from lae_jax.methods import METHODS, OPTIMIZERS, Method, Optimizer
from lae_jax.params import LAEParams, VAEParams, stack_latents, unstack_latents
from lae_jax.rotation import aligned_descent, rotating_frame, rotation_augmented_gradient
from lae_jax.streaming import fit_stream
from lae_jax.theory import bounds, closed_form, landscape
from lae_jax.theory.verify import OBJECTIVES, verify

__version__ = "0.2.0"

# In the order of the docstring.
__all__ = [
    "METHODS",
    "OBJECTIVES",
    "OPTIMIZERS",
    "Components",
    "Dataset",
    "Fit",
    "InputError",
    "LAEParams",
    "Method",
    "Optimizer",
    "VAEParams",
    "aligned_descent",
    "bounds",
    "closed_form",
    "components_of",
    "datasets",
    "fit",
    "fit_many",
    "fit_stream",
    "landscape",
    "metrics",
    "objectives",
    "rotating_frame",
    "rotation_augmented_gradient",
    "stack_latents",
    "unstack_latents",
    "verify",
]
