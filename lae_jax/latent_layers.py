"""RAG and its family in a model of one's own: any pytree of parameters with two linear layers at the latents.

    rule = in_model(rotating_frame(optax.adam(1e-3)), encoder="encoder.2.kernel", bias="encoder.2.bias",
                    decoder="decoder.0.kernel", layout="in_out")
    updates, state = rule.update(gradients, state, params, latents=latents)

Legend: latents z = W1 h + b (k,), W1 (k, p), b (k,), of whatever features h (p,); the next layer computes
W2 z + c with W2 (q, k). A rotation R of the latents is W1 -> R W1, b -> R b, W2 -> W2 R^T: it leaves c, every
other layer and the output alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lae_jax.errors import InputError, unknown_name
from lae_jax.rotation import LatentMoment, require_params

Array = jax.Array

# How a kernel is stored -> from it to W (outputs, inputs), and back: Flax has in_out, Equinox and torch out_in.
LAYOUTS: dict[str, Callable[[Any], Array]] = {"in_out": jnp.transpose, "out_in": jnp.asarray}


class LatentLayers(NamedTuple):
    """A tree of parameters as the rules see it."""

    encoder: Array  # [W1 b] (k, p + 1), or W1 (k, p): a bias is the weight of an input that is always 1
    decoder: Array  # W2 (q, k)
    rest: dict[str, Any]  # every other leaf by its path; no rule here touches them


def _by_path(tree: Any) -> dict[str, Any]:
    """Every leaf by its path, "encoder.2.kernel"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(jax.tree_util.keystr(path, simple=True, separator=".")): leaf for path, leaf in leaves}


def _name(path: str) -> str:
    # Flax NNX holds an array in a variable, as its `value`; an optimiser's update holds the array itself.
    return path.removesuffix(".value")


def latent_covariance(latents: Array) -> Array:
    """M (k, k), the second moment of latents (n, k) about their mean: sum (z - mean)(z - mean)^T / n.

    About the mean, since a mean costs no latent where the layers have biases: c holds it. Of centred data
    under a linear encoder the mean is 0, and this is the paper's M = Y Y^T / n.
    """
    centred = latents - jnp.mean(latents, axis=0)
    return centred.T @ centred / latents.shape[0]


def in_model(
    transformation: optax.GradientTransformation, *, encoder: str, decoder: str, layout: str, bias: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """`transformation`, of this package or of optax, on any tree of parameters.

    `encoder`, `bias` and `decoder` are the paths of W1, b and W2, as `jax.tree_util.keystr(path, simple=True,
    separator=".")` writes them; `layout` is that of both kernels: "in_out" or "out_in". The loss must not
    change under a rotation of the latents: nothing but W1, b and W2 at either side of them, no activation,
    no normalisation. Dropout of single latents, or penalties that differ between them, break that.

    `update` takes `latents` (n, k), those of the batch before the step, whose `latent_covariance` the rules
    read. That is enough for `rotation_augmented_gradient` and `rotating_frame`. Rules that read the
    covariance of the inputs (`least_squares_gradient`, `aligned_descent`, most of `lae_jax.baselines`) are for
    the linear model x -> W2 W1 x, and raise InputError unless given `covariance` in place of `latents`.

    Raises InputError where a path is not that of a leaf or shapes do not fit.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    oriented = LAYOUTS[layout]
    inner = optax.with_extra_args_support(transformation)
    paths = {"encoder": encoder, "decoder": decoder} | ({} if bias is None else {"bias": bias})
    paths = {role: _name(path) for role, path in paths.items()}

    def split(tree: Any) -> LatentLayers:
        leaves = _by_path(tree)
        for role, path in paths.items():
            if path not in leaves:
                raise unknown_name(role, path, leaves)
            if jnp.ndim(leaves[path]) != (1 if role == "bias" else 2):
                raise InputError(f"{role}: {path!r} has shape {jnp.shape(leaves[path])}; not that of a linear layer")
        first, second = (oriented(leaves.pop(paths[role])) for role in ("encoder", "decoder"))
        if second.shape[1] != first.shape[0]:
            raise InputError(
                f"decoder: {paths['decoder']!r} takes {second.shape[1]} latents where {paths['encoder']!r} gives"
                f" {first.shape[0]}, with layout {layout!r}"
            )
        if bias is not None:
            offset = leaves.pop(paths["bias"])
            if offset.shape != first.shape[:1]:
                raise InputError(f"bias: {paths['bias']!r} has shape {offset.shape}; need {first.shape[:1]}")
            first = jnp.concatenate([first, offset[:, None]], axis=1)
        return LatentLayers(first, second, leaves)

    def merge(layers: LatentLayers, tree: Any) -> Any:
        """The tree with its leaves replaced by those of `layers`."""
        leaves = dict(layers.rest)
        weights = layers.encoder if bias is None else layers.encoder[:, :-1]
        leaves[paths["encoder"]], leaves[paths["decoder"]] = oriented(weights), oriented(layers.decoder)
        if bias is not None:
            leaves[paths["bias"]] = layers.encoder[:, -1]
        return jax.tree.unflatten(jax.tree.structure(tree), [leaves[path] for path in _by_path(tree)])

    def statistics(layers: LatentLayers, latents: Array | None, covariance: Any) -> Any:
        if (latents is None) == (covariance is None):
            raise InputError("latents, covariance: give update one of them: latents=latents of the batch, (n, k)")
        if latents is None:
            if bias is not None or layers.decoder.shape != layers.encoder.shape[::-1]:
                raise InputError(
                    "covariance: is for the linear model x -> W2 W1 x without biases; give latents= (n, k)"
                )
            return covariance
        latent_dim = layers.encoder.shape[0]
        if jnp.ndim(latents) != 2 or latents.shape[1] != latent_dim:
            raise InputError(f"latents: shape {jnp.shape(latents)}; need (n, {latent_dim}), as {encoder!r} gives")
        return LatentMoment(latent_covariance(latents).astype(layers.encoder.dtype))

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        latents: Array | None = None,
        covariance: Any = None,
        **extra: Any,
    ) -> tuple[Any, Any]:
        require_params(params)
        layers = split(params)
        known = statistics(layers, latents, covariance)
        moved, state = inner.update(split(updates), state, layers, covariance=known, **extra)
        return merge(moved, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: inner.init(split(params)), update)
