"""Every stationary point of Eq. (3) and of nested dropout by its loss and Morse index (Theorems 2 and 3, Section 3).

    python -m launch.landscape --workdir=DIR [--config.FIELD=VALUE ...]

landscape.csv has a row for each: which component each latent holds, loss, index; landscape.png shows them.
"""

from pathlib import Path

from ml_collections import ConfigDict

from lae_jax.errors import InputError
from lae_jax.figures import paper, theory
from lae_jax.theory import landscape, nested_dropout
from launch import common


def run(config: ConfigDict, workdir: Path) -> None:
    """Enumerate, tabulate and draw."""
    if (len(config.variances) + 1) ** len(config.penalties) > config.most_points:
        raise InputError(
            f"variances, penalties: {len(config.variances)} and {len(config.penalties)} numbers make more than"
            f" most_points, {config.most_points}: give fewer of them"
        )
    rows, minima = [], {}
    for objective, room, values in (
        ("non_uniform_l2", landscape, config.penalties),
        ("deterministic_nested_dropout", nested_dropout, config.prior),
    ):
        minima[objective] = room.local_minima(config.variances, values)
        for point in room.stationary_points(config.variances, values):
            rows.append(
                {
                    "objective": objective,
                    "components": " ".join(str(held + 1) if held >= 0 else "-" for held in point),
                    "active": sum(held >= 0 for held in point),
                    "loss": room.stationary_loss(config.variances, values, point),
                    "index": room.morse_index(config.variances, values, point),
                }
            )
    common.write_csv(workdir / "landscape.csv", rows)
    title = f"stationary points up to signs and scales, variances {', '.join(f'{d:g}' for d in config.variances)}"
    picture = paper.save(theory.landscape(rows, title), workdir / "landscape.png")
    for objective, points in minima.items():
        own = [row for row in rows if row["objective"] == objective]
        told = "; ".join(" ".join(str(held + 1) if held >= 0 else "-" for held in point) for point in points)
        print(f"{objective}: {len(own)} stationary points, local minima: latents hold {told}")
    print(f"wrote {workdir / 'landscape.csv'} and {picture}")


if __name__ == "__main__":
    common.main(run, "landscape.py")
