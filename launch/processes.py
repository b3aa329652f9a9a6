"""Several processes that train one sweep: how they meet, and what each says where another one dies.

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
from absl import flags
from ml_collections import ConfigDict

from lae_jax.errors import InputError
from lae_jax.runs import storage

# Prints its argument unless it is told that the process beside it has ended as it should.
_BYSTANDER = 'import sys; sys.stdin.read() or print("\\n" + sys.argv[1], file=sys.stderr)'


def define_flags() -> None:
    """The flags by which a process finds the others."""
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process, where there are several.")
    flags.DEFINE_integer("num_processes", 1, "How many processes train this sweep.")
    flags.DEFINE_integer("process_id", 0, "Which of them this is, from 0.")


@contextlib.contextmanager
def meeting(workdir: Path) -> Iterator[None]:
    """The body runs once all processes that the flags name are there; without `--coordinator`, at once.

    An error in one process ends all, each with one line and status 1; what JAX has to say goes to
    process_I.log in `workdir`. Raises InputError.
    """
    coordinator, count, here = flags.FLAGS.coordinator, flags.FLAGS.num_processes, flags.FLAGS.process_id
    if coordinator is None:
        if count != 1:
            raise InputError(f"num_processes: {count} need a --coordinator=HOST:PORT to meet at")
        yield
        return
    if not 0 <= here < count:
        raise InputError(f"process_id: {here} is outside 0..{count - 1}")
    log = workdir / f"process_{here}.log"
    _log_to(log)
    lost = (
        f"error: process {here} of this sweep cannot go on: it was killed, or another one is gone or cannot be reached;"
        f" start all of them again to go on (details in {log})"
    )
    command = [sys.executable, "-Sc", _BYSTANDER, lost]
    bystander = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=sys.stderr, start_new_session=True)
    status, said = 1, b"all is said"
    try:
        # A process that ends is noticed at once; one that hangs, within this many seconds.
        jax.distributed.initialize(coordinator, count, here, heartbeat_timeout_seconds=60)
        yield
        jax.distributed.shutdown()
        status = 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    except Exception:
        with open(log, "a") as file:
            traceback.print_exc(file=file)
        said = b""
    bystander.communicate(said)
    if status:
        os._exit(status)  # a regular exit would wait for the others


def together(run: Callable[[ConfigDict, Path], None]) -> Callable[[ConfigDict, Path], None]:
    """`run`, as one of several processes where the flags say so; the first holds the folder."""

    def run_here(config: ConfigDict, workdir: Path) -> None:
        # Which it is, by its flag: to ask JAX would start its devices, and `devices` may still change their number.
        first = flags.FLAGS.process_id == 0
        with meeting(workdir), storage.locked(workdir) if first else contextlib.nullcontext():
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
