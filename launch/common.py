"""What every launcher shares: how it starts and how it ends."""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import tqdm
from absl import app, flags, logging
from ml_collections import ConfigDict

from lae_jax.errors import InputError
from lae_jax.runs.directory import InterruptedRunError
from lae_jax.runs.storage import folder_of
from lae_jax.runs.storage import write_csv as write_csv
from lae_jax.training.loop import DivergenceError
from launch import command_line
from launch.place import leave
from launch.progress import SIGNALS
from launch.progress import Progress as Progress
from launch.progress import run_in_threads as run_in_threads
from launch.switches import cache_programs
from launch.switches import set_precision as set_precision

CONFIGS = Path(__file__).parent / "configs"


def main(run: Callable[[ConfigDict, Path], None], config_file: str) -> None:
    """Run a launcher: `--workdir`, `--config` and its fields; bad input is one line and status 1.

    SIGTERM and Ctrl-C have the runs under way save a checkpoint and end with status 143 or 130; a second one
    does not wait for that. A time budget that is over is status 75, "try again".
    Flags are defined here, not at import, so that launchers can be imported together.
    """
    signalled: list[int] = []

    def heard(number: int, frame: FrameType | None) -> None:
        signalled.append(128 + number)
        raise KeyboardInterrupt

    def start(argv: list[str]) -> int:
        # The checkpoint library logs every file it touches, and a traceback for each error that ends in one line below.
        logging.set_verbosity(logging.FATAL)
        for number in SIGNALS:
            signal.signal(number, heard)
        if len(argv) > 1:
            return _fail(f"{argv[1]!r} is not a flag; flags start with --")
        try:
            if flags.FLAGS.compilation_cache:
                cache_programs(Path(flags.FLAGS.compilation_cache))
            run(flags.FLAGS.config, folder_of(flags.FLAGS.workdir))
        except (InputError, DivergenceError) as error:
            return _fail(str(error))
        except (InterruptedRunError, KeyboardInterrupt) as reason:
            print(f"stopped: {reason}" if str(reason) else "stopped", file=sys.stderr)
            return signalled[-1] if signalled else os.EX_TEMPFAIL
        return 0

    app.run(lambda argv: leave(start(argv)), flags_parser=functools.partial(_parse, CONFIGS / config_file))


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    return 1


def _parse(default: Path, argv: list[str]) -> list[str]:
    try:
        return command_line.parse(default, argv)
    except InputError as error:
        sys.exit(_fail(str(error)))


@contextlib.contextmanager
def reading() -> Iterator[Callable[[int, int], None]]:
    """A bar over the samples of a file; what to call with (samples read, all samples). Short reads show none."""
    with tqdm.tqdm(desc="reading", unit="sample", unit_scale=True, delay=0.5, leave=False, file=sys.stderr) as bar:

        def block_read(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield block_read
