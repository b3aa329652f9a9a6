"""Figure 1: the loss of Eq. (3) over W1 = a O(theta) (I - Lambda S^-2)^(1/2) U^T, W2 = W1^T, k = 2.

    python -m launch.surface --workdir=DIR [--config.FIELD=VALUE ...]

Drawn over (a cos theta, a sin theta), with the paths of gradient descent on Eq. (3) and of RAG held to
this plane: each step moves by the least-squares part of the rule's direction in it.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict

from lae_jax.covariance import Diagonal
from lae_jax.errors import InputError
from lae_jax.figures import paper
from lae_jax.methods import METHODS
from lae_jax.params import Array, LAEParams
from lae_jax.theory import flows
from launch import common, memory, needs


def run(config: ConfigDict, workdir: Path) -> None:
    """Draw figure1.png; surface.csv has the two paths."""
    common.set_precision("float64", "highest")
    variances, penalties = np.array(config.variances, float), np.array(config.penalties, float)
    if variances.shape != (2,) or penalties.shape != (2,):
        raise InputError(f"variances, penalties: {len(variances)} and {len(penalties)} numbers; need two of each")
    if not (0 < penalties[0] < penalties[1] < variances[1] < variances[0]):
        raise InputError(
            f"penalties: {config.penalties} with variances {config.variances}:"
            " need 0 < lambda_1 < lambda_2 < sigma_2^2 < sigma_1^2"
        )
    if config.num_steps < 1 or not config.learning_rate > 0:
        raise InputError(f"learning_rate, num_steps: {config.learning_rate}, {config.num_steps}: must be positive")
    memory.tell(needs.surface(config), config.max_memory, "a smaller resolution")
    covariance = Diagonal(jnp.asarray(variances))
    lengths = jnp.sqrt(1 - jnp.asarray(penalties / variances))

    def on_plane(point: Array) -> LAEParams:
        # a O(theta) is the matrix [[x, -y], [y, x]] of the point (x, y) = a (cos theta, sin theta).
        encoder = jnp.array([[point[0], -point[1]], [point[1], point[0]]]) * lengths[None, :]
        return LAEParams(encoder, encoder.T)

    def loss(point: Array) -> Array:
        return METHODS["non_uniform_l2"].loss(on_plane(point), covariance, jax.random.key(0), jnp.asarray(penalties))

    start = config.start_radius * jnp.array([jnp.cos(config.start_angle), jnp.sin(config.start_angle)])
    fields = {
        "gradient descent on Eq. (3)": flows.velocity(METHODS["non_uniform_l2"], covariance, jnp.asarray(penalties)),
        "RAG": flows.velocity(METHODS["rag"], covariance),
    }
    paths = {name: _path(field, on_plane, start, config) for name, field in fields.items()}
    for name, path in paths.items():
        if not np.isfinite(path).all():
            raise InputError(f"learning_rate: {config.learning_rate}: {name} diverges; choose a smaller one")
    axis = jnp.linspace(-1.45, 1.45, config.resolution)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1)
    heights = np.asarray(jax.vmap(jax.vmap(loss))(grid))
    optimum = float(loss(jnp.array([1.0, 0.0])))
    values = {name: np.asarray(jax.vmap(loss)(jnp.asarray(path))) for name, path in paths.items()}
    title = f"variances {config.variances}, penalties {config.penalties}, learning rate {config.learning_rate:g}"
    figure = paper.loss_surface(np.asarray(axis), heights - optimum, paths, values, optimum, title)
    picture = paper.save(figure, workdir / "figure1.png")
    rows = [
        {"rule": name, "step": step, "x": float(x), "y": float(y), "loss": float(values[name][step])}
        for name, path in paths.items()
        for step, (x, y) in enumerate(path)
    ]
    common.write_csv(workdir / "surface.csv", rows)
    for name, path in paths.items():
        angle = float(np.degrees(np.arctan2(path[-1][1], path[-1][0])))
        print(f"{name}: after {config.num_steps} steps {angle:.2f} degrees from the axes, loss {values[name][-1]:.6g}")
    print(f"wrote {picture} and {workdir / 'surface.csv'}")


def _path(field: flows.Field, on_plane: Callable[[Array], LAEParams], start: Array, config: ConfigDict) -> np.ndarray:
    """The points (num_steps + 1, 2) of a rule held to the plane."""

    def advance(point: Array, _: None) -> tuple[Array, Array]:
        towards = ravel_pytree(field(on_plane(point)))[0]
        slope = jax.jacfwd(lambda near: ravel_pytree(on_plane(near))[0])(point)
        following = point + config.learning_rate * jnp.linalg.lstsq(slope, towards)[0]
        return following, following

    _, points = jax.lax.scan(advance, start, None, config.num_steps)
    return np.concatenate([np.asarray(start)[None], np.asarray(points)])


if __name__ == "__main__":
    common.main(run, "surface.py")
