"""A launcher in a process of its own that says, at its end, how much memory it has held at most. For Linux."""

import os
import subprocess
import sys

# What the system says of a child's peak counts what its parent held when it began; this is of the process alone.
SCRIPT = """
import atexit, pathlib, re, runpy, sys
read = lambda: re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]
atexit.register(lambda: print("\\npeak", read(), "kB", file=sys.__stdout__, flush=True))
sys.argv = sys.argv[1:]
runpy.run_module("launch." + sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run(name: str, *arguments: str) -> float:
    """Run a launcher with these flags; it finds memory beside this process on a GPU. The MiB at its peak."""
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_ENABLE_COMPILATION_CACHE": "true"}
    command = [sys.executable, "-c", SCRIPT, name, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return int(done.stdout.split()[-2]) / 1024
