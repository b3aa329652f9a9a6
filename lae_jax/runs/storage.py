"""Files of a run: weights, metrics, and the settings that say whose folder it is.

Each is written under another name and then renamed, so that a kill leaves the old file or the new one, whole.

Whatever cannot be written (a full disk, a folder without permission) is an InputError of one line.
"""

import contextlib
import csv
import io
import json
import os
import platform
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import filelock
import numpy as np

from lae_jax.components import Components
from lae_jax.data import sources
from lae_jax.errors import InputError
from lae_jax.params import Weights
from lae_jax.training.loop import History


def cannot_write(path: Path, reason: str | None) -> InputError:
    """The error for a file that the system does not let be written, for this reason."""
    return InputError(f"workdir: cannot write {path} ({reason}); what was saved before is kept")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the system refuses inside is told as of this path. Raises InputError."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error.strerror) from None


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def write_atomically(path: Path, content: bytes) -> None:
    """All of it or nothing, whatever happens in between."""
    partial = _partial(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    except InputError:
        with contextlib.suppress(OSError):
            partial.unlink()  # on a full disk every block counts
        raise


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A table with the keys of its first row as header, written whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def remove(path: Path) -> None:
    """Remove a file, if it is there, with what a kill may have left of a later one."""
    for name in (path, _partial(path)):
        name.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold the folder, made where it is missing, for one process. Raises InputError where another holds it.

    The lock is the kernel's, on the file `.lock`: it is gone with the process that held it, however that ended, and
    the files that stay behind mean nothing. On NFS it holds between machines too, where the server keeps locks; a
    file system that keeps none is told by a warning, and two runs in a folder there are the user's to avoid.
    """
    path, holder = workdir / ".lock", workdir / ".holder"
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        path.touch()
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        told = holder.read_text() if holder.exists() else "another process"
        raise InputError(f"workdir: {workdir} is in use by {told}; wait for it or choose another folder") from None
    except (OSError, NotImplementedError) as error:
        warnings.warn(f"{workdir}: no locks on this file system ({error})", stacklevel=3)
    try:
        write_atomically(holder, f"process {os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        lock.release()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table as text by column; none where there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_weights(path: Path, params: Weights | Components) -> None:
    """Weights or components by name, as .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in params._asdict().items() if value is not None})
    write_atomically(path, buffer.getvalue())


def read_csv(path: Path) -> History:
    """A csv of numbers with one header row, as columns. Raises InputError where the file is not that.

    A last row that is still being written is left out.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        header, *rows = [line for line in lines if line.endswith("\n")]
        names = header.strip().split(",")
        table = np.loadtxt(rows, delimiter=",", ndmin=2).reshape(-1, len(names))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a table of numbers under one header ({reason})") from None
    return dict(zip(names, table.T, strict=True))


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Weights as written to params.npz and snapshots/, by name."""
    return sources.load_arrays(path, ("encoder", "decoder"))


def folder_of(workdir: str | Path) -> Path:
    """The folder that is meant: `~` is the home folder. Raises InputError for an address, gs://... or s3://..."""
    if "://" in str(workdir) or re.match("[a-z][a-z0-9]+:/", str(workdir)):  # a Path has made one slash of two
        raise InputError(f"workdir: {workdir}: an address; give a folder of this machine, and copy it there afterwards")
    try:
        return Path(workdir).expanduser()
    except RuntimeError:
        raise InputError(f"workdir: {workdir}: there is no user of this name, whose home folder ~ would be") from None


# Fields that decide no number: they may differ between a run, a sweep or a comparison and its continuation.
FREE_FIELDS = {
    "versions", "device", "data_dir", "download", "checkpoint_seconds", "keep_checkpoints", "max_seconds",
    "profile_dir", "tensorboard", "parallel_jobs", "devices", "max_memory", "try_beyond_failure", "column_parts",
}  # fmt: skip
# Fields that were measured, and how far they may be apart: rounding differs between machines. Folders of earlier
# versions lack some.
MEASURED = {"data": 1e-9, "init_weights": 1e-9, "method_probe": 1e-4}


def agree(field: str, stored: object, here: object) -> bool:
    """Whether a field of config.json is what it was."""
    if field not in MEASURED:
        return bool(stored == here) or (stored is None and here == [])  # folders of earlier versions lack some
    if stored is None:
        return True
    if isinstance(here, dict):
        return isinstance(stored, dict) and all(agree(field, stored.get(name), value) for name, value in here.items())
    try:
        then, now = np.asarray(stored, np.float64), np.asarray(here, np.float64)
    except (TypeError, ValueError):
        return False
    return then.shape == now.shape and bool(np.allclose(then, now, rtol=MEASURED[field], atol=0))


_REMEDIES = {
    "num_steps": "a run ends where it was planned to; to go on from its weights, choose another folder with"
    " --config.init=THIS_FOLDER/params.npz",
    "init_weights": "the file of init holds other weights now; choose another folder",
    "method_probe": "its loss or rule gives other numbers now; choose another folder",
}


def claim(workdir: Path, description: Mapping[str, object]) -> None:
    """Make the folder this run's, or check that it is. Raises InputError where it is another's."""
    path = workdir / "config.json"
    description = json.loads(json.dumps(description))  # as it will be read: tuples are lists
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if stray := next((name for name in ("metrics.csv", "params.npz") if (workdir / name).exists()), None):
                raise InputError(f"workdir: {workdir} holds {stray} but no config.json; choose another folder")
            return write_atomically(path, (json.dumps(description, indent=2) + "\n").encode())
        content = path.read_bytes()
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); choose another workdir") from None
    if not isinstance(stored, dict):
        raise InputError(f"{path}: holds no fields; choose another workdir")
    for name in [name for name in description if name not in FREE_FIELDS]:
        if not agree(name, stored.get(name), description[name]):
            raise InputError(
                f"workdir: {workdir} holds a run with {name} = {stored.get(name)}, not {description[name]};"
                f" {_REMEDIES.get(name, 'choose another folder')}"
            )


class MetricsFile:
    """metrics.csv, appended to row by row; rows after the state that a run goes on from are dropped.

    `last` is the last row kept, as text; None at the start of a run.
    """

    def __init__(self, path: Path, last_step: int | None) -> None:
        self._path, kept = path, b""
        self.last: dict[str, str] | None = None
        if last_step is not None:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            whole = [line for line in lines[1:] if line.endswith(b"\n") and int(line.split(b",")[0]) <= last_step]
            if not whole or int(whole[-1].split(b",")[0]) != last_step:
                raise InputError(f"{path}: has no row of step {last_step}, the last checkpoint; choose another workdir")
            kept = b"".join([lines[0], *whole])
            self.last = dict(zip(*(line.decode().strip().split(",") for line in (lines[0], whole[-1])), strict=True))
        write_atomically(path, kept)
        self._file = open(path, "ab")  # noqa: SIM115 (closed by close)

    def append(self, history: History) -> None:
        """Add rows, after the header where there is none yet."""
        with writing(self._path):
            if self._file.tell() == 0:
                self._file.write((",".join(history) + "\n").encode())
            for row in zip(*history.values(), strict=True):
                # repr of a float32 or float64 is the shortest text that reads back as the same number.
                self._file.write((",".join(str(value) for value in row) + "\n").encode())

    def sync(self) -> None:
        """Have every row on disk, as a checkpoint that follows them needs."""
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with writing(self._path):
            self._file.close()


class Unwritten:
    """The `MetricsFile` of a process that does not write."""

    last: dict[str, str] | None = None

    def append(self, history: History) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
