"""Steps to alignment of a run as the exact spectrum at its optimum predicts them, to lay over Figure 4."""

import numpy as np

from lae_jax.data.datasets import Dataset
from lae_jax.hyperparameters import HYPERPARAMETERS, collapsing_latents
from lae_jax.methods import METHODS
from lae_jax.theory import rates
from lae_jax.theory.verify import OBJECTIVES
from lae_jax.training.settings import Settings


def predicted_steps(run: Settings, dataset: Dataset, target: float) -> float | None:
    """`rates.predicted_steps` of resolved settings; None as well where the spectrum says nothing about the run.

    That is a row whose spectrum is not known or which does not align, a coordinate-wise optimiser, collapsed latents.
    """
    name = str(run.method)
    collapsed = run.penalties and collapsing_latents(np.asarray(run.penalties), dataset.variances)
    known = name in OBJECTIVES and METHODS[name].aligns and run.representation == "eigenbasis"
    if not known or collapsed or run.latent_dim == 1:
        return None
    kind = METHODS[name].hyperparameter
    hyperparameter = getattr(run, HYPERPARAMETERS[kind].field) if kind else None
    spectrum = OBJECTIVES[name].spectrum(dataset.variances, hyperparameter, run.latent_dim)
    assert run.learning_rate is not None and run.momentum is not None
    return rates.predicted_steps(spectrum, run.learning_rate, run.momentum, target)
