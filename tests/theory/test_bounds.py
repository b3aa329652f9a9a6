"""Every bound against exact condition numbers: never violated, and tight enough that a violation would show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree

from lae_jax import objectives
from lae_jax.covariance import Diagonal
from lae_jax.errors import InputError
from lae_jax.params import LAEParams
from lae_jax.theory import best, bounds, closed_form, eigenvalues
from lae_jax.theory.bounds import BOUNDS

SPECTRA = {
    "non_uniform_l2": closed_form.non_uniform_l2_spectrum,
    "deterministic_nested_dropout": closed_form.deterministic_nested_dropout_spectrum,
}
VALUES = {
    "non_uniform_l2": eigenvalues.non_uniform_l2,
    "deterministic_nested_dropout": eigenvalues.nested_dropout,
}


def draw(rng, latent_dim, size):
    """Variances (n, k + 2), gaps and all over several orders of magnitude, with penalties and priors (n, k)."""
    gaps = rng.exponential(size=(size, latent_dim + 2)) ** rng.uniform(0.3, 4, (size, 1)) + 1e-3
    concentration = rng.choice([0.5, 1.0, 5.0], (size, 1))
    penalty_steps = rng.gamma(concentration, size=(size, latent_dim + 1)) + 1e-4
    prior = rng.gamma(concentration, size=(size, latent_dim)) + 1e-4
    variances = np.flip(np.cumsum(gaps, -1), -1)
    penalties = np.cumsum(penalty_steps, -1) / penalty_steps.sum(-1, keepdims=True)
    hyperparameters = {
        "non_uniform_l2": penalties[:, :-1] * variances[:, latent_dim - 1, None],
        "deterministic_nested_dropout": prior / prior.sum(-1, keepdims=True),
    }
    return variances, hyperparameters


def extremes(objective, variances, hyperparameters):
    """(n, 4): smallest and largest eigenvalue inside, then with the tail."""
    found = VALUES[objective](variances, hyperparameters)
    return np.stack([end for tail in (False, True) for end in eigenvalues.extremes(found, tail)], -1)


@pytest.fixture(scope="module")
def problems():
    """20,000 pairs of spectrum and hyperparameter for each objective, with their exact extreme eigenvalues."""
    rng, found = np.random.default_rng(0), []
    for latent_dim in (2, 3, 4, 6, 8):
        variances, hyperparameters = draw(rng, latent_dim, 4000)
        for objective, chosen in hyperparameters.items():
            found.append((objective, variances, chosen, extremes(objective, variances, chosen)))
    return found


def violations(name, problems, factor=1.0):
    """How many exact condition numbers lie below factor * bound, by more than the rounding of the spectrum."""
    bound, count, checked = BOUNDS[name], 0, 0
    for objective, variances, chosen, exact in problems:
        if objective == bound.objective:
            smallest, largest = exact[:, 2:].T if bound.tail else exact[:, :2].T
            limit = factor * bound.value(variances, chosen)
            assert limit.shape == smallest.shape
            count += np.sum(limit * smallest > largest * (1 + 1e-12))
            checked += limit.size
    return count, checked


def case(objective, variances, chosen):
    variances, chosen = np.array([variances]), np.array([chosen])
    return [(objective, variances, chosen, extremes(objective, variances, chosen))]


def dropout_case(gaps, *, tail=False):
    """Tiny gaps below d_1 = 1 under the prior that gives all rotations one quotient; nearly all mass on them."""
    variances = 1 - 1e-9 * np.cumsum([0, *gaps])
    weights = 1 / np.array(gaps[:-1], float)
    last = 0.5 / gaps[-1] if tail else 1e-4 * weights.sum()
    prior = np.append(weights, last)
    return case("deterministic_nested_dropout", variances, prior / prior.sum())


def l2_case(variances, penalties):
    return case("non_uniform_l2", [*variances, variances[-1] / 2], penalties)


# name -> (the worst case found by a search over spectrum and hyperparameter, how far the bound is from it).
# A factor of `margin` on the bound must show as a violation.
TIGHT = {
    "l2_printed": (l2_case([4.64654362, 2.25996459, 1.0], [0.14509383, 0.90168032, 0.96973308]), 37.7),
    "l2_universal": (l2_case([1.6505882, 1.0], [0.40952434, 0.90401189]), 2.22),
    "l2_spread": (l2_case([266.83402351, 265.32548658, 1.0], [0.002883, 0.99996669, 0.99998334]), 1.01),
    "l2_flat": (l2_case([1.30417043, 1.06826652, 1.0], [0.14583627, 0.77557235, 0.97756886]), 3.0),
    "l2_latent_rotation": (l2_case([5.35233645, 2.34652754, 0.52671974], [0.20516917, 0.45872134, 0.45883503]), 1.001),
    "l2_rotation": (l2_case([2.14265949, 1.18948096, 0.99557326], [0.45616988, 0.96743506, 0.96827996]), 1.001),
    "nested_dropout_printed": (dropout_case([1, 1, 1, 1, 9]), 1.001),
    "nested_dropout_harmonic": (dropout_case([2, 3, 1, 1, 9]), 1.001),
    "nested_dropout_mu": (dropout_case([2, 3, 1, 1, 9]), 1.001),
    "nested_dropout_tail": (dropout_case([2, 3, 1, 1, 4], tail=True), 1.001),
    "nested_dropout_rotation": (dropout_case([2, 5, 1, 3, 9]), 1.001),
    "nested_dropout_mixed": (dropout_case([2, 5, 1, 3, 9]), 1.001),
}


def test_every_bound_has_a_tight_case():
    assert TIGHT.keys() == BOUNDS.keys()
    assert {bound.objective for bound in BOUNDS.values()} == SPECTRA.keys()


@pytest.mark.parametrize("name", BOUNDS)
def test_no_bound_is_violated(name, problems):
    count, checked = violations(name, problems)
    assert checked == 20_000
    assert count == 0


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_raised_by_its_margin_is_violated(name):
    worst, margin = TIGHT[name]
    assert violations(name, worst) == (0, 1)
    assert violations(name, worst, margin) == (1, 1)


@pytest.mark.parametrize("latent_dim", [2, 3, 5, 8, 12])
def test_the_printed_dropout_bound_is_tight_on_equal_gaps(latent_dim):
    assert violations("nested_dropout_printed", dropout_case([1] * latent_dim), 1.001) == (1, 1)


def test_the_bounds_for_every_choice_are_ordered(problems):
    for objective, variances, chosen, _ in problems:
        value = {name: bound.value(variances, chosen) for name, bound in BOUNDS.items() if bound.objective == objective}
        if objective == "deterministic_nested_dropout":
            chain = ["printed", "harmonic", "mu", "tail"]
            weaker, sharper = ([value["nested_dropout_" + name] for name in part] for part in (chain[:-1], chain[1:]))
            assert np.all(np.array(weaker) <= np.array(sharper) * (1 + 1e-12))
        else:
            # Why the printed bound holds although its derivation is not known: these two imply it.
            steps = chosen.shape[-1] - 1
            leading = variances[:, : steps + 1]
            corollary = 4 * np.sum(leading[:, 1:-1] - leading[:, -1:], -1) ** 2 / leading[:, -1] ** 2
            assert np.all(corollary <= value["l2_spread"] * (1 + 1e-12))
            assert np.all(value["l2_printed"] <= np.maximum(2 * steps**2, corollary) * (1 + 1e-12))


def smallest_quotient(loss, optimum, directions):
    """The smallest v^T H v / v^T v in the span of `directions`, from products with the exact Hessian."""
    vectors = np.stack([ravel_pytree(direction)[0] for direction in directions])
    products = [jax.jvp(jax.grad(loss), (optimum,), (direction,))[1] for direction in directions]
    curvature = vectors @ np.stack([ravel_pytree(product)[0] for product in products]).T
    return scipy.linalg.eigh(curvature, vectors @ vectors.T, eigvals_only=True)[0]


@pytest.mark.parametrize("seed", range(2))
def test_quotients_are_those_of_the_directions(seed):
    latent_dim, rng = 3, np.random.default_rng(seed)
    variances = np.flip(np.cumsum(rng.uniform(0.2, 1, latent_dim + 2)))
    penalties = variances[latent_dim - 1] * np.cumsum(rng.dirichlet(np.ones(latent_dim + 1)))[:-1]
    prior = rng.dirichlet(np.ones(latent_dim))
    eye = np.eye(latent_dim + 2)
    covariance = Diagonal(jnp.asarray(variances))

    def l2(params):
        return objectives.l2(params, covariance, jnp.asarray(penalties))

    def nested(params):
        return objectives.deterministic_nested_dropout(params, covariance, jnp.asarray(prior))

    weights = np.sqrt(1 - penalties / variances[:latent_dim])
    shrunk = jnp.asarray(weights[:, None] * eye[:latent_dim])
    tied, plain = LAEParams(shrunk, shrunk.T), LAEParams(jnp.eye(*shrunk.shape), jnp.eye(*shrunk.shape[::-1]))
    expected = {name: [] for name in ("latent", "input", "mixed", "dropout", "dropout_mixed")}
    for i, j in zip(*np.triu_indices(latent_dim, 1), strict=True):
        wide = np.outer(eye[i], eye[j]) - np.outer(eye[j], eye[i])
        small = wide[:latent_dim, :latent_dim]
        of_latents = LAEParams(small @ tied.encoder, tied.decoder @ small.T)
        of_inputs = LAEParams(tied.encoder @ wide, wide.T @ tied.decoder)
        expected["latent"].append(smallest_quotient(l2, tied, [of_latents]))
        expected["input"].append(smallest_quotient(l2, tied, [of_inputs]))
        expected["mixed"].append(smallest_quotient(l2, tied, [of_latents, of_inputs]))
        expected["dropout"].append(
            smallest_quotient(nested, plain, [LAEParams(small @ plain.encoder, plain.decoder @ small.T)])
        )
        units = [np.outer(eye[a, :latent_dim], eye[b]) for a, b in ((i, j), (j, i))]
        neutral = [
            LAEParams(jnp.asarray(unit), -jnp.asarray(eye[:, :latent_dim] @ unit[:, :latent_dim])) for unit in units
        ]
        expected["dropout_mixed"].append(smallest_quotient(nested, plain, neutral))
    found = {
        "latent": bounds.latent_rotation_quotient(variances, penalties),
        "input": bounds.input_rotation_quotient(variances, penalties),
        "mixed": bounds.mixed_rotation_quotient(variances, penalties),
        "dropout": bounds.nested_dropout_rotation_quotient(variances, prior),
        "dropout_mixed": bounds.nested_dropout_mixed_quotient(variances, prior),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-10, atol=1e-13, err_msg=name)
    assert np.all(found["mixed"] <= bounds.mixed_rotation_limit(variances, penalties))
    for i, value in enumerate(bounds.radial_quotient(variances, penalties)):
        unit = jnp.asarray(np.outer(eye[i, :latent_dim], eye[i]))
        assert value == pytest.approx(smallest_quotient(l2, tied, [LAEParams(unit, unit.T)]))


# Condition numbers of the best penalties and prior, found by an independent search with restarts.
BEST = {
    "linear": (lambda k: np.append(np.arange(k, 0, -1.0), 0.5), (452.6, 9231, 146, 563)),
    "quadratic": (lambda k: np.append(np.arange(k, 0, -1.0) ** 2, 0.5), (3336, 2.50e5, 257, 1231)),
    "harmonic": (lambda k: 1 / np.arange(1.0, k + 2), (178.7, 1811, 228, 1563)),
    "flat": (lambda k: np.linspace(100, 1, 1000)[: k + 1], (2850, 5544, 2.4e4, 5.7e4)),
}


@pytest.mark.parametrize("latent_dim", [4, 8])
@pytest.mark.parametrize("name", BEST)
def test_optimal_choices_reach_the_best_known(name, latent_dim):
    spectrum, known = BEST[name]
    variances = spectrum(latent_dim)
    choices = {
        "non_uniform_l2": (best.optimal_penalties, known[latent_dim == 8]),
        "deterministic_nested_dropout": (best.optimal_prior, known[2 + (latent_dim == 8)]),
    }
    for objective, (optimise, target) in choices.items():
        chosen = optimise(variances, latent_dim)
        found = closed_form.condition_number(SPECTRA[objective](variances, chosen)).value
        assert found <= 1.02 * target  # known to two digits
        for bound in BOUNDS.values():
            if bound.objective == objective and not bound.tail:
                assert found >= bound.value(variances, chosen) * (1 - 1e-9)
        if objective == "deterministic_nested_dropout":
            assert chosen.sum() == pytest.approx(1)


@pytest.mark.parametrize(("name", "latent_dim"), [("quadratic", 8), ("linear", 20), ("quadratic", 20)])
def test_the_best_penalties_do_not_depend_on_rounding(name, latent_dim, monkeypatch):
    """As another build of scipy or BLAS would have it: other last digits of values and slopes, the same optimum."""
    spectrum, plain, found = BEST[name][0](latent_dim), best._logarithms, []
    for seed in range(4):
        draw = np.random.default_rng(seed).standard_normal

        def rounded(*arguments, size=1e-12 * (seed > 0), draw=draw):
            return tuple(values * (1 + size * draw(values.shape)) for values in plain(*arguments))

        monkeypatch.setattr(best, "_logarithms", rounded)
        chosen = best.optimal_penalties(spectrum, latent_dim)
        found.append(closed_form.condition_number(SPECTRA["non_uniform_l2"](spectrum, chosen)).value)
    assert max(found) < 1.002 * min(found)


@pytest.mark.parametrize(
    ("variances", "latent_dim"),
    [
        ([3.07e14, 126.944717, 0.0995, 0.0877], 2),
        ([1.0, 5e-10, 1e-12], 3),
        ([3e11, 2e4, 7.0, 0.9, 0.003, 1e-4], 5),
        ([1.0, 0.5, 1e-7, 1e-7 * (1 - 1e-9), 1e-13], 4),
    ],
)
def test_optimal_choices_on_wide_spectra(variances, latent_dim):
    """They stay valid, and better than the equal shares that they start from; no bound is violated there."""
    leading = np.array(variances[:latent_dim])
    shares = {"non_uniform_l2": leading[-1] * np.arange(1, latent_dim + 1) / (latent_dim + 1)}
    shares["deterministic_nested_dropout"] = np.full(latent_dim, 1 / latent_dim)
    chosen = {
        "non_uniform_l2": best.optimal_penalties(variances, latent_dim),
        "deterministic_nested_dropout": best.optimal_prior(variances, latent_dim),
    }
    for objective, choice in chosen.items():
        kappa = eigenvalues.extremes(VALUES[objective](leading, choice)).condition_number
        assert kappa < eigenvalues.extremes(VALUES[objective](leading, shares[objective])).condition_number
        for bound in BOUNDS.values():
            if bound.objective == objective and not bound.tail:
                assert bound.value(leading, choice) <= kappa * (1 + 1e-12)


@pytest.mark.parametrize("objective", VALUES)
def test_pairs_as_one_vmap(objective):
    """Every bound and the exact condition number of many spectra and hyperparameters, in one compiled batch."""
    variances, hyperparameters = draw(np.random.default_rng(2), 3, 1000)
    bounded = {name: bound for name, bound in BOUNDS.items() if bound.objective == objective}

    @jax.jit
    @jax.vmap
    def ratios(variance, chosen):
        values = VALUES[objective](variance, chosen)
        inside, everything = (eigenvalues.extremes(values, tail).condition_number for tail in (False, True))
        return {
            name: bound.value(variance, chosen) / (everything if bound.tail else inside)
            for name, bound in bounded.items()
        }

    found = ratios(jnp.asarray(variances), jnp.asarray(hyperparameters[objective]))
    exact = extremes(objective, variances, hyperparameters[objective])
    for name, ratio in found.items():
        smallest, largest = exact[:, 2:].T if bounded[name].tail else exact[:, :2].T
        expected = bounded[name].value(variances, hyperparameters[objective]) * smallest / largest
        np.testing.assert_allclose(ratio, expected, rtol=1e-11)
        assert np.all(ratio <= 1 + 1e-12)


def test_bounds_have_derivatives():
    """Exact ones, as differences show, of every bound at one spectrum."""
    variances, hyperparameters = draw(np.random.default_rng(3), 3, 1)
    step = 1e-6 * variances[0] * np.array([1.0, -1, 1, -1, 1])

    def logs(variances):
        return {
            name: jnp.log(bound.value(variances, jnp.asarray(hyperparameters[bound.objective][0])))
            for name, bound in BOUNDS.items()
        }

    derivatives = jax.jit(lambda d, along: jax.jvp(logs, (d,), (along,))[1])(jnp.asarray(variances[0]), step)
    for name, derivative in derivatives.items():
        chosen = hyperparameters[BOUNDS[name].objective][0]
        ahead, behind = (np.log(BOUNDS[name].value(variances[0] + sign * step, chosen)) for sign in (1, -1))
        assert derivative == pytest.approx((ahead - behind) / 2, rel=1e-5, abs=1e-12)


def test_batches_are_elementwise():
    variances, hyperparameters = draw(np.random.default_rng(1), 4, 6)
    for bound in BOUNDS.values():
        chosen = hyperparameters[bound.objective]
        together = bound.value(variances.reshape(2, 3, -1), chosen.reshape(2, 3, -1))
        apart = [bound.value(variance, pick) for variance, pick in zip(variances, chosen, strict=True)]
        np.testing.assert_allclose(together.ravel(), apart, rtol=1e-14)


@pytest.mark.parametrize(
    "variances", [[3.0, 1.0, 0.0], [3.0, 3.0, 1.0], [1.0, 2.0, 3.0], [3.0, 2.0, -1.0], [3.0, np.nan, 1.0]]
)
def test_bad_spectra_are_refused(variances):
    chosen = {"non_uniform_l2": [0.1, 0.2, 0.3], "deterministic_nested_dropout": [0.3, 0.3, 0.4]}
    for bound in BOUNDS.values():
        with pytest.raises(InputError, match="variances"):
            bound.value(variances, chosen[bound.objective])
    for optimise in (best.optimal_penalties, best.optimal_prior):
        with pytest.raises(InputError, match="variances"):
            optimise(variances, 3)


@pytest.mark.parametrize("latent_dim", [1, 4])
def test_bad_latent_dims_are_refused(latent_dim):
    for bound in BOUNDS.values():
        if bound.every_choice:
            with pytest.raises(InputError, match="latent_dim"):
                bound.function([3.0, 2.0, 1.0], latent_dim)


@pytest.mark.parametrize("penalties", [[0.2, 0.1], [0.1, 0.1], [0.0, 0.1], [0.1, 1.0], [0.1, 2.0]])
def test_bad_penalties_are_refused(penalties):
    for quotient in (bounds.radial_quotient, bounds.mixed_rotation_quotient, BOUNDS["l2_rotation"].value):
        with pytest.raises(InputError, match="penalties"):
            quotient([3.0, 1.0, 0.5], penalties)


def test_bad_priors_and_tails_are_refused():
    for prior in ([0.0, 1.0], [0.5, 0.0], [-0.5, 1.5]):
        with pytest.raises(InputError, match="prior"):
            BOUNDS["nested_dropout_mixed"].value([3.0, 1.0, 0.5], prior)
    for tail in ([0.0], [1.0], [2.0]):
        with pytest.raises(InputError, match="variances"):
            bounds.nested_dropout_tail_bound([3.0, 1.0, *tail], 2)
