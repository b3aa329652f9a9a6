"""Every eigenvalue to full relative accuracy, in numpy and in JAX, with derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax.theory import best, eigenvalues, graded
from tests import wide_spectra

VARIANCES = np.array([9.0, 6.5, 4.2, 2.1, 1.5, 0.8])
CHOICES = {
    "non_uniform_l2": (eigenvalues.non_uniform_l2, np.array([0.1, 0.3, 1.1])),
    "collapsed l2": (eigenvalues.non_uniform_l2, np.array([0.1, 5.0, 7.1])),
    "nested dropout": (eigenvalues.nested_dropout, np.array([0.5, 0.2, 0.3])),
    "linear VAE": (lambda variances, beta: eigenvalues.linear_vae(variances, 3, beta[..., 0]), np.full(3, 1.6)),
    "rag": (lambda variances, gain: eigenvalues.rag(variances, 3, gain[..., :1]), np.full(3, 2.0)),
}
# Spectra on which a general solver is off by up to a factor of a million, or finds negative curvatures at a minimum.
WIDE = {
    "arrowhead": (lambda: eigenvalues.linear_vae(np.array([1e8, 1e7, 1e-2]), 2), 2.0e-8),
    "small units": (lambda: eigenvalues.linear_vae(np.array([1.0, 1e-6, 1e-12]), 2), None),
    "two small": (
        lambda: eigenvalues.non_uniform_l2(np.array([1e12, 1e6, 1.0, 0.5]), np.array([1e-3, 0.01, 0.9])),
        4.95e-11,
    ),
}


@pytest.mark.parametrize("seed", range(30))
def test_every_eigenvalue_keeps_its_digits(seed):
    """Variances and hyperparameters over up to 14 orders of magnitude, near-equal neighbours, collapsed latents."""
    *_, errors = wide_spectra.errors(np.random.default_rng(seed))
    assert max(errors.values()) < 1e-14, errors


@pytest.mark.parametrize("name", WIDE)
def test_where_general_solvers_fail(name):
    values, smallest = WIDE[name]
    found = eigenvalues.extremes(values()).smallest
    assert found > 0 and (smallest is None or found == pytest.approx(smallest, rel=2e-5))


@pytest.mark.parametrize("name", CHOICES)
def test_jit_vmap_and_derivatives(name):
    values, chosen = CHOICES[name]
    scales = np.linspace(0.8, 1.2, 4)[:, None]

    def logs(variances, hyperparameter, xp=jnp):
        found = values(variances, hyperparameter)
        ends = [*eigenvalues.extremes(found), *eigenvalues.extremes(found, tail=True)]
        return xp.log(xp.stack(ends))

    batch = jax.jit(jax.vmap(lambda scale: values(scale * jnp.asarray(VARIANCES), scale * jnp.asarray(chosen))))
    for found, expected in zip(batch(jnp.asarray(scales)), values(scales * VARIANCES, scales * chosen), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-13)

    rng, step = np.random.default_rng(0), 1e-6
    towards = step * VARIANCES * rng.standard_normal(6), step * chosen * rng.standard_normal(3)
    point = jnp.asarray(VARIANCES), jnp.asarray(chosen)
    weights = np.array([1.0, 0.7, 0.3, -0.4])
    pulled = jax.jit(jax.grad(lambda *arguments: jnp.asarray(weights) @ logs(*arguments), (0, 1)))(*point)
    ahead, behind = (logs(VARIANCES + s * towards[0], chosen + s * towards[1], np) for s in (1, -1))
    slope = sum(float(gradient @ along) for gradient, along in zip(pulled, towards, strict=True))
    assert slope == pytest.approx(weights @ (ahead - behind) / 2, rel=1e-5)


@pytest.mark.parametrize("curvatures", [best._of_penalties(VARIANCES[:3]), best._of_prior(VARIANCES[:4])])
def test_the_complex_step_of_the_search_is_the_derivative(curvatures):
    shares, everything = np.array([0.2, 0.1, 0.4, 0.3]), np.arange(len(curvatures.variances))
    step = 1e-6 * np.array([1.0, -0.3, 0.4, -0.5])
    _, jacobian = best._logarithms(curvatures, shares, everything)
    ahead, behind = (best._logarithms(curvatures, shares * np.exp(s * step), everything)[0] for s in (1, -1))
    np.testing.assert_allclose(jacobian @ step, (ahead - behind) / 2, rtol=1e-7, atol=1e-14)


def test_roots_of_an_arrowhead():
    rng = np.random.default_rng(1)
    poles, weights = rng.uniform(0.1, 5, 6), rng.uniform(0, 1, 6)
    weights[2], poles[4] = 0, poles[3]  # a pole that is an eigenvalue, and two equal ones
    border = np.sqrt(weights * poles)
    matrix = np.diag(np.append(poles, 0.7 + weights.sum()))
    matrix[-1, :-1] = matrix[:-1, -1] = border
    np.testing.assert_allclose(graded.secular_roots(np.float64(0.7), poles, weights), np.linalg.eigvalsh(matrix))
