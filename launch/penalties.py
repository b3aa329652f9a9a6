"""Footnote 2 and Appendix I.1: do the penalties of the best condition number slow early training down?

    python -m launch.penalties --workdir=DIR [--config.FIELD=VALUE ...]

penalties.csv has a row for each setting between the paper's penalties and the best ones, and seed: steps to each
alignment, and what the exact spectrum predicts near the optimum. penalties.png shows both.
"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from lae_jax.figures import paper, theory
from lae_jax.hyperparameters import default_penalties
from lae_jax.theory import best
from lae_jax.theory import penalties as experiment
from launch import common, memory, needs


def run(config: ConfigDict, workdir: Path) -> None:
    """Train every setting and seed, then tabulate and draw."""
    common.set_precision("float32", "highest")
    dataset = memory.load(config)
    memory.tell(needs.penalties(config, dataset), config.max_memory, "a smaller latent_dim, fewer columns")
    variances, k, rows = np.asarray(dataset.variances, np.float64), config.latent_dim, []
    settings = experiment.between(
        default_penalties(variances, k), best.optimal_penalties(variances, k), config.num_settings
    )
    rate = config.learning_rate / float(variances[0])
    predicted = [experiment.local_rate(variances, each, rate, config.momentum) for each in settings]
    progress = common.Progress(len(config.seeds) * len(settings) * config.num_steps)
    for seed in config.seeds:
        steps = experiment.steps_to_targets(
            variances, settings, config.targets, learning_rate=rate, momentum=config.momentum,
            num_steps=config.num_steps, record_every=config.record_every, seed=seed,
        )  # fmt: skip
        progress.advance(f"seed {seed}", len(settings) * config.num_steps)
        for index, (penalties, local, reached) in enumerate(zip(settings, predicted, steps, strict=True)):
            rows.append(
                {
                    "setting": index / (len(settings) - 1),
                    "seed": seed,
                    "condition_number": local.condition_number,
                    "predicted_rate": local.rate,
                    **{
                        f"steps_{target:g}": int(count) if np.isfinite(count) else ""
                        for target, count in zip(config.targets, reached, strict=True)
                    },
                    "penalties": " ".join(f"{penalty:.6g}" for penalty in penalties),
                }
            )
    progress.close()
    common.write_csv(workdir / "penalties.csv", rows)
    title = f"{dataset.name}, k = {k}, non-uniform l2, Nesterov {config.momentum:g}"
    picture = paper.save(theory.penalties(rows, config.targets, title), workdir / "penalties.png")
    print(f"{'setting':>8} {'kappa':>10} {'rate':>10}  median steps to {', '.join(map(str, config.targets))}")
    for index, local in enumerate(predicted):
        own = [row for row in rows if row["setting"] == index / (len(settings) - 1)]
        medians = [
            float(np.median([np.inf if row[f"steps_{target:g}"] == "" else row[f"steps_{target:g}"] for row in own]))
            for target in config.targets
        ]
        told = "  ".join(f"{median:>9,.0f}" for median in medians)
        print(f"{own[0]['setting']:8.2f} {local.condition_number:10.4g} {local.rate:10.3g}  {told}")
    print(f"wrote {workdir / 'penalties.csv'} and {picture}")


if __name__ == "__main__":
    common.main(run, "penalties.py")
