"""Where stochastic nested dropout settles: predicted from the spectrum and fourth moments, and measured (Section 5).

    python -m launch.noise_floor --workdir=DIR [--config.FIELD=VALUE ...]

noise_floor.csv has a row for each learning rate: both distances as the runs have them on average, as they are predicted
at the scales that the runs drift through, and their ratios.
"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from lae_jax.errors import InputError, unknown_name
from lae_jax.theory import adam_floor, noise
from launch import common, memory, needs

STRETCHES = 2  # over which scales are averaged


def run(config: ConfigDict, workdir: Path) -> None:
    """Train, predict and tabulate."""
    common.set_precision("float64", "highest")
    if config.optimizer not in adam_floor.FLOORS:
        raise unknown_name("optimizer", config.optimizer, adam_floor.FLOORS)
    dataset = memory.load(config)
    used, k, most = config.num_components, len(config.prior), len(dataset.variances)
    if not k < used <= most:
        raise InputError(f"num_components: {used}: must be above {k}, the length of prior, and at most {most}")
    remedies = "fewer num_components, fewer runs, fewer samples"
    memory.tell(needs.noise_floor(config, dataset), config.max_memory, remedies)
    rows = np.asarray(dataset.load_rows(), np.float64) @ dataset.components[:, :used] / np.sqrt(dataset.variances[0])
    momentum, table = config.momentum if config.optimizer == "nesterov" else 0.0, []
    progress = common.Progress(len(config.learning_rates) * config.num_steps)
    for rate in config.learning_rates:
        found = noise.settled(
            rows, config.prior, learning_rate=rate, momentum=momentum, optimizer=config.optimizer,
            num_steps=config.num_steps, stretches=STRETCHES, runs=config.runs,
        )  # fmt: skip
        progress.advance(f"learning rate {rate:g}", config.num_steps)
        floor = adam_floor.FLOORS[config.optimizer]
        floors = [floor(rows, config.prior, rate, momentum, scales) for scales in found.scales]
        row = {"dataset": dataset.name, "samples": len(rows), "components": used, "latent_dim": k}
        row |= {"optimizer": config.optimizer, "learning_rate": rate, "momentum": momentum, "runs": config.runs}
        row |= {"steps": config.num_steps, "scales": " ".join(f"{scale:.3g}" for scale in found.scales[-1])}
        for name in ("axis_alignment", "subspace_distance"):
            measured, predicted = (
                float(np.mean(value)) for value in (getattr(found, name), [getattr(each, name) for each in floors])
            )
            row |= {name: measured, f"predicted_{name}": predicted, f"ratio_{name}": measured / predicted}
        table.append(row)
    progress.close()
    common.write_csv(workdir / "noise_floor.csv", table)
    for row in table:
        print(
            f"{row['optimizer']} {row['learning_rate']:g}: axis alignment {row['axis_alignment']:.3g}, measured over"
            f" predicted {row['ratio_axis_alignment']:.3f}; subspace distance {row['subspace_distance']:.3g},"
            f" {row['ratio_subspace_distance']:.3f}"
        )
    print(f"wrote {workdir / 'noise_floor.csv'}")


if __name__ == "__main__":
    common.main(run, "noise_floor.py")
