"""RAG and its family in a model of one's own: any pytree of parameters with two linear layers at the latents.

For example::

    layers = {"encoder": "encoder.2.kernel", "bias": "encoder.2.bias", "decoder": "decoder.0.kernel"}
    rule = in_model(rotating_frame(optax.adam(1e-3)), **layers, layout="in_out")
    updates, state = rule.update(gradients, state, params, latents=latents)

Legend: latents z = W1 h + b (k,), W1 (k, p), b (k,), of whatever features h (p,); the next layer computes
W2 z + c with W2 (q, k). A rotation R of the latents is W1 -> R W1, b -> R b, W2 -> W2 R^T: it leaves c, every
other layer and the output alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lae_jax.covariance import CovarianceLike, LatentMoment
from lae_jax.errors import InputError, unknown_name
from lae_jax.params import Array, Tree, TwoLayers
from lae_jax.transformations import RotatingFrameState, refuse_parts, require_params, solving_type

# How a kernel is stored -> from it to W (outputs, inputs), and back: Flax has in_out, Equinox and torch out_in.
LAYOUTS: dict[str, Callable[[Array], Array]] = {"in_out": jnp.transpose, "out_in": jnp.asarray}


class LatentWeights(NamedTuple):
    """The two matrices at the latents."""

    encoder: Array  # [W1 b] (k, p + 1), or W1 (k, p): a bias is the weight of an input that is always 1
    decoder: Array  # W2 (q, k)


def _by_path(tree: Tree) -> dict[str, Array]:
    """Every leaf by its path, "encoder.2.kernel"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(jax.tree_util.keystr(path, simple=True, separator=".")): leaf for path, leaf in leaves}


def _name(path: str) -> str:
    # Flax NNX holds an array in a variable, as its `value`; an optimiser's update holds the array itself.
    return path.removesuffix(".value")


class LatentLayers(NamedTuple):
    """Where the weights at the latents are in a tree: `Layers` of `lae_jax.params`."""

    encoder: str
    decoder: str
    layout: str
    bias: str | None

    def get(self, tree: Tree) -> LatentWeights:
        """Raises InputError where a path is not that of a leaf or shapes do not fit."""
        oriented, leaves = LAYOUTS[self.layout], _by_path(tree)
        for role in ("encoder", "decoder", "bias"):
            path = getattr(self, role)
            if path is None:
                continue
            if path not in leaves:
                raise unknown_name(role, path, leaves)
            if jnp.ndim(leaves[path]) != (1 if role == "bias" else 2):
                raise InputError(f"{role}: {path!r} has shape {jnp.shape(leaves[path])}; not that of a linear layer")
        first, second = oriented(leaves[self.encoder]), oriented(leaves[self.decoder])
        if second.shape[1] != first.shape[0]:
            raise InputError(
                f"decoder: {self.decoder!r} takes {second.shape[1]} latents where {self.encoder!r} gives"
                f" {first.shape[0]}, with layout {self.layout!r}"
            )
        if self.bias is not None:
            offset = leaves[self.bias]
            if offset.shape != first.shape[:1]:
                raise InputError(f"bias: {self.bias!r} has shape {offset.shape}; need {first.shape[:1]}")
            first = jnp.concatenate([first, offset[:, None]], axis=1)
        return LatentWeights(first, second)

    def put(self, tree: Tree, weights: TwoLayers) -> Tree:
        """The tree with these weights, in the precision it has."""
        oriented = LAYOUTS[self.layout]
        kernel = weights.encoder if self.bias is None else weights.encoder[:, :-1]
        changed = {self.encoder: oriented(kernel), self.decoder: oriented(weights.decoder)}
        if self.bias is not None:
            changed[self.bias] = weights.encoder[:, -1]
        leaves = [
            changed[path].astype(leaf.dtype) if path in changed else leaf for path, leaf in _by_path(tree).items()
        ]
        return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def latent_covariance(latents: Array, axis_name: str | None = None) -> Array:
    """M (k, k), the second moment of latents (n, k) about their mean: sum (z - mean)(z - mean)^T / n.

    About the mean, since a mean costs no latent where the layers have biases: c holds it. Of centred data
    under a linear encoder the mean is 0, and this is the paper's M = Y Y^T / n. Half precisions are summed in
    float32.

    Args:
      latents: (n, k).
      axis_name: of `jax.pmap` or `jax.shard_map`, over whose devices the samples are spread, n on each: the
        moment is then that of all of them.
    """

    def mean(values: Array) -> Array:
        return values if axis_name is None else jax.lax.pmean(values, axis_name)

    wide = latents.astype(solving_type(latents.dtype))
    centred = wide - mean(jnp.mean(wide, axis=0, keepdims=True))
    return mean(centred.T @ centred / latents.shape[0])


def in_model(
    transformation: optax.GradientTransformation,
    *,
    encoder: str,
    decoder: str,
    layout: str,
    bias: str | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`transformation`, of this package or of optax, on any tree of parameters.

    The loss must not change under a rotation of the latents: nothing but W1, b and W2 at either side of them, no
    activation, no normalisation. Dropout of single latents, or penalties that differ between them, break that.
    Optimisers see the tree itself, with its names and shapes; inside a `rotating_frame` they see it in axes that
    do not rotate.

    Args:
      transformation: `rotation_augmented_gradient` and `rotating_frame` need the moment of the latents alone. Rules
        that read the covariance of the inputs (`least_squares_gradient`, `aligned_descent`, most of
        `lae_jax.baselines`) are for the linear model x -> W2 W1 x, and raise InputError unless given it.
      encoder: the path of W1, as `jax.tree_util.keystr(path, simple=True, separator=".")` writes it.
      decoder: that of W2.
      layout: that of both kernels, "in_out" or "out_in".
      bias: the path of b; None where there is none.
      axis_name: of `jax.pmap` or `jax.shard_map`, over whose devices samples are spread; gradients are averaged by
        the caller, as for any optimiser.

    Returns:
      A transformation whose `update` takes, beside `params`, one of `latents` (n, k), those of the batch before the
      step; `moment` (k, k), their `latent_covariance`, where it is known otherwise; and for the linear model
      `covariance`. Within `optax.MultiSteps`, which hands on the latents of the last part of a large batch alone,
      `latents` are refused: MultiSteps belongs inside, around the optimiser.

    Raises:
      InputError: where a path is not that of a leaf, shapes do not fit, or the tree holds what is no array.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    inner = optax.with_extra_args_support(transformation)
    layers = LatentLayers(_name(encoder), _name(decoder), layout, None if bias is None else _name(bias))

    def statistics(
        weights: LatentWeights, latents: Array | None, moment: Array | None, covariance: CovarianceLike | None
    ) -> CovarianceLike | LatentMoment:
        if sum(each is not None for each in (latents, moment, covariance)) != 1:
            raise InputError(
                "latents, moment, covariance: give update one of them: latents=latents of the batch, (n, k); Flax's"
                " TrainState cannot pass them on: call state.tx.update(gradients, state.opt_state, state.params,"
                " latents=latents)"
            )
        latent_dim = weights.encoder.shape[0]
        if covariance is not None:
            if bias is not None or weights.decoder.shape != weights.encoder.shape[::-1]:
                raise InputError(
                    "covariance: is for the linear model x -> W2 W1 x without biases; give latents= (n, k)"
                )
            return covariance
        if latents is not None:
            refuse_parts("latents")
            if jnp.ndim(latents) != 2 or latents.shape[1] != latent_dim:
                raise InputError(f"latents: shape {jnp.shape(latents)}; need (n, {latent_dim}), as {encoder!r} gives")
            moment = latent_covariance(latents, axis_name)
        elif jnp.shape(moment) != (latent_dim, latent_dim):
            raise InputError(f"moment: shape {jnp.shape(moment)}; need ({latent_dim}, {latent_dim})")
        return LatentMoment(moment.astype(solving_type(weights.encoder.dtype)))

    def init(params: Tree) -> optax.OptState:
        for path, leaf in _by_path(params).items():
            if not hasattr(leaf, "dtype"):
                raise InputError(
                    f"params: {path!r} is a {type(leaf).__name__}, not an array; of an Equinox model give"
                    " eqx.filter(model, eqx.is_inexact_array)"
                )
        weights = layers.get(params)

        def started(state: optax.OptState) -> optax.OptState:
            is_frame = isinstance(state, RotatingFrameState)
            return state.started(weights.encoder.shape[0], weights.encoder.dtype) if is_frame else state

        state = inner.init(params)
        return jax.tree.map(started, state, is_leaf=lambda each: isinstance(each, RotatingFrameState))

    def update(
        updates: Tree,
        state: optax.OptState,
        params: Tree | None = None,
        *,
        latents: Array | None = None,
        moment: Array | None = None,
        covariance: CovarianceLike | None = None,
        **extra: object,
    ) -> tuple[Tree, optax.OptState]:
        require_params(params)
        known = statistics(layers.get(params), latents, moment, covariance)
        return inner.update(updates, state, params, covariance=known, layers=layers, **extra)

    return optax.GradientTransformationExtraArgs(init, update)
