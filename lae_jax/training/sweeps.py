"""Many runs as few programs: batches of zero-padded runs, refilled as runs end.

A group is the runs that share a program: one method, one optimiser, latent sizes close together.
Its batch has a fixed number of lanes on every device, so it is compiled once. A run leaves its
lane at the end of the chunk in which it reaches the target, diverges or takes its last step, and
the next run of the group takes the lane.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError
from lae_jax.training import batch as lanes
from lae_jax.training import settings as experiment
from lae_jax.training.settings import Settings

# Padding up to this size costs less than another compilation; above it, up to this share of the size.
_SMALL, _NEAR = 16, 0.9
# Latents in one batch that keep a device of this kind busy: beyond that, more lanes gain nothing.
_BATCH_LATENTS = {"cpu": 16, "gpu": 4096}


class Result(NamedTuple):
    """How one run ended."""

    settings: Settings
    steps_to_target: int | None  # the first recorded step at or below the target
    axis_alignment: float  # at the target, or at the last record; not finite where the run diverged
    steps: int  # when it ended
    seconds: float  # its share of the time of its batch
    params: Any  # the weights at the end of its last chunk, in input coordinates


class Chunk(NamedTuple):
    """What a batch tells between chunks."""

    alignments: dict[int, np.ndarray]  # the new records of each run in the batch, by its index
    finished: dict[int, Result]
    in_flight: Callable[[], dict[str, np.ndarray]]  # the runs that go on, for `train_group(saved=...)`


def groups(runs: Sequence[Settings]) -> list[list[int]]:
    """Indices of the runs that share a program, each list by latent size; smaller sizes first.

    `runs` are resolved settings (`experiment.resolve`).
    """
    programs: dict[tuple[Any, ...], list[int]] = {}
    for index, run in enumerate(runs):
        key = (run.method, run.optimizer, run.representation, run.precision, run.batch_size)
        programs.setdefault(key, []).append(index)
    found = []
    for indices in programs.values():
        left = sorted(indices, key=lambda index: runs[index].latent_dim)
        parts = []
        while left:
            largest = runs[left[-1]].latent_dim
            part = [i for i in left if largest <= _SMALL or runs[i].latent_dim >= _NEAR * largest]
            left = left[: len(left) - len(part)]
            parts.append(part)
        found += parts[::-1]
    return found


def memory(run: Settings, latent_dim: int, dataset: Dataset) -> tuple[int, int]:
    """Bytes, estimated, that a device holds once (data and components), and for each of its lanes."""
    itemsize = jnp.dtype(experiment.PRECISIONS[run.precision]).itemsize
    rows = {"eigenbasis": 1, "dense": dataset.input_dim + latent_dim, "samples": dataset.num_samples + latent_dim}
    # Weights, optimiser state, gradients and products: 20 numbers a weight; a sample's latents and mask: 8.
    drawn = (run.batch_size or dataset.num_samples) if run.representation == "samples" else latent_dim
    shared = dataset.input_dim * rows[run.representation]
    return itemsize * shared, itemsize * latent_dim * (20 * dataset.input_dim + 8 * drawn)


def lanes_per_device(
    runs: Sequence[Settings], dataset: Dataset, platform: str = "cpu", max_memory: float | None = None
) -> int:
    """Lanes that keep a device busy and fit in `max_memory` bytes of it. InputError if none fits."""
    latent_dim = max(run.latent_dim for run in runs)
    wanted = min(_BATCH_LATENTS.get(platform, _BATCH_LATENTS["gpu"]) // latent_dim, len(runs))
    if max_memory is not None:
        shared, lane = memory(runs[0], latent_dim, dataset)
        if shared + lane > max_memory:
            raise InputError(
                f"max_memory: {max_memory / 2**30:.3g} GiB does not hold one run of {runs[0].method} at latent_dim"
                f" {latent_dim}, which takes about {(shared + lane) / 2**30:.3g} GiB; give more or leave that size out"
            )
        wanted = min(wanted, int((max_memory - shared) // lane))
    return max(1, wanted)


def train_group(
    runs: Mapping[int, Settings],
    dataset: Dataset,
    *,
    num_steps: int,
    record_every: int = 10,
    target: float = -1.0,
    devices: Sequence[jax.Device] | None = None,
    max_memory: float | None = None,
    finished: Collection[int] = (),
    saved: Mapping[str, np.ndarray] | None = None,
) -> Iterator[Chunk]:
    """Train runs that share a program (one list of `groups`), given by index; yields between chunks.

    Each starts as `lae_jax.training.loop.train` would and ends at axis alignment <= `target`, at
    `num_steps`, or where it diverges. All `devices` (by default all there are) share the lanes;
    `max_memory` is in bytes a device. A sweep that was stopped goes on with the runs that are
    `finished` left out and `saved` from its last `in_flight`. Where there are several processes,
    each makes the same calls. Raises InputError.
    """
    if num_steps < 1 or record_every < 1 or num_steps % record_every:
        raise InputError(f"num_steps: {num_steps}: must be a positive multiple of record_every ({record_every})")
    devices = jax.devices() if devices is None else devices
    latent_dim = max(run.latent_dim for run in runs.values())
    per_device = lanes_per_device(list(runs.values()), dataset, devices[0].platform, max_memory)
    if jax.process_count() == 1:  # else every process takes part, if only with empty lanes
        devices = devices[: -(-len(runs) // per_device)]
    resumed = {} if saved is None else {int(index): row for row, index in enumerate(saved["index"])}
    # Its place among the lanes of a device decides a run's last bits: the same on any number of devices.
    in_order = sorted(runs, key=lambda index: (runs[index].latent_dim, index))
    place_of = {index: rank % per_device for rank, index in enumerate(in_order)}
    waiting = [index for index in in_order if index not in finished]
    waiting.sort(key=lambda index: index not in resumed)
    batch = lanes.Batch(devices, per_device)

    while waiting or any(batch.lanes):
        refilled = False
        for place in (place for place, lane in enumerate(batch.lanes) if lane is None):
            index = next((i for i in waiting if place_of[i] == place % per_device), None)
            if index is not None:
                waiting.remove(index)
                lane = lanes.start(index, runs[index], latent_dim, dataset, target)
                batch.lanes[place] = lanes.resume(lane, saved, resumed[index]) if saved and index in resumed else lane
                refilled = True
        if refilled:
            batch.place()
        began = time.perf_counter()
        here = {place: lane for place, lane in enumerate(batch.lanes) if lane}
        left = (num_steps - max(lane.step for lane in here.values())) // record_every
        history, counts = batch.advance(min(left, lanes.ROWS_PER_CHUNK), record_every, target)
        share = (time.perf_counter() - began) / len(here)

        alignments, ends = {}, {}
        for place, lane in here.items():
            values = history[place, : counts[place]]
            stops = np.flatnonzero(~(values > target))  # at the target, or not a number
            values = values[: stops[0] + 1] if stops.size else values
            lane.step += len(values) * record_every
            lane.seconds += share
            alignments[lane.index] = values
            if stops.size or lane.step == num_steps:
                ends[place] = lane
        if ends:
            batch.fetch()
        results = {}
        for place, lane in ends.items():
            alignment, settings = float(alignments[lane.index][-1]), runs[lane.index]
            reached = lane.step if alignment <= target else None
            results[lane.index] = Result(settings, reached, alignment, lane.step, lane.seconds, lane.params)
            batch.lanes[place] = None
        yield Chunk(alignments, results, batch.in_flight)


def train(runs: Sequence[Settings], dataset: Dataset, **options: Any) -> list[Result]:
    """Train any mix of resolved runs, in order, with the options of `train_group`."""
    results: dict[int, Result] = {}
    for indices in groups(runs):
        for chunk in train_group({index: runs[index] for index in indices}, dataset, **options):
            results |= chunk.finished
    return [results[index] for index in range(len(runs))]
