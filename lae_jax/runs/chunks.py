"""A run in chunks: as many steps as keep the host's looks at it about half a second apart."""

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import jax
import numpy as np

from lae_jax.data import hosts
from lae_jax.training import loop
from lae_jax.training.loop import History, TrainState
from lae_jax.training.settings import Experiment

Chunk = TypeVar("Chunk")
# How long a chunk of training may take before the host looks at it again, in seconds.
_CHUNK_SECONDS = 0.5


class Plan(Protocol):
    """The fields of a run that cut it."""

    @property
    def num_steps(self) -> int:
        """Steps of the run."""

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Those of which a snapshot is kept."""

    @property
    def record_every(self) -> int:
        """Steps between records."""

    @property
    def target(self) -> float:
        """Axis alignment at which the run ends."""


def chunks_of(config: Plan, run: Experiment, state: TrainState) -> Iterator[tuple[TrainState, History]]:
    """`loop.train` to the end, with a stop at every step of which a snapshot is kept."""
    pace, paced = Pace(), lambda: int(hosts.from_first(np.array(pace())))
    for stop in sorted({*config.snapshot_steps, config.num_steps}):
        chunks = loop.train(run.recipe, run.problem, state, stop, config.record_every, config.target, paced)
        for state, history in chunks:
            yield state, history
            if history["axis_alignment"][-1] <= config.target:
                return


def profiled(folder: str, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The chunks, the second of them under JAX's profiler; the first compiles."""
    chunks = iter(chunks)
    if folder:
        yield from itertools.islice(chunks, 1)
        with jax.profiler.trace(folder):
            second = list(itertools.islice(chunks, 1))
        yield from second
    yield from chunks


class Pace:
    """How many rows to ask of the next chunk so that it takes about `_CHUNK_SECONDS`."""

    def __init__(self) -> None:
        self._rows, self._asked = 1, time.perf_counter()

    def __call__(self) -> int:
        """Rows of the next chunk, asked for when the one before has come back."""
        now = time.perf_counter()
        if now - self._asked < _CHUNK_SECONDS:
            self._rows = min(2 * self._rows, loop.CAPACITY)
        elif now - self._asked > 2 * _CHUNK_SECONDS:
            self._rows = max(self._rows // 2, 1)
        self._asked = now
        return self._rows
