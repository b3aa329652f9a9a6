"""Ordered latents in a non-linear autoencoder: a Flax network trained plainly, in a rotating frame, by nested dropout.

    python -m launch.ordered_latents --workdir=DIR --config.data_dir=FOLDER [--config.FIELD=VALUE ...]

Every way starts from the same weights and sees the same batches. Errors are those of samples held out, with
the latents that are not kept at their mean.
"""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tqdm
from ml_collections import ConfigDict

from lae_jax.data import datasets
from lae_jax.errors import InputError, unknown_name
from lae_jax.figures import latents as latent_figures
from lae_jax.figures import style
from lae_jax.runs import storage
from lae_jax.training.networks import WAYS, Measured, flax_network, measure, train
from lae_jax.training.settings import PRECISIONS
from launch import common, memory, needs


def run(config: ConfigDict, workdir: Path) -> None:
    """Train the network in every way; draw ordered_latents.png and write ordered_latents.csv."""
    if config.precision not in PRECISIONS:
        raise unknown_name("precision", config.precision, PRECISIONS)
    common.set_precision(config.precision, config.matmul_precision)
    for name in ("num_steps", "batch_size", "latent_dim", "held_out", "hidden"):
        if np.min(config[name], initial=1) < 1:
            raise InputError(f"{name}: {config[name]}; must be positive")
    dataset = memory.load(config)
    memory.tell(needs.ordered_latents(config, dataset), config.max_memory, "fewer samples, a smaller batch_size")
    rows = dataset.load_rows()
    if config.held_out > len(rows) - 2:
        raise InputError(f"held_out: {config.held_out} of {len(rows)} samples; at least two are needed to train on")
    if config.latent_dim > rows.shape[1]:
        raise InputError(f"latent_dim: {config.latent_dim}; {config.dataset} has {rows.shape[1]} inputs")
    seen = datasets.from_samples(config.dataset, rows[: -config.held_out])
    samples = seen.load_rows().astype(config.precision)
    held_out = (rows[-config.held_out :] - seen.mean).astype(config.precision)
    network = flax_network(rows.shape[1], config.hidden, config.latent_dim, config.seed, samples.dtype)
    how = {name: config[name] for name in ("num_steps", "batch_size", "learning_rate", "seed")}
    measured = {}
    with tqdm.tqdm(total=len(WAYS) * config.num_steps, unit="step", mininterval=0.5, file=sys.stderr) as bar:
        for way in WAYS.values():

            def taken(steps: int, loss: float, label: str = way.label) -> None:
                bar.set_description_str(f"{label}, loss {loss:.4g}", refresh=False)
                bar.update(steps)

            params = train(way, network, jnp.asarray(samples), on_steps=taken, **how)
            measured[way.label] = measure(network, params, jnp.asarray(samples), held_out)
    scores = held_out.astype(float) @ seen.components[:, : config.latent_dim]
    explained = np.concatenate([[0], np.cumsum(np.mean(scores**2, axis=0))])
    _report(config, workdir, measured, np.mean(np.sum(held_out.astype(float) ** 2, axis=1)) - explained)


def _report(config: ConfigDict, workdir: Path, measured: dict[str, Measured], pca: np.ndarray) -> None:
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
    storage.write_csv(workdir / "ordered_latents.csv", table)
    figure = latent_figures.ordered_latents(
        {label: found.errors / pca[0] for label, found in measured.items()},
        {label: found.variances for label, found in measured.items()},
        reference / pca[0],
        pca / pca[0],
        {way.label: way.method for way in WAYS.values()},
        f"{config.dataset}, a relu autoencoder with {config.latent_dim} latents, {config.num_steps:,} steps of Adam",
    )
    picture = style.save(figure, workdir / "ordered_latents.png")
    shown = sorted({1, -(-config.latent_dim // 2), config.latent_dim})
    print(f"squared error of {config.held_out:,} held-out samples with b latents kept:")
    print(f"  {'':30}" + "".join(f"{f'b = {kept}':>9}" for kept in shown) + "  largest |correlation|")
    for label, errors in curves.items():
        correlation = f"{measured[label].correlation:.3f}" if label in measured else ""
        print(f"  {label:30}" + "".join(f"{errors[kept]:9.3f}" for kept in shown) + f"  {correlation}")
    print(f"wrote {picture} and {workdir / 'ordered_latents.csv'}")


if __name__ == "__main__":
    common.main(run, "ordered_latents.py")
