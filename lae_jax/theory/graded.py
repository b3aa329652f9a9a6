"""Eigenvalues of small positive matrices to full relative accuracy, however far apart they lie.

A general solver finds each eigenvalue to rounding of the largest, so at a condition number of 1e16 the smallest is
noise. Here the matrix is given in factors F F^T whose entries are exact up to rounding, F = X diag(scale) with X
well-conditioned, and one-sided Jacobi rotations of F keep the digits of every eigenvalue (Demmel and Veselic 1992;
Demmel et al. 1999).

Every function takes leading batch dimensions, and numpy or JAX arrays: of numpy arrays in numpy, of JAX arrays in
JAX, where jit, vmap and derivatives apply.
"""

import itertools
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from lae_jax.params import Numbers

SWEEPS = 6  # rotations converge quadratically: five are enough for four columns, however graded
ORTHOGONAL = 2e-15  # the cosine of an angle that rounding does not tell from a right one
LOWEST = 1e-100  # how far below the smallest pole a root is looked for
BISECTIONS = 64  # halvings of the logarithm of such a ratio until it is rounding


def namespace(*values: object) -> ModuleType:
    """jax.numpy where one of these is a JAX array or traced, numpy otherwise."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def matrix(*rows: list[Numbers]) -> Numbers:
    """Matrices (..., r, s) from entries that broadcast to (...)."""
    xp = namespace(*(entry for row in rows for entry in row))
    entries = xp.broadcast_arrays(*(xp.asarray(entry) for row in rows for entry in row))
    return xp.stack(entries, -1).reshape(*entries[0].shape, len(rows), len(rows[0]))


def two_by_two(first: Numbers, second: Numbers, off_diagonal: Numbers, determinant: Numbers) -> Numbers:
    """Eigenvalues (..., 2), ascending, of [[first, off], [off, second]] and a determinant that does not cancel."""
    xp = namespace(first, second, off_diagonal, determinant)
    larger = (first + second) / 2 + xp.sqrt(((first - second) / 2) ** 2 + off_diagonal**2)
    return xp.stack([determinant / larger, larger], -1)


def rotated(factor: Numbers, carried: Numbers) -> tuple[Numbers, Numbers]:
    """F (..., r, s) with its columns rotated until they are orthogonal, and rows (..., q, s) rotated along.

    The squared norms of the new columns are the eigenvalues of F F^T, the columns themselves its eigenvectors.
    """
    xp = namespace(factor, carried)
    measured, size = factor.shape[-2], factor.shape[-1]
    columns = xp.moveaxis(xp.concatenate([factor, carried], -2), -1, 0)
    pairs = list(itertools.combinations(range(size), 2))
    if xp is np:
        for _ in range(SWEEPS):
            cosines = []
            for p, q in pairs:
                columns[p], columns[q], cosine = _rotation(columns[p], columns[q], measured)
                cosines.append(np.max(cosine, initial=0.0))
            if max(cosines, default=0.0) < ORTHOGONAL:
                break
    else:

        def rotate(columns: Numbers, pair: Numbers) -> tuple[Numbers, None]:
            first, second, _ = _rotation(columns[pair[0]], columns[pair[1]], measured)
            return columns.at[pair[0]].set(first).at[pair[1]].set(second), None

        columns, _ = jax.lax.scan(rotate, columns, jnp.asarray(SWEEPS * pairs, int).reshape(-1, 2))
    whole = xp.moveaxis(columns, 0, -1)
    return whole[..., :measured, :], whole[..., measured:, :]


def _rotation(first: Numbers, second: Numbers, measured: int) -> tuple[Numbers, Numbers, Numbers]:
    """Two columns (..., r) with the first `measured` entries made orthogonal, and the cosine that these had."""
    xp = namespace(first, second)
    ahead, behind = first[..., :measured], second[..., :measured]
    before, after = xp.sum(ahead * ahead, -1), xp.sum(behind * behind, -1)
    overlap, gap = 2 * xp.sum(ahead * behind, -1), after - before
    still = overlap == 0
    reach = xp.sqrt(gap * gap + xp.where(still, 1, overlap) ** 2)
    tangent = xp.where(still, 0, overlap / (gap + xp.where(xp.real(gap) < 0, -reach, reach)))[..., None]
    scale = 1 / xp.sqrt(1 + tangent * tangent)
    apart = xp.abs(overlap) / xp.where(still, 1, 2 * xp.sqrt(before) * xp.sqrt(after))
    return scale * (first - tangent * second), scale * (second + tangent * first), apart


def gram_eigenvalues(factor: Numbers) -> Numbers:
    """Eigenvalues (..., s) of F F^T, ascending, from F (..., r, s)."""
    xp = namespace(factor)
    columns, _ = rotated(factor, factor[..., :0, :])
    return xp.sort(xp.sum(columns * columns, -2), -1)


def pivoted_factor(
    symmetric: Numbers, adjugate: Numbers, determinant: Numbers, image: Numbers, source: Numbers
) -> tuple[Numbers, Numbers]:
    """F (..., 3, 3) with F F^T a matrix M whose rows and columns are in another order, and F^-1 image in that order.

    Cholesky's factor under complete pivoting, from the matrix, its adjugate and its determinant: where these do not
    cancel, neither do the pivots. The vector `image` (..., 3) is M source, both given for the same reason.
    """
    xp = namespace(symmetric, adjugate, determinant, image, source)
    diagonal = xp.diagonal(symmetric, axis1=-2, axis2=-1)
    first = xp.argmax(diagonal, -1)[..., None]
    minors = xp.diagonal(adjugate, axis1=-2, axis2=-1)
    taken = xp.broadcast_to(xp.arange(3), minors.shape) == first
    third = xp.argmax(xp.where(taken, -xp.inf, minors), -1)[..., None]
    second = 3 - first - third

    def entry(values: Numbers, row: Numbers, column: Numbers) -> Numbers:
        flat = values.reshape(*values.shape[:-2], 9)
        return xp.take_along_axis(flat, 3 * row + column, -1)[..., 0]

    corner, minor = entry(symmetric, first, first), entry(adjugate, third, third)
    scales = [xp.sqrt(scale) for scale in (corner, minor / corner, determinant / minor)]
    below = entry(symmetric, first, second) / corner, entry(symmetric, first, third) / corner
    last = -entry(adjugate, second, third) / minor
    factor = matrix(
        [scales[0], 0, 0], [scales[0] * below[0], scales[1], 0], [scales[0] * below[1], scales[1] * last, scales[2]]
    )
    b_first, b_second = (xp.take_along_axis(image, index, -1)[..., 0] for index in (first, second))
    solved = b_first / scales[0]
    ahead = (b_second - below[0] * b_first) / scales[1]
    return factor, xp.stack([solved, ahead, scales[2] * xp.take_along_axis(source, third, -1)[..., 0]], -1)


def secular_roots(remaining: Numbers, poles: Numbers, weights: Numbers) -> Numbers:
    """Eigenvalues (..., n + 1), ascending, of a positive matrix [[diag(poles), b], [b^T, a]].

    Given are weights = b^2 / poles (..., n) and remaining = a - sum of weights > 0 (...), what elimination leaves of
    the corner. The eigenvalues are the roots x of remaining = x (1 + sum weights / (poles - x)), one below the poles,
    one between each two and one above; on either side of x the terms that are moved to one side have one sign.
    """
    xp = namespace(remaining, poles, weights)
    order = xp.argsort(poles, -1)
    poles, weights = xp.take_along_axis(poles, order, -1), xp.take_along_axis(weights, order, -1)
    top = poles[..., -1:] + remaining[..., None] + xp.sum(weights, -1, keepdims=True)
    high = xp.concatenate([poles, top], -1)
    low = xp.concatenate([LOWEST * poles[..., :1], poles], -1)

    def terms(roots: Numbers) -> tuple[Numbers, Numbers]:
        gaps = poles[..., None, :] - roots[..., :, None]
        away = gaps != 0
        return xp.where(away, weights[..., None, :], 0), xp.where(away, gaps, 1)

    def excess(roots: Numbers) -> Numbers:
        shares, gaps = terms(roots)
        return remaining[..., None] - roots * (1 + xp.sum(shares / gaps, -1))

    def halve(_: Numbers, ends: tuple[Numbers, Numbers]) -> tuple[Numbers, Numbers]:
        middle = xp.sqrt(ends[0]) * xp.sqrt(ends[1])
        above = excess(middle) > 0
        return xp.where(above, middle, ends[0]), xp.where(above, ends[1], middle)

    if xp is np:
        for step in range(BISECTIONS):
            low, high = halve(step, (low, high))
        return np.sqrt(low) * np.sqrt(high)
    fixed = jax.lax.stop_gradient
    low, high = fixed(jax.lax.fori_loop(0, BISECTIONS, halve, fixed((low, high))))
    roots = jnp.sqrt(low) * jnp.sqrt(high)
    # The derivative of an implicit function: one step of Newton's method of which only the derivative is kept.
    shares, gaps = terms(roots)
    slope = -(1 + jnp.sum(shares * poles[..., None, :] / gaps**2, -1))
    error = excess(roots)
    return roots - (error - fixed(error)) / fixed(slope)
