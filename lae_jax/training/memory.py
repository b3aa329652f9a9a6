"""What a run takes of memory, told before it is spent: of each process, and of each device."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from lae_jax.data import memory
from lae_jax.data.dataset import Dataset
from lae_jax.data.memory import Estimate
from lae_jax.training.settings import PRECISIONS, Settings

_REMEDIES = (
    "a smaller latent_dim, fewer columns, more devices (they share samples, and inputs by column_parts), or"
    " lae_jax.fit_stream, which keeps neither samples nor a covariance"
)


def of_run(run: Settings, latent_dim: int, dataset: Dataset) -> tuple[int, int]:
    """Bytes, estimated, that a device holds once (data and components), and for each of its runs."""
    itemsize = jnp.dtype(PRECISIONS[run.precision]).itemsize
    rows = {"eigenbasis": 1, "dense": dataset.input_dim + latent_dim, "samples": dataset.num_samples + latent_dim}
    # Weights, optimiser state, gradients, products, and what a run keeps that stops before those beside it: 26 numbers
    # a weight; a sample's latents and mask: 8.
    drawn = (run.batch_size or dataset.num_samples) if run.representation == "samples" else latent_dim
    shared = dataset.input_dim * rows[run.representation]
    return itemsize * shared, itemsize * latent_dim * (26 * dataset.input_dim + 8 * drawn)


def estimate(run: Settings, dataset: Dataset) -> Estimate:
    """Of a resolved run on all the devices there are, which share its samples, and the inputs by `column_parts`."""
    shared, own = of_run(run, run.latent_dim, dataset)
    shape = (dataset.num_samples, dataset.input_dim)
    share = jax.device_count() if run.representation == "samples" else run.column_parts
    device = shared // share + own // run.column_parts
    host = memory.of_reading(shape, PRECISIONS[run.precision])
    if run.representation == "samples":  # on their way to the devices
        host += shared // jax.process_count()
    return memory.estimate(host, device)


def largest(runs: Iterable[Settings], dataset: Dataset, max_memory: float | None = None) -> Estimate:
    """Of resolved runs, one at a time.

    Args:
        runs: as `settings.resolve` gives them.
        dataset: the data.
        max_memory: bytes that a process, or a device, may take. None: what there is.

    Raises:
        InputError: where that is not enough, with what would be.
    """
    found = [estimate(run, dataset) for run in runs]
    most = Estimate(max(each.process for each in found), max(each.device for each in found))
    most.check(max_memory, _REMEDIES)
    return most
