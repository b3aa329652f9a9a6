"""Batches of samples that are read once: what each must be, and their mean and covariance in float64."""

import itertools
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tqdm

from lae_jax.data import hosts, spectra
from lae_jax.data.arrays import Rows, SamplesLike, as_samples
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


def _first(batch: SamplesLike | None) -> Rows:
    """The first batch as samples. Raises InputError where a process has none, or others than the rest."""
    samples = None if batch is None else as_samples("batches: batch 0", batch)
    width = 0 if samples is None else int(np.prod(samples.shape[1:]))
    names = zlib.crc32("\0".join(names_of(samples) or ()).encode())
    told = hosts.from_each(np.array([samples is not None, width, names]))
    here = " in process {}" if len(told) > 1 else ""
    if samples is None or not told[:, 0].all():
        raise InputError(f"batches: no samples{here.format(int(told[:, 0].argmin()))}; need at least 2")
    if not 2 <= width <= spectra.WIDEST_COVARIANCE:
        raise InputError(
            f"batches: samples of {width} numbers; need 2 to {spectra.WIDEST_COVARIANCE}:"
            " lae_jax.fit_stream makes no covariance"
        )
    for column, what in ((1, "numbers"), (2, "names of columns")):
        if other := np.flatnonzero(told[:, column] != told[0, column]).tolist():
            raise InputError(f"batches: samples{here.format(other[0])} have other {what} than in process 0")
    return samples


def moments_of(batches: Iterable[SamplesLike], progress: bool = True) -> Moments:
    """Mean and covariance of all the samples of some batches; how they are cut changes no bit.

    Args:
      batches: each (n_i, ...), of any size. Each of several processes gives batches of its own, and all have the
        moments of all of them.
      progress: whether to show a bar, on a terminal.

    Raises:
      InputError: at a batch that is not samples like those of the first, and where there are none.
    """
    hosts.meet()  # now, for batches may be long in coming
    shown = progress and hosts.is_first()
    remaining = iter(tqdm.tqdm(batches, unit=" batches", disable=None if shown else True))
    samples = _first(first := next(remaining, None))
    columns, input_dim = names_of(samples), int(np.prod(samples.shape[1:]))
    block, filled = np.empty((rows_per_block(samples), input_dim)), 0
    count, mean, products = 0, np.zeros(input_dim), np.zeros((input_dim, input_dim))  # the products about the mean

    def take_up(rows: np.ndarray) -> None:
        """Blocks meet about the mean of both (Chan et al. 1983)."""
        nonlocal count, mean, products
        block_mean, covariance = accumulate("batches", rows, own=True)
        away, part = block_mean - mean, len(rows) / (count + len(rows))
        assert covariance is not None
        products = products + len(rows) * (covariance + (1 - part) * np.outer(away, away))
        count, mean = count + len(rows), mean + part * away

    for index, batch in enumerate(itertools.chain([first], remaining)):
        rows = checked_batch(index, batch, input_dim, columns)
        if index == 0:  # so that an offset large beside the spread does not cancel
            origin = hosts.from_first(rows[0].astype(np.float64))
        while len(rows):
            taken = min(len(rows), len(block) - filled)
            np.subtract(rows[:taken], origin, out=block[filled : filled + taken])
            rows, filled = rows[taken:], filled + taken
            if filled == len(block):
                take_up(block)
                filled = 0
    if filled:
        take_up(block[:filled])
    total = int(hosts.summed(np.asarray(count)))
    if total < 2:
        raise InputError(f"batches: {total} samples; need at least 2")
    # Processes meet as blocks do: about the mean of all.
    of_first = hosts.from_first(mean)
    away = mean - of_first
    shift = hosts.summed(count * away) / total
    products = hosts.summed(products + count * np.outer(away - shift, away - shift))
    return Moments(total, origin + of_first + shift, products / total, tuple(samples.shape[1:]), columns)
