"""The table of objectives: optimum, spectrum, bounds, best hyperparameters, with jax.hessian beside the closed form.

Numpy in and out, in float64; automatic differentiation runs in double precision whatever jax_enable_x64 says.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from lae_jax.covariance import Diagonal
from lae_jax.errors import InputError, unknown_name
from lae_jax.hyperparameters import HYPERPARAMETERS, checked_variances
from lae_jax.methods import METHODS
from lae_jax.params import Value, Weights, pad_latents
from lae_jax.theory import best, closed_form, hessian, landscape
from lae_jax.theory.bounds import BOUNDS

# Weights up to which their Hessian is made and all its eigenvalues are found.
DENSE_LIMIT = 2000
PADDED = 20  # latents that a compiled program has at least
ROUNDING = 1e-9  # a bound may exceed the closed form by this part of it
TOLERANCE = 1e-10  # of the largest eigenvalue, between closed form and automatic differentiation
# Eigenvalues of matrices that are not symmetric (RAG's Jacobian) are worse conditioned.
FIELD_TOLERANCE = 1e-6
EPSILON = float(np.finfo(np.float64).eps)


# The hyperparameter that a row's loss takes, an array, or None where it takes none: which, no type of a table can say.
Taken = Any


class Objective(NamedTuple):
    """What is known of a row of METHODS at its optimum."""

    spectrum: Callable[[np.ndarray, Taken, int], closed_form.Spectrum]  # (variances, hyperparameter, latent_dim)
    optimum: Callable[[np.ndarray, Taken, int], Weights]  # -> params in the eigenbasis
    best: Callable[[np.ndarray, int], np.ndarray] | None = None  # the hyperparameter of the smallest condition number
    is_field: bool = False  # no gradient: minus the Jacobian of its velocity stands for the Hessian


OBJECTIVES: dict[str, Objective] = {
    "lae": Objective(
        lambda variances, _, latent_dim: closed_form.reconstruction_spectrum(variances, latent_dim),
        lambda variances, _, latent_dim: landscape.principal_components(variances, latent_dim),
    ),
    "uniform_l2": Objective(
        lambda variances, penalties, latent_dim: closed_form.uniform_l2_spectrum(variances, penalties[0], latent_dim),
        lambda variances, penalties, latent_dim: landscape.l2_optimum(variances, np.full(latent_dim, penalties[0])),
    ),
    "non_uniform_l2": Objective(
        lambda variances, penalties, _: closed_form.non_uniform_l2_spectrum(variances, penalties),
        lambda variances, penalties, _: landscape.l2_optimum(variances, penalties),
        best.optimal_penalties,
    ),
    "deterministic_nested_dropout": Objective(
        lambda variances, prior, _: closed_form.deterministic_nested_dropout_spectrum(variances, prior),
        lambda variances, _, latent_dim: landscape.principal_components(variances, latent_dim),
        best.optimal_prior,
    ),
    "linear_vae": Objective(
        lambda variances, beta, latent_dim: closed_form.linear_vae_spectrum(variances, latent_dim, beta[0]),
        lambda variances, beta, latent_dim: landscape.linear_vae_optimum(variances, latent_dim, beta[0]),
    ),
    "rag": Objective(
        lambda variances, _, latent_dim: closed_form.rag_spectrum(variances, latent_dim),
        lambda variances, _, latent_dim: landscape.principal_components(variances, latent_dim),
        is_field=True,
    ),
}


class Autodiff(NamedTuple):
    """Eigenvalues of the Hessian by automatic differentiation."""

    inside: np.ndarray  # ascending, null directions included: weights on the leading k components
    outside: np.ndarray | None  # ascending: weights on the others; None where these are too many
    leak: float  # largest entry between the two, which should be none


class Verification(NamedTuple):
    """What `verify` finds: the closed form, automatic differentiation beside it, and the bounds on both."""

    objective: str
    latent_dim: int
    hyperparameter: np.ndarray | None  # penalties, prior or beta
    s_max: float  # largest and smallest eigenvalue within the span of the leading components
    s_min: float
    condition_number: float
    condition_number_with_tail: float  # of all modes
    autodiff_s_max: float | None  # the same from jax.hessian; None where it was not computed
    autodiff_s_min: float | None
    autodiff_condition_number: float | None
    autodiff_error: float | None  # largest difference of any eigenvalue, relative to s_max
    bounds: dict[str, float]  # name in BOUNDS -> lower bound on a condition number; none where latents collapse
    violated: list[str]  # a line for each bound above a condition number and each disagreement
    left_out: dict[str, int]  # directions that the condition number leaves out, and how many
    collapsed_latents: list[int]  # from 1: those that are zero at the optimum
    differentiated: str  # what automatic differentiation covers: all weights, those inside the span, or none


@functools.partial(jax.jit, static_argnames="objective")
def _curvatures(
    objective: str, variances: jax.Array, hyperparameter: Value, params: Weights, positions: jax.Array,
    count: jax.Array, elsewhere: jax.Array,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """`hessian.columns` of the loss's gradient, of a field minus its velocity."""
    method, covariance = METHODS[objective], Diagonal(variances)
    if OBJECTIVES[objective].is_field:
        from lae_jax.theory import flows  # here, because its integrator takes long to import

        velocity = flows.velocity(method, covariance, hyperparameter)
        return hessian.columns(lambda at: jax.tree.map(jnp.negative, velocity(at)), params, positions, count, elsewhere)
    gradient = jax.grad(lambda weights: method.loss(weights, covariance, jax.random.key(0), hyperparameter))
    return hessian.columns(gradient, params, positions, count, elsewhere)


def _marked(params: Weights, latent_dim: int, components: int) -> np.ndarray:
    """Which of the ravelled weights belong to the first latents and are on the first components, (N,)."""
    marks = jax.tree.map(lambda weight: np.arange(np.size(weight)).reshape(np.shape(weight)) >= 0, params)
    rest = {"latent_log_variance": marks.latent_log_variance} if hasattr(marks, "latent_log_variance") else {}
    for value in (marks.encoder, marks.decoder.T, *rest.values()):
        value[latent_dim:] = False
    marks.encoder[:, components:], marks.decoder[components:] = False, False
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(marks)])


def differentiated(objective: str, variances: np.ndarray, hyperparameter: Taken, latent_dim: int) -> Autodiff | None:
    """All eigenvalues at the optimum by jax.hessian, in O(q^2) memory for q weights.

    Of all weights if they are no more than DENSE_LIMIT, else of those on the leading k components, else None. Latents
    are padded with zero ones, of which no eigenvalue is taken, so that few programs are compiled.
    """
    optimum, padded = OBJECTIVES[objective].optimum(variances, hyperparameter, latent_dim), max(latent_dim, PADDED)
    kind = HYPERPARAMETERS.get(METHODS[objective].hyperparameter or "")
    if kind is not None and not kind.single:
        hyperparameter = np.pad(hyperparameter, (0, padded - latent_dim), mode=kind.pad)
    with jax.enable_x64(True):
        params = pad_latents(jax.tree.map(jnp.asarray, optimum), padded)
        inside, real = (_marked(params, latent_dim, components) for components in (latent_dim, variances.size))
        dense = np.count_nonzero(real) <= DENSE_LIMIT
        if not dense and np.count_nonzero(inside) > DENSE_LIMIT:
            return None
        most = min(real.size, DENSE_LIMIT) if dense else np.count_nonzero(_marked(params, padded, padded))
        order = np.concatenate([np.flatnonzero(inside), np.flatnonzero(real & ~inside) if dense else []]).astype(int)
        positions = np.pad(order, (0, int(-(-max(most, order.size) // hessian.CHUNK) * hessian.CHUNK - order.size)))
        elsewhere = np.where(np.isin(np.arange(real.size), order), 0.0, real)
        matrix, leak = _curvatures(
            objective, *jax.tree.map(jnp.asarray, (variances, hyperparameter, params, positions, order.size, elsewhere))
        )
        matrix, leak = np.asarray(matrix)[: order.size, : order.size], float(leak)
    count = np.count_nonzero(inside)
    leak = max(leak, float(np.abs(matrix[:count, count:]).max(initial=0.0)))

    def eigenvalues(part: np.ndarray) -> np.ndarray:
        return np.sort(np.linalg.eigvals(part).real) if OBJECTIVES[objective].is_field else np.linalg.eigvalsh(part)

    within = eigenvalues(matrix[:count, :count])
    return Autodiff(within, eigenvalues(matrix[count:, count:]) if dense else None, leak)


def _counted(values: np.ndarray, nulls: int) -> tuple[float, float]:
    """The largest and smallest once as many as there are null directions, those nearest to zero, are left out."""
    kept = values[np.argsort(np.abs(values), kind="stable")[nulls:]]
    return float(kept.max()), float(kept.min())


def _difference(found: np.ndarray, closed: np.ndarray) -> float:
    """The largest between all eigenvalues, null directions counting as zeros."""
    return float(np.max(np.abs(found - np.sort(np.append(closed, np.zeros(found.size - closed.size)))), initial=0.0))


def _hyperparameter(
    objective: str, variances: np.ndarray, latent_dim: int, given: dict[str, ArrayLike | None]
) -> np.ndarray | None:
    kind = METHODS[objective].hyperparameter
    taken = HYPERPARAMETERS[kind].field if kind else None
    for field, value in given.items():
        if value is not None and field != taken:
            raise InputError(f"{field}: given, but method {objective!r} takes {taken or 'none'}")
    if kind is None:
        return None
    value = given[HYPERPARAMETERS[kind].field]
    if value is None:
        return np.asarray(HYPERPARAMETERS[kind].default(variances, latent_dim))
    return HYPERPARAMETERS[kind].checked(np.atleast_1d(np.asarray(value, np.float64)), latent_dim)


def verify(
    objective: str,
    variances: ArrayLike,
    latent_dim: int | None = None,
    *,
    penalties: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    autodiff: bool = True,
) -> Verification:
    """The condition number of an objective at its optimum, exactly, by jax.hessian, and as the bounds have it.

    Args:
        objective: a row of METHODS whose optimum is known: a key of OBJECTIVES.
        variances: all m variances of the data, descending.
        latent_dim: k; may be left out where penalties or a prior say it.
        penalties: the diagonal of Lambda (k,), ascending, for `non_uniform_l2`; one number for `uniform_l2`.
        prior: p_B (k,) of nested dropout.
        beta: weight of the divergence of `linear_vae`, one number; None is 1, another a beta-VAE.
        autodiff: whether to differentiate as well: up to 2,000 weights in all directions, beyond that in those on the
            leading k components while these are no more.

    Returns:
        A `Verification`; its `violated` is empty where everything holds.

    Raises:
        InputError: on an unknown objective, and on variances or hyperparameters that do not fit.
    """
    if objective not in OBJECTIVES:
        raise unknown_name("objective", objective, OBJECTIVES)
    given = penalties if penalties is not None else prior
    if latent_dim is None:
        if given is None or np.size(given) < 2:
            raise InputError("latent_dim: None; give it, or one penalty or probability for each latent")
        latent_dim = np.size(given)
    d = checked_variances(variances, latent_dim)
    fields = {"penalties": penalties, "prior": prior, "beta": beta}
    hyperparameter: Taken = _hyperparameter(objective, d, latent_dim, fields)
    kind, collapsed = METHODS[objective].hyperparameter, list[int]()
    if kind and METHODS[objective].collapses:
        collapsed = HYPERPARAMETERS[kind].collapsing(np.asarray(hyperparameter), d, latent_dim)
    spectrum = OBJECTIVES[objective].spectrum(d, hyperparameter, latent_dim)
    inside, everything = (closed_form.condition_number(spectrum, tail) for tail in (False, True))
    bounds = {} if collapsed or latent_dim < 2 else applicable_bounds(objective, d, hyperparameter)
    violated = [
        f"{name}: {bound:.6g} > {kappa:.6g}, the condition number in closed form"
        for name, bound in bounds.items()
        if bound > (kappa := everything.value if BOUNDS[name].tail else inside.value) * (1 + ROUNDING)
    ]
    largest = smallest = ratio = error = None
    covers, found = "none", differentiated(objective, d, hyperparameter, latent_dim) if autodiff else None
    if found is not None:
        largest, smallest = _counted(found.inside, found.inside.size - spectrum.inside.size)
        ratio = largest / smallest if smallest > 0 else np.inf
        ends, errors = {False: (largest, smallest)}, [_difference(found.inside, spectrum.inside), found.leak]
        covers = "on leading components"
        if found.outside is not None:
            covers, nulls = "all weights", found.outside.size - spectrum.outside.size
            tail = _counted(found.outside, nulls) if found.outside.size > nulls else (largest, smallest)
            ends[True] = max(largest, tail[0]), min(smallest, tail[1])
            errors.append(_difference(found.outside, spectrum.outside))
        error = max(errors) / max(everything.largest, largest)
        for name, bound in bounds.items():
            top, bottom = ends.get(BOUNDS[name].tail, (np.inf, 0.0))
            # The dense solver finds every eigenvalue to rounding of the largest.
            if bound * (bottom - 100 * EPSILON * top) > top * (1 + ROUNDING):
                violated.append(f"{name}: {bound:.6g} > {top / bottom:.6g}, the condition number by jax.hessian")
        if not error <= (FIELD_TOLERANCE if OBJECTIVES[objective].is_field else TOLERANCE):
            violated.append(f"closed form: an eigenvalue differs from jax.hessian's by {error:.2g} of the largest")
    return Verification(
        objective, latent_dim, hyperparameter, inside.largest, inside.smallest, inside.value, everything.value,
        largest, smallest, ratio, error, bounds, violated, inside.left_out, collapsed, covers,
    )  # fmt: skip


def applicable_bounds(objective: str, variances: np.ndarray, hyperparameter: Taken) -> dict[str, float]:
    """The bounds of the table for this objective; the one with the tail where every variance is positive."""
    return {
        name: float(bound.value(variances, hyperparameter))
        for name, bound in BOUNDS.items()
        if bound.objective == objective and not (bound.tail and variances[-1] <= 0)
    }
