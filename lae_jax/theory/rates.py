"""Local rates of the discrete rules: how a mode of the Hessian contracts per step, predicted and measured.

Legend: h a curvature, an eigenvalue of the Hessian (of minus the Jacobian for RAG).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from numpy.typing import ArrayLike

from lae_jax.covariance import Covariance
from lae_jax.methods import Method
from lae_jax.params import Array, Tree, Value, Weights
from lae_jax.theory.blocks import Spectrum


def convergence_factor(curvature: ArrayLike, learning_rate: float, momentum: float = 0.0) -> np.ndarray:
    """Asymptotic contraction per step of a mode of curvature h, elementwise; above 1 it diverges.

    The larger abs(z) with z^2 - (1 + momentum)(1 - a h) z + momentum (1 - a h) = 0 for Nesterov, as optax
    and PyTorch have it; abs(1 - a h) at momentum 0. A rule contracts as its slowest mode does.
    """
    remaining = 1 - learning_rate * np.asarray(curvature, float)
    half = (1 + momentum) * remaining / 2
    root = np.emath.sqrt(half**2 - momentum * remaining)
    return np.maximum(np.abs(half + root), np.abs(half - root))


def largest_learning_rate(curvature: float, momentum: float = 0.0) -> float:
    """The learning rate at which the steepest curvature stops being stable: 2 / h at momentum 0."""
    return (2 + 2 * momentum) / ((1 + 2 * momentum) * curvature)


def predicted_steps(spectrum: Spectrum, learning_rate: float, momentum: float, target: float) -> float | None:
    """The t at which mean over latents i of max over j != i of rho_ij^(2t) is `target`.

    rho_ij is the contraction per step of the slowest mode that exchanges latents i and j, linearised at
    the ordered optimum: a misalignment (a squared sine) of 1 in every latent, left to its slowest rotation.
    A scale of time and no more: the way from the initial weights to the subspace is left out, and at
    axis alignment 0.3 the weights are far from the optimum. None where there is no such mode or rate: k = 1, or an
    unstable learning rate.
    """
    latent_dim = int(spectrum.shapes.encoder[0])
    if latent_dim == 1:
        return None
    _, pairs, _ = spectrum.blocks  # those of latents i < j in the order of triu_indices
    slowest = np.zeros((latent_dim, latent_dim))
    first, second = np.triu_indices(latent_dim, 1)
    factors = convergence_factor(np.nanmin(pairs.eigenvalues, axis=1), learning_rate, momentum)
    slowest[first, second] = slowest[second, first] = factors
    of_latents = slowest.max(axis=1)
    if not of_latents.max() < 1:
        return None

    def left(log_steps: float) -> float:
        return float(np.mean(of_latents ** (2 * np.exp(log_steps))) - target)

    return float(np.exp(scipy.optimize.brentq(left, 0.0, 50.0))) if left(0.0) > 0 else 1.0


def measured_factor(
    method: Method,
    optimum: Weights,
    mode: Weights,
    covariance: Covariance,
    hyperparameter: Value = None,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    num_steps: int = 1000,
    size: float = 1e-5,
) -> float:
    """Contraction per step of `mode`, from a run that starts at optimum + size * mode.

    `mode` has the fields of `optimum`: an eigenvector, of unit norm, of the method's Hessian (of minus the
    Jacobian for RAG). The first half of the run is left out: momentum has to build up. To be held
    against `convergence_factor`; meaningful for slow modes, whose roots are real.
    """
    rule = method.update_rule(optax.sgd(learning_rate, momentum, nesterov=True))

    def advance(carry: tuple[Tree, optax.OptState], _: None) -> tuple[tuple[Tree, optax.OptState], Array]:
        params, state = carry
        gradients = jax.grad(method.loss)(params, covariance, jax.random.key(0), hyperparameter)
        updates, state = rule.update(gradients, state, params, covariance=covariance)
        params = optax.apply_updates(params, updates)
        overlaps = jax.tree.map(lambda new, rest, along: jnp.vdot(along, new - rest), params, optimum, mode)
        return (params, state), jax.tree.reduce(jnp.add, overlaps)

    start = jax.tree.map(lambda rest, along: rest + size * along, optimum, mode)
    carry = (start, rule.init(start))
    amplitudes = jax.jit(lambda carry: jax.lax.scan(advance, carry, None, num_steps)[1])(carry)
    middle = num_steps // 2
    return float(abs(amplitudes[-1] / amplitudes[middle]) ** (1 / (num_steps - 1 - middle)))
