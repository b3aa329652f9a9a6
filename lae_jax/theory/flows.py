"""Continuous time, and the local rates of the discrete rules: Theorems 4 and 5, Section 6.2.

Time is learning rate times steps. With the factor 1/2 that Algorithm 1 puts into A, RAG's
rotation runs at half the speed of Theorem 5 (see `alignment_rate`).

Legend: W1 encoder (k, m), W2 decoder (m, k); C covariance; E = W2 W1; M = W1 C W1^T;
A = (upper - lower triangle of M) / 2; Z = W1 W1^T - W2^T W2; d_i variances; h a curvature.
"""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lae_jax.covariance import Covariance, gram, second_moment
from lae_jax.errors import InputError
from lae_jax.methods import Method
from lae_jax.params import LAEParams
from lae_jax.rotation import skew_rotation

Array = jax.Array


def velocity(method: Method, covariance: Covariance, hyperparameter: Array | None = None) -> Callable[[Any], Any]:
    """Params -> d params / dt: the limit of `method` under plain descent as the learning rate goes to 0."""
    direction = method.update_rule(optax.identity())

    def field(params: Any) -> Any:
        gradients = jax.grad(method.loss)(params, covariance, jax.random.key(0), hyperparameter)
        descended, _ = direction.update(gradients, direction.init(params), params, covariance=covariance)
        return jax.tree.map(jnp.negative, descended)

    return field


def flow(
    method: Method,
    params: Any,
    covariance: Covariance,
    times: Array,
    hyperparameter: Array | None = None,
    tolerance: float = 1e-12,
) -> Any:
    """Weights at `times` (t,), increasing from 0 or later, starting from `params` at time 0.

    Every field gains a leading time axis. Needs float64 weights and a deterministic method, else
    InputError. `tolerance` is relative per step, absolute at a tenth of it.
    """
    if method.stochastic:
        raise InputError(f"method: {method.label} is stochastic and has no flow; take its deterministic form")
    if params.encoder.dtype != jnp.float64:
        raise InputError(f"params: dtype {params.encoder.dtype}, flows need float64 (set jax_enable_x64)")
    steps = np.diff(np.asarray(times), prepend=0.0)
    if steps.size == 0 or steps[0] < 0 or np.any(steps[1:] <= 0):
        raise InputError(f"times: {np.asarray(times)}, must increase from 0 or later")
    return _integrate(method, params, covariance, jnp.asarray(times), hyperparameter, tolerance)


@functools.partial(jax.jit, static_argnames="method")
def _integrate(
    method: Method, params: Any, covariance: Covariance, times: Array, hyperparameter: Array | None, tolerance: float
) -> Any:
    field = velocity(method, covariance, hyperparameter)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda time, state, _: field(state)),
        diffrax.Dopri8(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=params,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=0.1 * tolerance),
        max_steps=1_000_000,
    )
    return solution.ys


def qr_flow(decoder: Array, variances: Array, times: Array) -> Array:
    """RAG's flow in closed form: W2(t) = qf(exp(t C / 2) W2(0)), (t, m, k), at increasing `times` (t,).

    In the eigenbasis, C = diag(variances) (m,); qf is the Q of QR with a positive diagonal of R.
    `decoder` (m, k) must have orthonormal columns that span an invariant subspace of C, and
    W1 = W2^T: the setting of Theorem 4, which it proves (a QR flow ends in ordered axes).
    """
    excess = (variances - jnp.max(variances)) / 2  # qf forgets a common factor; this one cannot overflow

    def advance(current: Array, step: Array) -> tuple[Array, Array]:
        orthonormal, triangle = jnp.linalg.qr(jnp.exp(step * excess)[:, None] * current)
        following = orthonormal * jnp.where(jnp.diagonal(triangle) < 0, -1, 1)
        return following, following

    return jax.lax.scan(advance, decoder, jnp.diff(times, prepend=0.0))[1]


def alignment_rate(moment: Array) -> Array:
    """The rate at which RAG's flow makes M (k, k) diagonal near its end, per unit of time: g / 2.

    g = min over i != j of |M_ii - M_jj|. Theorem 5 prints g; that would need A without the
    factor 1/2 of Algorithm 1. It is the asymptotic rate: Nd(M) itself may start faster or slower.
    """
    levels = jnp.sort(jnp.diagonal(moment))
    return jnp.min(jnp.diff(levels)) / 2


def balance(params: Any) -> Array:
    """Z = W1 W1^T - W2^T W2 (k, k), which gradient descent's flow on Eq. (1) conserves.

    RAG's conserves its eigenvalues alone: see `balance_velocity`.
    """
    return gram(params.encoder.T) - gram(params.decoder)


def balance_velocity(params: Any, covariance: Covariance) -> Array:
    """dZ/dt = A Z - Z A (k, k) under RAG's flow: isospectral, and at rest where Z = 0."""
    rotation = skew_rotation(second_moment(params.encoder, covariance))
    imbalance = balance(params)
    return rotation @ imbalance - imbalance @ rotation


def unbalanced_fixed_point(variances: Array, rotation: Array, latent_variances: Array) -> LAEParams:
    """Weights at which RAG rests without being aligned, in the eigenbasis: Theorem 4 needs Z = 0.

    W1 = T^(1/2) O S^-1 U^T and W2 = U S O^T T^(-1/2) have E = U U^T and M = T. Takes variances S^2 = d
    (m,), any orthogonal `rotation` O (k, k) and positive `latent_variances` T (k,); if those descend
    the point is stable. Beyond the paper. InputError on shapes or values that are not positive.
    """
    latent_dim, input_dim = rotation.shape[0], variances.shape[0]
    if latent_variances.shape != (latent_dim,) or latent_dim > input_dim:
        raise InputError(
            f"latent_variances: shape {latent_variances.shape}, must be ({latent_dim},) as `rotation` says, "
            f"at most the {input_dim} variances"
        )
    scales, latent_scales = jnp.sqrt(variances[:latent_dim]), jnp.sqrt(latent_variances)
    if not (jnp.all(scales > 0) and jnp.all(latent_scales > 0)):
        raise InputError("latent_variances and the leading variances: must be positive")
    widths = ((0, 0), (0, input_dim - latent_dim))
    encoder = jnp.pad(latent_scales[:, None] * rotation / scales, widths)
    decoder = jnp.pad(rotation / latent_scales[:, None] * scales, widths).T
    return LAEParams(encoder, decoder)
