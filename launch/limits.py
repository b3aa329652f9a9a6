"""Rules on mini-batches beside the statistical limit: the eigenvectors of the covariance of the same samples.

    python -m launch.limits --workdir=DIR [--config=launch/configs/limits.py:VARIANT] [--config.FIELD=VALUE ...]

limits.csv has a row for each population, length of stream and rule; drift.csv one for each memory on a stream that
turns, beside a sliding window.
"""

from pathlib import Path

import numpy as np
import threadpoolctl
from ml_collections import ConfigDict

from lae_jax.errors import InputError, unknown_name
from lae_jax.figures import comparison, paper
from lae_jax.methods import METHODS
from lae_jax.runs import storage
from lae_jax.training.limits import RULES, StreamingRule, of_method, ratios_to_limit, tracking
from lae_jax.training.populations import population
from launch import common, memory, needs


def run(config: ConfigDict, workdir: Path) -> None:
    """Run the rules, then tabulate and draw."""
    common.set_precision("float32", config.matmul_precision)
    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # as runs have it: LAPACK's threads and XLA's would fight
        _run(config, workdir)


def _run(config: ConfigDict, workdir: Path) -> None:
    rules, problems = _rules(config), _problems(config)
    rows: list[dict[str, object]] = []
    progress = common.Progress(config.num_seeds * sum(batches for _, _, batches in problems))
    for name, latent_dim, num_batches in problems:
        drawn = population(name, config.data_dir, config.download, memory.limit_of(config.max_memory))
        needed = needs.limits(config, drawn, latent_dim, sum(len(rule.rates) for rule in rules.values()))
        memory.tell(needed, config.max_memory, "fewer columns, a smaller batch_size, fewer learning_rates")
        about = {"population": name, "latent_dim": latent_dim, "batch_size": config.batch_size}
        about |= {"num_batches": num_batches, "num_seeds": config.num_seeds}
        found = ratios_to_limit(
            drawn,
            latent_dim,
            num_batches=num_batches,
            batch_size=config.batch_size,
            num_seeds=config.num_seeds,
            rules=rules,
            on_batches=lambda batches, name=name: progress.advance(name, batches),  # type: ignore[misc] # a default of a lambda
        )
        rows += [about | row._asdict() for row in found]
        storage.write_csv(workdir / "limits.csv", rows)  # of use before the last problem is done
        print(f"\n{name}, k = {latent_dim}, {num_batches:,} batches of {config.batch_size}, {config.num_seeds} seeds")
        print(
            f"  {'rule':24} {'rate d_1':>8} {'alignment':>10} {'/ limit':>8} {'subspace':>9} {'us/batch':>9} {'KiB':>8}"
        )
        for row in found:
            print(
                f"  {row.rule:24} {row.rate:8g} {row.axis_alignment:10.3g} {row.ratio:8.3f} {row.subspace_ratio:9.3f}"
                f" {row.microseconds:9.0f} {row.kibibytes:8.0f}"
            )
    progress.close()
    picture = paper.save(
        comparison.ratios_to_limit(
            [{key: str(value) for key, value in row.items()} for row in rows],
            {name: rule.label for name, rule in rules.items()},
        ),
        workdir / "limits.png",
    )
    if config.counted:
        _drift(config, workdir)
    print(f"\nwrote {workdir / 'limits.csv'} and {picture}")


def _rules(config: ConfigDict) -> dict[str, StreamingRule]:
    for name in config.rules:
        if name not in RULES and name not in METHODS:
            raise unknown_name("rules", name, [*RULES, *METHODS])
    rates = tuple(config.learning_rates)
    return {name: RULES[name] if name in RULES else of_method(name, rates) for name in config.rules}


def _problems(config: ConfigDict) -> list[tuple[str, int, int]]:
    for problem in config.problems:
        if len(problem) != 3 or not all(isinstance(size, int) and size > 0 for size in problem[1:]):
            raise InputError(f"problems: {problem!r}: give (population, latent size, number of batches)")
    return list(config.problems)


def _drift(config: ConfigDict, workdir: Path) -> None:
    variances = 1 / np.arange(1.0, 21)
    found = [tracking(variances, 3, each, num_batches=240, batch_size=64, turns=1.0) for each in config.counted]
    storage.write_csv(workdir / "drift.csv", [row._asdict() | {"ratio": row.ratio} for row in found])
    print("\na stream that turns, k = 3: samples that count, mean axis alignment, that of a sliding window")
    for row in found:
        print(f"  {row.counted:6,} {row.low_rank_history:10.4f} {row.sliding_window:10.4f}   ratio {row.ratio:.2f}")


if __name__ == "__main__":
    common.main(run, "limits.py")
