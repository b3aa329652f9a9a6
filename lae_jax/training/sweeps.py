"""Many runs as few programs: batches of zero-padded runs, whose slots are filled again as runs end.

A group is the runs that share a program: one method, one optimiser, latent sizes close together. Its batch has a
fixed number of slots on every device, so it is compiled once. A run leaves its slot at the end of the chunk in which
it reaches the last target, diverges or takes its last step, and the next run of the group takes the slot.
"""

import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError
from lae_jax.params import Array, Weights, crop_latents
from lae_jax.training import batch, settings
from lae_jax.training.loop import TrainState
from lae_jax.training.memory import of_run
from lae_jax.training.settings import Experiment, Settings

# Padding up to this size costs less than another compilation; above it, up to this fraction of the size.
SMALL, _NEAR = 16, 0.9
# Latents in the slots of a device of this kind: more gain nothing, and make it long until the host looks again.
LATENTS = {"cpu": 16, "gpu": 4096}
# Latents that such a device trains side by side. A run with more of them alone keeps a core busy, so that on a CPU
# runs one after the other cost what they cost alone, and side by side up to half as much again.
_SIDE_BY_SIDE = {"cpu": 8}


class Result(NamedTuple):
    """How one run ended."""

    settings: Settings
    steps_to_targets: tuple[int | None, ...]  # the first recorded step at or below each target
    axis_alignment: float  # at the last record; not finite where the run diverged
    steps: int  # when it ended
    seconds: float  # its share of the time of its batch
    params: Weights  # the weights at the end, in input coordinates


class Chunk(NamedTuple):
    """What a batch tells between chunks."""

    alignments: dict[int, np.ndarray]  # the new records of each run in the batch, by its index
    finished: dict[int, Result]
    in_flight: Callable[[], dict[str, np.ndarray]]  # the runs that go on, for `train_group(saved=...)`


class _Slot(NamedTuple):
    """A run in its place in a batch."""

    run_index: int
    run: batch.Run  # as it was when it was placed
    steps: int
    seconds: float
    reached: np.ndarray  # (targets,): the first recorded step at or below each; 0 before


def groups(runs: Sequence[Settings]) -> list[list[int]]:
    """Indices of the runs that share a program, each list by latent size; smaller sizes first.

    `runs` are resolved settings (`settings.resolve`).
    """
    programs: dict[tuple[object, ...], list[int]] = {}
    for index, run in enumerate(runs):
        key = (run.method, run.optimizer, run.representation, run.precision, run.batch_size, run.spare, run.unit)
        programs.setdefault(key, []).append(index)
    found = []
    for indices in programs.values():
        left = sorted(indices, key=lambda index: runs[index].latent_dim)
        parts = []
        while left:
            largest = runs[left[-1]].latent_dim
            part = [i for i in left if largest <= SMALL or runs[i].latent_dim >= _NEAR * largest]
            left = left[: len(left) - len(part)]
            parts.append(part)
        found += parts[::-1]
    return found


def slots_per_device(
    runs: Sequence[Settings], dataset: Dataset, platform: str = "cpu", max_memory: float | None = None
) -> int:
    """Slots that keep a device busy and fit in `max_memory` bytes of it. InputError if none fits."""
    latent_dim = max(run.latent_dim for run in runs)
    wanted = min(LATENTS.get(platform, LATENTS["gpu"]) // latent_dim, len(runs))
    if max_memory is not None:
        shared, slot = of_run(runs[0], latent_dim, dataset)
        if shared + slot > max_memory:
            raise InputError(
                f"max_memory: {max_memory / 2**30:.3g} GiB does not hold one run of {runs[0].method} at latent_dim"
                f" {latent_dim}, which takes about {(shared + slot) / 2**30:.3g} GiB; give more or leave that size out"
            )
        wanted = min(wanted, int((max_memory - shared) // slot))
    return max(1, wanted)


def side_by_side(latent_dim: int, platform: str) -> int:
    """How many runs of this size a device trains at a time, where it has so many."""
    return max(1, _SIDE_BY_SIDE.get(platform, LATENTS["gpu"]) // latent_dim)


def train_group(
    runs: Mapping[int, Settings],
    dataset: Dataset,
    *,
    num_steps: int,
    record_every: int = 10,
    targets: Sequence[float] = (-1.0,),
    devices: Sequence[jax.Device] | None = None,
    max_memory: float | None = None,
    at_a_time: int | None = None,
    finished: Collection[int] = (),
    saved: Mapping[str, np.ndarray] | None = None,
) -> Iterator[Chunk]:
    """Train runs that share a program (one list of `groups`), given by index; yields between chunks.

    Each starts as `lae_jax.training.loop.train` would and ends at axis alignment at or below the least of `targets`,
    at `num_steps`, or where it diverges. All `devices` (by default all there are) share the runs, and each takes
    `at_a_time` of its own side by side: by default the smallest alone on a CPU, and all of them elsewhere.
    `max_memory` is in bytes a device. A sweep that was stopped goes on
    with the runs that are `finished` left out and `saved` from its last `in_flight`. Where there are several
    processes, each makes the same calls. Raises InputError.
    """
    if num_steps < 1 or record_every < 1 or num_steps % record_every:
        raise InputError(f"num_steps: {num_steps}: must be a positive multiple of record_every ({record_every})")
    devices = tuple(jax.devices() if devices is None else devices)
    latent_dim, platform = max(run.latent_dim for run in runs.values()), devices[0].platform
    per_device = slots_per_device(list(runs.values()), dataset, platform, max_memory)
    at_a_time = min(at_a_time or side_by_side(latent_dim, platform), per_device)
    if jax.process_count() == 1:  # else every process takes part, if only with empty slots
        devices = devices[: -(-len(runs) // per_device)]
    resumed = {} if saved is None else {int(index): row for row, index in enumerate(saved["run_index"])}
    # Its place among the slots of a device decides a run's last bits: the same on any number of devices.
    in_order = sorted(runs, key=lambda index: (runs[index].latent_dim, index))
    place_of = {index: rank % per_device for rank, index in enumerate(in_order)}
    waiting = [index for index in in_order if index not in finished]
    waiting.sort(key=lambda index: index not in resumed)
    if not waiting:
        return
    local, leader = jax.local_devices()[:1], waiting[0]  # `batch.stack` spreads the runs
    first = settings.build(runs[leader], dataset, local)
    here = batch.shared(first, dataset.components, latent_dim)
    everywhere = batch.share(devices, here)

    def filled(place: int) -> _Slot | None:
        index = next((index for index in waiting if place_of[index] == place % per_device), None)
        if index is None:
            return None
        waiting.remove(index)
        built = first if index == leader else settings.build(runs[index], dataset, local)
        slot = _Slot(index, batch.padded(built, latent_dim), 0, 0.0, np.zeros(len(targets), int))
        _check_target(min(targets), here, slot.run, runs[index])
        return _resumed(slot, saved, resumed[index]) if saved is not None and index in resumed else slot

    slots: list[_Slot | None] = [None] * (len(devices) * per_device)
    stacked: batch.Run | None = None
    while waiting or any(slots):
        if waiting and not all(slots):
            slots = _fetched(slots, stacked)
            slots = [slot or filled(place) for place, slot in enumerate(slots)]
            filler = next(slot for slot in slots if slot)  # an empty slot holds a copy that makes no step
            stacked = batch.stack(devices, [(slot or filler).run for slot in slots])
        left = [(num_steps - slot.steps) // record_every if slot else 0 for slot in slots]
        rows = cast(Array, batch.stack(devices, [np.int32(min(row, batch.ROWS_PER_CHUNK)) for row in left]))
        assert stacked is not None
        began = time.perf_counter()
        state, *told = batch.advance(
            first.recipe, devices, at_a_time, everywhere, stacked, rows, record_every, min(targets)
        )
        stacked, (histories, counts) = stacked._replace(state=state), batch.to_host(told)
        seconds = (time.perf_counter() - began) / sum(slot is not None for slot in slots)

        alignments = {slot.run_index: histories[i, : counts[i]] for i, slot in enumerate(slots) if slot}
        slots = [slot and _advanced(slot, alignments[slot.run_index], record_every, targets, seconds) for slot in slots]
        ended = [
            slot if slot and (slot.steps == num_steps or not alignments[slot.run_index][-1] > min(targets)) else None
            for slot in slots
        ]
        results = {}
        for slot in _fetched(ended, stacked):
            if slot:
                results[slot.run_index] = _result(
                    slot, runs[slot.run_index], first, float(alignments[slot.run_index][-1])
                )
        slots = [None if end else slot for slot, end in zip(slots, ended, strict=True)]
        yield Chunk(alignments, results, functools.partial(_in_flight, tuple(slots), stacked))


def _check_target(target: float, shared: batch.Shared, run: batch.Run, asked: Settings) -> None:
    if (alignment := float(batch.axis_alignment(shared, run))) <= target:
        raise InputError(
            f"target: {target:g} is met before the first step: axis alignment is {alignment:.3g} at the initial weights"
            f" of latent_dim {asked.latent_dim}; choose a smaller one"
        )


def _advanced(
    slot: _Slot, alignments: np.ndarray, record_every: int, targets: Sequence[float], seconds: float
) -> _Slot:
    """The slot after a chunk with these new records."""
    first = [np.flatnonzero(alignments <= target) for target in targets]
    now = np.array([slot.steps + (int(hits[0]) + 1) * record_every if hits.size else 0 for hits in first])
    return slot._replace(
        steps=slot.steps + len(alignments) * record_every,
        seconds=slot.seconds + seconds,
        reached=np.where(slot.reached > 0, slot.reached, now),
    )


def _result(slot: _Slot, run: Settings, group: Experiment, alignment: float) -> Result:
    params = crop_latents(slot.run.state.params, run.latent_dim)
    reached = tuple(int(step) or None for step in slot.reached)
    return Result(run, reached, alignment, slot.steps, slot.seconds, group.in_input_coordinates(params))


def _fetched(slots: Sequence[_Slot | None], stacked: batch.Run | None) -> list[_Slot | None]:
    """The slots with their states as the devices have them."""
    if stacked is None or not any(slots):
        return list(slots)
    state = batch.to_host(stacked.state)

    def row(place: int) -> TrainState:
        taken: TrainState = jax.tree.map(lambda leaf: leaf[place], state)
        return taken

    return [slot and slot._replace(run=slot.run._replace(state=row(place))) for place, slot in enumerate(slots)]


def _in_flight(slots: Sequence[_Slot | None], stacked: batch.Run) -> dict[str, np.ndarray]:
    """The runs in their slots as arrays by name."""
    here = [slot for slot in _fetched(slots, stacked) if slot]
    saved = {
        name: np.array([getattr(slot, name) for slot in here]) for name in ("run_index", "steps", "seconds", "reached")
    }
    leaves = [jax.tree.leaves(slot.run.state) for slot in here]
    return saved | {f"leaf{i}": np.stack(each) for i, each in enumerate(zip(*leaves, strict=True))}


def _resumed(slot: _Slot, saved: Mapping[str, np.ndarray], row: int) -> _Slot:
    """The slot as it was saved in this row of `_in_flight`."""
    leaves, structure = jax.tree.flatten(slot.run.state)
    state = jax.tree.unflatten(structure, [saved[f"leaf{i}"][row] for i in range(len(leaves))])
    run = slot.run._replace(state=state)
    return _Slot(slot.run_index, run, int(saved["steps"][row]), float(saved["seconds"][row]), saved["reached"][row])


def train(runs: Sequence[Settings], dataset: Dataset, **options: Any) -> list[Result]:
    """Train any mix of resolved runs, in order, with the options of `train_group`."""
    results: dict[int, Result] = {}
    for indices in groups(runs):
        for chunk in train_group({index: runs[index] for index in indices}, dataset, **options):
            results |= chunk.finished
    return [results[index] for index in range(len(runs))]
