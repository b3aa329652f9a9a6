"""Where processes that do one thing meet, and which of them this is: by flags, or as a scheduler tells."""

import os
import sys
from typing import NamedTuple

import jax
from absl import flags

from lae_jax.errors import InputError

# What Slurm sets for the processes of one `srun`, and Kubernetes for the pods of an Indexed job: a variable that says
# that there are such, and the number of this one. JAX finds the others by itself.
_SCHEDULERS = (("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"))


class Place(NamedTuple):
    """Where to meet, and who this is."""

    here: int  # the number of this process
    coordinator: str = ""  # HOST:PORT of the first; none: the scheduler has told JAX, and how many there are
    num_processes: int = 0
    wait_seconds: int = 45  # for the others to come


def define_flags() -> None:
    """The flags by which a process finds the others."""
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process, where there are several.")
    flags.DEFINE_integer("num_processes", 1, "How many processes there are.")
    flags.DEFINE_integer("process_id", 0, "Which of them this is, from 0.")
    flags.DEFINE_integer("wait_seconds", 45, "How long the first of them to start waits for the last.", lower_bound=1)


def place() -> Place | None:
    """The place that the flags name or, without flags, the scheduler; None for a process that is alone.

    Raises InputError at flags that name none.
    """
    coordinator, count, here = flags.FLAGS.coordinator, flags.FLAGS.num_processes, flags.FLAGS.process_id
    wait = flags.FLAGS.wait_seconds
    if coordinator is not None:
        if not 0 <= here < count:
            raise InputError(f"process_id: {here} is outside 0..{count - 1}")
        return Place(here, coordinator, count, wait)
    if count != 1:
        raise InputError(f"num_processes: {count} need a --coordinator=HOST:PORT to meet at")
    told = (
        os.environ[index] for sign, index in _SCHEDULERS if index in os.environ and os.environ.get(sign, "1") != "1"
    )
    return next((Place(int(index), wait_seconds=wait) for index in told), None)


def start(found: Place) -> None:
    """Have JAX find the other processes. Raises InputError where what the scheduler says does not suffice."""
    named = (found.coordinator, found.num_processes, found.here) if found.coordinator else ()
    try:
        # The end of the first process is noticed at once, and that of another one in the next exchange with it; before
        # the first exchange, and where a process hangs, some 10 seconds after the time given here.
        jax.distributed.initialize(  # type: ignore[misc] # three at most
            *named, heartbeat_timeout_seconds=30, initialization_timeout=found.wait_seconds
        )
    except ValueError as error:
        raise InputError(f"coordinator: {' '.join(str(error).split())}; give --coordinator=HOST:PORT") from None


def leave(status: int) -> int:
    """The status that this process ends with; here, where it fails and is one of several.

    A regular end of one would wait for the others, which wait for it.
    """
    if status and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
