"""What every launcher shares: flags, one-line errors, device settings, progress."""

import contextlib
import csv
import difflib
import functools
import io
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, ClassVar

import jax
import tqdm
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from lae_jax.errors import InputError
from lae_jax.runs.directory import InterruptedRunError
from lae_jax.runs.storage import write_atomically
from lae_jax.training.loop import DivergenceError, History, TrainState

CONFIGS = Path(__file__).parent / "configs"


def main(run: Callable[[ConfigDict, Path], None], config_file: str) -> None:
    """Run a launcher: `--workdir`, `--config` and its fields; bad input is one line and status 1.

    SIGTERM and Ctrl-C have the runs under way save a checkpoint and end with status 143 or 130; a second one
    does not wait for that. A time budget that is over is status 75, "try again".
    Flags are defined here, not at import, so that launchers can be imported together.
    """

    def start(argv: list[str]) -> int:
        # The checkpoint library tells every file it touches, and tracebacks of what is told in one line below.
        logging.set_verbosity(logging.FATAL)
        signals = _Signals()
        if len(argv) > 1:
            return _fail(f"{argv[1]!r} is not a flag; flags start with --")
        try:
            if flags.FLAGS.compilation_cache:
                _cache_programs(Path(flags.FLAGS.compilation_cache))
            run(flags.FLAGS.config, Path(flags.FLAGS.workdir))
        except (InputError, DivergenceError) as error:
            return _fail(str(error))
        except InterruptedRunError as reason:
            print(f"stopped: {reason}" if str(reason) else "stopped", file=sys.stderr)
            return signals.status or os.EX_TEMPFAIL
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return signals.status or 130
        return 0

    # A field given before --config=FILE would be refused; the order is no business of the user's.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: not argument.startswith("--config="))
    app.run(start, flags_parser=functools.partial(_parse, CONFIGS / config_file))


class _Signals:
    """Has SIGTERM and Ctrl-C stop the runs that show their progress, or end the launcher where there are none."""

    def __init__(self) -> None:
        self.status = 0  # what the launcher ends with, once there was a signal
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heard)

    def _heard(self, number: int, frame: Any) -> None:
        again, self.status = self.status, 128 + number
        if again or not Progress.shown:
            raise KeyboardInterrupt
        Progress.ended = True
        for progress in Progress.shown:
            progress.stop()


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    return 1


def _parse(default: Path, argv: list[str]) -> list[str]:
    try:
        flags.DEFINE_string("workdir", None, "Folder that the results go to.", required=True)
        flags.DEFINE_string("compilation_cache", None, "Folder to keep compiled programs in for later starts.")
        config_flags.DEFINE_config_file("config", str(default), "Configuration, and its fields.")
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError,
            RecursionError, MemoryError) as error:  # fmt: skip
        sys.exit(_fail(_explain(default, argv, error)))


def _explain(default: Path, argv: list[str], error: Exception) -> str:
    """One line for a flag that could not be parsed; names the nearest field where one is unknown."""
    text = " ".join(str(error).split())
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if not isinstance(config, ConfigDict):
        if any(argument.startswith("--config=") for argument in argv):
            return text
        config = runpy.run_path(str(default))["get_config"]()
    for argument in argv[1:]:
        name, _, value = argument.partition("=")
        field = name.removeprefix("--config.")
        if field == name:
            continue
        if field.split(".")[0] not in config:
            nearest = difflib.get_close_matches(field, list(config), n=1, cutoff=0.0)
            return f"--config.{field}: no such field; did you mean {nearest[0]!r}? fields: {', '.join(config)}"
        if field in config and repr(value)[1:-1] in text:
            return f"--config.{field}: {value!r} is not of the type of this field ({config.get_type(field).__name__})"
    return text


def _cache_programs(folder: Path) -> None:
    """Keep every compiled program there, however small."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"compilation_cache: cannot write {folder} ({error.strerror}); give another folder") from None
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def set_precision(precision: str, matmul_precision: str) -> None:
    """The global switches of JAX, which are a launcher's to set."""
    jax.config.update("jax_enable_x64", precision == "float64")
    jax.config.update("jax_default_matmul_precision", matmul_precision)


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A table with the keys of its first row as header, written whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


@contextlib.contextmanager
def reading() -> Iterator[Callable[[int, int], None]]:
    """A bar over the samples of a file; what to call with (samples read, all samples). Short reads show none."""
    with tqdm.tqdm(desc="reading", unit="sample", unit_scale=True, delay=0.5, leave=False, file=sys.stderr) as bar:

        def block_read(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield block_read


class Progress:
    """One bar over all the steps of a launcher: which run, its loss and alignment, and the time left."""

    shown: ClassVar[set["Progress"]] = set()  # those not closed yet
    ended: ClassVar[bool] = False  # whether the user has ended the launcher: none may start any more

    def __init__(self, num_steps: int) -> None:
        self._bar = tqdm.tqdm(total=num_steps, unit="step", unit_scale=True, mininterval=0.5, file=sys.stderr)
        self._lock = threading.Lock()
        self._stopped = self.ended
        self.shown.add(self)

    def of(self, label: str, num_steps: int) -> Callable[[TrainState, History], None]:
        """What to call with each chunk of the run of this name."""
        done = 0

        def chunk_done(state: TrainState, history: History) -> None:
            nonlocal done
            if self._stopped:
                raise InterruptedRunError
            step = int(state.step)
            with self._lock:
                self._bar.set_description_str(f"{label} {step:,}/{num_steps:,}", refresh=False)
                self._bar.set_postfix_str(
                    f"loss {history['loss'][-1]:.5g}, alignment {history['axis_alignment'][-1]:.2g}", refresh=False
                )
                self._bar.update(step - done)
            done = step

        return chunk_done

    def advance(self, label: str, steps: int) -> None:
        """Count steps, taken or no longer needed, of what has this name."""
        if self._stopped:
            raise InterruptedRunError
        with self._lock:
            self._bar.set_description_str(label, refresh=False)
            self._bar.update(steps)

    def note_of(self, label: str) -> Callable[[str], None]:
        """What to call with a line about the run of this name, so that it does not break the bar."""
        return lambda text: tqdm.tqdm.write(f"{label}: {text}", file=sys.stderr)

    def stop(self) -> None:
        """Have every run end at its next chunk."""
        self._stopped = True

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.shown.discard(self)
        self._bar.close()


def run_in_threads(workers: int, jobs: Sequence[Callable[[], None]], progress: Progress) -> None:
    """Run the jobs, `workers` at a time; the first error, or Ctrl-C, stops the others."""
    with futures.ThreadPoolExecutor(max(workers, 1)) as pool:
        pending = [pool.submit(job) for job in jobs]
        try:
            for job in futures.as_completed(pending):
                job.result()
        except BaseException:
            progress.stop()
            for job in pending:
                job.cancel()
            raise
        finally:
            progress.close()
