"""How many steps over-relaxed alternation takes, on MNIST and on the data of Figure 4, from starts of any scale.

    python -m tests.krylov_steps --workdir=DIR

Writes `krylov_steps.csv`: for each data set, latent size and number of spare latents, the steps until axis alignment
(Def. 7.1) is at the target, least, median and most of the starts. Half of the starts are balanced, and their scales go
from 1e-4 to 10; the first is that of the launchers. Ends with status 1 where a start does not arrive.
"""

import argparse
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lae_jax import metrics
from lae_jax.covariance import Diagonal
from lae_jax.data import datasets
from lae_jax.params import Array, LAEParams, gaussian
from lae_jax.runs import storage
from lae_jax.training.alternation import alternation

MOST_STEPS = 300
FIGURE4_SIZES = (2, 5, 10, 20, 50, 100, 200, 300, 400, 500)
# (data, latent size, precision, target, number of starts)
PROBLEMS = (
    *(("mnist", size, "float32", 1e-3, 20) for size in (20, 50, 100)),
    *(("mnist", size, "float64", 1e-10, 2) for size in (20, 50, 100)),
    *(("synthetic", size, "float32", 0.3, 20 if size <= 50 else 2) for size in FIGURE4_SIZES),
)


@functools.partial(jax.jit, static_argnames="spare")
def steps_until(params: LAEParams, variances: Array, target: Array, spare: int | None) -> tuple[Array, Array]:
    """Steps taken, and the axis alignment that they led to; at most MOST_STEPS."""
    rule, covariance = alternation(spare), Diagonal(variances)

    def running(carry: tuple) -> Array:
        count, (params, _) = carry
        return (count < MOST_STEPS) & ~(metrics.axis_alignment(params.decoder) <= target)

    def step(carry: tuple) -> tuple:
        count, (params, state) = carry
        updates, state = rule.update(params, state, params, covariance=covariance)
        return count + 1, (optax.apply_updates(params, updates), state)

    count, (params, _) = jax.lax.while_loop(running, step, (0, (params, rule.init(params))))
    return count, metrics.axis_alignment(params.decoder)


def start(seed: int, latent_dim: int, input_dim: int, precision: str) -> LAEParams:
    """Seed 0: the start of the launchers; others have scales from 1e-4 to 10, and odd ones are balanced."""
    params = gaussian(jax.random.key(seed), latent_dim, input_dim)
    if seed:
        scale = 10 ** np.random.default_rng(seed).uniform(-4, 1)
        params = jax.tree.map(lambda leaf: scale * leaf / jnp.std(leaf), params)
    if seed % 2:
        params = params._replace(decoder=params.encoder.T)
    return jax.tree.map(lambda leaf: leaf.astype(precision), params)


def main() -> int:
    """Write the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    options = parser.parse_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    every_arrived = True
    for name, latent_dim, precision, target, starts in PROBLEMS:
        jax.config.update("jax_enable_x64", precision == "float64")
        variances = datasets.DATASETS[name]().variances
        variances = jnp.asarray(variances / variances[0], precision)
        for spare in (None, 0):
            found, ends = [], []
            for seed in range(starts):
                params = start(seed, latent_dim, len(variances), precision)
                count, alignment = steps_until(params, variances, jnp.asarray(target, precision), spare)
                found.append(int(count))
                ends.append(float(alignment))
            every_arrived &= max(ends) <= target
            rows.append(
                {
                    "dataset": name,
                    "latent_dim": latent_dim,
                    "spare": "default" if spare is None else spare,
                    "precision": precision,
                    "target": target,
                    "starts": starts,
                    "first": found[0],
                    "least": min(found),
                    "median": float(np.median(found)),
                    "most": max(found),
                }
            )
            print(*rows[-1].values(), flush=True)
            storage.write_csv(options.workdir / "krylov_steps.csv", rows)
    return int(not every_arrived)


if __name__ == "__main__":
    sys.exit(main())
