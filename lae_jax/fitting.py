"""From data to principal components in one call."""

import itertools
import operator
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, TypeVar

import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from lae_jax import metrics
from lae_jax.components import Components, components_of
from lae_jax.covariance import Covariance, Samples
from lae_jax.data import datasets
from lae_jax.data.arrays import SamplesLike
from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError
from lae_jax.methods import Method, Optimizer
from lae_jax.params import Weights
from lae_jax.training import loop, sweeps
from lae_jax.training.loop import History
from lae_jax.training.low_rank import StreamRule
from lae_jax.training.settings import Experiment, Settings, build, method_of, resolve

# Steps after which a run that chose its own length gives up.
MOST_STEPS = 30_000
# The distance to the components (Def. 7.1, or 7.2 where a method finds their span alone) at which it has converged,
# and one from which no more is asked of float32. Both are squared sines.
CONVERGED, EXACT = 1e-6, 1e-10
# Records between two looks at whether it still comes closer.
_ROWS = 50


class Fit(NamedTuple):
    """A trained autoencoder."""

    params: Weights  # numpy arrays, in the coordinates of the data
    components: Components  # what its latents amount to: rows, variances, `transform`
    history: History  # columns by name: step, loss and every metric of `lae_jax.metrics`
    settings: Settings | StreamRule  # every choice that was made
    notes: tuple[str, ...]  # what one should know about them, a line each


def as_dataset(data: SamplesLike, *, center: bool | None = None, scale: float | None = None) -> Dataset:
    """The data set that `data` stands for.

    Args:
        data: samples (n, ...) as an array, list of lists or data frame; a path to one of `datasets.FILES` or a folder
            of them; a name of `datasets.DATASETS`; or a `Dataset`.
        center: whether to subtract the mean. None: as the data set has it.
        scale: what samples are multiplied by. None: as the data set has it.

    Raises:
        InputError: where there are no such data, or a Dataset is given options it has been made with already.
    """
    options: dict[str, Any] = {  # as `datasets.load` takes them
        name: value for name, value in (("center", center), ("scale", scale)) if value is not None
    }
    if isinstance(data, Dataset):
        if options:
            raise InputError(f"{next(iter(options))}: given, but a Dataset has been centred and scaled already")
        return data
    if isinstance(data, str | os.PathLike):
        return datasets.load(os.fspath(Path(data).expanduser() if isinstance(data, os.PathLike) else data), **options)
    return datasets.from_samples("data", data, **options)


def fit(
    data: SamplesLike,
    latent_dim: int,
    method: str | Method = "aligned",
    *,
    num_steps: int | None = None,
    optimizer: str | Optimizer | optax.GradientTransformation = "nesterov",
    learning_rate: float | None = None,
    penalties: ArrayLike = (),
    prior: ArrayLike = (),
    beta: ArrayLike = (),
    seed: int = 0,
    target: float | None = None,
    momentum: float | None = None,
    batch_size: int = 0,
    spare: int | None = None,
    init: str | Path = "gaussian",
    init_scale: float = 1e-4,
    representation: str = "auto",
    precision: str = "float32",
    record_every: int = 10,
    center: bool | None = None,
    scale: float | None = None,
) -> Fit:
    """Train a linear autoencoder and read the principal components off its weights.

    Args:
        data: samples (n, ...) in rows, a path, a name or a `Dataset`; see `as_dataset`.
        latent_dim: the latent size k.
        method: a name of `METHODS`, or a row of one's own.
        num_steps: how many steps to take. None: until the components are found, or at most `MOST_STEPS`.
        optimizer: a name of `OPTIMIZERS`, or any optax transformation, which then brings its own learning rate.
        learning_rate: None: the default of method and optimizer for this spectrum.
        penalties: the diagonal of Lambda (k,) of the l2 methods; one number for `uniform_l2`. (): a default.
        prior: P(b = 1), ..., P(b = k) of nested dropout, (k,). (): a default.
        beta: weight of the divergence of `linear_vae`, one number. (): 1; another makes it a beta-VAE.
        seed: of the initial weights, of batches and of masks.
        target: stop once axis alignment (Def. 7.1) is at or below this.
        momentum: None: the optimizer's default.
        batch_size: samples in a step; 0: all, through their covariance.
        spare: latents that `alternation` and `low_rank_history` train beside the k and drop. None: their default.
        init: `gaussian`, `balanced`, or a path to a .npz with `encoder` (k, m) and `decoder` (m, k).
        init_scale: standard deviation of the initial weights.
        representation: `auto`, `eigenbasis`, `dense` or `samples`: what a step reads the data through.
        precision: `float32`, or `float64` with jax_enable_x64.
        record_every: steps between two rows of `history`.
        center: as in `as_dataset`.
        scale: as in `as_dataset`.

    Returns:
        Weights, components, history, every choice made, and notes.

    Raises:
        InputError: at an argument that cannot be meant so, in one line.
        DivergenceError: where the loss stops being finite.
    """
    dataset = as_dataset(data, center=center, scale=scale)
    if record_every < 1 or (num_steps is not None and num_steps < 0):
        raise InputError(f"num_steps: {num_steps}, record_every: {record_every}: must be at least 0 and 1")
    settings, notes = resolve(
        Settings(
            method=method,
            latent_dim=_whole("latent_dim", latent_dim),
            optimizer=optimizer,
            learning_rate=learning_rate,
            momentum=momentum,
            batch_size=batch_size,
            spare=spare,
            penalties=_numbers(penalties),
            prior=_numbers(prior),
            beta=_numbers(beta),
            init=os.fspath(init),
            init_scale=init_scale,
            representation=representation,
            precision=precision,
            seed=_whole("seed", seed),
        ),
        dataset,
    )
    run = build(settings, dataset)
    params, history = _trained(run, num_steps, target, record_every)
    return _fit(run.in_input_coordinates(params), history, settings, dataset, notes, num_steps)


def fit_many(
    data: SamplesLike,
    latent_dims: int | Sequence[int],
    seeds: int | Sequence[int] = 0,
    learning_rates: float | Sequence[float] | None = None,
    method: str | Method = "aligned",
    *,
    num_steps: int | None = None,
    optimizer: str | Optimizer | optax.GradientTransformation = "nesterov",
    target: float | None = None,
    precision: str = "float32",
    record_every: int = 10,
    center: bool | None = None,
    scale: float | None = None,
) -> list[Fit]:
    """`fit` for every latent size, seed and learning rate, as batches: one compiled program for sizes close together.

    Args:
        data: as in `fit`.
        latent_dims: one or several; the runs come back in the order of the product sizes x seeds x rates.
        seeds: one or several.
        learning_rates: one or several. None: the default.
        method: as in `fit`, with its default penalties or prior for each size.
        num_steps: a multiple of `record_every`. None: until axis alignment is below `CONVERGED`, or at most
            `MOST_STEPS`.
        optimizer: as in `fit`.
        target: as in `fit`.
        precision: as in `fit`.
        record_every: as in `fit`.
        center: as in `as_dataset`.
        scale: as in `as_dataset`.

    Returns:
        A Fit for each run; their histories have the columns step and axis_alignment. A run that diverged says so in
        its notes, and its components are none.

    Raises:
        InputError: at an argument that cannot be meant so.
    """
    dataset = as_dataset(data, center=center, scale=scale)
    rates = [None] if learning_rates is None else _several(learning_rates)
    planned = [
        resolve(
            Settings(
                method=method,
                latent_dim=_whole("latent_dims", latent_dim),
                optimizer=optimizer,
                learning_rate=rate,
                precision=precision,
                seed=_whole("seeds", seed),
            ),
            dataset,
        )
        for latent_dim, seed, rate in itertools.product(_several(latent_dims), _several(seeds), rates)
    ]
    runs = [settings for settings, _ in planned]
    records: dict[int, list[np.ndarray]] = {index: [] for index in range(len(runs))}
    ends: dict[int, sweeps.Result] = {}
    stop = target if target is not None else CONVERGED / 10 if num_steps is None else -1.0
    for group in sweeps.groups(runs):
        chunks = sweeps.train_group(
            {index: runs[index] for index in group},
            dataset,
            num_steps=MOST_STEPS if num_steps is None else num_steps,
            record_every=record_every,
            targets=(stop,),
        )
        for chunk in chunks:
            for index, alignments in chunk.alignments.items():
                records[index].append(alignments)
            ends |= chunk.finished
    found = []
    for index, (settings, notes) in enumerate(planned):
        alignments = np.concatenate(records[index])
        history = {"step": record_every * np.arange(1, len(alignments) + 1), "axis_alignment": alignments}
        found.append(_fit(ends[index].params, history, settings, dataset, notes, num_steps))
    return found


def _whole(name: str, value: SupportsIndex) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(f"{name}: {value!r}: must be a whole number") from None


Each = TypeVar("Each")


def _several(values: Each | Iterable[Each]) -> list[Each]:
    return list(values) if isinstance(values, Iterable) else [values]


def _numbers(values: ArrayLike) -> tuple[float, ...]:
    return tuple(np.atleast_1d(np.asarray(values, np.float64)).tolist())


def _measured(method: Method) -> str:
    """The metric that goes to zero where this method has converged."""
    return "axis_alignment" if method.aligns else "subspace_distance"


def _trained(
    run: Experiment, num_steps: int | None, target: float | None, record_every: int
) -> tuple[Weights, History]:
    """Weights, in the basis of the run, and history."""
    recipe, problem, state = run.recipe, run.problem, run.state
    name = _measured(recipe.method)
    history, open_end = [loop.first_row(recipe, problem, state)], num_steps is None and target is None
    stop = target if target is not None else -1.0
    steps = MOST_STEPS if num_steps is None else num_steps
    for reached, rows in loop.train(recipe, problem, state, steps, record_every, stop, lambda: _ROWS):
        before, now = history[-1][name][-1], rows[name][-1]
        state, history = reached, [*history, rows]
        if open_end and (now <= EXACT or (now <= CONVERGED and now > before / 2)):
            break
    return state.params, loop.concatenate(history)


def _fit(
    params: Weights,
    history: History,
    settings: Settings,
    dataset: Dataset,
    notes: list[str],
    num_steps: int | None,
) -> Fit:
    name, steps = _measured(method_of(settings)), int(history["step"][-1])
    decoder, finite = params.decoder, bool(np.isfinite(params.decoder).all())
    truth = jnp.asarray(dataset.components[:, : settings.latent_dim], decoder.dtype)
    distance = float(getattr(metrics, name)(jnp.asarray(decoder), truth))
    if not finite:
        notes = [*notes, f"learning_rate: {settings.learning_rate:g}: the run diverged within {steps:,} steps"]
    elif num_steps is None and distance > CONVERGED and steps >= MOST_STEPS:
        notes = [
            *notes,
            f"num_steps: not converged: {name.replace('_', ' ')} is {distance:.2g} after {steps:,} steps; give"
            " num_steps, another learning_rate or method",
        ]
    data: Covariance | np.ndarray = (
        Samples(dataset.load_rows()) if dataset.covariance is None else dataset.covariance  # type: ignore[arg-type] # numpy
    )
    read = params if finite else params._replace(decoder=jnp.zeros_like(decoder))
    found = components_of(read, data, dataset.mean, dataset.scale, dataset.columns)
    return Fit(params, found, history, settings, tuple(notes))
