"""Continuous time: the flow of every method, its curl, Theorems 4 and 5, Section 6.2.

Time is learning rate times steps. With the factor 1/2 that Algorithm 1 puts into A, RAG's
rotation runs at half the speed of Theorem 5 (see `alignment_rate`).

Legend: W1 encoder (k, m), W2 decoder (m, k); C covariance; E = W2 W1; M = W1 C W1^T;
A = (upper - lower triangle of M) / 2; Z = W1 W1^T - W2^T W2; d_i variances.
"""

import functools
from collections.abc import Callable
from typing import cast

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from lae_jax.covariance import Covariance, Diagonal, second_moment
from lae_jax.errors import InputError
from lae_jax.methods import Method
from lae_jax.metrics import imbalance_matrix
from lae_jax.objectives import reconstruction
from lae_jax.params import Array, LAEParams, Number, Params, Tree, TwoLayers, Value, Weights, gaussian
from lae_jax.rotation import skew_rotation
from lae_jax.theory.hessian import exact_jacobian

Field = Callable[[Weights], Weights]  # params -> d params / dt
Pair = tuple[Weights, optax.OptState]  # weights, and the state of a rule

# What a flow follows: the derivative of one step with respect to its learning rate, at 0.


def _step(method: Method, covariance: Covariance, hyperparameter: Value, rate: Number, before: Pair) -> Pair:
    """One step of plain descent, (params, state of the rule) -> both after it."""
    params, state = before
    gradients = jax.grad(method.loss)(params, covariance, jax.random.key(0), hyperparameter)
    updates, state = method.update_rule(optax.sgd(rate)).update(gradients, state, params, covariance=covariance)
    return cast(Weights, optax.apply_updates(params, updates)), state


@functools.cache
def _require_limit(method: Method) -> None:
    """Raises InputError where steps do not shrink with the learning rate, found by taking two of no length.

    The first may bring the weights to where the rule keeps them (unit columns, W1 = W2^T); a second
    that still moves them rotates by an angle that no learning rate makes smaller.
    """
    if method.stochastic:
        raise InputError(f"method: {method.label} is stochastic and has no flow; take its deterministic form")
    if not method.reads_optimizer:
        raise InputError(f"method: {method.label} has no flow: it has no learning rate that could become small")
    with jax.ensure_compile_time_eval():
        rule, covariance = method.update_rule(optax.sgd(0.0)), Diagonal(jnp.arange(5.0, 0.0, -1.0))
        params: Tree = method.lift(gaussian(jax.random.key(1), 3, 5, 1.0))
        gradients, state = jax.tree.map(jnp.ones_like, params), rule.init(params)
        for _ in range(2):
            updates, state = rule.update(gradients, state, params, covariance=covariance)
            params = optax.apply_updates(params, updates)
        moved = max(float(jnp.max(jnp.abs(update))) for update in jax.tree.leaves(updates))
        if moved > 1e-4:
            raise InputError(
                f"method: {method.label} has no flow: its steps rotate the latents however small the learning rate"
            )
        if any(not jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(state)):
            raise InputError(f"method: {method.label} has no flow: its rule counts steps, which a limit has none of")


def _velocities(method: Method, covariance: Covariance, hyperparameter: Value) -> Callable[[Pair], Pair]:
    """(params, state) -> d (params, state) / dt."""

    def field(pair: Pair) -> Pair:
        zero = jnp.zeros((), pair[0].encoder.dtype)
        return jax.jvp(
            lambda rate: _step(method, covariance, hyperparameter, rate, pair), (zero,), (jnp.ones_like(zero),)
        )[1]

    return field


def _started(method: Method, params: Weights) -> Pair:
    return params, method.update_rule(optax.sgd(0.0)).init(params)


def velocity(method: Method, covariance: Covariance, hyperparameter: Value = None) -> Field:
    """The velocity field of a method: the limit of (one step of plain descent - weights) / learning rate.

    Args:
        method: a row of METHODS, or one's own.
        covariance: C, in any form.
        hyperparameter: what the row's loss takes, penalties or prior (k,).

    Returns:
        A function params -> d params / dt, of the same fields. Rules that retract (unit or orthonormal
        columns, W1 = W2^T) have a velocity only where their retraction has already led: elsewhere
        it is that of the retracted weights. A rule with a state of its own is taken at its initial one.

    Raises:
        InputError: where no limit exists: the method is stochastic, or rotates by a finite angle at
            every step (aligned descent, Goldstone descent), or counts its steps.
    """
    _require_limit(method)
    field = _velocities(method, covariance, hyperparameter)
    return lambda params: field(_started(method, params))[0]


def flow(
    method: Method,
    params: Params,
    covariance: Covariance,
    times: ArrayLike,
    hyperparameter: ArrayLike | None = None,
    tolerance: float = 1e-12,
) -> Params:
    """A method in continuous time: what plain descent follows as its learning rate goes to 0.

    Args:
        method: a row of METHODS, or one's own, with a limit (see `velocity`).
        params: float64 weights at time 0; rules that retract begin where a step of no length leads.
        covariance: C, in any form, in float64.
        times: (t,), increasing from 0 or later, in learning rates times steps.
        hyperparameter: what the row's loss takes, penalties or prior (k,).
        tolerance: relative per step, absolute at a tenth of it.

    Returns:
        Params whose every field has gained a leading time axis (t, ...).

    Raises:
        InputError: as `velocity`; or weights that are not float64 or would not be in JAX, or bad times.
    """
    _require_limit(method)
    params = jax.tree.map(jnp.asarray, params)
    if params.encoder.dtype != jnp.float64:
        raise InputError(f"params: dtype {params.encoder.dtype} in JAX, flows need float64 (set jax_enable_x64)")
    steps = np.diff(np.asarray(times, float), prepend=0.0)
    if steps.size == 0 or steps[0] < 0 or np.any(steps[1:] <= 0):
        raise InputError(f"times: {np.asarray(times)}, must increase from 0 or later")
    chosen = None if hyperparameter is None else jnp.asarray(hyperparameter)
    return _integrate(method, params, covariance, jnp.asarray(times, float), chosen, tolerance)


@functools.partial(jax.jit, static_argnames="method")
def _integrate(
    method: Method, params: Params, covariance: Covariance, times: Array, hyperparameter: Value, tolerance: float
) -> Params:
    field = _velocities(method, covariance, hyperparameter)
    start = _step(method, covariance, hyperparameter, jnp.zeros((), params.encoder.dtype), _started(method, params))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda time, pair, _: field(pair)),
        diffrax.Dopri8(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=0.1 * tolerance),
        max_steps=1_000_000,
    )
    return solution.ys[0]


def curl(field: Field, params: Weights, tied: bool = False) -> Array:
    """J - J^T of a velocity field at these weights, skew-symmetric: zero where the field is a gradient.

    "RAG cannot be derived as the gradient of any loss" (Section 3): that of every objective is zero at all
    weights; that of RAG, for k >= 2, only where C W1^T = 0, or where W2 = 0 and W1 has a single row
    that is not zero, along a component (docs/theory.md has the proof).

    Args:
        field: params -> d params / dt, from `velocity`.
        params: float64 weights (N numbers in all).
        tied: for rules with one matrix (the generalised Hebbian algorithm, EigenGame): only directions
            that keep W1 = W2^T count, as a function of W2 alone.

    Returns:
        (N, N) over the ravelled weights, encoder first; with `tied` (m k, m k) over the ravelled decoder.
    """
    if tied:

        def alone(decoder: Array) -> Array:
            return field(params._replace(encoder=decoder.T, decoder=decoder)).decoder

        jacobian = exact_jacobian(alone, params.decoder)
    else:
        jacobian = exact_jacobian(field, params)
    return jacobian - jacobian.T


def loss_velocity(method: Method, covariance: Covariance, hyperparameter: Value = None) -> Callable[[Weights], Array]:
    """Params -> d Eq. (1) / dt under the flow of a method.

    Section 6.2: RAG's is that of plain descent at all weights. The generalised Hebbian algorithm's
    is not that of Oja's rule, whose descent of Eq. (1) it augments.
    """
    field = velocity(method, covariance, hyperparameter)

    def slope(params: Weights) -> Array:
        return jax.jvp(lambda at: reconstruction(at, covariance), (params,), (field(params),))[1]

    return slope


def qr_flow(decoder: Array, variances: Array, times: Array) -> Array:
    """RAG's flow in closed form: W2(t) = qf(exp(t C / 2) W2(0)), (t, m, k), at increasing `times` (t,).

    In the eigenbasis, C = diag(variances) (m,); qf is the Q of QR with a positive diagonal of R.
    `decoder` (m, k) must have orthonormal columns that span an invariant subspace of C, and
    W1 = W2^T: the setting of Theorem 4, which it proves (a QR flow ends in ordered axes).
    """
    excess = (variances - jnp.max(variances)) / 2  # qf forgets a common factor; this one cannot overflow

    def advance(current: Array, step: Array) -> tuple[Array, Array]:
        orthonormal, triangle = jnp.linalg.qr(jnp.exp(step * excess)[:, None] * current)
        following = orthonormal * jnp.where(jnp.diagonal(triangle) < 0, -1, 1)[None, :]
        return following, following

    return jax.lax.scan(advance, decoder, jnp.diff(times, prepend=0.0))[1]


def alignment_rate(moment: Array) -> Array:
    """The rate at which RAG's flow makes M (k, k) diagonal near its end, per unit of time: g / 2.

    g = min over i != j of abs(M_ii - M_jj). Theorem 5 prints g; that would need A without the
    factor 1/2 of Algorithm 1. It is the asymptotic rate: Nd(M) itself may start faster or slower.
    """
    levels = jnp.sort(jnp.diagonal(moment))
    return jnp.min(jnp.diff(levels)) / 2


def balance_velocity(params: TwoLayers, covariance: Covariance) -> Array:
    """dZ/dt = A Z - Z A (k, k) under RAG's flow: isospectral, and at rest where Z = 0."""
    rotation = skew_rotation(second_moment(params.encoder, covariance))
    imbalance = imbalance_matrix(params)
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
    encoder = jnp.pad(latent_scales[:, None] * rotation / scales[None, :], widths)
    decoder = jnp.pad(rotation / latent_scales[:, None] * scales[None, :], widths).T
    return LAEParams(encoder, decoder)
