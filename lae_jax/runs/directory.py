"""The run directory: configuration, metrics, weights, checkpoints; starting, going on, finishing.

config.json    every field as resolved, the data's fingerprint, versions, device
metrics.csv    one row per record, nothing that depends on the clock
components.npz the principal components that the weights amount to (`lae_jax.components`)
params.npz     final weights in input coordinates; its presence means that the run is finished
snapshots/     weights at the steps asked for, as params.npz
checkpoints/   what the next step needs (orbax)
timings.json   seconds, for the curious
"""

import contextlib
import dataclasses
import json
import numbers
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import threadpoolctl

from lae_jax.components import components_of
from lae_jax.data import hosts
from lae_jax.data.datasets import Dataset, load
from lae_jax.data.fingerprints import fingerprint_of, fingerprint_of_arrays
from lae_jax.data.moments import Progress, no_progress
from lae_jax.errors import InputError, unknown_name
from lae_jax.runs import storage
from lae_jax.runs.checkpoints import Checkpoints
from lae_jax.runs.chunks import chunks_of, profiled
from lae_jax.training import loop, settings
from lae_jax.training.claims import probe
from lae_jax.training.loop import History, TrainState

_VERSIONED = ("jax", "jaxlib", "optax", "numpy", "scipy")


@dataclasses.dataclass(frozen=True)
class RunConfig(settings.Settings):
    """The fields of `python -m launch.train`: the settings of the run, its data and its records."""

    method: str = "rag"  # a name in METHODS
    optimizer: str = "nesterov"  # a name in OPTIMIZERS: sgd, nesterov or adam
    dataset: str = "mnist"  # a name in DATASETS, or a path to .npy, .npz, .parquet, .feather, .csv or a folder of them
    columns: tuple[str, ...] = ()  # the names of those of a table that are samples; (): all
    data_dir: str = ""  # folder with the files of an image set
    download: bool = False  # fetch an image set that is in no folder
    center: bool | None = None  # whether the mean is subtracted; None: as the data set has it
    scale: float | None = None  # multiplies the samples; None: 1/255 for images, 1 for files
    input_dim: int = 1000  # of the synthetic data
    num_samples: int = 5000  # of the synthetic data
    data_seed: int = 0  # of the synthetic data
    num_steps: int = 30_000  # steps of each run
    record_every: int = 10  # steps between two rows of metrics
    target: float = -1.0  # stop once axis alignment is at or below this
    snapshot_steps: tuple[int, ...] = ()  # steps at which to keep the weights
    checkpoint_seconds: float = 60.0  # time between checkpoints
    keep_checkpoints: int = 2  # how many of the last ones stay
    max_seconds: float = 0.0  # stop at a checkpoint after so long; 0: no limit
    max_memory: float = 0.0  # GiB that a process, or a device, may take; 0: what there is
    profile_dir: str = ""  # where a JAX profile of a few steps goes
    tensorboard: bool = False  # write workdir/tensorboard as well
    matmul_precision: str = "highest"  # of matrix products on accelerators, as JAX names it


# The fields that say what the data are.
DATA_FIELDS = ("dataset", "columns", "data_dir", "download", "center", "scale", "input_dim", "num_samples", "data_seed")


def from_fields(fields: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from a mapping of values of any kind.

    Raises InputError at a field that does not exist, or a list that holds no numbers.
    """
    known = {field.name: field.type for field in dataclasses.fields(RunConfig)}
    for name, value in fields.items():
        if name not in known:
            raise unknown_name("config", name, sorted(known))
        kind, told = (str, "names") if known[name] == tuple[str, ...] else (numbers.Real, "numbers")
        if isinstance(value, tuple) and not all(isinstance(entry, kind) for entry in value):
            raise InputError(f"{name}: {value}: must be {told}")
    return RunConfig(**fields)


def load_dataset(config: RunConfig, on_progress: Progress = no_progress) -> Dataset:
    """The data set that a configuration names; `on_progress` as in `datasets.load`."""
    options = {name: value for name in DATA_FIELDS if (value := getattr(config, name)) is not None}
    most = config.max_memory * 2**30 or None
    return load(options.pop("dataset"), on_progress=on_progress, max_memory=most, **options)


def resolve(config: RunConfig, dataset: Dataset) -> tuple[RunConfig, list[str]]:
    """`settings.resolve`, with the fields of the run checked as well."""
    at_least = {"num_steps": 0, "record_every": 1, "keep_checkpoints": 1, "max_seconds": 0, "max_memory": 0}
    for name, least in at_least.items():
        if not getattr(config, name) >= least:
            raise InputError(f"{name}: {getattr(config, name)}: must be at least {least}")
    for step in config.snapshot_steps:
        if not 0 <= step <= config.num_steps or step % config.record_every:
            raise InputError(
                f"snapshot_steps: {step}: must be a multiple of record_every ({config.record_every})"
                f" up to num_steps ({config.num_steps})"
            )
    resolved, notes = settings.resolve(dataclasses.replace(config, center=dataset.centered), dataset)
    assert isinstance(resolved, RunConfig)
    if dataset.name != config.dataset:  # a Dataset of one's own, which no field describes
        resolved = dataclasses.replace(resolved, dataset=dataset.name, scale=dataset.scale)
    return resolved, notes


def read_config(workdir: str | Path) -> RunConfig:
    """The configuration of the run in this folder. Raises InputError where there is none."""
    path = storage.folder_of(workdir) / "config.json"
    try:
        stored = json.loads(path.read_text())
        known = {field.name: field.type for field in dataclasses.fields(RunConfig)}
        return RunConfig(**{name: _as_given(value) for name, value in stored.items() if name in known})
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not the configuration of a run ({error}); give a workdir of launch.train") from None


def read_metrics(workdir: str | Path) -> History:
    """metrics.csv of a run, as columns."""
    return storage.read_csv(storage.folder_of(workdir) / "metrics.csv")


def snapshot_path(workdir: str | Path, step: int) -> Path:
    """Where the weights at a step are kept."""
    return storage.folder_of(workdir) / "snapshots" / f"{step:09d}.npz"


def is_finished(workdir: str | Path) -> bool:
    """Whether the run in this folder has reached its end."""
    return (storage.folder_of(workdir) / "params.npz").is_file()


def _as_given(value: Any) -> Any:  # as JSON holds it
    return tuple(value) if isinstance(value, list) else value


def check_data(workdir: str | Path, dataset: Dataset) -> None:
    """Raises InputError unless the run in this folder was trained on these data, as far as its config.json tells."""
    path = storage.folder_of(workdir) / "config.json"
    if not storage.agree("data", json.loads(path.read_text()).get("data"), fingerprint_of(dataset)):
        raise InputError(
            f"dataset: {path.parent} was trained on other data than {dataset.name!r} is here; name those that it is to"
            " be measured on: --config.dataset=..."
        )


def describe(config: RunConfig, dataset: Dataset) -> dict[str, object]:
    """What config.json holds."""
    device = jax.devices()[0]
    return {
        **dataclasses.asdict(config),
        "data": fingerprint_of(dataset),
        "init_weights": fingerprint_of_arrays(settings.weights_in_file(config, dataset)),
        "method_probe": probe(settings.method_of(config), config.latent_dim, dataset.input_dim),
        "versions": {"python": sys.version.split()[0], **{name: metadata.version(name) for name in _VERSIONED}},
        "device": f"{device.platform} {device.device_kind}",
    }


class InterruptedRunError(Exception):
    """A run that stops before its end because it was told to, with all that it has done on disk."""


def execute(
    config: RunConfig,
    workdir: str | Path,
    dataset: Dataset | None = None,
    on_chunk: Callable[[TrainState, History], None] = lambda state, history: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> bool:
    """Train one run in its folder; False if it was finished already, and nothing is changed.

    An unfinished run goes on from its last checkpoint and ends with the bits of one that was
    never interrupted. `on_chunk` stops it, with a checkpoint of the state it was given, by raising
    InterruptedRunError; so does `max_seconds`. Raises InputError for what the user can mend (another
    process in the folder among it) and `loop.DivergenceError` where the loss stops being finite,
    with what was recorded until then on disk.

    A folder that holds another run is refused. Every field that decides a number is compared; the data by their size,
    total variance, and mean and covariance along one direction; weights of an `init` file by their size and along one
    direction; a method of one's own by its loss and its first step
    on a small problem. What else its functions do, in a later step or from a file they read, is not compared.

    Several processes train one run together; the first writes the folder, which all must see.
    """
    workdir, started = storage.folder_of(workdir), time.perf_counter()
    dataset = load_dataset(config) if dataset is None else dataset
    config, notes = resolve(config, dataset)
    writes = hosts.is_first()
    [finished] = hosts.any_of(writes and is_finished(workdir))
    with storage.locked(workdir) if writes and not finished else contextlib.nullcontext():
        if writes:
            storage.claim(workdir, describe(config, dataset))
        if finished:
            return False
        for note in notes if writes else ():
            on_note(note)
        _train(config, workdir, dataset, on_chunk, started)
    return True


def _train(
    config: RunConfig,
    workdir: Path,
    dataset: Dataset,
    on_chunk: Callable[[TrainState, History], None],
    started: float,
) -> None:
    run, writes = settings.build(config, dataset), hosts.is_first()
    with contextlib.ExitStack() as stack:
        # Decompositions are small here: threads of their own would only fight those of XLA for the cores.
        stack.enter_context(threadpoolctl.threadpool_limits(1, user_api="blas"))
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir, config.keep_checkpoints)))
        state = checkpoints.restore(run.state)
        resumed = int(state.step)
        kept = storage.MetricsFile(workdir / "metrics.csv", resumed or None) if writes else storage.Unwritten()
        metrics_file = stack.enter_context(contextlib.closing(kept))

        def keep(state: TrainState) -> None:
            metrics_file.sync()
            checkpoints.save(state)

        def keep_snapshot(state: TrainState) -> None:
            if int(state.step) in config.snapshot_steps:
                weights, path = run.in_input_coordinates(state.params), snapshot_path(workdir, int(state.step))
                if writes and not path.exists():
                    storage.write_weights(path, weights)

        last = metrics_file.last
        if not resumed:
            metrics_file.append(loop.first_row(run.recipe, run.problem, state))
        keep_snapshot(state)
        # A run that had met its target before it was interrupted has no step left to take.
        [met] = hosts.any_of(
            last is not None and bool(np.dtype(config.precision).type(last["axis_alignment"]) <= config.target)
        )
        saved = time.perf_counter()
        chunks = () if met else chunks_of(config, run, state)
        for state, history in profiled(config.profile_dir, chunks):
            finite = np.isfinite(history["loss"])
            metrics_file.append({name: values[finite] for name, values in history.items()})
            if not finite.all():
                continue  # to the error that follows
            keep_snapshot(state)
            reason = None
            try:
                on_chunk(state, history)
                if 0 < config.max_seconds < time.perf_counter() - started and int(state.step) < config.num_steps:
                    raise InterruptedRunError(f"max_seconds: {config.max_seconds:g} are over")
            except InterruptedRunError as error:
                reason = str(error)
            # Clocks and signals are each process's own; all save at the same step.
            stop, due = hosts.any_of(reason is not None, time.perf_counter() - saved > config.checkpoint_seconds)
            if stop or due:
                keep(state)
                saved = time.perf_counter()
            if stop:
                told = f"{reason}; " if reason else ""
                raise InterruptedRunError(
                    f"{told}{workdir} is at step {int(state.step):,} of {config.num_steps:,}, and saved;"
                    " the same command goes on from there"
                )
        keep(state)
    seconds = {"seconds": time.perf_counter() - started, "steps": int(state.step) - resumed}
    params = run.in_input_coordinates(state.params)
    data = run.problem.data if dataset.covariance is None else dataset.covariance
    found = components_of(params, data, dataset.mean, dataset.scale, dataset.columns)
    if dataset.covariance is None:  # the data of the run, in its unit
        found = found._replace(explained_variance=found.explained_variance * run.problem.unit**2)
    if writes:
        storage.write_atomically(workdir / "timings.json", (json.dumps(seconds) + "\n").encode())
        storage.write_weights(workdir / "components.npz", found)
        storage.write_weights(workdir / "params.npz", params)
    hosts.any_of()  # none leaves before the files are there
