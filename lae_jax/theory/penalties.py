"""Footnote 2 and Appendix I.1: what penalties of the best local rate cost before the optimum is near.

Runs of Eq. (3) in the eigenbasis with Nesterov momentum, from small random weights, at penalties between two settings;
beside each the local rate that the exact spectrum predicts.

Legend: d_i variances; k latent dimension; m input dimension.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from lae_jax import metrics, objectives
from lae_jax.covariance import Diagonal
from lae_jax.errors import InputError
from lae_jax.hyperparameters import checked_penalties, checked_variances
from lae_jax.params import Array, LAEParams, gaussian
from lae_jax.theory.blocks import condition_number
from lae_jax.theory.closed_form import non_uniform_l2_spectrum
from lae_jax.theory.rates import convergence_factor

_Carry = tuple[Array, LAEParams, optax.OptState, Array]  # steps taken, weights, state, steps to each target


class LocalRate(NamedTuple):
    """What the spectrum at the optimum says."""

    condition_number: float  # within the span of the leading components
    rate: float  # 1 - contraction per step of the slowest mode there


def between(first: ArrayLike, last: ArrayLike, count: int) -> np.ndarray:
    """Penalties (count, k) on the geometric path from `first` (k,) to `last` (k,), both included."""
    start, end = checked_penalties(first), checked_penalties(last)
    if start.shape != end.shape or count < 2:
        raise InputError(
            f"count, penalties: {count} settings of {start.size} and {end.size}; two at least, of one size"
        )
    mix = np.linspace(0, 1, count)[:, None]
    return np.exp((1 - mix) * np.log(start) + mix * np.log(end))


def local_rate(variances: ArrayLike, penalties: ArrayLike, learning_rate: float, momentum: float = 0.9) -> LocalRate:
    """How fast descent with Nesterov momentum is near the optimum of Eq. (3)."""
    found = condition_number(non_uniform_l2_spectrum(variances, penalties))
    slowest, fastest = convergence_factor([found.smallest, found.largest], learning_rate, momentum)
    return LocalRate(found.value, float(1 - max(slowest, fastest)))


def steps_to_targets(
    variances: ArrayLike,
    penalties: ArrayLike,
    targets: Sequence[float],
    *,
    learning_rate: float,
    momentum: float = 0.9,
    num_steps: int = 100_000,
    record_every: int = 10,
    seed: int = 0,
    scale: float = 1e-4,
) -> np.ndarray:
    """Steps of Eq. (3) until d_align is at or below each target for the first time.

    Args:
        variances: d (m,).
        penalties: one setting or several, (..., k).
        targets: alignments; a run ends when the smallest is reached.
        learning_rate: of Nesterov descent in the eigenbasis, which is exact.
        momentum: Nesterov's.
        num_steps: at most.
        record_every: steps between two looks at the alignment.
        seed: of the start, the same for every setting.
        scale: standard deviation of the start.

    Returns:
        (..., t) in the order of `targets`; infinity where one is missed.
    """
    settings = np.asarray(penalties, np.float64)
    leading = checked_variances(variances, settings.shape[-1])
    if min(num_steps, record_every) < 1 or not learning_rate > 0 or not targets:
        raise InputError(
            f"num_steps, record_every, learning_rate: {num_steps}, {record_every}, {learning_rate}: positive"
        )
    start = gaussian(jax.random.key(seed), settings.shape[-1], leading.size, scale)
    found = _runs(
        jnp.asarray(leading, jnp.float32),
        jnp.asarray(settings.reshape(-1, settings.shape[-1]), jnp.float32),
        start, jnp.asarray(targets, jnp.float32), learning_rate, momentum, num_steps, record_every,
    )  # fmt: skip
    return np.asarray(found, np.float64).reshape(*settings.shape[:-1], len(targets))


@functools.partial(jax.jit, static_argnames=("num_steps", "record_every"))
def _runs(
    variances: Array, settings: Array, start: LAEParams, targets: Array,
    learning_rate: Array, momentum: Array, num_steps: int, record_every: int,
) -> Array:  # fmt: skip
    covariance, rule = Diagonal(variances), optax.sgd(learning_rate, momentum, nesterov=True)

    def one(penalties: Array) -> Array:
        def step(_: int, carry: tuple[LAEParams, optax.OptState]) -> tuple[LAEParams, optax.OptState]:
            params, state = carry
            gradients = jax.grad(objectives.l2)(params, covariance, penalties)
            updates, state = rule.update(gradients, state, params)
            return cast(LAEParams, optax.apply_updates(params, updates)), state

        def block(carry: _Carry) -> _Carry:
            count, params, state, reached = carry
            params, state = jax.lax.fori_loop(0, record_every, step, (params, state))
            count += record_every
            there = metrics.axis_alignment(params.decoder) <= targets
            return count, params, state, jnp.where(jnp.isinf(reached) & there, count, reached)

        def running(carry: _Carry) -> Array:
            return (carry[0] < num_steps) & jnp.any(jnp.isinf(carry[-1]))

        return jax.lax.while_loop(
            running, block, (jnp.zeros((), jnp.int32), start, rule.init(start), jnp.full(targets.shape, jnp.inf))
        )[-1]

    return jax.lax.map(one, settings)
