"""Condition numbers at the optimum beside the bounds of Sections 4.3 and 5, and local rates.

    python -m launch.hessian --workdir=DIR

Under two minutes on two cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Spectra, sizes, and up to which size each check is made."""
    config = ConfigDict()
    # Names of data sets, "linear" (d_i = m + 1 - i), "power_law" (1 / i), or a path to .npy: variances
    # (one-dimensional) or samples as rows.
    config.spectra = ("mnist", "synthetic", "linear", "power_law")
    config.latent_dims = (2, 4, 8, 12, 20)  # k of the optima
    config.analytic_dim = 24  # m of the linear and the power-law spectrum
    config.penalties = ()  # your own, for non-uniform l2 at this many latents (one number: uniform l2)
    config.prior = ()  # your own p_B, for nested dropout at this many latents
    config.beta = ()  # your own, one number: the linear VAE's divergence weighed by it, a beta-VAE
    config.optimise_up_to = 40  # latent dimension up to which the best penalties and prior are searched
    config.autodiff = True  # jax.hessian and all its eigenvalues: of 2,000 weights at most
    config.matrix_free = ("mnist",)  # spectra whose l2 Hessian goes through scipy's eigsh at the largest k
    config.data_dir = ""
    config.rate_latent_dim = 5  # of the runs that measure the local rates; 0 leaves them out
    config.max_memory = 0.0
    return config
