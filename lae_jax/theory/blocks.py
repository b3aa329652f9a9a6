"""A Hessian that is block-diagonal in the eigenbasis: its eigenvalues, condition number and modes.

Legend: P_ij and Q_ij encoder's and decoder's entry of latent i at component j; k latent dimension;
m input dimension.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lae_jax.params import Weights

# Names of what a condition number can leave out; those of null directions inside come with the objective.
UNSEEN = "encoder weights on components without variance"
TAIL = "modes outside the leading components"


class Block(NamedTuple):
    """Diagonal blocks of one kind."""

    matrices: np.ndarray  # (n, s, s); minus the Jacobian for RAG, not symmetric
    positions: np.ndarray  # (n, s), into the ravelled weights
    eigenvalues: np.ndarray  # (n, s), NaN for null directions


class Spectrum(NamedTuple):
    """All eigenvalues of a Hessian but those of its null directions; for RAG of minus the Jacobian."""

    inside: np.ndarray  # ascending, modes within the span of the leading k components
    outside: np.ndarray  # ascending, modes between a latent and a component l > k (the tail)
    null_directions: dict[str, int]  # name -> how many were left out
    blocks: tuple[Block, ...]  # what `mode` finds eigenvectors with
    shapes: Weights  # of the weights: a tuple in place of each array


class Conditioning(NamedTuple):
    """A condition number, and what it does not count."""

    value: float  # largest / smallest; infinite where the smallest is 0
    largest: float
    smallest: float
    left_out: dict[str, int]  # name -> how many modes


def condition_number(spectrum: Spectrum, tail: bool = False) -> Conditioning:
    """Largest over smallest eigenvalue on the complement of the null directions.

    With `tail` the modes outside the span of the leading components count as well. Where d_m goes to 0
    they make it diverge for all but l2, though they move neither the decoder nor any metric.
    """
    counted = np.concatenate([spectrum.inside, spectrum.outside]) if tail else spectrum.inside
    left_out = dict(spectrum.null_directions)
    if not tail:
        left_out[TAIL] = spectrum.outside.size
    largest, smallest = float(np.max(counted)), float(np.min(counted))
    return Conditioning(largest / smallest if smallest > 0 else np.inf, largest, smallest, left_out)


def mode(spectrum: Spectrum, rank: int = 0, tail: bool = False) -> tuple[float, Weights]:
    """Eigenvalue of this rank (0 the smallest, -1 the largest) and its unit eigenvector.

    The eigenvector has the type of the weights, in the eigenbasis; a right one for RAG.
    """
    blocks = spectrum.blocks if tail else spectrum.blocks[:-1]
    values = np.concatenate([block.eigenvalues.ravel() for block in blocks])
    index = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))][rank]
    value = float(values[index])
    for block in blocks:
        if index < block.eigenvalues.size:
            break
        index -= block.eigenvalues.size
    row, column = divmod(index, block.eigenvalues.shape[1])
    matrix = block.matrices[row]
    # Equal eigenvalues, up to rounding, share a space: each takes a vector of its own out of one decomposition.
    equal = np.flatnonzero(np.abs(block.eigenvalues[row] - value) <= 1e-14 * np.nanmax(np.abs(block.eigenvalues[row])))
    shared = block.eigenvalues[row, equal[0]] * np.eye(len(matrix))
    sizes = [int(np.prod(shape)) for shape in spectrum.shapes]
    vector = np.zeros(sum(sizes))
    # The last right singular vectors of matrix - value I are eigenvectors, whether or not the matrix is symmetric.
    vector[block.positions[row]] = np.linalg.svd(matrix - shared)[2][-1 - np.flatnonzero(equal == column)[0]]
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    # Numpy arrays, where the fields say JAX's.
    fields: Any = (part.reshape(shape) for part, shape in zip(parts, spectrum.shapes, strict=True))
    return value, type(spectrum.shapes)(*fields)


# Parts of the closed forms.


def block_matrices(*rows: Sequence[ArrayLike]) -> np.ndarray:
    """Matrices (n, s, s) from entries that broadcast to (n,)."""
    entries = np.broadcast_arrays(*(entry for row in rows for entry in row))
    return np.stack(entries, -1).reshape(-1, len(rows), len(rows))


def entry_positions(input_dim: int, latent_dim: int, latent: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Where P and Q of (latent, component) stand in the ravelled weights, (n, 2)."""
    decoder = latent_dim * input_dim + component * latent_dim + latent
    return np.stack([latent * input_dim + component, decoder], -1)


def combinations(latents: np.ndarray, components: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of latents and of tail components in all combinations, each flat."""
    first, second = np.meshgrid(latents, components, indexing="ij")
    return first.ravel(), second.ravel()


def assemble(
    shapes: Weights, own: Block, pairs: tuple[np.ndarray, np.ndarray], tail: tuple[np.ndarray, np.ndarray], null: str
) -> Spectrum:
    """From the blocks of latents with their own components and (matrices, eigenvalues) of the others."""
    latent_dim, input_dim = map(int, shapes.encoder)
    i, j = np.triu_indices(latent_dim, 1)
    row, column = combinations(np.arange(latent_dim), np.arange(latent_dim, input_dim))
    swapped = [entry_positions(input_dim, latent_dim, *entry) for entry in ((i, j), (j, i))]
    blocks = (
        own,
        Block(pairs[0], np.concatenate(swapped, -1), pairs[1]),
        Block(tail[0], entry_positions(input_dim, latent_dim, row, column), tail[1]),
    )
    inside = np.sort(np.concatenate([block.eigenvalues.ravel() for block in blocks[:-1]]))
    outside = np.sort(tail[1].ravel())
    counts = {null: np.count_nonzero(np.isnan(inside)), UNSEEN: np.count_nonzero(np.isnan(outside))}
    return Spectrum(
        inside[: inside.size - counts[null]],  # NaN sorts last
        outside[: outside.size - counts[UNSEEN]],
        {name: int(count) for name, count in counts.items() if count},
        blocks,
        shapes,
    )
