"""Files of a run that are whole or not there: weights, metrics, checkpoints, and whose folder it is."""

import io
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lae_jax import sources
from lae_jax.errors import InputError
from lae_jax.training import History, TrainState


def write_atomically(path: Path, content: bytes) -> None:
    """All of it or nothing, whatever happens in between."""
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_weights(path: Path, params: Any) -> None:
    """Weights by name, as .npz."""
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **params._asdict())
    write_atomically(path, buffer.getvalue())


def read_csv(path: Path) -> History:
    """A csv of numbers with one header row, as columns. Raises InputError where the file is not that."""
    try:
        with open(path, encoding="utf-8") as file:
            names = file.readline().strip().split(",")
            table = np.loadtxt(file, delimiter=",", ndmin=2).reshape(-1, len(names))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a table of numbers under one header ({reason})") from None
    return dict(zip(names, table.T, strict=True))


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Weights as written to params.npz and snapshots/, by name."""
    return sources.load_arrays(path, ("encoder", "decoder"))


# Fields that may differ between a run and its continuation: they do not decide a number.
_FREE_FIELDS = {"versions", "device", "checkpoint_seconds", "data_dir", "download"}


def claim(workdir: Path, description: dict[str, Any]) -> None:
    """Make the folder this run's, or check that it is. Raises InputError where it is another's."""
    path = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if stray := next((name for name in ("metrics.csv", "params.npz") if (workdir / name).exists()), None):
                raise InputError(f"workdir: {workdir} holds {stray} but no config.json; choose another folder")
            write_atomically(path, (json.dumps(description, indent=2) + "\n").encode())
            return
        stored = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"workdir: cannot write {workdir} ({error.strerror}); choose another folder") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); choose another workdir") from None
    if not isinstance(stored, dict):
        raise InputError(f"{path}: holds no fields; choose another workdir")
    for name in description.keys() - _FREE_FIELDS:
        if stored.get(name) != description[name]:
            raise InputError(
                f"workdir: {workdir} holds a run with {name} = {stored.get(name)}, not {description[name]};"
                " choose another folder"
            )


class Checkpoints:
    """The last two states of a run, by orbax."""

    def __init__(self, workdir: Path) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options)

    def save(self, state: TrainState) -> None:
        """Keep this state, unless its step is kept already."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            leaves = dict(enumerate(jax.tree.leaves(state)))
            self._manager.save(step, args=ocp.args.StandardSave({str(index): leaf for index, leaf in leaves.items()}))

    def restore(self, state: TrainState) -> TrainState:
        """The last state saved, shaped as `state`; `state` itself where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return state
        leaves, structure = jax.tree.flatten(state)
        target = {
            str(index): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for index, leaf in enumerate(leaves)
        }
        stored = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        return jax.tree.unflatten(structure, [stored[str(index)] for index in range(len(leaves))])

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()


class MetricsFile:
    """metrics.csv, appended to row by row; rows after the state that a run goes on from are dropped."""

    def __init__(self, path: Path, last_step: int | None) -> None:
        kept = b""
        if last_step is not None and path.exists():
            header, *lines = path.read_bytes().splitlines(keepends=True)
            kept = header + b"".join(line for line in lines if _ends(line) and int(line.split(b",")[0]) <= last_step)
        write_atomically(path, kept)
        self._file = open(path, "ab")  # noqa: SIM115 (closed by close)

    def append(self, history: History) -> None:
        """Add rows, after the header where there is none yet."""
        if self._file.tell() == 0:
            self._file.write((",".join(history) + "\n").encode())
        for row in zip(*history.values(), strict=True):
            # repr of a float32 or float64 is the shortest text that reads back as the same number.
            self._file.write((",".join(str(value) for value in row) + "\n").encode())

    def sync(self) -> None:
        """Have every row on disk, as a checkpoint that follows them needs."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends(line: bytes) -> bool:
    return line.endswith(b"\n")
