"""Measure a saved run against exact PCA of its data, or of other data.

python -m launch.evaluate --workdir=DIR [--config.run=RUN] [--config.FIELD=VALUE ...]

Several processes are started as those of launch.train are.
"""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from lae_jax.components import against_pca, components_of, reconstruction_errors
from lae_jax.covariance import CovarianceLike
from lae_jax.data import hosts
from lae_jax.data.representations import represent
from lae_jax.errors import InputError
from lae_jax.params import numpy_weights
from lae_jax.runs import directory, storage
from lae_jax.training.settings import PRECISIONS
from launch import common, memory, processes


def run(config: ConfigDict, workdir: Path) -> None:
    """Write evaluation.csv to `workdir` for the run there, or for `config.run`, and print it."""
    folder = Path(config.run) if config.run else workdir
    fields = directory.read_config(folder)
    if not directory.is_finished(folder):
        raise InputError(f"run: {folder} is not finished; give its command of launch.train again, then this one")
    given = {name: config[name] for name in directory.DATA_FIELDS if config[name] is not None}
    fields = dataclasses.replace(fields, **given)
    common.set_precision(fields.precision, fields.matmul_precision)
    hosts.meet()
    weights = storage.read_weights(folder / "params.npz")
    with common.reading() as on_progress:
        dataset = directory.load_dataset(fields, on_progress)
    if dataset.input_dim != weights["encoder"].shape[1]:
        raise InputError(
            f"dataset: {dataset.name} has {dataset.input_dim} inputs, but the run in {folder} has"
            f" {weights['encoder'].shape[1]}"
        )
    if not given.keys() - {"data_dir", "download"}:
        directory.check_data(folder, dataset)
    memory.tell_runs([fields], dataset, fields.max_memory)
    data: CovarianceLike | None = dataset.covariance
    if data is None:
        data = represent(dataset, "samples", PRECISIONS[fields.precision])
    params = numpy_weights(weights["encoder"], weights["decoder"])
    found = components_of(params, data, dataset.mean, dataset.scale, dataset.columns)
    columns = against_pca(found, dataset.variances, dataset.components)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not rows:
        raise InputError(f"run: every latent of {folder} has collapsed; there is no component to measure")
    errors = reconstruction_errors(params, found, data, dataset.variances)
    if not hosts.is_first():
        return
    common.write_csv(workdir / "evaluation.csv", rows)

    print(f"{folder} on {dataset.name} ({dataset.num_samples} samples):")
    print(
        f"  {'':>4} {'latent':>6} {'1 - |cos|':>10} {'variance':>12} {'exact':>12} {'rel. error':>10} {'rel. gap':>10}"
    )
    for row in rows:
        print(
            f"  {row['component']:4d} {row['latent']:6d} {max(1 - row['cosine'], 0):10.2e}"
            f" {row['explained_variance']:12.6g} {row['exact_variance']:12.6g}"
            f" {row['relative_error']:10.2e} {row['relative_gap']:10.2e}"
        )
    if collapsed := len(params.encoder) - len(rows):
        print(f"  {collapsed} of {len(params.encoder)} latents have collapsed, and have no component")
    print("  mean squared reconstruction error:")
    for name, error in errors.items():
        print(f"    {name:12} {error:12.8g} ({error / dataset.total_variance:.4%} of the total variance)")
    print(f"  wrote {workdir / 'evaluation.csv'}")


if __name__ == "__main__":
    processes.define_flags()
    common.main(processes.together(run), "evaluate.py")
