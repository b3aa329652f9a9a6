"""Figure 3 held against the published picture, number by number."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.image
import numpy as np

from lae_jax.errors import InputError

# Where the blocks lie in the published picture of 1634 x 1907 pixels: left and upper edges, and their side.
_SHAPE = (1907, 1634)
_LEFT = (58.5, 374.0, 689.5, 1005.5)
_TOP = (64.0, 370.5, 677.5, 984.0, 1290.5, 1597.5)
_SIDE = 278.5


def read_blocks(path: Path, latent_dim: int = 20) -> np.ndarray:
    """The entries of U^T W2 that the published Figure 3 shows.

    Args:
        path: a PNG of the figure, 1634 x 1907 pixels.
        latent_dim: k, the number of cells on a side of a block.

    Returns:
        Values from -1 (black) to 1 (white), (methods, steps, k, k).

    Raises:
        InputError: where the file is no such picture.
    """
    try:
        picture = matplotlib.image.imread(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"published_figure3: {path}: not a picture ({error})") from None
    if picture.shape[:2] != _SHAPE:
        raise InputError(f"published_figure3: {path}: {picture.shape[1]} x {picture.shape[0]} pixels, not 1634 x 1907")
    grey = picture if picture.ndim == 2 else picture[..., :3].mean(axis=-1)
    inside = _SIDE * (np.arange(latent_dim) + 0.5) / latent_dim

    def block(top: float, left: float) -> np.ndarray:
        rows, columns = (np.rint(edge + inside).astype(int) for edge in (top, left))
        # A cell is 14 pixels wide: the middle 5 x 5 of it.
        around = np.arange(-2, 3)
        pixels = grey[(rows[:, None] + around)[:, None, :, None], (columns[:, None] + around)[None, :, None, :]]
        return pixels.mean(axis=(2, 3))

    return np.array([[2 * block(top, left) - 1 for left in _LEFT] for top in _TOP])


def agreement(
    blocks: np.ndarray,
    decoders: Mapping[str, Mapping[int, np.ndarray]],
    components: np.ndarray,
    order: Sequence[str],
) -> list[dict[str, object]]:
    """How far U^T W2 of each method and step agrees with the blocks of the published picture.

    Args:
        blocks: as `read_blocks` gives them.
        decoders: method -> step -> W2 (m, k).
        components: U (m, k), with the signs of the published picture.
        order: the methods of its rows; its columns are the steps in their order.

    Returns:
        Rows with `correlation` of the k^2 entries, and `difference`, their mean distance; entries beyond -1 and 1
        are shown as those. Steps at which nothing has been learned yet are left out.
    """
    rows: list[dict[str, object]] = []
    for shown, method in zip(blocks, order, strict=False):
        for block, (step, decoder) in zip(shown, sorted(decoders.get(method, {}).items()), strict=False):
            ours = np.clip(components.T @ decoder, -1, 1)
            if np.abs(ours).max() > 0.05:
                correlation = float(np.corrcoef(block.ravel(), ours.ravel())[0, 1])
                difference = float(np.mean(np.abs(block - ours)))
                rows.append({"method": method, "step": step, "correlation": correlation, "difference": difference})
    return rows
