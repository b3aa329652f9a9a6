"""What the next step of a run needs, kept on disk by orbax."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from lae_jax.errors import InputError
from lae_jax.runs.storage import cannot_write, writing
from lae_jax.training.loop import TrainState


@contextlib.contextmanager
def _without_patterns(folder: Path) -> Iterator[Path]:
    """The folder, or a link to it where its path has brackets, stars or the like.

    The checkpoint library looks for its files by patterns that begin with the path of the folder.
    """
    if not re.search(r"[][*?\\\n]", str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="lae_jax_") as plain:
        link = Path(plain) / "checkpoints"
        link.symlink_to(folder, target_is_directory=True)
        yield link


class Checkpoints:
    """The last `keep` states of a run, by orbax."""

    def __init__(self, workdir: Path, keep: int = 2) -> None:
        self._path = (workdir / "checkpoints").absolute()
        self._plain = contextlib.ExitStack()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        with writing(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            path = self._plain.enter_context(_without_patterns(self._path))
            self._manager = ocp.CheckpointManager(path, options=options)

    def save(self, state: TrainState) -> None:
        """Keep this state, unless its step is kept already."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        leaves = {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(state))}
        try:
            with writing(self._path):
                self._manager.save(step, args=ocp.args.StandardSave(leaves))
        except ValueError as error:  # how orbax tells what the system said
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if isinstance(error, InputError) or code is None:
                raise
            raise cannot_write(self._path, os.strerror(int(code[1]))) from None

    def restore(self, state: TrainState) -> TrainState:
        """The last state saved that can be read, shaped as `state`; `state` itself where none was saved."""
        leaves, structure = jax.tree.flatten(state)
        target = {
            str(index): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for index, leaf in enumerate(leaves)
        }
        problem = None
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                stored = self._manager.restore(step, args=ocp.args.StandardRestore(target))
            except (OSError, ValueError, KeyError) as error:
                problem = problem or error
                continue
            return jax.tree.unflatten(structure, [stored[str(index)] for index in range(len(leaves))])
        if problem is None:
            return state
        reason = " ".join(str(problem).split())[:200]
        raise InputError(f"{self._path}: no checkpoint can be read ({reason}); delete the folder to start again")

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()
        self._plain.close()
