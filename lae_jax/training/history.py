"""The streaming rule as a row of METHODS: mini-batches, each beside the low-rank history of those before it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lae_jax.covariance import CovarianceLike, LowRankHistory, Samples
from lae_jax.metrics import unit_columns
from lae_jax.params import Array, Tree, TwoLayers
from lae_jax.training.alternation import noise_columns
from lae_jax.training.low_rank import FIRST_STEPS, LEAST_SPARE, default_spare, nystrom
from lae_jax.transformations import covariance_given, require_params


class HistoryState(NamedTuple):
    """What the next step of `low_rank_history` needs beside the weights."""

    weight: Array  # of what has been taken up, in samples, ()
    vectors: Array  # V (m, r), orthonormal, by falling variance; columns of zeros behind
    variances: Array  # L (r,)
    outside: Array  # the variance outside the span of V, ()
    directions: Array  # how many columns are not padding, ()


def low_rank_history(spare: int | None = None, forget: float = 0.0) -> optax.GradientTransformationExtraArgs:
    """The streaming rule as a whole rule for Eq. (1): gradients and optimisers are not read, W1 = W2^T = V_k^T.

    A batch is taken about zero, as losses take it: centre the samples. A covariance that is not of samples is taken
    as all there is; the rule is then orthogonal iteration with k + spare directions.

    Args:
      spare: directions kept beside k, which start at random. None: half as many, and at least 20.
      forget: as in `stream_rule`.

    Returns:
      A transformation whose `update` reads `params` and the keyword `covariance`.
    """

    def init(params: TwoLayers) -> HistoryState:
        input_dim, latent_dim = params.decoder.shape
        dtype, start = params.encoder.dtype, unit_columns(params.encoder.T) + unit_columns(params.decoder)
        count = jnp.sum(jnp.any(start != 0, axis=0))
        more = default_spare(latent_dim) if spare is None else spare
        size, wanted = (
            min(latent_dim + more, input_dim),
            more if spare is not None else jnp.maximum(count // 2, LEAST_SPARE),
        )
        # Latents of zero are padding, and come last: direction i > k is noise number i, whatever the padding.
        noise = noise_columns(0, size, input_dim, dtype) / input_dim**0.5
        index, directions = jnp.arange(size), jnp.where(count > 0, jnp.minimum(count + wanted, input_dim), 0)
        vectors = jnp.where((index < count)[None, :], jnp.pad(start, ((0, 0), (0, size - latent_dim))), noise)
        zero = jnp.zeros((), dtype)
        return HistoryState(zero, vectors * (index < directions)[None, :], jnp.zeros(size, dtype), zero, directions)

    def update(
        updates: Tree,
        state: HistoryState,
        params: TwoLayers | None = None,
        *,
        covariance: CovarianceLike | None = None,
        **_: object,
    ) -> tuple[Tree, HistoryState]:
        require_params(params)
        seen, weight = covariance_given(covariance), jnp.ones_like(state.weight)
        if isinstance(seen, Samples):
            before = state.weight * (1 - forget) ** seen.count
            weight = before + seen.count
            past, each = before / weight, 1 / weight
            seen = LowRankHistory(state.vectors, state.variances, state.outside, past, seen.rows, each)
        active = jnp.arange(len(state.variances)) < state.directions

        def step(_: int, found: tuple[Array, Array]) -> tuple[Array, Array]:
            return nystrom(seen, found[0], active)

        steps = jnp.where(state.weight == 0, FIRST_STEPS, 1)
        vectors, variances = jax.lax.fori_loop(0, steps, step, (state.vectors, state.variances))
        outside = jnp.maximum(seen.trace - jnp.sum(variances), 0)
        shown = jnp.any(params.decoder != 0, axis=0) | jnp.any(params.encoder != 0, axis=1)
        # Signs are those of the weights before: no latent flips from step to step.
        decoder = vectors[:, : len(shown)] * shown[None, :]
        decoder *= jnp.where(jnp.sum(decoder * params.decoder, axis=0, keepdims=True) < 0, -1, 1)
        following = params._replace(encoder=decoder.T, decoder=decoder)
        after = HistoryState(weight, vectors, variances, outside, state.directions)
        return jax.tree.map(jnp.subtract, following, params), after

    return optax.GradientTransformationExtraArgs(init, update)
