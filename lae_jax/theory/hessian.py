"""The truth: Hessians and Jacobians by automatic differentiation, and their extreme eigenvalues without a matrix.

Legend: k latent dimension, m input dimension; N the number of weights.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike

from lae_jax.errors import InputError
from lae_jax.params import Tree

Point = TypeVar("Point")  # where a loss or a field is taken: weights, or an array
CHUNK = 32  # columns at once


def _ravelled(params: Point) -> tuple[jax.Array, Callable[[jax.Array], Point]]:
    flat, unravel = ravel_pytree(params)
    if flat.dtype != jnp.float64:
        raise InputError(f"params: dtype {flat.dtype}, Hessians need float64 (set jax_enable_x64)")
    return flat, unravel


def exact_hessian(loss: Callable[[Point], jax.Array], params: Point) -> jax.Array:
    """The Hessian of `loss` at any params, over the ravelled weights: encoder, decoder, then the rest."""
    flat, unravel = _ravelled(params)
    return jax.jit(jax.hessian(lambda vector: loss(unravel(vector))))(flat)


def exact_jacobian(field: Callable[[Point], Tree], params: Point) -> jax.Array:
    """The Jacobian of a field (params -> d params / dt) at any params, over the ravelled weights."""
    flat, unravel = _ravelled(params)
    return jax.jit(jax.jacfwd(lambda vector: ravel_pytree(field(unravel(vector)))[0]))(flat)


def columns(
    field: Callable[[Point], Tree], params: Point, positions: jax.Array, count: jax.Array, elsewhere: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The Jacobian of a field over some of the weights, and its largest entry outside of them; to be jitted.

    Of the gradient of a loss that is a part of `jax.hessian`, column by column as there: one program serves any number
    of weights, in time and memory of that number.

    Args:
        field: params -> a tree of the same shapes.
        params: where.
        positions: into the ravelled weights, as many as there can be, a multiple of CHUNK.
        count: how many of them are meant.
        elsewhere: (N,), 1 for weights whose rows are looked at outside of `positions`.

    Returns:
        The entries (len(positions), len(positions)), of which the first (count, count) are meant, and the largest ().
    """
    flat, unravel = _ravelled(params)
    _, push = jax.linearize(lambda vector: ravel_pytree(field(unravel(vector)))[0], flat)
    meant = jnp.where(jnp.arange(positions.size) < count, positions, flat.size)  # out of range: zeros below

    def chunk(index: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        found, largest = carry
        where = jax.lax.dynamic_slice(meant, (index * CHUNK,), (CHUNK,))
        pushed = jax.vmap(push)(jax.nn.one_hot(where, flat.size, dtype=flat.dtype))
        found = jax.lax.dynamic_update_slice(
            found, pushed.at[:, meant].get(mode="fill", fill_value=0.0), (index * CHUNK, 0)
        )
        return found, jnp.maximum(largest, jnp.max(jnp.abs(pushed * elsewhere[None])))

    empty = jnp.zeros((positions.size, positions.size), flat.dtype), jnp.zeros((), flat.dtype)
    found, largest = jax.lax.fori_loop(0, -(-count // CHUNK), chunk, empty)
    return found.T, largest


def extreme_eigenvalues(
    loss: Callable[[Point], jax.Array], params: Point, null_space: ArrayLike | None = None, tolerance: float = 1e-8
) -> tuple[float, float]:
    """Smallest and largest eigenvalue of the Hessian of `loss` at a minimum, from its products with vectors.

    For sizes where no matrix fits: Lanczos on the Hessian, and on its inverse applied by conjugate gradients,
    which take about the square root of the condition number in steps. Orthonormal columns `null_space`
    (N, q) are left out; InputError where the rest is singular. Not for saddles. `tolerance` is that of the
    solves and, relative to the largest eigenvalue, of eigenvectors; eigenvalues are better.
    """
    flat, unravel = _ravelled(params)
    product = jax.jit(jax.linearize(jax.grad(lambda vector: loss(unravel(vector))), flat)[1])
    start = np.asarray(jax.random.normal(jax.random.key(0), flat.shape, flat.dtype))

    def lanczos(apply: Callable[[np.ndarray], jax.Array], **options: int) -> tuple[float, np.ndarray]:
        operator = scipy.sparse.linalg.LinearOperator(
            (flat.size, flat.size), matvec=lambda vector: np.asarray(apply(vector)), dtype=np.float64
        )
        values, vectors = scipy.sparse.linalg.eigsh(operator, 1, which="LA", v0=start, tol=tolerance, **options)
        return float(values[0]), vectors[:, 0]

    largest, _ = lanczos(product)
    null = jnp.zeros((flat.size, 0)) if null_space is None else jnp.asarray(null_space)

    @jax.jit
    def solve(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
        def lifted(x: jax.Array) -> jax.Array:  # null directions moved to the other end of the spectrum
            return product(x) + largest * (null @ (null.T @ x))

        solution, _ = jax.scipy.sparse.linalg.cg(lifted, vector, tol=tolerance, maxiter=100_000)
        return solution, jnp.linalg.norm(lifted(solution) - vector) / jnp.linalg.norm(vector)

    def inverse(vector: np.ndarray) -> jax.Array:
        solution, residual = solve(vector)
        if not residual < 1e-3:
            raise InputError(
                f"params: conjugate gradients leave {float(residual):.1g} of a vector, the Hessian is singular there; "
                "must be at a minimum with every null direction in null_space"
            )
        return solution

    _, slowest = lanczos(inverse, ncv=min(6, flat.size))  # few vectors, because each costs a solve
    return float(slowest @ product(slowest)), largest
