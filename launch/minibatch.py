"""The rules of the table on mini-batches of samples, with learning-rate decay (Appendix I.2).

    python -m launch.minibatch --workdir=DIR --config.data_dir=FOLDER [--config.FIELD=VALUE ...]

minibatch.csv has a row for each rule and learning rate; the alignment is with the components of all the data.
Several processes are started as those of launch.train are.
"""

import functools
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from lae_jax.data import hosts
from lae_jax.data.datasets import load
from lae_jax.errors import InputError, unknown_name
from lae_jax.figures import comparison, paper
from lae_jax.methods import METHODS
from lae_jax.runs import storage
from lae_jax.training import minibatches
from lae_jax.training.loop import History
from lae_jax.training.settings import Settings, resolve
from launch import common, memory, processes


def run(config: ConfigDict, workdir: Path) -> None:
    """Train every rule at every learning rate, then tabulate and draw the best of each."""
    common.set_precision("float32", config.matmul_precision)
    hosts.meet()
    for name in config.methods:
        if name not in METHODS:
            raise unknown_name("methods", name, METHODS)
    if not config.learning_rates:
        raise InputError("learning_rates: empty; give at least one")
    minibatches.decaying(config.num_steps, config.decay)
    dataset = load(config.dataset, data_dir=config.data_dir, download=config.download)
    pairs = [(method, rate) for method in config.methods for rate in config.learning_rates]

    def asked(method: str, rate: float) -> Settings:
        sizes = {"latent_dim": config.latent_dim, "batch_size": config.batch_size}
        return Settings(method=method, learning_rate=rate, seed=config.seed, **sizes)

    memory.tell_runs([resolve(asked(*pairs[0]), dataset)[0]], dataset, config.max_memory)
    progress = common.Progress(len(pairs) * config.num_steps)
    histories: dict[tuple[str, float], History] = {}

    def job(method: str, rate: float) -> None:
        histories[method, rate] = minibatches.train(
            asked(method, rate),
            dataset,
            num_steps=config.num_steps,
            decay=config.decay,
            record_every=config.record_every,
            on_steps=progress.advance,
        )

    # Processes have to meet in the same order, so theirs run one by one.
    workers = config.parallel_jobs if jax.process_count() == 1 else 1
    common.run_in_threads(workers, [functools.partial(job, *pair) for pair in pairs], progress)
    if not hosts.is_first():
        return
    about = {"dataset": dataset.name} | {name: config[name] for name in ("latent_dim", "batch_size", "num_steps")}
    ends = {pair: minibatches.settled(histories[pair]) for pair in pairs}
    rows = [{"method": pair[0], "learning_rate": pair[1], **about, **ends[pair]._asdict()} for pair in pairs]
    storage.write_csv(workdir / "minibatch.csv", rows)
    best = {
        method: min((pair for pair in pairs if pair[0] == method), key=lambda pair: ends[pair].axis_alignment)
        for method in config.methods
    }
    curves = {
        method: (histories[pair]["step"], histories[pair]["axis_alignment"])
        for method, pair in best.items()
        if np.isfinite(ends[pair].axis_alignment)
    }
    title = (
        f"{dataset.name}, k = {config.latent_dim}, batches of {config.batch_size} samples, best of"
        f" {len(config.learning_rates)} learning rates,\neach decaying to {config.decay:g} of its start"
    )
    picture = paper.save(comparison.minibatches(curves, title), workdir / "minibatch.png")
    print(f"\n  {'rule':30} {'rate d_1':>9} {'settles at':>11} {'subspace':>9}   (of {config.num_steps:,} steps)")
    for method, pair in best.items():
        alignment, distance, note = ends[pair]
        print(f"  {method:30} {pair[1]:9g} {alignment:11.4g} {distance:9.2g}   {note}")
    print(f"  wrote {workdir / 'minibatch.csv'} and {picture}")


if __name__ == "__main__":
    processes.define_flags()
    common.main(processes.together(run), "minibatch.py")
