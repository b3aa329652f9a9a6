"""The rules of the table on mini-batches of samples, with learning-rate decay (Appendix I.2).

    python -m launch.minibatch --workdir=DIR --config.data_dir=FOLDER [--config.FIELD=VALUE ...]

minibatch.csv has a row for each rule and learning rate; the alignment is with the components of all the data.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import optax
from ml_collections import ConfigDict

from lae_jax.data.datasets import Dataset, load
from lae_jax.errors import InputError, unknown_name
from lae_jax.figures import comparison, paper
from lae_jax.methods import METHODS, Rule
from lae_jax.rotation import aligned_descent
from lae_jax.training import loop
from lae_jax.training import settings as experiment
from lae_jax.training.settings import Settings
from launch import common

# Of the records that say where a run settles.
_LAST = 5


def run(config: ConfigDict, workdir: Path) -> None:
    """Train every rule at every learning rate, then tabulate and draw the best of each."""
    common.set_precision("float32", config.matmul_precision)
    for name in config.methods:
        if name not in METHODS:
            raise unknown_name("methods", name, METHODS)
    if not config.learning_rates:
        raise InputError("learning_rates: empty; give at least one")
    if not 0 < config.decay <= 1:
        raise InputError(f"decay: {config.decay}: must be above 0 and at most 1 (no decay)")
    dataset = load(config.dataset, data_dir=config.data_dir, download=config.download)
    pairs = [(method, rate) for method in config.methods for rate in config.learning_rates]
    progress = common.Progress(len(pairs) * config.num_steps)
    histories: dict[tuple[str, float], loop.History] = {}

    def job(method: str, rate: float) -> None:
        histories[method, rate] = _train(config, dataset, method, rate, progress)

    jobs = [functools.partial(job, *pair) for pair in pairs]
    common.run_in_threads(config.parallel_jobs, jobs, progress)
    rows = [_row(config, dataset, pair, histories[pair]) for pair in pairs]
    common.write_csv(workdir / "minibatch.csv", rows)
    best = {
        method: min((row for row in rows if row["method"] == method), key=lambda row: row["axis_alignment"])
        for method in config.methods
    }
    curves = {
        method: (
            histories[method, row["learning_rate"]]["step"],
            histories[method, row["learning_rate"]]["axis_alignment"],
        )
        for method, row in best.items()
        if np.isfinite(row["axis_alignment"])
    }
    title = (
        f"{dataset.name}, k = {config.latent_dim}, batches of {config.batch_size} samples, best of"
        f" {len(config.learning_rates)} learning rates,\neach decaying to {config.decay:g} of its start"
    )
    picture = paper.save(comparison.minibatches(curves, title), workdir / "minibatch.png")
    print(f"\n  {'rule':30} {'rate d_1':>9} {'settles at':>11} {'subspace':>9}   (of {config.num_steps:,} steps)")
    for method, row in best.items():
        print(
            f"  {method:30} {row['learning_rate']:9g} {row['axis_alignment']:11.4g} {row['subspace_distance']:9.2g}"
            f"   {row['note']}"
        )
    print(f"  wrote {workdir / 'minibatch.csv'} and {picture}")


def _train(config: ConfigDict, dataset: Dataset, name: str, rate: float, progress: common.Progress) -> loop.History:
    settings = Settings(
        method=name,
        latent_dim=config.latent_dim,
        learning_rate=rate / float(dataset.variances[0]),
        batch_size=config.batch_size,
        seed=config.seed,
    )
    built = experiment.build(experiment.resolve(settings, dataset)[0], dataset)
    method = METHODS[name]._replace(rule=_rules(config).get(name, METHODS[name].rule))
    recipe = loop.Recipe(method, functools.partial(_nesterov, config.num_steps, config.decay), config.batch_size)
    start = loop.initial_state(recipe, built.problem, built.state.params)
    parts, done = [loop.first_row(recipe, built.problem, start)], 0
    try:
        for state, history in loop.train(recipe, built.problem, start, config.num_steps, config.record_every):
            parts.append(history)
            progress.advance(f"{name} at {rate:g}", int(state.step) - done)
            done = int(state.step)
    except loop.DivergenceError:
        progress.advance(f"{name} at {rate:g}", config.num_steps - done)
    return loop.concatenate(parts)


def _nesterov(num_steps: int, decay: float, learning_rate: Any, momentum: Any) -> optax.GradientTransformation:
    return optax.sgd(lambda step: learning_rate * decay ** (step / num_steps), momentum, nesterov=True)


def _rules(config: ConfigDict) -> dict[str, Rule]:
    """Rules that have a rate of their own, which decays as well: the angles of a batch are as noisy as its moments."""
    return {
        "aligned": functools.partial(aligned_descent, rate=lambda step: config.decay ** (step / config.num_steps)),
    }


def _row(config: ConfigDict, dataset: Dataset, pair: tuple[str, float], history: loop.History) -> dict[str, Any]:
    diverged = not np.isfinite(history["loss"][-1])
    return {
        "method": pair[0],
        "learning_rate": pair[1],
        "dataset": dataset.name,
        "latent_dim": config.latent_dim,
        "batch_size": config.batch_size,
        "num_steps": config.num_steps,
        **{
            name: float("inf") if diverged else float(np.median(history[name][-_LAST:]))
            for name in ("axis_alignment", "subspace_distance")
        },
        "note": f"the loss is not finite at step {history['step'][-1]:.0f}" if diverged else "",
    }


if __name__ == "__main__":
    common.main(run, "minibatch.py")
