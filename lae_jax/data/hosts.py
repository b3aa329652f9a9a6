"""What several processes read each, and what they tell each other; one process reads all, and is told nothing.

Every process makes the same calls in the same order, and waits in each for the others.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lae_jax.errors import InputError

Item = TypeVar("Item")


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def devices_each(count: int = 1) -> list[jax.Device]:
    """The first `count` devices of every process, in order."""
    found: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        found.setdefault(device.process_index, []).append(device)
    return [device for index in sorted(found) for device in found[index][:count]]


def part_of(count: int) -> slice:
    """Which of `count` samples this process reads: those that its devices hold where all devices have equal shares.

    Raises InputError where processes have different numbers of devices.
    """
    here, everywhere = jax.local_device_count(), jax.device_count()
    if here * jax.process_count() != everywhere:
        raise InputError(
            f"devices: {here} of {everywhere} are this process's, of {jax.process_count()}; give all the same number"
        )
    share = -(-count // everywhere) * here
    start = min(jax.process_index() * share, count)
    return slice(start, min(start + share, count))


@functools.cache
def _exchange(devices: tuple[jax.Device, ...]) -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """How a part of each device is laid out, and the program that adds the parts."""
    mesh = Mesh(np.asarray(devices), ("processes",))
    total = jax.jit(lambda parts: jnp.sum(parts, axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    return NamedSharding(mesh, PartitionSpec("processes")), total


def summed(array: np.ndarray) -> np.ndarray:
    """The sum of the arrays of all processes, in float64 and of the same bits in each."""
    if jax.process_count() == 1:
        return array
    sharding, total = _exchange(tuple(devices_each()))
    with jax.enable_x64(True):
        parts = jax.make_array_from_process_local_data(sharding, np.asarray(array, np.float64)[None])
        return np.array(total(parts))


def meet() -> None:
    """Have all processes at one place, where there are several.

    They wait 30 seconds for each other at the first exchange between some devices, as at no later one: too short for
    files to be read, or programs to be compiled, before it.
    """
    if jax.process_count() > 1:
        any_of()
        sharding, total = _exchange(tuple(jax.devices()))
        ones = np.ones(jax.local_device_count(), np.float32)
        total(jax.make_array_from_process_local_data(sharding, ones)).block_until_ready()


def from_first(array: np.ndarray) -> np.ndarray:
    """The array of the first process, in float64; those of the others have its shape, and are not read."""
    return summed(array if is_first() else np.zeros(np.shape(array)))


def from_each(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, which have one shape, stacked in their order; in float64."""
    found = np.zeros((jax.process_count(), *np.shape(array)))
    found[jax.process_index()] = array
    return summed(found)


def any_of(*flags: bool) -> list[bool]:
    """Of each flag, whether it is set in any process; without flags, all have come here."""
    counts = summed(np.array([*flags, True], np.float64))  # an exchange of no numbers would be none
    return [bool(count) for count in counts[:-1]]


def in_step(items: Iterable[Item]) -> Iterator[Item | None]:
    """The items of this process, and then None for as long as another one has some."""
    remaining, end = iter(items), object()
    while any_of((item := next(remaining, end)) is not end)[0]:
        yield None if item is end else item  # type: ignore[misc] # not the end, so an item


def once(compute: Callable[[], tuple[np.ndarray, ...]], *shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """What the first process computes, of these shapes, in all of them: other processors would round otherwise."""
    if jax.process_count() == 1:
        return compute()
    found = compute() if is_first() else tuple(map(np.zeros, shapes))
    return tuple(map(from_first, found))


def with_products(
    product: Callable[[np.ndarray], np.ndarray],
    size: int,
    compute: Callable[[Callable[[np.ndarray], np.ndarray]], tuple[np.ndarray, ...]],
    *shapes: tuple[int, ...],
) -> tuple[np.ndarray, ...]:
    """`once` for a computation that multiplies vectors (size,) by the sum of what every process holds.

    Args:
        product: what this process adds to the product with a vector, (size,) -> (size,).
        size: the length of the vectors.
        compute: what the first process does, given the product with the sum; the others multiply for it.
        shapes: of what it gives.
    """

    def asked(vector: np.ndarray, more: bool = True) -> np.ndarray | None:
        told = from_first(np.append(vector, more))
        return summed(product(told[:-1])) if told[-1] else None

    def times(vector: np.ndarray) -> np.ndarray:
        multiplied = asked(np.ravel(vector))
        assert multiplied is not None
        return multiplied

    def on_first() -> tuple[np.ndarray, ...]:
        found = compute(times)
        asked(np.zeros(size), more=False)
        return found

    while not is_first() and asked(np.zeros(size)) is not None:
        pass
    return once(on_first, *shapes)
