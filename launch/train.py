"""Train one run.

python -m launch.train --workdir=DIR [--config=FILE.py] [--config.FIELD=VALUE ...]
"""

from pathlib import Path

from ml_collections import ConfigDict

from lae_jax import runs
from launch import common


def run(config: ConfigDict, workdir: Path) -> None:
    """Train what `config` says in `workdir`, or go on with it; a finished run is left alone."""
    fields = runs.from_fields(dict(config))
    common.set_precision(fields.precision, fields.matmul_precision)
    with common.reading() as on_progress:
        dataset = runs.load_dataset(fields, on_progress)
    progress = common.Progress(fields.num_steps)
    label = f"{fields.method}/{fields.optimizer}"
    try:
        on_chunk, on_note = progress.of(label, fields.num_steps), progress.note_of(label)
        trained = runs.execute(fields, workdir, dataset, on_chunk=on_chunk, on_note=on_note)
    finally:
        progress.close()
    history = runs.read_metrics(workdir)
    state = "trained" if trained else "finished already, nothing changed"
    print(
        f"{workdir}: {state}; step {history['step'][-1]:.0f}, loss {history['loss'][-1]:.6g},"
        f" axis alignment {history['axis_alignment'][-1]:.3g}"
    )


if __name__ == "__main__":
    common.main(run, "train.py")
