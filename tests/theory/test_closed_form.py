"""Closed-form spectra against jax.hessian, and what is left out of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lae_jax import objectives
from lae_jax.covariance import Dense, Diagonal, second_moment
from lae_jax.errors import InputError
from lae_jax.hyperparameters import collapsing_betas
from lae_jax.params import LAEParams, change_basis
from lae_jax.rotation import skew_rotation
from lae_jax.theory import closed_form, landscape
from lae_jax.theory import hessian as exact_hessians
from lae_jax.theory.blocks import TAIL, UNSEEN

SHAPES = [(4, 2), (7, 3), (12, 5)]  # (m, k)
PER_SHAPE = 70
TOLERANCE = 1e-12  # of the largest eigenvalue
VARIANCES = np.array([9.0, 6.5, 4.2, 2.1, 1.5, 0.8, 0.4, 0.0])
LATENT_DIM = 4


def rag_field(params, covariance, gain):
    gradient = jax.grad(objectives.reconstruction)(params, covariance)
    rotation = gain * skew_rotation(second_moment(params.encoder, covariance))
    return LAEParams(rotation @ params.encoder - gradient.encoder, -params.decoder @ rotation - gradient.decoder)


def without_hyperparameter(loss):
    return lambda params, covariance, _: loss(params, covariance)


# name -> draw(rng, variances, k) of a hyperparameter, optimum, spectrum, loss; all take (variances, hyperparameter, k)


def drawn_penalties(rng, variances, latent_dim):
    top = variances[latent_dim - 1] if rng.random() < 0.5 else variances[0]  # below d_k, or with collapsed latents
    penalties = np.sort(rng.uniform(0.01, 1.2 if top == variances[0] else 0.98, latent_dim) * top)
    if rng.random() < 0.3:
        penalties[-1] = penalties[-2] * (1 + 10.0 ** rng.uniform(-9, -3))
    return penalties


def drawn_penalty(rng, variances, latent_dim):
    return np.full(latent_dim, rng.uniform(0.01, 1.1) * variances[rng.integers(latent_dim)])


def drawn_prior(rng, variances, latent_dim):
    prior = rng.dirichlet(np.ones(latent_dim))
    if rng.random() < 0.3:
        prior[0] = 0
    return prior / prior.sum()


def nothing(rng, variances, latent_dim):
    return np.zeros(())


def drawn_beta(rng, variances, latent_dim):
    """With all, some or no latents used; close to a value at which one collapses; 1."""
    ends = collapsing_betas(variances, latent_dim)
    kind = rng.integers(10)
    if kind == 0:
        return np.ones(1)
    return ends[:1] * rng.uniform(0.05, 1.2) if kind < 7 else rng.choice(ends, 1) * (1 + 1e-6 * rng.standard_normal())


PROBLEMS = {
    "non_uniform_l2": (
        drawn_penalties,
        lambda d, penalties, k: landscape.l2_optimum(d, penalties),
        lambda d, penalties, k: closed_form.non_uniform_l2_spectrum(d, penalties),
        objectives.l2,
    ),
    "uniform_l2": (
        drawn_penalty,
        lambda d, penalties, k: landscape.l2_optimum(d, penalties),
        lambda d, penalties, k: closed_form.uniform_l2_spectrum(d, penalties[0], k),
        objectives.l2,
    ),
    "lae": (
        nothing,
        lambda d, _, k: landscape.principal_components(d, k),
        lambda d, _, k: closed_form.reconstruction_spectrum(d, k),
        without_hyperparameter(objectives.reconstruction),
    ),
    "deterministic_nested_dropout": (
        drawn_prior,
        lambda d, prior, k: landscape.principal_components(d, k),
        lambda d, prior, k: closed_form.deterministic_nested_dropout_spectrum(d, prior),
        objectives.deterministic_nested_dropout,
    ),
    "linear_vae": (
        drawn_beta,
        lambda d, beta, k: landscape.linear_vae_optimum(d, k, beta[0]),
        lambda d, beta, k: closed_form.linear_vae_spectrum(d, k, beta[0]),
        lambda params, covariance, beta: objectives.linear_vae(params, covariance, beta[0]),
    ),
}


def drawn_variances(rng, input_dim, latent_dim):
    variances = np.sort(rng.uniform(0.05, 3, input_dim))[::-1]
    kind = rng.integers(3)
    if kind == 1:  # nearly degenerate
        i = rng.integers(latent_dim)
        variances[i + 1] = variances[i] * (1 - 10.0 ** rng.uniform(-9, -3))
        variances[i + 2 :] = np.minimum(variances[i + 2 :], 0.9 * variances[i + 1])
    elif kind == 2:  # a component without variance
        variances[-1] = 0
    return variances


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


def all_eigenvalues(spectrum):
    """Ascending, null directions as zeros."""
    zeros = np.zeros(sum(spectrum.null_directions.values()))
    return np.sort(np.concatenate([spectrum.inside, spectrum.outside, zeros]))


def exact(name, variances, hyperparameters, params):
    """jax.hessian of a batch of problems of one shape."""
    loss = PROBLEMS[name][3]

    def one(d, hyperparameter, weights):
        return exact_hessians.exact_hessian(lambda p: loss(p, Diagonal(d), hyperparameter), weights)

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(variances), jnp.asarray(hyperparameters), stack(params)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_closed_form_is_the_exact_spectrum(name, shape):
    draw, optimum, spectrum_of, _ = PROBLEMS[name]
    input_dim, latent_dim = shape
    rng = np.random.default_rng(input_dim)
    variances = [drawn_variances(rng, *shape) for _ in range(PER_SHAPE)]
    hyperparameters = [draw(rng, d, latent_dim) for d in variances]
    cases = list(zip(variances, hyperparameters, strict=True))
    matrices = exact(name, variances, hyperparameters, [optimum(*case, latent_dim) for case in cases])
    spectra = [spectrum_of(*case, latent_dim) for case in cases]
    eigenvalues = np.linalg.eigvalsh(matrices)
    errors = np.abs(np.stack([all_eigenvalues(spectrum) for spectrum in spectra]) - eigenvalues).max(1)
    assert np.max(errors / eigenvalues[:, -1]) < TOLERANCE
    # The matrix consists of the blocks, and of nothing else.
    for spectrum, matrix in zip(spectra, matrices, strict=True):
        rest = matrix.copy()
        for block in spectrum.blocks:
            rest[block.positions[:, :, None], block.positions[:, None, :]] -= block.matrices
        assert np.abs(rest).max() < TOLERANCE * np.abs(matrix).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_rag_closed_form_is_the_exact_jacobian(shape):
    input_dim, latent_dim = shape
    rng = np.random.default_rng(input_dim)
    variances = [drawn_variances(rng, *shape) for _ in range(PER_SHAPE)]
    gains = rng.uniform(0.3, 6, PER_SHAPE)

    def one(d, gain, weights):
        return exact_hessians.exact_jacobian(lambda p: rag_field(p, Diagonal(d), gain), weights)

    params = [landscape.principal_components(d, latent_dim) for d in variances]
    jacobians = np.asarray(jax.jit(jax.vmap(one))(jnp.stack(variances), jnp.asarray(gains), stack(params)))
    for d, gain, jacobian in zip(variances, gains, jacobians, strict=True):
        spectrum = closed_form.rag_spectrum(d, latent_dim, gain)
        scale = np.abs(jacobian).max()
        rest = -jacobian
        for block in spectrum.blocks:
            rest[block.positions[:, :, None], block.positions[:, None, :]] -= block.matrices
            # The characteristic polynomial by power sums: unlike eigenvalues, well-conditioned where d_i is near d_j.
            values, power = np.nan_to_num(block.eigenvalues) / scale, block.matrices / scale
            for exponent in range(1, values.shape[1] + 1):
                sums = np.trace(np.linalg.matrix_power(power, exponent), axis1=1, axis2=2)
                np.testing.assert_allclose(sums, (values**exponent).sum(1), rtol=0, atol=TOLERANCE * 4.0**exponent)
        assert np.abs(rest).max() < TOLERANCE * scale
        if np.min(-np.diff(d[: latent_dim + 1])) > 0.02 * d[0]:
            eigenvalues = np.linalg.eigvals(-jacobian)
            assert np.abs(eigenvalues.imag).max() < TOLERANCE * scale
            assert np.abs(np.sort(eigenvalues.real) - all_eigenvalues(spectrum)).max() < TOLERANCE * scale


HYPERPARAMETERS = {
    "non_uniform_l2": np.array([0.1, 0.3, 0.5, 0.9]),
    "uniform_l2": np.full(LATENT_DIM, 0.5),
    "lae": np.zeros(()),
    "deterministic_nested_dropout": np.array([0.4, 0.3, 0.2, 0.1]),
    "linear_vae": np.ones(1),
}


@pytest.mark.parametrize("name", [*PROBLEMS, "rag"])
def test_modes_are_eigenvectors(name):
    if name == "rag":
        spectrum = closed_form.rag_spectrum(VARIANCES, LATENT_DIM)
        point = stack([landscape.principal_components(VARIANCES, LATENT_DIM)])
        point = jax.tree.map(lambda leaf: leaf[0], point)
        covariance = Diagonal(jnp.asarray(VARIANCES))
        matrix = -np.asarray(exact_hessians.exact_jacobian(lambda p: rag_field(p, covariance, 1.0), point))
    else:
        _, optimum, spectrum_of, _ = PROBLEMS[name]
        chosen = HYPERPARAMETERS[name]
        spectrum = spectrum_of(VARIANCES, chosen, LATENT_DIM)
        matrix = exact(name, [VARIANCES], [chosen], [optimum(VARIANCES, chosen, LATENT_DIM)])[0]
    everything = np.sort(np.concatenate([spectrum.inside, spectrum.outside]))
    for tail, expected in ((False, spectrum.inside), (True, everything)):
        found = [closed_form.mode(spectrum, rank, tail) for rank in range(expected.size)]
        np.testing.assert_array_equal([value for value, _ in found], expected)
        vectors = np.stack([ravel_pytree(vector)[0] for _, vector in found], 1)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, rtol=1e-13)
        assert np.abs(matrix @ vectors - vectors * expected).max() < 1e-13 * expected[-1]
        assert np.linalg.matrix_rank(vectors) == expected.size
    assert closed_form.mode(spectrum, -1)[0] == spectrum.inside[-1]


@pytest.mark.parametrize("gain", [None, 8.0])
def test_equal_eigenvalues_have_modes_of_their_own(gain):
    """Twice 12 of collapsed latents; RAG at a gain that makes its rotation as fast as another mode."""
    if gain is None:
        spectrum = closed_form.non_uniform_l2_spectrum([5.0, 3.0, 1.0], [6.0, 8.0])
    else:
        spectrum = closed_form.rag_spectrum([2.0, 1.0, 0.5], 2, gain)  # 8 (2 - 1) / 2 = 4
    assert np.min(np.diff(spectrum.inside)) < 1e-12
    vectors = [ravel_pytree(closed_form.mode(spectrum, rank)[1])[0] for rank in range(spectrum.inside.size)]
    expected = spectrum.inside.size - (gain is not None)  # that matrix has one vector less than eigenvalues
    assert np.linalg.matrix_rank(np.stack(vectors)) >= expected


def test_the_slowest_mode_names_its_latents():
    """The shape of the authors' MNIST penalties: small at the top, where latents 1 and 2 rotate slowest."""
    penalties = np.linspace(0.1, 0.9, LATENT_DIM) ** 2
    _, vector = closed_form.mode(closed_form.non_uniform_l2_spectrum(VARIANCES, penalties))
    assert set(zip(*np.nonzero(vector.encoder), strict=True)) == {(0, 1), (1, 0)}
    assert set(zip(*np.nonzero(vector.decoder), strict=True)) == {(0, 1), (1, 0)}


def test_left_out_directions_are_counted():
    d, k, m = VARIANCES, LATENT_DIM, VARIANCES.size
    unseen, pairs = {UNSEEN: k}, k * (k - 1) // 2
    expected = [
        (closed_form.non_uniform_l2_spectrum(d, [0.1, 0.3, 0.5, 0.9]), 0, {}),
        (closed_form.uniform_l2_spectrum(d, 0.5, k), pairs, {}),
        (closed_form.uniform_l2_spectrum(d, 5.0, k), 1 + 2 * 2, {}),  # latents 3 and 4 have collapsed
        (closed_form.uniform_l2_spectrum(d, 50.0, k), 0, {}),
        (closed_form.reconstruction_spectrum(d, k), k**2, unseen),
        (closed_form.deterministic_nested_dropout_spectrum(d, [0.1, 0.2, 0.3, 0.4]), k, unseen),
        (closed_form.deterministic_nested_dropout_spectrum(d, [0.1, 0.0, 0.5, 0.4]), k + 2, unseen),
        (closed_form.rag_spectrum(d, k), k * (k + 1) // 2, unseen),
        (closed_form.linear_vae_spectrum(d, k), 0, unseen),
    ]
    for spectrum, inside, outside in expected:
        names = dict(spectrum.null_directions)
        assert {name: names.pop(name) for name in outside} == outside
        assert sum(names.values()) == inside and len(names) == (inside > 0)
        size = sum(int(np.prod(shape)) for shape in spectrum.shapes)
        assert spectrum.inside.size + spectrum.outside.size + sum(spectrum.null_directions.values()) == size
        assert np.all(spectrum.inside > 0) and np.all(spectrum.outside > 0)
        assert spectrum.inside.size + inside == 2 * k**2 + (size - 2 * k * m)


def test_condition_number_says_what_it_leaves_out():
    spectrum = closed_form.deterministic_nested_dropout_spectrum(VARIANCES, [0.4, 0.3, 0.2, 0.1])
    within, everything = closed_form.condition_number(spectrum), closed_form.condition_number(spectrum, tail=True)
    assert within.value == spectrum.inside[-1] / spectrum.inside[0] == within.largest / within.smallest
    assert within.left_out == {"scales of latents": 4, UNSEEN: 4, TAIL: spectrum.outside.size}
    assert everything.left_out == {"scales of latents": 4, UNSEEN: 4}
    assert everything.smallest == min(spectrum.inside[0], spectrum.outside[0]) < within.smallest


def test_nearly_degenerate_pairs_keep_their_digits():
    """First-order perturbation of the input rotation, at a condition number beyond 1e12."""
    penalties = np.array([0.2, 0.5])
    variances = np.array([2.0 * (1 + 1e-12), 2.0, 0.3])
    (l_i, l_j), gap, fractions = penalties, variances[0] - variances[1], penalties.sum() / 2
    predicted = (l_j - l_i) * gap * fractions / (2 * (2 - fractions))
    smallest = closed_form.condition_number(closed_form.non_uniform_l2_spectrum(variances, penalties)).smallest
    assert smallest == pytest.approx(predicted, rel=1e-9, abs=0)


def test_a_penalty_at_its_variance_is_the_degenerate_limit():
    spectrum = closed_form.non_uniform_l2_spectrum(VARIANCES, [0.1, 0.3, 0.5, VARIANCES[3]])
    assert spectrum.inside[0] == 0 and spectrum.inside[1] > 0
    assert closed_form.condition_number(spectrum).value == np.inf


def test_nested_dropout_kept_whole_is_plain_reconstruction():
    whole = closed_form.deterministic_nested_dropout_spectrum(VARIANCES, [0, 0, 0, 1])
    plain = closed_form.reconstruction_spectrum(VARIANCES, LATENT_DIM)
    np.testing.assert_allclose(whole.inside, plain.inside, rtol=1e-15)
    np.testing.assert_allclose(plain.inside, np.sort(np.tile(4 * VARIANCES[:4], 4)), rtol=1e-14)
    rag = closed_form.rag_spectrum(VARIANCES, LATENT_DIM, 2.0)
    rotations = [VARIANCES[i] - VARIANCES[j] for i in range(4) for j in range(i + 1, 4)]
    np.testing.assert_allclose(rag.inside, np.sort([*plain.inside, *rotations]), rtol=1e-14)
    np.testing.assert_array_equal(rag.outside, plain.outside)


def test_the_spectrum_is_that_of_pixels_and_of_every_rotation():
    """In a rotated input space; for Eq. (2) with rotated latents as well."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    optimum = landscape.l2_optimum(VARIANCES, HYPERPARAMETERS["uniform_l2"])
    params = change_basis(LAEParams(turn @ optimum.encoder, optimum.decoder @ turn.T), basis.T)
    covariance = Dense(jnp.asarray(basis @ np.diag(VARIANCES) @ basis.T))
    matrix = exact_hessians.exact_hessian(lambda p: objectives.l2(p, covariance, 0.5), params)
    expected = all_eigenvalues(closed_form.uniform_l2_spectrum(VARIANCES, 0.5, 4))
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), expected, rtol=0, atol=TOLERANCE * expected[-1])


def test_sizes_where_no_matrix_fits():
    variances = np.linspace(100.0, 1.0, 400)
    spectrum = closed_form.non_uniform_l2_spectrum(variances, np.linspace(0.5, 40, 100))
    assert spectrum.inside.size + spectrum.outside.size == 2 * 400 * 100
    largest = closed_form.condition_number(spectrum, tail=True).largest
    assert 2 * variances[0] <= largest <= 4 * variances[0]
    one = closed_form.non_uniform_l2_spectrum(variances, [0.5])
    np.testing.assert_allclose(one.inside, [2.0, 4 * 99.5], rtol=1e-13)


def test_matrix_free_extremes_agree():
    variances = np.append(np.geomspace(20, 0.5, 6), np.geomspace(0.4, 1e-4, 54))
    penalties = np.linspace(0.1, 0.6, 6) ** 2
    params = jax.tree.map(jnp.asarray, landscape.l2_optimum(variances, penalties))
    covariance = Diagonal(jnp.asarray(variances))
    predicted = closed_form.condition_number(closed_form.non_uniform_l2_spectrum(variances, penalties), tail=True)
    found = exact_hessians.extreme_eigenvalues(lambda p: objectives.l2(p, covariance, jnp.asarray(penalties)), params)
    assert found[0] == pytest.approx(predicted.smallest, rel=1e-6)
    assert found[1] == pytest.approx(predicted.largest, rel=1e-8)


def test_matrix_free_extremes_leave_out_a_null_space():
    prior = np.array([0.4, 0.3, 0.2, 0.1])
    variances = np.maximum(VARIANCES, 0.2)
    params = jax.tree.map(jnp.asarray, landscape.principal_components(variances, 4))
    scale = [
        LAEParams(np.outer(row, axis), -np.outer(axis, row)) for row, axis in zip(np.eye(4), np.eye(8)[:4], strict=True)
    ]
    null_space = np.stack([ravel_pytree(direction)[0] for direction in scale], 1) / np.sqrt(2)

    def loss(p):
        return objectives.deterministic_nested_dropout(p, Diagonal(jnp.asarray(variances)), jnp.asarray(prior))

    spectrum = closed_form.deterministic_nested_dropout_spectrum(variances, prior)
    predicted = closed_form.condition_number(spectrum, tail=True)
    smallest, largest = exact_hessians.extreme_eigenvalues(loss, params, null_space)
    assert smallest == pytest.approx(predicted.smallest, rel=1e-6)
    assert largest == pytest.approx(predicted.largest, rel=1e-8)
    with pytest.raises(InputError, match="singular"):
        exact_hessians.extreme_eigenvalues(loss, params)


def test_hessians_at_any_weights():
    """The Jacobian of a gradient is its Hessian; single precision is refused."""
    params = LAEParams(*(np.random.default_rng(0).normal(size=shape) for shape in ((2, 5), (5, 2))))
    covariance = Diagonal(jnp.asarray(VARIANCES[:5]))

    def loss(p):
        return objectives.reconstruction(p, covariance)

    matrix = exact_hessians.exact_hessian(loss, params)
    np.testing.assert_allclose(exact_hessians.exact_jacobian(jax.grad(loss), params), matrix, atol=1e-12)
    assert np.linalg.eigvalsh(matrix)[0] < -0.1
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    for check in (exact_hessians.exact_hessian, exact_hessians.exact_jacobian, exact_hessians.extreme_eigenvalues):
        with pytest.raises(InputError, match=r"float32.*float64"):
            check(loss, single)


@pytest.mark.parametrize(
    ("spectrum", "message"),
    [
        (lambda: closed_form.non_uniform_l2_spectrum([2.0, 1.0], [0.1, 0.2]), "latent_dim: 2: .*from 1 to 1"),
        (lambda: closed_form.reconstruction_spectrum([2.0, 1.0, 0.5], 0), "latent_dim: 0"),
        (lambda: closed_form.rag_spectrum([2.0, 2.0, 0.5], 2), "variances: .*strictly decreasing"),
        (lambda: closed_form.rag_spectrum([2.0, 1.0, 1.0], 2), "variances: .*strictly decreasing"),
        (lambda: closed_form.rag_spectrum([1.0, 2.0, 0.5], 1), "variances: .*decreasing"),
        (lambda: closed_form.linear_vae_spectrum([2.0, 0.0, 0.0], 2), "variances: .*positive"),
        (lambda: closed_form.reconstruction_spectrum([2.0, 1.0, -1.0], 1), "variances: .*descend to 0 or above"),
        (lambda: closed_form.reconstruction_spectrum([2.0, np.nan, 1.0], 1), "variances: .*finite"),
        (lambda: closed_form.linear_vae_spectrum([2.0, 1.0, 0.0], 2), "variances: .*noise"),
        (lambda: closed_form.non_uniform_l2_spectrum([3.0, 2.0, 1.0], [0.2, 0.1]), "penalties: .*must increase"),
        (lambda: closed_form.non_uniform_l2_spectrum([3.0, 2.0, 1.0], [0.0, 0.1]), "penalties: .*positive"),
        (lambda: closed_form.uniform_l2_spectrum([3.0, 2.0, 1.0], -1.0, 2), "penalties: .*positive"),
        (lambda: closed_form.deterministic_nested_dropout_spectrum([3.0, 2.0, 1.0], [1.0, 0.0]), "prior: .*last one"),
        (lambda: closed_form.deterministic_nested_dropout_spectrum([3.0, 2.0, 1.0], [-0.1, 1.1]), "prior: "),
        (lambda: closed_form.rag_spectrum([3.0, 2.0, 1.0], 2, 0.0), "rotation_gain: 0.0"),
    ],
)
def test_bad_input_is_one_clear_line(spectrum, message):
    with pytest.raises(InputError, match=message) as raised:
        spectrum()
    assert "\n" not in str(raised.value)
