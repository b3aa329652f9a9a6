"""Train one run, and write down the principal components it has found.

python -m launch.train --workdir=DIR [--config=FILE.py] [--config.FIELD=VALUE ...]

With several processes, start each with --coordinator=HOST:PORT --num_processes=N --process_id=I, or by Slurm's srun.
"""

import contextlib
from pathlib import Path

from ml_collections import ConfigDict

from lae_jax import components
from lae_jax.data import hosts
from lae_jax.data.datasets import Dataset
from lae_jax.figures import components as component_figures
from lae_jax.figures import paper
from lae_jax.runs import directory, storage
from lae_jax.training.loop import History, TrainState
from launch import common, memory, processes
from launch.tensorboard import Board


def run(config: ConfigDict, workdir: Path) -> None:
    """Train what `config` says in `workdir`, or go on with it; a finished run is left alone."""
    fields = directory.from_fields(dict(config))
    common.set_precision(fields.precision, fields.matmul_precision)
    hosts.meet()
    board = Board(workdir / "tensorboard") if fields.tensorboard and hosts.is_first() else None
    with common.reading() as on_progress:
        dataset = directory.load_dataset(fields, on_progress)
    memory.tell_runs([directory.resolve(fields, dataset)[0]], dataset, fields.max_memory)
    label = f"{fields.method}/{fields.optimizer}"
    with contextlib.closing(common.Progress(fields.num_steps)) as progress:
        show = progress.of(label, fields.num_steps)

        def on_chunk(state: TrainState, history: History) -> None:
            if board is not None:
                board.scalars(history)
            show(state, history)

        trained = directory.execute(fields, workdir, dataset, on_chunk, progress.note_of(label))
    if not hosts.is_first():
        return
    history = directory.read_metrics(workdir)
    state = "trained" if trained else "finished already, nothing changed"
    print(
        f"{workdir}: {state}; step {history['step'][-1]:.0f}, loss {history['loss'][-1]:.6g},"
        f" axis alignment {history['axis_alignment'][-1]:.3g}"
    )
    _draw(fields, workdir, dataset, history)
    if board is not None and trained:
        _show_decoders(board, fields, workdir, dataset, int(history["step"][-1]))


def _draw(fields: directory.RunConfig, workdir: Path, dataset: Dataset, history: History) -> None:
    """components.png, unless it is there."""
    picture, found = workdir / "components.png", components.load(workdir / "components.npz")
    if collapsed := fields.latent_dim - len(found.components):
        print(f"{workdir}: {collapsed} of {fields.latent_dim} latents have collapsed, and have no component")
    if not picture.exists() and len(found.components):
        title = f"{fields.method} on {dataset.name}, k = {fields.latent_dim}, {history['step'][-1]:,.0f} steps"
        figure = component_figures.component_report(found, dataset.variances, dataset.image_shape, history, title)
        paper.save(figure, picture)


def _show_decoders(board: Board, fields: directory.RunConfig, workdir: Path, dataset: Dataset, last: int) -> None:
    """The decoder at every snapshot and at the end, where the data are images."""
    kept = {step: directory.snapshot_path(workdir, step) for step in fields.snapshot_steps}
    for step, path in sorted({**kept, last: workdir / "params.npz"}.items()):
        if dataset.image_shape and path.exists():
            board.images("decoder", storage.read_weights(path)["decoder"], dataset.image_shape, step)
    board.close()


if __name__ == "__main__":
    processes.define_flags()
    common.main(processes.together(run), "train.py")
