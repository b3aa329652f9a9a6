"""Ordered latents in a non-linear autoencoder: a Flax network trained plainly, in a rotating frame, by nested dropout.

    python -m launch.ordered_latents --workdir=DIR --config.data_dir=FOLDER [--config.FIELD=VALUE ...]

Every way starts from the same weights and sees the same batches. Errors are those of samples held out, with
the latents that are not kept at their mean.
"""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from ml_collections import ConfigDict

from lae_jax import objectives
from lae_jax.data import datasets
from lae_jax.errors import InputError, unknown_name
from lae_jax.figures import latents as latent_figures
from lae_jax.figures import paper
from lae_jax.latent_layers import in_model, latent_covariance
from lae_jax.rotation import rotating_frame
from lae_jax.training.settings import PRECISIONS
from launch import common

Array = jax.Array
Loss = Callable[[Array], Array]  # latents less their mean (n, k) -> mean squared error of what they decode to
Build = Callable[[optax.GradientTransformation, Any], optax.GradientTransformation]


def _full(loss: Loss, latents: Array) -> Array:
    return loss(latents)


def _expected(loss: Loss, latents: Array) -> Array:
    latent_dim = latents.shape[-1]
    return objectives.expected_nested_dropout(loss, latents, jnp.full(latent_dim, 1 / latent_dim, latents.dtype))


class Way(NamedTuple):
    """How the network is trained: what is descended, and the rule around the optimiser."""

    label: str
    method: str  # of METHODS, whose colour it has
    objective: Callable[[Loss, Array], Array] = _full
    rule: Build = lambda optimizer, rate: optimizer


WAYS = {
    "plain": Way("plain", "lae"),
    "rotating_frame": Way("RAG (rotating frame)", "rag", rule=rotating_frame),
    "nested_dropout": Way("nested dropout, expectation", "deterministic_nested_dropout", objective=_expected),
}


def run(config: ConfigDict, workdir: Path) -> None:
    """Train the network in every way; draw ordered_latents.png and write ordered_latents.csv."""
    if config.precision not in PRECISIONS:
        raise unknown_name("precision", config.precision, PRECISIONS)
    common.set_precision(config.precision, config.matmul_precision)
    for name in ("num_steps", "batch_size", "latent_dim", "held_out", "hidden"):
        if np.min(config[name], initial=1) < 1:
            raise InputError(f"{name}: {config[name]}; must be positive")
    rows = datasets.load(config.dataset, data_dir=config.data_dir, download=config.download).load_rows()
    if config.held_out > len(rows) - 2:
        raise InputError(f"held_out: {config.held_out} of {len(rows)} samples; at least two are needed to train on")
    if config.latent_dim > rows.shape[1]:
        raise InputError(f"latent_dim: {config.latent_dim}; {config.dataset} has {rows.shape[1]} inputs")
    seen = datasets.from_samples(config.dataset, rows[: -config.held_out])
    samples = seen.load_rows().astype(config.precision)
    held_out = (rows[-config.held_out :] - seen.mean).astype(config.precision)
    network = flax_network(rows.shape[1], config.hidden, config.latent_dim, config.seed, samples.dtype)
    measured = {}
    with tqdm.tqdm(total=len(WAYS) * config.num_steps, unit="step", mininterval=0.5, file=sys.stderr) as bar:
        for way in WAYS.values():
            params = train(way, network, jnp.asarray(samples), config, bar)
            measured[way.label] = measure(network, params, jnp.asarray(samples), held_out)
    scores = held_out.astype(float) @ seen.components[:, : config.latent_dim]
    explained = np.concatenate([[0], np.cumsum(np.mean(scores**2, axis=0))])
    _report(config, workdir, measured, np.mean(np.sum(held_out.astype(float) ** 2, axis=1)) - explained)


def _report(config: ConfigDict, workdir: Path, measured: dict[str, "Measured"], pca: np.ndarray) -> None:
    """The picture and the table, from what was measured by label and the errors (k + 1,) of PCA."""
    plain = WAYS["plain"].label
    reference = measured[plain].sorted_errors
    curves = {label: found.errors for label, found in measured.items()}
    curves |= {f"{plain}, rotated afterwards": reference, "PCA of the pixels": pca}
    table = [
        {"way": label, "kept": kept, "error": float(error)}
        for label, errors in curves.items()
        for kept, error in enumerate(errors)
    ]
    common.write_csv(workdir / "ordered_latents.csv", table)
    figure = latent_figures.ordered_latents(
        {label: found.errors / pca[0] for label, found in measured.items()},
        {label: found.variances for label, found in measured.items()},
        reference / pca[0],
        pca / pca[0],
        {way.label: way.method for way in WAYS.values()},
        f"{config.dataset}, a relu autoencoder with {config.latent_dim} latents, {config.num_steps:,} steps of Adam",
    )
    picture = paper.save(figure, workdir / "ordered_latents.png")
    shown = sorted({1, -(-config.latent_dim // 2), config.latent_dim})
    print(f"squared error of {config.held_out:,} held-out samples with b latents kept:")
    print(f"  {'':30}" + "".join(f"{f'b = {kept}':>9}" for kept in shown) + "  largest |correlation|")
    for label, errors in curves.items():
        correlation = f"{measured[label].correlation:.3f}" if label in measured else ""
        print(f"  {label:30}" + "".join(f"{errors[kept]:9.3f}" for kept in shown) + f"  {correlation}")
    print(f"wrote {picture} and {workdir / 'ordered_latents.csv'}")


class Network(NamedTuple):
    """Initial parameters and the two halves as functions of them."""

    params: Any
    encode: Callable[[Any, Array], Array]  # (params, rows (n, m)) -> latents (n, k)
    decode: Callable[[Any, Array], Array]
    layers: dict[str, str]  # where the latents are, for `in_model`


def flax_network(input_dim: int, hidden: tuple[int, ...], latent_dim: int, seed: int, dtype: Any) -> Network:
    """Relu layers m - hidden - k - hidden reversed - m, linear at the latents and at the end."""
    try:
        from flax import nnx
    except ImportError:
        raise InputError("flax: not installed, and the network is a Flax one; pip install -e '.[test]'") from None
    rngs = nnx.Rngs(seed)

    def stack(*widths: int) -> Any:
        linear = [nnx.Linear(*pair, param_dtype=dtype, rngs=rngs) for pair in itertools.pairwise(widths)]
        return nnx.Sequential(*[layer for each in linear[:-1] for layer in (each, nnx.relu)], linear[-1])

    model = nnx.Dict(
        encoder=stack(input_dim, *hidden, latent_dim), decoder=stack(latent_dim, *reversed(hidden), input_dim)
    )
    graph, params = nnx.split(model)
    last = f"encoder.layers.{2 * len(hidden)}"
    return Network(
        params,
        lambda params, rows: nnx.merge(graph, params).encoder(rows),
        lambda params, latents: nnx.merge(graph, params).decoder(latents),
        {"encoder": f"{last}.kernel", "bias": f"{last}.bias", "decoder": "decoder.layers.0.kernel", "layout": "in_out"},
    )


def _error(network: Network, params: Any, rows: Array, mean: Array) -> Loss:
    return lambda latents: jnp.mean(jnp.sum((rows - network.decode(params, mean + latents)) ** 2, axis=-1))


def train(way: Way, network: Network, rows: Array, config: ConfigDict, bar: Any) -> Any:
    """The parameters after `num_steps` of Adam on batches drawn from rows (n, m)."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_steps))
    # The angle of a batch is as noisy as its moments: less and less of it is taken.
    rate = optax.linear_schedule(1.0, 1 / config.num_steps, config.num_steps)
    rule = in_model(way.rule(optimizer, rate), **network.layers)

    def loss(params: Any, batch: Array) -> tuple[Array, Array]:
        latents = network.encode(params, batch)
        mean = jnp.mean(latents, axis=0)
        return way.objective(_error(network, params, batch, mean), latents - mean), latents

    def step(carry: tuple[Any, Any], index: Array) -> tuple[tuple[Any, Any], Array]:
        params, state = carry
        key = jax.random.fold_in(jax.random.key(config.seed), index)
        batch = rows[jax.random.randint(key, (config.batch_size,), 0, len(rows))]
        (value, latents), gradients = jax.value_and_grad(loss, has_aux=True)(params, batch)
        updates, state = rule.update(gradients, state, params, latents=latents)
        return (optax.apply_updates(params, updates), state), value

    advance = jax.jit(lambda carry, steps: jax.lax.scan(step, carry, steps))
    carry = (network.params, rule.init(network.params))
    for steps in np.array_split(np.arange(config.num_steps), -(-config.num_steps // 100)):
        carry, values = advance(carry, jnp.asarray(steps))
        if not np.isfinite(values[-1]):
            raise InputError(f"learning_rate: {config.learning_rate}: the loss is not finite; choose a smaller one")
        bar.set_description_str(f"{way.label}, loss {values[-1]:.4g}", refresh=False)
        bar.update(len(steps))
    return carry[0]


class Measured(NamedTuple):
    """What a trained network's latents hold."""

    errors: np.ndarray  # (k + 1,), mean squared error with the first b = 0..k latents kept
    sorted_errors: np.ndarray  # (k + 1,), the same after a rotation to the principal axes of the latents
    variances: np.ndarray  # (k,), of each latent
    correlation: float  # largest |correlation| of two latents


def measure(network: Network, params: Any, rows: Array, held_out: np.ndarray) -> Measured:
    """Moments of the latents of rows (n, m), errors of samples held out."""
    latents = jax.jit(network.encode)(params, rows)
    mean, moment = jnp.mean(latents, axis=0), latent_covariance(latents)
    axes = jnp.linalg.eigh(moment)[1][:, ::-1]
    deviations = jnp.sqrt(jnp.diagonal(moment))

    @jax.jit
    def errors(batch: Array, basis: Array) -> Array:
        loss = _error(network, params, batch, mean)
        turned = (network.encode(params, batch) - mean) @ basis
        kept = objectives.losses_by_kept(lambda latents: loss(latents @ basis.T), turned)
        return jnp.concatenate([loss(jnp.zeros_like(turned))[None], kept])

    def average(basis: Array) -> np.ndarray:
        batches = np.array_split(held_out, -(-len(held_out) // 1000))
        return np.average([errors(batch, basis) for batch in batches], axis=0, weights=[len(each) for each in batches])

    correlations = moment / jnp.outer(deviations, deviations) - jnp.eye(len(moment))
    return Measured(
        average(jnp.eye(len(moment))),
        average(axes),
        np.asarray(deviations**2),
        float(jnp.nanmax(jnp.abs(correlations))),
    )


if __name__ == "__main__":
    common.main(run, "ordered_latents.py")
