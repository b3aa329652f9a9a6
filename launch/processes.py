"""Several processes that do one thing: how they meet, and what each says where another one dies.

JAX aborts a process whose peers are gone, with pages of its own and no way to say it better from
within. So its log goes to a file, and a bystander waits to tell the user in one line.
"""

import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lae_jax.errors import InputError
from lae_jax.runs import storage
from lae_jax.runs.directory import InterruptedRunError
from lae_jax.training.loop import DivergenceError
from launch.place import define_flags as define_flags
from launch.place import leave, place, start

# Prints a line unless it is told that the process beside it has ended as it should: another one before all have met.
_BYSTANDER = """
import sys
lines = {"": sys.argv[1], "met": sys.argv[2]}
if (said := sys.stdin.read()) in lines:
    print("\\n" + lines[said], file=sys.stderr)
"""


@contextlib.contextmanager
def meeting(workdir: Path) -> Iterator[None]:
    """The body runs once all processes of `launch.place` are there; where this one is alone, at once.

    An error in one process ends all, each with one line; what JAX has to say goes to process_I.log in `workdir`.
    Raises what `launch.common` tells of, and leaves with status 1 at anything else.
    """
    found = place()
    if found is None:
        yield
        return
    here = found.here
    log = workdir / f"process_{here}.log"
    _log_to(log)
    alone, lost = (
        f"error: process {here} cannot go on: it was killed, or another one has not come within {found.wait_seconds}"
        f" seconds; start all of them again, with a longer --wait_seconds where they start in turn (details in {log})",
        f"error: process {here} cannot go on: it was killed, or another one is gone or cannot be reached;"
        f" start all of them again to go on (details in {log})",
    )
    command = [sys.executable, "-Sc", _BYSTANDER, alone, lost]
    bystander = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=sys.stderr, start_new_session=True)
    assert bystander.stdin is not None
    told = b", and all is told"
    try:
        start(found)
        bystander.stdin.write(b"met")
        bystander.stdin.flush()
        yield
        jax.distributed.shutdown()
    except (InputError, DivergenceError, InterruptedRunError, KeyboardInterrupt):
        bystander.communicate(told)
        raise
    except Exception:
        with open(log, "a") as file:
            traceback.print_exc(file=file)
        bystander.communicate()
        sys.exit(leave(1))
    bystander.communicate(told)


def together(run: Callable[[ConfigDict, Path], None], lock: bool = False) -> Callable[[ConfigDict, Path], None]:
    """`run`, as one of several processes where there are; with `lock` the first holds the folder meanwhile."""

    def run_here(config: ConfigDict, workdir: Path) -> None:
        # Which it is, not by JAX: to ask it would start its devices, and `devices` may still change their number.
        found = place()
        holds = lock and (found is None or found.here == 0)
        with meeting(workdir), storage.locked(workdir) if holds else contextlib.nullcontext():
            run(config, workdir)

    return run_here


def _log_to(path: Path) -> None:
    """Have what libraries write to the file descriptor of stderr go to a file; Python's own stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115 (stays open as descriptor 2)
    except OSError as error:
        raise InputError(f"workdir: cannot write {path.parent} ({error.strerror}); choose another folder") from None
    sys.stderr.flush()
    sys.stderr = open(os.dup(2), "w", buffering=1)  # noqa: SIM115
    os.dup2(file.fileno(), 2)
    file.close()
