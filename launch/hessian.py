"""Verify the condition-number bounds against true eigenvalues, at any size.

    python -m launch.hessian --workdir=DIR [--config.FIELD=VALUE ...]

closed_form.csv has a row for each spectrum, objective, setting and latent dimension; rates.csv the local
convergence of short runs beside the rate that the spectrum predicts. Exit status 1 if a bound is violated.
"""

from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl
import tqdm
from ml_collections import ConfigDict

from lae_jax.covariance import Diagonal
from lae_jax.data import datasets, sources
from lae_jax.errors import InputError, unknown_name
from lae_jax.figures import paper as figures
from lae_jax.hyperparameters import HYPERPARAMETERS, collapsing_latents, geometric_prior
from lae_jax.methods import METHODS
from lae_jax.theory import best, closed_form, flows, landscape, rates
from lae_jax.theory import bounds as conditioning
from lae_jax.theory import hessian as exact_hessians
from launch import common
from launch.configs import authors

Array = np.ndarray
# A bound may exceed the condition number by this much and still be rounding.
ROUNDING = 1e-9


class Case(NamedTuple):
    """One objective on the table of this launcher."""

    spectrum: Callable[[Array, Any, int], closed_form.Spectrum]  # (variances, hyperparameter, latent_dim)
    optimum: Callable[[Array, Any, int], Any]  # -> params in the eigenbasis
    best: Callable[[Array, int], Array] | None = None  # the hyperparameter of the smallest condition number


CASES: dict[str, Case] = {
    "lae": Case(
        lambda variances, _, latent_dim: closed_form.reconstruction_spectrum(variances, latent_dim),
        lambda variances, _, latent_dim: landscape.principal_components(variances, latent_dim),
    ),
    "uniform_l2": Case(
        lambda variances, penalties, latent_dim: closed_form.uniform_l2_spectrum(variances, penalties[0], latent_dim),
        lambda variances, penalties, latent_dim: landscape.l2_optimum(variances, np.full(latent_dim, penalties[0])),
    ),
    "non_uniform_l2": Case(
        lambda variances, penalties, _: closed_form.non_uniform_l2_spectrum(variances, penalties),
        lambda variances, penalties, _: landscape.l2_optimum(variances, penalties),
        best.optimal_penalties,
    ),
    "deterministic_nested_dropout": Case(
        lambda variances, prior, _: closed_form.deterministic_nested_dropout_spectrum(variances, prior),
        lambda variances, _, latent_dim: landscape.principal_components(variances, latent_dim),
        best.optimal_prior,
    ),
    "linear_vae": Case(
        lambda variances, _, latent_dim: closed_form.linear_vae_spectrum(variances, latent_dim),
        lambda variances, _, latent_dim: landscape.linear_vae_optimum(variances, latent_dim),
    ),
    "rag": Case(
        lambda variances, _, latent_dim: closed_form.rag_spectrum(variances, latent_dim),
        lambda variances, _, latent_dim: landscape.principal_components(variances, latent_dim),
    ),
}


def run(config: ConfigDict, workdir: Path) -> None:
    """Write closed_form.csv, rates.csv and their figures; raise InputError at a violated bound."""
    common.set_precision("float64", "highest")
    spectra = {name: _variances(name, config) for name in config.spectra}
    jobs = [(name, k) for name, variances in spectra.items() for k in config.latent_dims if k < variances.size]
    if not jobs:
        raise InputError(f"latent_dims: {tuple(config.latent_dims)}: none is below the number of variances")
    rows: list[dict[str, Any]] = []
    # Thousands of small eigenproblems: threads inside each would cost more than they give.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        with futures.ThreadPoolExecutor(2) as pool:
            found = pool.map(lambda job: list(_rows(job[0], spectra[job[0]], job[1], config)), jobs)
            for group in tqdm.tqdm(found, total=len(jobs), unit="size"):
                rows.extend(group)
        tables = {"hessian": rows, "rates": list(_rates(config))}
    for table, content in tables.items():
        if content:
            common.write_csv(workdir / f"{table}.csv", content)
            print(f"wrote {workdir / table}.csv")
    picture = figures.save(figures.condition_numbers(rows), workdir / "condition_numbers.png")
    print(f"wrote {picture}")
    _summary(rows, tables["rates"])
    if broken := [row["violated"] for row in rows if row["violated"]]:
        raise InputError(f"{len(broken)} bounds violated: {broken[0]}")


def _variances(name: str, config: ConfigDict) -> Array:
    """All variances of a spectrum of the configuration, descending."""
    ranks = np.arange(1, config.analytic_dim + 1)
    analytic = {"linear": config.analytic_dim + 1.0 - ranks, "power_law": 1.0 / ranks}
    if name in analytic:
        return analytic[name]
    if name in datasets.DATASETS:
        return datasets.load(name, data_dir=config.data_dir).variances
    if Path(name).suffix not in (".npy", ".npz"):
        raise unknown_name("spectra", name, [*analytic, *datasets.DATASETS, "a path to .npy"])
    given = sources.load_arrays(Path(name), ("variances",))["variances"] if name.endswith(".npz") else _vector(name)
    if given is None:
        return datasets.load(name).variances
    if given.ndim != 1 or not np.all(np.isfinite(given)) or np.any(given < 0):
        raise InputError(f"spectra: {name}: variances must be one row of numbers, none negative")
    return np.sort(np.asarray(given, float))[::-1]


def _vector(path: str) -> Array | None:
    """The numbers of a one-dimensional .npy file; None where it has more dimensions."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"spectra: {path}: not a readable .npy file ({str(error).splitlines()[0]})") from None
    return np.asarray(loaded) if loaded.ndim == 1 else None


def _settings(name: str, objective: str, variances: Array, latent_dim: int, config: ConfigDict) -> dict[str, Any]:
    """Setting -> hyperparameter: the paper's (or, on spectra it does not have, ours), and the best."""
    method, case = METHODS[objective], CASES[objective]
    if method.hyperparameter is None:
        return {"paper": None}
    if method.hyperparameter == "prior":
        paper = geometric_prior(latent_dim)
    elif name in ("mnist", "synthetic"):
        paper = np.array(authors.penalties(objective, latent_dim, 0.9 if name == "mnist" else 10.0))
    else:
        paper = HYPERPARAMETERS[method.hyperparameter].default(variances, latent_dim)
    settings = {"paper": paper}
    if case.best is not None and 2 <= latent_dim <= config.optimise_up_to:
        settings["optimal"] = case.best(variances, latent_dim)
    return settings


def _rows(name: str, variances: Array, latent_dim: int, config: ConfigDict) -> Iterator[dict[str, Any]]:
    for objective, case in CASES.items():
        for setting, hyperparameter in _settings(name, objective, variances, latent_dim, config).items():
            collapsed = (
                collapsing_latents(np.asarray(hyperparameter), variances) if METHODS[objective].collapses else []
            )
            spectrum = case.spectrum(variances, hyperparameter, latent_dim)
            inside = closed_form.condition_number(spectrum)
            with_tail = closed_form.condition_number(spectrum, tail=True)
            bounds = {} if collapsed else _bounds(objective, variances, hyperparameter, latent_dim)
            truth = {bound: with_tail.value if conditioning.BOUNDS[bound].tail else inside.value for bound in bounds}
            violated = [
                f"{bound} on {name}, {objective} ({setting}), k = {latent_dim}: {value:.6g} > {truth[bound]:.6g}"
                for bound, value in bounds.items()
                if value > truth[bound] * (1 + ROUNDING)
            ]
            yield {
                "spectrum": name,
                "objective": objective,
                "setting": setting,
                "latent_dim": latent_dim,
                "s_max": inside.largest,
                "s_min": inside.smallest,
                "condition_number": inside.value,
                "condition_number_with_tail": with_tail.value,
                **_checks(name, objective, setting, variances, hyperparameter, latent_dim, config, spectrum),
                "left_out": "; ".join(f"{count} {what}" for what, count in inside.left_out.items()),
                "collapsed_latents": " ".join(map(str, collapsed)),
                **{bound: bounds.get(bound, "") for bound in conditioning.BOUNDS},
                "tightest_ratio": min(
                    (truth[bound] / value for bound, value in bounds.items() if value > 0), default=""
                ),
                "violated": violated[0] if violated else "",
            }


def _bounds(objective: str, variances: Array, hyperparameter: Any, latent_dim: int) -> dict[str, float]:
    """The bounds of the table that apply: the one with the tail only where every variance is positive."""
    if latent_dim < 2:
        return {}
    return {
        name: float(bound.value(variances, hyperparameter))
        for name, bound in conditioning.BOUNDS.items()
        if bound.objective == objective and not (bound.tail and variances[-1] <= 0)
    }


def _loss(objective: str, variances: Array, hyperparameter: Any) -> Callable[[Any], jax.Array]:
    method, covariance = METHODS[objective], Diagonal(jnp.asarray(variances))
    values = None if hyperparameter is None else jnp.asarray(hyperparameter)
    return lambda params: method.loss(params, covariance, jax.random.key(0), values)


def _checks(
    name: str,
    objective: str,
    setting: str,
    variances: Array,
    hyperparameter: Any,
    latent_dim: int,
    config: ConfigDict,
    spectrum: closed_form.Spectrum,
) -> dict[str, Any]:
    """The same extremes found without the closed form, where the size allows it."""
    checks: dict[str, Any] = {"dense_error": "", "matrix_free_s_max": "", "matrix_free_s_min": ""}
    optimum = jax.tree.map(jnp.asarray, CASES[objective].optimum(variances, hyperparameter, latent_dim))
    weights = sum(leaf.size for leaf in jax.tree.leaves(optimum))
    if weights <= config.dense_limit:
        if objective == "rag":
            field = flows.velocity(METHODS["rag"], Diagonal(jnp.asarray(variances)))
            exact = np.sort(np.linalg.eigvals(-np.asarray(exact_hessians.exact_jacobian(field, optimum))).real)
        else:
            exact = np.linalg.eigvalsh(
                exact_hessians.exact_hessian(_loss(objective, variances, hyperparameter), optimum)
            )
        closed = np.concatenate([spectrum.inside, spectrum.outside])
        closed = np.sort(np.concatenate([closed, np.zeros(exact.size - closed.size)]))
        checks["dense_error"] = float(np.max(np.abs(exact - closed)) / closed[-1])
    largest_size = latent_dim == max(config.latent_dims)
    if (objective, setting) == ("non_uniform_l2", "paper") and name in config.matrix_free and largest_size:
        loss = _loss(objective, variances, hyperparameter)
        smallest, largest = exact_hessians.extreme_eigenvalues(loss, optimum)
        checks |= {"matrix_free_s_max": largest, "matrix_free_s_min": smallest}
    return checks


def _rates(config: ConfigDict) -> Iterator[dict[str, Any]]:
    """Contraction per step of the slowest mode, predicted and measured, on the linear spectrum."""
    latent_dim = config.rate_latent_dim
    if not latent_dim:
        return
    variances = np.arange(2.0 * latent_dim, 0, -1)
    covariance = Diagonal(jnp.asarray(variances))
    for objective in ("non_uniform_l2", "deterministic_nested_dropout", "rag"):
        hyperparameter = _settings("linear", objective, variances, latent_dim, config)["paper"]
        spectrum = CASES[objective].spectrum(variances, hyperparameter, latent_dim)
        curvature, mode = closed_form.mode(spectrum)
        optimum = jax.tree.map(jnp.asarray, CASES[objective].optimum(variances, hyperparameter, latent_dim))
        for momentum in (0.0, 0.9):
            rate = 0.5 * rates.largest_learning_rate(float(max(spectrum.inside[-1], spectrum.outside[-1])), momentum)
            if momentum:  # where its roots are complex a mode swings, and one amplitude says nothing
                rate = min(rate, 0.8 * (1 - 4 * momentum / (1 + momentum) ** 2) / curvature)
            predicted = float(rates.convergence_factor(curvature, rate, momentum))
            steps = int(np.clip(12 / (1 - predicted), 200, 4000))  # far enough, and well above rounding
            values = None if hyperparameter is None else jnp.asarray(hyperparameter)
            measured = rates.measured_factor(
                METHODS[objective], optimum, mode, covariance, values,
                learning_rate=rate, momentum=momentum, num_steps=steps,
            )  # fmt: skip
            yield {
                "objective": objective,
                "optimizer": "nesterov" if momentum else "sgd",
                "learning_rate": rate,
                "curvature": curvature,
                "predicted_rate": 1 - predicted,
                "measured_rate": 1 - measured,
                "ratio": (1 - measured) / (1 - predicted),
            }


def _summary(rows: list[dict[str, Any]], rates: list[dict[str, Any]]) -> None:
    print(f"\n{'spectrum':14} {'objective':29} {'setting':8} {'k':>4} {'kappa':>10} {'printed':>10} {'sharpest':>10}")
    printed = {"non_uniform_l2": "l2_printed", "deterministic_nested_dropout": "nested_dropout_printed"}
    for row in rows:
        if row["objective"] not in printed:
            continue
        values = [row[bound] for bound, entry in conditioning.BOUNDS.items() if row[bound] != "" and not entry.tail]
        texts = [f"{value:10.4g}" if value != "" else f"{'-':>10}" for value in (row[printed[row["objective"]]],)]
        best = f"{max(values):10.4g}" if values else f"{'-':>10}"
        note = f"  latents {row['collapsed_latents']} collapse" if row["collapsed_latents"] else ""
        print(
            f"{row['spectrum']:14} {row['objective']:29} {row['setting']:8} {row['latent_dim']:4}"
            f" {row['condition_number']:10.4g} {texts[0]} {best}{note}"
        )
    for row in rates:
        print(
            f"{row['objective']:29} {row['optimizer']:9} slowest mode, rate per step:"
            f" {row['measured_rate']:.6g} measured, {row['predicted_rate']:.6g} predicted"
        )


if __name__ == "__main__":
    common.main(run, "closed_form.py")
