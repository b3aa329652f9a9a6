"""Batches of samples that are read once: what each must be, and their mean and covariance in float64."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tqdm

from lae_jax.data import spectra
from lae_jax.data.arrays import SamplesLike, as_samples
from lae_jax.data.moments import accumulate, rows_per_block
from lae_jax.data.tables import check_same_names, names_of
from lae_jax.errors import InputError


class Moments(NamedTuple):
    """What is left of samples that have been read."""

    num_samples: int
    mean: np.ndarray  # (m,)
    covariance: np.ndarray  # about the mean (m, m), with 1/n
    sample_shape: tuple[int, ...]
    columns: tuple[str, ...] | None  # names of the inputs


def checked_batch(index: int, batch: SamplesLike, input_dim: int, columns: tuple[str, ...] | None = None) -> np.ndarray:
    """Samples of m numbers as rows (n, m), in float32 where that holds them.

    Args:
      index: of the batch, for messages.
      batch: samples, as `arrays.as_samples` takes them.
      input_dim: m.
      columns: the names that its columns must have, where it is a table.

    Raises:
      InputError: that names the batch.
    """
    subject = f"batches: batch {index}"
    samples = as_samples(subject, batch)
    names = names_of(samples)
    if columns and names:
        check_same_names(f"{subject} has", columns, names)
    if len(samples.shape) < 1 or samples.shape[0] < 1 or np.prod(samples.shape[1:]) != input_dim:
        raise InputError(f"{subject} has shape {samples.shape}; need (n_i, {input_dim})")
    dtype = np.float32 if np.can_cast(samples.dtype, np.float32) else np.float64
    rows = np.asarray(samples[:], dtype).reshape(samples.shape[0], -1)
    # NaN is the largest and the smallest of its row: no array as large as the batch is made.
    bad = np.flatnonzero(~(np.isfinite(rows.max(axis=1)) & np.isfinite(rows.min(axis=1))))
    if bad.size:
        raise InputError(
            f"batches: row {int(bad[0])} of batch {index} is not finite; remove or impute such rows: {len(bad)} of"
            f" {len(rows)} in this batch, with {int((~np.isfinite(rows)).sum())} values that are NaN or infinite"
        )
    return rows


def moments_of(batches: Iterable[SamplesLike], progress: bool = True) -> Moments:
    """Mean and covariance of all the samples of some batches; how they are cut changes no bit.

    Args:
      batches: each (n_i, ...), of any size. With several processes all give the same ones, and share the work.
      progress: whether to show a bar, on a terminal.

    Raises:
      InputError: at a batch that is not samples like those of the first, and where there are none.
    """
    shape, columns, block, filled = None, None, np.empty((0, 0)), 0
    count, mean, products = 0, np.zeros(0), np.zeros((0, 0))  # the products about the mean

    def take_up(rows: np.ndarray) -> None:
        """Blocks meet about the mean of both (Chan et al. 1983)."""
        nonlocal count, mean, products
        block_mean, covariance = accumulate("batches", rows)
        away, part = block_mean - mean, len(rows) / (count + len(rows))
        assert covariance is not None
        products = products + len(rows) * (covariance + (1 - part) * np.outer(away, away))
        count, mean = count + len(rows), mean + part * away

    for index, batch in enumerate(tqdm.tqdm(batches, unit=" batches", disable=None if progress else True)):
        samples = as_samples(f"batches: batch {index}", batch)
        if shape is None:
            shape, columns, input_dim = tuple(samples.shape[1:]), names_of(samples), int(np.prod(samples.shape[1:]))
            if not 2 <= input_dim <= spectra.WIDEST_COVARIANCE:
                raise InputError(
                    f"batches: samples of {input_dim} numbers; need 2 to {spectra.WIDEST_COVARIANCE}:"
                    " lae_jax.fit_stream makes no covariance"
                )
            mean, products = np.zeros(input_dim), np.zeros((input_dim, input_dim))
            block = np.empty((rows_per_block(samples), input_dim))
        rows = checked_batch(index, samples, input_dim, columns)
        if index == 0:
            origin = rows[0].astype(np.float64)  # so that an offset large beside the spread does not cancel
        while len(rows):
            taken = min(len(rows), len(block) - filled)
            np.subtract(rows[:taken], origin, out=block[filled : filled + taken])
            rows, filled = rows[taken:], filled + taken
            if filled == len(block):
                take_up(block)
                filled = 0
    if filled:
        take_up(block[:filled])
    if count < 2 or shape is None:
        raise InputError(f"batches: {count or 'no'} samples; need at least 2")
    return Moments(count, origin + mean, products / count, shape, columns)
