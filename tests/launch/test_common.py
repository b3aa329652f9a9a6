"""What launchers share: how a signal ends the runs that are under way."""

import contextlib
import functools
import os
import signal
from types import SimpleNamespace

import pytest

from lae_jax.errors import InputError
from lae_jax.runs.directory import InterruptedRunError
from launch import common, progress

CHUNK = (SimpleNamespace(step=1), {"loss": [1.0], "axis_alignment": [1.0]})


@pytest.fixture
def signalled():
    """What a launcher would end with."""
    told = []

    def heard(number, frame):
        told.append(128 + number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, heard) for number in progress.SIGNALS}
    yield told
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_stops_the_runs_under_way_and_a_second_one_does_not_wait(signalled):
    bar = common.Progress(100)
    on_chunk = bar.of("one", 100)
    signal.raise_signal(signal.SIGINT)
    assert signalled == [130]
    with pytest.raises(InterruptedRunError):
        on_chunk(*CHUNK)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signalled == [130, 143]
    with pytest.raises(InterruptedRunError):
        bar.close()


def test_handlers_are_given_back(signalled):
    before = signal.getsignal(signal.SIGTERM)
    with contextlib.closing(common.Progress(100)), contextlib.closing(common.Progress(10)):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_after_the_last_chunk_is_not_lost(signalled):
    with pytest.raises(InterruptedRunError), contextlib.closing(common.Progress(1)) as bar:
        bar.of("one", 1)(*CHUNK)
        signal.raise_signal(signal.SIGTERM)


def test_an_error_stands_alone(capsys):
    with pytest.raises(InputError), contextlib.closing(common.Progress(100)):
        raise InputError("method: ...")
    assert capsys.readouterr().err == ""


def test_a_signal_stops_runs_in_threads(signalled):
    bar = common.Progress(100)
    stopped, on_chunk = [], bar.of("one", 100)

    def job(number):
        if number == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        while True:
            try:
                on_chunk(*CHUNK)
            except InterruptedRunError:
                stopped.append("saved")
                raise

    with pytest.raises(InterruptedRunError):
        common.run_in_threads(2, [functools.partial(job, number) for number in range(2)], bar)
    assert stopped == ["saved"] * 2 and signalled == [143]


def test_workdirs(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(common.folder_of("~/run")) == "/home/someone/run"
    assert str(common.folder_of("run~/[1]")) == "run~/[1]"
    with pytest.raises(InputError, match=r"^workdir: gs://bucket/run: an address"):
        common.folder_of("gs://bucket/run")
