"""From the named settings of a run to what `lae_jax.training.loop` trains."""

import dataclasses
import functools
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lae_jax.data import authors, layouts, sources
from lae_jax.data.datasets import Dataset
from lae_jax.data.representations import REPRESENTATIONS, represent
from lae_jax.errors import InputError, unknown_name
from lae_jax.hyperparameters import HYPERPARAMETERS
from lae_jax.methods import METHODS, OPTIMIZERS, Method, Optimizer
from lae_jax.params import INITIALISERS, Array, LAEParams, Weights, numpy_weights
from lae_jax.training.loop import Problem, Recipe, TrainState, initial_state
from lae_jax.training.units import default_learning_rate, scaling_of, unit_of

Row = TypeVar("Row")

PRECISIONS = {"float32": jnp.float32, "float64": jnp.float64}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of one run, but the data. None: chosen by `resolve`."""

    method: str | Method = "rag"  # a name in METHODS, or a row of your own
    latent_dim: int = 20  # k, from 1 to m - 1
    # A name in OPTIMIZERS, a row of your own, or any optax transformation, which brings its own learning rate.
    optimizer: str | Optimizer | optax.GradientTransformation = "nesterov"
    learning_rate: float | None = None  # None: the default of method and optimiser, by the data's variance
    momentum: float | None = None  # None: 0.9 for nesterov
    batch_size: int = 0  # samples in a step; 0: full batch. The method for batches is low_rank_history
    spare: int | None = None  # latents that are trained beside k and dropped; None: as the method has it
    penalties: tuple[float, ...] = ()  # the diagonal of Lambda; one number for uniform_l2
    prior: tuple[float, ...] = ()  # p_B of nested dropout, shape (k,)
    beta: tuple[float, ...] = ()  # one number: the weight of the linear VAE's divergence; (): 1
    init: str = "gaussian"  # or "balanced", "authors" (the draws of the published runs), or a path to .npz
    init_scale: float = 1e-4  # standard deviation of the initial weights
    init_seed: int = 1234  # of init "authors", the published one; the others are drawn from `seed`
    representation: str = "auto"  # of C: eigenbasis, dense or samples; auto: the fastest that is exact
    precision: str = "float32"  # or float64
    seed: int = 0  # of initial weights, batches and masks
    unit: float | None = None  # that the run computes in; None: near sigma_1; 1: the data's own, as published
    column_parts: int = 1  # equal parts that the inputs are cut into, each on a device of its own


class Experiment(NamedTuple):
    """A run ready to train, and the way back to input coordinates."""

    recipe: Recipe
    problem: Problem
    state: TrainState
    basis: np.ndarray | None  # U (m, m) where the run is in the eigenbasis

    def in_input_coordinates(self, params: Weights) -> Weights:
        """Weights of this run as numpy arrays in the coordinates and the unit of the data."""
        params = scaling_of(self.recipe.method).weights(layouts.to_host(params), self.problem.unit)
        if self.basis is not None:
            params = _rotated(params, self.basis.T)
        return jax.tree.map(np.asarray, params)


def _rotated(params: Any, basis: np.ndarray) -> Any:  # weights of either kind, whose arrays become numpy's
    """`params.change_basis`, on the host in float64, with the result in the precision that came."""
    dtype = params.encoder.dtype
    encoder = np.asarray(params.encoder, np.float64) @ basis
    decoder = basis.T @ np.asarray(params.decoder, np.float64)
    return params._replace(encoder=encoder.astype(dtype), decoder=decoder.astype(dtype))


def _representation(settings: Settings, dataset: Dataset, method: Method, optimizer: Optimizer) -> str:
    samples_only = method.needs_samples or settings.batch_size > 0
    if settings.representation == "auto":
        if samples_only or dataset.covariance is None:
            return "samples"
        return "eigenbasis" if method.rotation_invariant and optimizer.rotation_equivariant else "dense"
    if settings.representation not in REPRESENTATIONS:
        raise unknown_name("representation", settings.representation, ["auto", *REPRESENTATIONS])
    if samples_only and settings.representation != "samples":
        reason = f"method {name_of(settings.method)}" if method.needs_samples else f"batch_size {settings.batch_size}"
        raise InputError(
            f"representation: {settings.representation!r} holds no samples, which {reason} needs; use 'samples'"
        )
    return settings.representation


def method_of(settings: Settings) -> Method:
    """The row of METHODS that is named, or the one given. Raises InputError at a name that is not there."""
    return settings.method if isinstance(settings.method, Method) else _row("method", settings.method, METHODS)


@functools.cache
def _given(transformation: optax.GradientTransformation) -> Optimizer:
    """One row for one transformation, so that one program serves it. It may do anything: nothing is claimed of it."""
    return Optimizer(lambda *_: transformation, rotation_equivariant=False)


def optimizer_of(settings: Settings) -> Optimizer:
    """The row of OPTIMIZERS that is named, or the one given, or one for the transformation given. Raises InputError."""
    given = settings.optimizer
    if isinstance(given, Optimizer):
        return given
    if isinstance(given, optax.GradientTransformation):  # extra arguments or not
        return _given(given)
    return _row("optimizer", given, OPTIMIZERS)


def name_of(given: str | Method | Optimizer | optax.GradientTransformation) -> str:
    """A method or optimizer as messages and files name it."""
    if isinstance(given, str):
        return given
    return given.label if isinstance(given, Method) else "of your own"


def _row(kind: str, name: str, table: Mapping[str, Row]) -> Row:
    if not isinstance(name, str) or name not in table:
        raise unknown_name(kind, name, table)
    return table[name]


def resolve(settings: Settings, dataset: Dataset) -> tuple[Settings, list[str]]:
    """Settings with every choice made, and what the user should know about them, a line each.

    Raises InputError naming the field, its value and what would be right.
    """
    method, optimizer = method_of(settings), optimizer_of(settings)
    _row("precision", settings.precision, PRECISIONS)
    latent_dim, input_dim = settings.latent_dim, dataset.input_dim
    if not 1 <= latent_dim <= input_dim - 1:
        raise InputError(f"latent_dim: {latent_dim} is outside 1..{input_dim - 1} for {dataset.name} (m = {input_dim})")
    if latent_dim > dataset.rank:
        raise InputError(
            f"latent_dim: {latent_dim} is more than the {dataset.rank} directions in which {dataset.name} varies"
        )
    for name in ("learning_rate", "init_scale", "unit"):
        value = getattr(settings, name)
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InputError(f"{name}: {value}: must be positive and finite")
    if settings.unit is not None and not 1e-150 < settings.unit < 1e150:
        raise InputError(f"unit: {settings.unit}: must be between 1e-150 and 1e150, for its square to be a number")
    if settings.unit not in (None, 1) and unit_of(method, optimizer, 4.0) == 1:
        raise InputError(f"unit: {settings.unit}: what it changes is known of the rows that ship alone; use 1")
    if not -(2**63) <= settings.seed < 2**63:
        raise InputError(f"seed: {settings.seed}: must fit 64 bits")
    if settings.batch_size < 0 or settings.batch_size > dataset.num_samples:
        raise InputError(f"batch_size: {settings.batch_size} is outside 0..{dataset.num_samples} (0 is the full batch)")
    if settings.spare and method.spared is None:
        raise InputError(f"spare: {settings.spare} is given, but method {name_of(settings.method)!r} has none")
    if settings.spare is not None and not isinstance(settings.spare, numbers.Integral):
        raise InputError(f"spare: {settings.spare!r}: must be a whole number, of latents beside the {latent_dim}")
    if settings.spare is not None and not 0 <= settings.spare <= input_dim - latent_dim:
        raise InputError(f"spare: {settings.spare} is outside 0..{input_dim - latent_dim} beside {latent_dim} latents")
    momentum = optimizer.default_momentum if settings.momentum is None else settings.momentum
    if not 0 <= momentum < 1:
        raise InputError(f"momentum: {momentum}: must be in [0, 1)")
    if settings.momentum is not None and not optimizer.default_momentum:
        raise InputError(f"momentum: {momentum} is given, but optimizer {name_of(settings.optimizer)!r} takes none")
    if optimizer.default_learning_rate is None and settings.learning_rate is not None:
        raise InputError(f"learning_rate: {settings.learning_rate} is given, but the optimizer brings its own")

    chosen: dict[str, Any] = {  # fields of Settings
        "momentum": momentum,
        "spare": settings.spare if method.spared else 0,  # None is left to the rule, which knows k and the inputs
        "unit": settings.unit or unit_of(method, optimizer, float(dataset.variances[0])),
        "representation": _representation(settings, dataset, method, optimizer),
    }
    taken = HYPERPARAMETERS[method.hyperparameter] if method.hyperparameter else None
    for field in dict.fromkeys(each.field for each in HYPERPARAMETERS.values()):
        given = getattr(settings, field)
        if taken and taken.field == field:
            values = taken.checked(given, latent_dim) if given else taken.default(dataset.variances, latent_dim)
            chosen[field] = tuple(values.tolist())
        elif given:
            raise InputError(f"{field}: given, but method {name_of(settings.method)!r} takes none")
    variances = np.pad(dataset.variances, (0, input_dim - len(dataset.variances)))
    chosen["learning_rate"] = settings.learning_rate or default_learning_rate(
        method, optimizer, variances, latent_dim, chosen.get("beta", ()), chosen["unit"]
    )
    notes = []
    if taken and method.collapses:
        collapsed = taken.collapsing(np.asarray(chosen[taken.field]), dataset.variances, latent_dim)
        if collapsed:
            notes.append(
                f"{taken.field}: {taken.collapse} for latent {', '.join(map(str, collapsed))}: these collapse to zero"
                " at the optimum"
            )
    least = float(dataset.variances[latent_dim - 1] / dataset.variances[0])
    if least < np.finfo(settings.precision).eps:
        notes.append(
            f"precision: sigma_{latent_dim}^2 is {least:.2g} of sigma_1^2, which {settings.precision} does not resolve:"
            " the loss can look perfect where the components are not; use precision=float64, or standardise the columns"
        )
    if chosen["representation"] == "eigenbasis" and not (method.rotation_invariant and optimizer.rotation_equivariant):
        blamed = name_of(settings.method if optimizer.rotation_equivariant else settings.optimizer)
        notes.append(
            f"representation: {blamed} does not commute with a rotation of the inputs;"
            " this run is another one than in input coordinates"
        )
    if settings.batch_size and method.full_batch:
        notes.append(
            f"batch_size: method {name_of(settings.method)!r} goes as far as every batch says and does not settle;"
            " method 'low_rank_history' does, with no learning rate"
        )
    return dataclasses.replace(settings, **chosen), notes


def load_weights(path: str, latent_dim: int, input_dim: int) -> LAEParams:
    """Initial weights from a .npz with `encoder` (k, m) and `decoder` (m, k), in input coordinates."""
    arrays = sources.load_arrays(Path(path), LAEParams._fields)
    for name, shape in (("encoder", (latent_dim, input_dim)), ("decoder", (input_dim, latent_dim))):
        value = arrays[name]
        if value.shape != shape:
            raise InputError(f"init: {name} in {path} has shape {value.shape}; need {shape}")
        if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise InputError(f"init: {name} in {path} is not made of finite numbers")
    # Numpy arrays on purpose: float64 weights keep their digits until they are in the run's basis.
    return numpy_weights(**arrays)


def weights_in_file(settings: Settings, dataset: Dataset) -> LAEParams | tuple[()]:
    """The initial weights where `init` is a file; () where they are drawn. Raises InputError."""
    if settings.init in _STARTS:
        return ()
    if Path(settings.init).suffix != ".npz":
        raise unknown_name("init", settings.init, [*_STARTS, "a path to .npz"])
    return load_weights(settings.init, settings.latent_dim, dataset.input_dim)


def _drawn(draw: Callable[[Array, int, int, float], LAEParams]) -> Callable[[Settings, Dataset], LAEParams]:
    return lambda settings, dataset: draw(
        jax.random.key(settings.seed), settings.latent_dim, dataset.input_dim, settings.init_scale
    )


def _authors(settings: Settings, dataset: Dataset) -> LAEParams:
    size = (settings.latent_dim, dataset.input_dim)
    draws_before = dataset.loader_draws
    return authors.initial_weights(*size, settings.init_scale, seed=settings.init_seed, draws_before=draws_before)


# What `Settings.init` names.
_STARTS = {**{name: _drawn(draw) for name, draw in INITIALISERS.items()}, "authors": _authors}


def build(settings: Settings, dataset: Dataset, devices: Sequence[jax.Device] | None = None) -> Experiment:
    """A run ready to train, from resolved settings.

    `devices` (by default all there are) share what `data.representations.represent` says.
    Float64 needs jax_enable_x64, which is the caller's to set.
    """
    dtype = PRECISIONS[settings.precision]
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise InputError("precision: 'float64' needs jax.config.update('jax_enable_x64', True)")
    method, optimizer = method_of(settings), optimizer_of(settings)
    latent_dim = settings.latent_dim
    weights = weights_in_file(settings, dataset) or _STARTS[settings.init](settings, dataset)
    in_eigenbasis = settings.representation == "eigenbasis"
    basis = dataset.components if in_eigenbasis else None
    # Double precision until they are in the run's basis, so that every representation has one start.
    weights = jax.tree.map(lambda weight: np.asarray(weight, np.float64), weights)
    if basis is not None:
        weights = _rotated(weights, basis)
    unit = settings.unit or 1.0
    params = method.lift(LAEParams(*(jnp.asarray(weight, dtype) for weight in weights)))
    if settings.init not in _STARTS:  # weights in the unit of the data; those that are drawn have none
        params = jax.tree.map(jnp.asarray, scaling_of(method).weights(params, 1 / unit))
    values = getattr(settings, HYPERPARAMETERS[method.hyperparameter].field) if method.hyperparameter else None
    power = HYPERPARAMETERS[method.hyperparameter].unit_power if method.hyperparameter else 0
    problem = Problem(
        data=represent(dataset.measured_in(unit), settings.representation, dtype, devices, settings.column_parts),
        learning_rate=jnp.asarray((settings.learning_rate or 0.0) * unit ** (optimizer.unit_power or 0), dtype),
        key=jax.random.fold_in(jax.random.key(settings.seed), 1),
        hyperparameter=None if values is None else jnp.asarray(np.asarray(values) / unit**power, dtype),
        momentum=jnp.asarray(settings.momentum, dtype),
        components=None if in_eigenbasis else jnp.asarray(dataset.components[:, :latent_dim], dtype),
        unit=unit,
    )
    recipe = Recipe(method, optimizer.build, settings.batch_size, spare=settings.spare)
    mesh, size = layouts.mesh_under(problem.data), dataset.input_dim
    recipe = recipe._replace(spread=mesh is not None)
    state = layouts.place(initial_state(recipe, problem, params), mesh, size)
    placed = layouts.place(problem._replace(data=None, unit=None), mesh, size)  # type: ignore[arg-type] # put back below
    return Experiment(recipe, placed._replace(data=problem.data, unit=unit), state, basis)
