"""Weights of a linear autoencoder: their types, initial values, padding and change of basis.

Legend: W1 encoder (k, m), W2 decoder (m, k); m input dimension, k latent dimension.
"""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, Self, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lae_jax.errors import InputError

Array = jax.Array
Number = float | Array  # a number that may be traced
Value = Array | None  # of a hyperparameter: penalties, prior or beta; None where a loss takes none
Numbers = Any  # an array of numpy or of JAX: the same lines compute in either, which no type of theirs can say
Tree = optax.Params  # parameters, gradients or updates of any model: a pytree of arrays


class LAEParams(NamedTuple):
    """Linear autoencoder x -> W2 W1 x."""

    encoder: Array  # W1 (k, m)
    decoder: Array  # W2 (m, k)


class VAEParams(NamedTuple):
    """Linear VAE: x ~ N(W2 z, e^t I), z | x ~ N(W1 x, diag(e^v)), z ~ N(0, I)."""

    encoder: Array  # W1 (k, m)
    decoder: Array  # W2 (m, k)
    latent_log_variance: Array  # v (k,)
    noise_log_variance: Array  # t ()


class TwoLayers(Iterable[Array], Protocol):
    """A NamedTuple among whose fields are the two matrices at the latents: weights, their gradients or updates."""

    @property
    def encoder(self) -> Array:
        """W1 (k, p)."""

    @property
    def decoder(self) -> Array:
        """W2 (q, k)."""

    def _replace(self, *, encoder: Array = ..., decoder: Array = ...) -> Self: ...


class Layers(Protocol):
    """Where the two matrices are in a tree of parameters, of gradients or of updates."""

    def get(self, tree: Tree) -> TwoLayers:
        """These matrices, `encoder` (k, p) and `decoder` (q, k)."""

    def put(self, tree: Tree, weights: TwoLayers) -> Tree:
        """The tree with them replaced by those of `weights`."""


Weights = LAEParams | VAEParams
Params = TypeVar("Params", bound=Weights)


def numpy_weights(encoder: np.ndarray, decoder: np.ndarray) -> LAEParams:
    """Weights in NumPy arrays, float64 among them whatever the precision of JAX: nothing here is traced."""
    return LAEParams(encoder, decoder)  # type: ignore[arg-type] # the fields are JAX's wherever it computes


# The axis of each field that runs over latents, and over inputs; None where there is none.
_LATENT_AXIS = {"encoder": 0, "decoder": 1, "latent_log_variance": 0, "noise_log_variance": None}


def gaussian(key: Array, latent_dim: int, input_dim: int, scale: float = 1e-4) -> LAEParams:
    """Independent N(0, scale^2) entries in both matrices, as in the paper's experiments.

    Drawn in float32 whatever the precision of the run, so that one seed names one start.
    """
    encoder_key, decoder_key = jax.random.split(key)
    encoder = jax.random.normal(encoder_key, (latent_dim, input_dim), jnp.float32)
    decoder = jax.random.normal(decoder_key, (input_dim, latent_dim), jnp.float32)
    return LAEParams(scale * encoder, scale * decoder)


def balanced(key: Array, latent_dim: int, input_dim: int, scale: float = 1e-4) -> LAEParams:
    """N(0, scale^2) encoder and its transpose as decoder: W1 W1^T = W2^T W2 (footnote 3)."""
    encoder = gaussian(key, latent_dim, input_dim, scale).encoder
    return LAEParams(encoder, encoder.T)


# name -> initialiser(key, latent_dim, input_dim, scale)
INITIALISERS = {"gaussian": gaussian, "balanced": balanced}


def with_variances(params: LAEParams) -> VAEParams:
    """The VAE that starts from these weights with both log-variances at 0."""
    latent_dim, dtype = params.encoder.shape[0], params.encoder.dtype
    return VAEParams(*params, jnp.zeros(latent_dim, dtype), jnp.zeros((), dtype))


def pad_latents(params: Params, latent_dim: int) -> Params:
    """Append zero latents up to `latent_dim`; they stay exactly zero under every rule here."""

    def pad(name: str, value: Array) -> Array:
        axis = _LATENT_AXIS[name]
        if axis is None:
            return value
        widths = [(0, 0)] * value.ndim
        widths[axis] = (0, latent_dim - value.shape[axis])
        return jnp.pad(value, widths)

    return type(params)(*map(pad, params._fields, params))


def crop_latents(params: Params, latent_dim: int) -> Params:
    """Keep the first `latent_dim` latents: the inverse of `pad_latents`."""

    def crop(name: str, value: Array) -> Array:
        axis = _LATENT_AXIS[name]
        return value if axis is None else jax.lax.slice_in_dim(value, 0, latent_dim, axis=axis)

    return type(params)(*map(crop, params._fields, params))


def stack_latents(params: Sequence[Params]) -> Params:
    """Weights of several latent sizes as one batch, padded with zero latents to the largest.

    Args:
        params: weights of one kind with the same m, of any k.

    Returns:
        The same kind, each field with a leading batch axis: encoders (b, k, m), decoders (b, m, k). No loss needs a
        mask: `jax.vmap(objectives.reconstruction, (0, None))(stacked, covariance)` is that of each.

    Raises:
        InputError: where there are none, or they differ in kind or m.
    """
    if len({(type(each), each.encoder.shape[1]) for each in params}) != 1:
        raise InputError("params: must be at least one, all of one kind and one input dimension")
    latent_dim = max(each.encoder.shape[0] for each in params)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(pad_latents(each, latent_dim) for each in params))


def unstack_latents(stacked: Params, latent_dims: Sequence[int]) -> list[Params]:
    """The weights of each of a batch, without its padding: the inverse of `stack_latents`."""
    return [
        crop_latents(jax.tree.map(operator.itemgetter(index), stacked), latent_dim)
        for index, latent_dim in enumerate(latent_dims)
    ]


def change_basis(params: Params, basis: Array) -> Params:
    """Weights for inputs x' = basis^T x: (W1 basis, basis^T W2), basis orthogonal (m, m)."""
    return cast(Params, params._replace(encoder=params.encoder @ basis, decoder=basis.T @ params.decoder))
