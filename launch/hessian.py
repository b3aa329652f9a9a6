"""Verify the condition-number bounds against true eigenvalues, at any size.

    python -m launch.hessian --workdir=DIR [--config.FIELD=VALUE ...]

hessian.csv has a row for each spectrum, objective, setting and latent dimension: the closed form, jax.hessian and
every bound; rates.csv the local convergence of short runs beside the rate that the spectrum predicts. Exit status 1
if a bound is violated or the closed form and jax.hessian differ.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import threadpoolctl
import tqdm
from ml_collections import ConfigDict

from lae_jax.errors import InputError
from lae_jax.figures import paper, spectra
from lae_jax.hyperparameters import geometric_prior
from lae_jax.theory import tables
from lae_jax.theory.bounds import BOUNDS
from launch import common, memory, needs
from launch.configs import authors


def run(config: ConfigDict, workdir: Path) -> None:
    """Write hessian.csv, rates.csv and their figure; raise InputError at anything that does not hold."""
    common.set_precision("float64", "highest")
    where = config.analytic_dim, config.data_dir, memory.limit_of(config.max_memory)
    variances = {name: tables.read_variances(name, *where) for name in config.spectra}
    given = {field: tuple(config[field]) for field in ("penalties", "prior", "beta") if config[field]}
    sizes = sorted({*config.latent_dims} | {len(value) for value in given.values() if len(value) > 1})
    jobs = [(name, k) for name, values in variances.items() for k in sizes if k < values.size]
    if not jobs:
        raise InputError(f"latent_dims: {tuple(sizes)}: none is below the number of variances")
    needed = needs.hessian(config, [values.size for values in variances.values()], sizes[-1])
    memory.tell(needed, config.max_memory, "smaller latent_dims, fewer columns, autodiff=False")
    rows: list[tables.Row] = []
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        for name, k in tqdm.tqdm(jobs, unit="size"):
            matrix_free = name in config.matrix_free and k == sizes[-1]
            rows += tables.hessian_rows(
                name, variances[name], k, _published, given, config.optimise_up_to, config.autodiff, matrix_free
            )
    found = list(tables.rate_rows(config.rate_latent_dim)) if config.rate_latent_dim else []
    for table, content in {"hessian": rows, "rates": found}.items():
        if content:
            common.write_csv(workdir / f"{table}.csv", content)
            print(f"wrote {workdir / table}.csv")
    picture = paper.save(spectra.condition_numbers(rows), workdir / "condition_numbers.png")
    print(f"wrote {picture}")
    _summary(rows, found)
    if broken := [row for row in rows if row["violated"]]:
        case = "{violated} on {spectrum}, {objective} ({setting}), k = {latent_dim}".format(**broken[0])
        raise InputError(f"{len(broken)} rows do not hold: {case}")


def _published(spectrum: str, objective: str, latent_dim: int) -> np.ndarray | None:
    """The paper's hyperparameter on this spectrum: its prior is the same on all."""
    if objective == "deterministic_nested_dropout":
        return geometric_prior(latent_dim)
    top = {"mnist": 0.9, "synthetic": 10.0}.get(spectrum)
    penalties = authors.penalties(objective, latent_dim, top) if top else ()
    return np.array(penalties) if penalties else None


def _summary(rows: list[tables.Row], rates: list[tables.Row]) -> None:
    print(
        f"\n{'spectrum':14} {'objective':29} {'setting':8} {'k':>4} {'kappa':>10} {'jax.hessian':>11} {'printed':>10}"
        f" {'sharpest':>10}"
    )
    printed = {"non_uniform_l2": "l2_printed", "deterministic_nested_dropout": "nested_dropout_printed"}
    for row in rows:
        if row["objective"] not in printed:
            continue
        values = [row[bound] for bound, entry in BOUNDS.items() if row[bound] != "" and not entry.tail]
        shown = [row["autodiff_condition_number"], row[printed[row["objective"]]], max(values, default="")]
        texts = [f"{value:10.4g}" if value != "" else f"{'-':>10}" for value in shown]
        note = f"  latents {row['collapsed_latents']} collapse" if row["collapsed_latents"] else ""
        print(
            f"{row['spectrum']:14} {row['objective']:29} {row['setting']:8} {row['latent_dim']:4}"
            f" {row['condition_number']:10.4g}  {' '.join(texts)}{note}"
        )
    checked = [row["autodiff_error"] for row in rows if row["autodiff_error"] != ""]
    covers = Counter(row["differentiated"] for row in rows)
    print(
        f"{len(rows)} rows, by jax.hessian {', '.join(f'{count} {what}' for what, count in covers.items())}: largest"
        f" difference {max(checked, default=0):.2g} of s_max"
    )
    for row in rates:
        print(
            f"{row['objective']:29} {row['optimizer']:9} slowest mode, rate per step:"
            f" {row['measured_rate']:.6g} measured, {row['predicted_rate']:.6g} predicted"
        )


if __name__ == "__main__":
    common.main(run, "hessian.py")
