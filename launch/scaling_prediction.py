"""Steps to alignment as the exact Hessian at the optimum predicts them, to lay over Figure 4."""

import numpy as np
import scipy.optimize

from lae_jax.data.datasets import Dataset
from lae_jax.hyperparameters import HYPERPARAMETERS, collapsing_latents
from lae_jax.methods import METHODS
from lae_jax.theory.rates import convergence_factor
from lae_jax.training.settings import Settings
from launch.hessian import CASES


def predicted_steps(run: Settings, dataset: Dataset, target: float) -> float | None:
    """The t at which mean over latents i of max over j != i of rho_ij^(2t) is `target`, of resolved settings.

    rho_ij is the contraction per step of the slowest mode that exchanges latents i and j, linearised at
    the ordered optimum: a misalignment (a squared sine) of 1 in every latent, left to its slowest rotation.
    A scale of time and no more: the way from the initial weights to the subspace is left out, and at
    axis alignment 0.3 the weights are far from the optimum. None where there is no such mode or
    rate: k = 1, a coordinate-wise optimizer, collapsed latents, a stochastic or unstable method.
    """
    variances, latent_dim = dataset.variances, run.latent_dim
    collapsed = run.penalties and collapsing_latents(np.asarray(run.penalties), variances)
    if (
        run.method not in CASES
        or not METHODS[run.method].aligns
        or run.representation != "eigenbasis"
        or latent_dim == 1
        or collapsed
    ):
        return None
    kind = METHODS[run.method].hyperparameter
    hyperparameter = getattr(run, HYPERPARAMETERS[kind].field) if kind else None
    spectrum = CASES[run.method].spectrum(variances, hyperparameter, latent_dim)
    _, pairs, _ = spectrum.blocks  # those of latents i < j in the order of triu_indices
    assert run.learning_rate is not None and run.momentum is not None
    slowest = np.zeros((latent_dim, latent_dim))
    first, second = np.triu_indices(latent_dim, 1)
    rates = convergence_factor(np.nanmin(pairs.eigenvalues, axis=1), run.learning_rate, run.momentum)
    slowest[first, second] = slowest[second, first] = rates
    of_latents = slowest.max(axis=1)
    if not of_latents.max() < 1:
        return None

    def left(log_steps: float) -> float:
        return float(np.mean(of_latents ** (2 * np.exp(log_steps))) - target)

    return float(np.exp(scipy.optimize.brentq(left, 0.0, 50.0))) if left(0.0) > 0 else 1.0
