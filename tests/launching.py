"""Launchers as processes of their own, without the seconds that it takes to import the libraries.

Each is forked from a process that has imported them but not started JAX, and then does what `python -m launch.NAME`
does: same flags, same output, same exit status.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple
from unittest import mock

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "launch").glob("*.py") if path.stem != "__init__")
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["sklearn.datasets", *(f"launch.{name}" for name in NAMES)])


class Done(NamedTuple):
    """How a launcher ended."""

    returncode: int
    stdout: str
    stderr: str


def start(
    name: str, arguments: list[str], output: Path, errors: Path, folder: Path = ROOT, flags_only: bool = False
) -> multiprocessing.Process:
    """`python -m launch.NAME ARGUMENTS` in `folder`, under way; `flags_only` ends it where its flags are read."""
    # Of the process to fork from, which is started once.
    with mock.patch.dict(os.environ, {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}):
        forkserver.ensure_running()
    process = PROCESSES.Process(target=_run, args=(name, arguments, output, errors, folder, flags_only))
    process.start()
    return process


def launch(name: str, *arguments: object, folder: Path = ROOT, flags_only: bool = False) -> Done:
    """`start`, to the end."""
    with tempfile.TemporaryDirectory() as told:
        output, errors = Path(told) / "stdout", Path(told) / "stderr"
        process = start(name, [str(argument) for argument in arguments], output, errors, folder, flags_only)
        process.join()
        return Done(process.exitcode, output.read_text(), errors.read_text())


def _run(name: str, arguments: list[str], output: Path, errors: Path, folder: Path, flags_only: bool) -> None:
    for stream, path in ((sys.stdout, output), (sys.stderr, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), stream.fileno())
    os.chdir(folder)
    sys.argv = [name, *arguments]
    sys.modules.pop(f"launch.{name}", None)  # runpy warns of a module that is there before it is run
    if flags_only:
        from launch import common

        main = common.main
        common.main = lambda run, config_file: main(lambda config, workdir: None, config_file)
    runpy.run_module(f"launch.{name}", run_name="__main__", alter_sys=True)
