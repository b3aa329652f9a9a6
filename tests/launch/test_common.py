"""What launchers share: how a signal ends the runs that are under way."""

import functools
import os
import signal

import pytest

from lae_jax.runs.directory import InterruptedRunError
from launch import common


@pytest.fixture
def signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield common._Signals()
    common.Progress.ended = False
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_ends_a_launcher_at_once_where_no_run_is_under_way(signals):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signals.status == 143


def test_a_signal_stops_the_runs_under_way_and_a_second_one_does_not_wait(signals):
    progress = common.Progress(100)
    on_chunk = progress.of("one", 100)
    signal.raise_signal(signal.SIGINT)
    assert signals.status == 130
    with pytest.raises(InterruptedRunError):
        on_chunk(None, {})
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    progress.close()
    assert progress not in common.Progress.shown
    with pytest.raises(InterruptedRunError):
        common.Progress(100).of("the next", 100)(None, {})


def test_a_signal_stops_runs_in_threads(signals):
    progress = common.Progress(100)
    stopped, on_chunk = [], progress.of("one", 100)

    def job(number):
        if number == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        while True:
            try:
                on_chunk(State, {"loss": [1.0], "axis_alignment": [1.0]})
            except InterruptedRunError:
                stopped.append("saved")
                raise

    with pytest.raises(InterruptedRunError):
        common.run_in_threads(2, [functools.partial(job, number) for number in range(2)], progress)
    assert stopped == ["saved"] * 2 and signals.status == 143


class State:
    step = 1
