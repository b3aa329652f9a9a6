"""Components of a trained autoencoder: against scikit-learn, and the laws of what they promise."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from lae_jax import objectives
from lae_jax.components import against_pca, components_of, load, reconstruction_errors
from lae_jax.covariance import Dense, Samples
from lae_jax.data import datasets
from lae_jax.errors import InputError
from lae_jax.params import LAEParams
from lae_jax.runs import storage
from lae_jax.training import loop
from lae_jax.training import settings as experiment
from tests.helpers import normal, orthogonal, random_params, random_vae, rows_with


def trained(dataset, **settings):
    """Components after training with the project's best rule."""
    settings = experiment.resolve(experiment.Settings(method="aligned", **settings), dataset)[0]
    run = experiment.build(settings, dataset)
    *_, (state, _) = loop.train(run.recipe, run.problem, run.state, 2000, record_every=100, target=1e-13)
    params = run.in_input_coordinates(state.params)
    return components_of(params, dataset.covariance, dataset.mean, dataset.scale)


def assert_equals_pca(found, variances, truth):
    columns = against_pca(found, variances, truth)
    distinct = columns["relative_gap"] > 1e-3
    assert distinct.sum() > len(distinct) / 2
    assert (columns["cosine"][distinct] >= 0.9999).all()
    assert (columns["relative_error"] <= 1e-4).all()


def test_digits_against_scikit_learn():
    """In pixels, where training knows nothing of the eigenbasis; signs and order are scikit-learn's as well."""
    digits = load_digits().data
    dataset = datasets.digits()
    found = trained(dataset, latent_dim=12, representation="dense")
    pca = PCA(12, svd_solver="full").fit(digits)
    # scikit-learn divides by n - 1, this project by n; the data set is scaled by 1 / 16.
    variances = pca.explained_variance_ * (1 - 1 / len(digits)) / 16**2
    assert_equals_pca(found, np.append(variances, 0), pca.components_.T)
    assert (np.sum(found.components * pca.components_, axis=1) > 0).all()
    np.testing.assert_allclose(found.explained_variance_ratio, pca.explained_variance_ratio_, rtol=1e-4)
    size = np.abs(pca.transform(digits)).max()
    np.testing.assert_allclose(found.transform(digits), pca.transform(digits) / 16, atol=1e-2 * size / 16)
    restored = found.inverse_transform(found.transform(digits))
    np.testing.assert_allclose(restored, pca.inverse_transform(pca.transform(digits)), atol=1e-2 * size)


def test_mnist_against_its_eigendecomposition():
    """From moments, the path that Fashion-MNIST takes too once its samples are read."""
    dataset = datasets.mnist()
    found = trained(dataset, latent_dim=20)
    assert_equals_pca(found, dataset.variances, dataset.components)
    assert found.latents.tolist() == list(range(20))


def test_order_signs_and_lengths_are_recovered():
    dataset = datasets.digits()
    shuffled = np.random.default_rng(0).permutation(9)
    lengths = np.linspace(-3, 2, 9)  # some negative
    decoder = dataset.components[:, shuffled] * lengths
    found = components_of(LAEParams(decoder.T, decoder), dataset.covariance, dataset.mean, dataset.scale)
    np.testing.assert_allclose(found.components, dataset.components[:, :9].T, atol=1e-14)
    np.testing.assert_array_equal(found.latents, np.argsort(shuffled))
    np.testing.assert_allclose(found.explained_variance, dataset.variances[:9], rtol=1e-12)
    np.testing.assert_allclose(
        found.explained_variance_ratio, dataset.variances[:9] / dataset.total_variance, rtol=1e-12
    )


@pytest.mark.parametrize("make", [random_params, random_vae])
def test_any_weights_give_unit_rows_in_order_with_the_largest_entry_positive(make):
    rows = normal(1, 30, 7)
    found = components_of(make(0, 4, 7), rows.T @ rows / 30)
    np.testing.assert_allclose(np.linalg.norm(found.components, axis=1), 1, rtol=1e-14)
    assert (np.diff(found.explained_variance) <= 0).all()
    largest = np.abs(found.components).argmax(axis=1)
    assert (found.components[np.arange(4), largest] > 0).all()


def test_parts_of_the_variance_add_up_to_that_of_the_span():
    """However oblique the latents are: nearly parallel ones would count the same variance several times."""
    rows = normal(1, 30, 7) + 3 * normal(2, 7)
    matrix = rows.T @ rows / 30
    decoder = normal(2, 7)[:, None] + 0.1 * normal(4, 7, 4)
    found = components_of(LAEParams(decoder.T, decoder), matrix)
    assert found.explained_variance.sum() > 1.5 * np.trace(matrix)
    basis = np.linalg.qr(decoder)[0]
    whole = np.trace(basis.T @ matrix @ basis) / np.trace(matrix)
    assert found.explained_variance_ratio.sum() == pytest.approx(whole) and whole <= 1
    assert found.explained_variance_ratio[0] == pytest.approx(found.explained_variance[0] / np.trace(matrix))
    assert (found.explained_variance_ratio > 0).all()


def test_every_form_of_the_covariance_gives_the_same():
    rows, params = normal(1, 30, 7), random_params(0, 3, 7)
    matrix = rows.T @ rows / 30
    first, *others = (components_of(params, form) for form in (matrix, Dense(matrix), Samples(rows)))
    for other in others:
        for name, value in first._replace(feature_names=0)._asdict().items():
            np.testing.assert_allclose(getattr(other._replace(feature_names=0), name), value, rtol=1e-13, err_msg=name)


def test_collapsed_latents_have_no_component():
    decoder = orthogonal(0, 6)[:, :4] * [1, 0, 1e-9, 2]
    found = components_of(LAEParams(decoder.T, decoder), np.diag(np.arange(6.0, 0, -1)))
    assert sorted(found.latents) == [0, 3] and found.components.shape == (2, 6)
    nothing = components_of(LAEParams(0 * decoder.T, 0 * decoder), np.eye(6))
    assert nothing.components.shape == (0, 6) and nothing.transform(np.ones((2, 6))).shape == (2, 0)


def test_coordinates_are_those_of_the_nearest_point_also_where_components_are_oblique():
    samples = normal(2, 20, 7)
    found = components_of(random_params(0, 3, 7), np.eye(7), mean=np.arange(7.0), scale=2.0)
    assert abs(found.components[0] @ found.components[1]) > 0.05  # oblique indeed
    coordinates = found.transform(samples)
    restored = found.inverse_transform(coordinates)
    np.testing.assert_allclose((samples - restored) @ found.components.T, 0, atol=1e-13)
    np.testing.assert_allclose(found.transform(restored), coordinates, atol=1e-13)


def test_reconstruction_errors():
    rows, params = rows_with(np.arange(7.0, 0, -1), 30), random_params(0, 3, 7)
    matrix = rows.T @ rows / 30
    found = components_of(params, matrix)
    errors = reconstruction_errors(params, found, matrix, np.arange(7.0, 0, -1))
    assert errors["exact PCA"] == pytest.approx(4 + 3 + 2 + 1)
    nearest = found.inverse_transform(found.transform(rows))
    assert errors["components"] == pytest.approx(np.sum((rows - nearest) ** 2) / 30)
    assert errors["autoencoder"] == pytest.approx(float(objectives.reconstruction(params, Samples(rows))))
    assert errors["exact PCA"] < errors["components"] < errors["autoencoder"]


def test_gaps_are_to_the_nearest_neighbour():
    found = components_of(LAEParams(np.eye(4)[:2], np.eye(4)[:, :2]), np.diag([8.0, 4, 3, 1]))
    columns = against_pca(found, np.array([8.0, 4, 3, 1]), np.eye(4))
    np.testing.assert_allclose(columns["relative_gap"], [0.5, 0.25])
    np.testing.assert_allclose(columns["cosine"], 1)


def test_written_and_read_back(tmp_path):
    found = components_of(random_params(0, 3, 7), np.eye(7), mean=np.arange(7.0), scale=0.5)
    storage.write_weights(tmp_path / "components.npz", found)
    again = load(tmp_path / "components.npz")
    assert isinstance(again.scale, float)
    for name, value in found._asdict().items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_bad_input():
    params = random_params(0, 3, 7)
    found = components_of(params, np.eye(7))
    with pytest.raises(InputError, match=r"samples: of shape \(2, 6\); need \(n, 7\)"):
        found.transform(np.zeros((2, 6)))
    with pytest.raises(InputError, match=r"coordinates: of shape \(3,\); need \(n, 3\)"):
        found.inverse_transform(np.zeros(3))
    with pytest.raises(InputError, match="not finite"):
        components_of(params._replace(decoder=params.decoder.at[0, 0].set(np.nan)), np.eye(7))
