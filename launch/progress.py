"""The bar over the steps of a launcher, and how a signal ends the runs that it shows."""

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

import jax
import tqdm

from lae_jax.runs import threads
from lae_jax.runs.directory import InterruptedRunError
from lae_jax.training.loop import History, TrainState

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Progress:
    """One bar over all the steps of a launcher: which run, its loss and alignment, and the time left.

    From its making until `close`, SIGTERM and Ctrl-C have the runs that report to it end at their next chunk; a second
    signal does not wait for that.
    """

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._lock = threading.Lock()
        self._stopped = False
        here = threading.current_thread() is threading.main_thread()  # elsewhere Python sets no handlers
        self._handlers = {number: signal.signal(number, self._heard) for number in SIGNALS if here}

    @functools.cached_property
    def _bar(self) -> tqdm.tqdm:
        # Not before the first step, so that an error in the settings stands alone.
        hidden = jax.process_index() > 0  # of several processes the first shows what all do
        return tqdm.tqdm(
            total=self._num_steps, unit="step", unit_scale=True, mininterval=0.5, file=sys.stderr, disable=hidden
        )

    def _heard(self, number: int, frame: FrameType | None) -> None:
        again, self._stopped = self._stopped, True
        before = self._handlers[signal.Signals(number)]
        with contextlib.nullcontext() if again else contextlib.suppress(KeyboardInterrupt):
            if callable(before):
                before(number, frame)
            raise KeyboardInterrupt

    def of(self, label: str, num_steps: int) -> Callable[[TrainState, History], None]:
        """What to call with each chunk of the run of this name. Raises InterruptedRunError once it is to end."""
        done = 0

        def chunk_done(state: TrainState, history: History) -> None:
            nonlocal done
            step = int(state.step)
            told = f"loss {history['loss'][-1]:.5g}, alignment {history['axis_alignment'][-1]:.2g}"
            self.advance(f"{label} {step:,}/{num_steps:,}", step - done, told)
            done = step

        return chunk_done

    def advance(self, label: str, steps: int, told: str = "") -> None:
        """Count steps, taken or no longer needed, of what has this name. Raises InterruptedRunError as `of` does."""
        if self._stopped:
            raise InterruptedRunError
        with self._lock:
            self._bar.set_description_str(label, refresh=False)
            self._bar.set_postfix_str(told, refresh=False)
            self._bar.update(steps)

    def note_of(self, label: str) -> Callable[[str], None]:
        """What to call with a line about the run of this name, so that it does not break the bar."""
        return lambda text: tqdm.tqdm.write(f"{label}: {text}", file=sys.stderr)

    def stop(self) -> None:
        """Have every run end at its next chunk."""
        self._stopped = True

    def close(self) -> None:
        """Leave the bar as it stands, and signals to who had them before.

        Raises InterruptedRunError where a signal came after the last chunk, and no run has raised it.
        """
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        if "_bar" in self.__dict__:
            self._bar.close()
        if self._stopped and sys.exc_info()[0] is None:
            raise InterruptedRunError


def run_in_threads(workers: int, jobs: Sequence[Callable[[], None]], progress: Progress) -> None:
    """Run the jobs, `workers` at a time, and close `progress`; the first error, or Ctrl-C, stops the others."""
    with contextlib.closing(progress):
        threads.run_in_threads(workers, jobs, progress.stop)
