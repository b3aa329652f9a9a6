"""The contract of scikit-learn's estimators, and what of its PCA holds of the autoencoder."""

import numpy as np
import pandas
import pytest
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from lae_jax import fit_stream
from lae_jax.errors import InputError
from lae_jax.sklearn import LinearAutoencoder

FLOWERS, KINDS = load_iris(return_X_y=True)
# What scikit-learn itself leaves out, and why.
SKIPPED = {"check_array_api_input": "SCIPY_ARRAY_API"}  # a variable to set before scipy is imported


@pytest.fixture(scope="module")
def found():
    return LinearAutoencoder(2).fit(FLOWERS)


@pytest.fixture(scope="module")
def exact():
    return PCA(2, svd_solver="full").fit(FLOWERS)


def test_every_check_of_an_estimator():
    # One component, so that few sizes are compiled.
    results = check_estimator(LinearAutoencoder(1), on_skip=None)
    left_out = {each["check_name"]: str(each["exception"]) for each in results if each["status"] != "passed"}
    assert len(results) > 40 and left_out.keys() == SKIPPED.keys()
    assert all(SKIPPED[name] in reason for name, reason in left_out.items())


def test_attributes_and_coordinates_are_those_of_pca(found, exact):
    for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_", "mean_"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=1e-9, err_msg=name)
    for name in ("n_components_", "n_features_in_", "n_samples_"):
        assert getattr(found, name) == getattr(exact, name)
    np.testing.assert_allclose(found.components_, exact.components_, atol=1e-5)
    coordinates = found.transform(FLOWERS)
    np.testing.assert_allclose(coordinates, exact.transform(FLOWERS), atol=1e-4)
    np.testing.assert_allclose(found.inverse_transform(coordinates), exact.inverse_transform(coordinates), atol=1e-4)
    np.testing.assert_allclose(found.fit_transform(FLOWERS), coordinates, rtol=1e-12)  # the same bits each time
    assert found.score(FLOWERS) == pytest.approx(-exact.noise_variance_ * 2 * (1 - 1 / len(FLOWERS)), rel=1e-6)


def test_variances_are_those_of_the_coordinates_and_of_the_samples(found):
    np.testing.assert_allclose(np.var(found.transform(FLOWERS), axis=0, ddof=1), found.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(found.transform(FLOWERS), axis=0), found.singular_values_, rtol=1e-9)
    whole = np.var(FLOWERS, axis=0, ddof=1).sum()
    np.testing.assert_allclose(found.explained_variance_ / found.explained_variance_ratio_, whole, rtol=1e-9)


@pytest.mark.parametrize(("given", "kept"), [(None, 3), (0.95, 2), (0.01, 1), (0.99, 3), (np.int64(2), 2)])
def test_the_number_of_components(given, kept):
    assert LinearAutoencoder(given).fit(FLOWERS).n_components_ == kept


@pytest.mark.parametrize("given", [0, 4, -1, 1.5, 1.0, "mle"])
@pytest.mark.parametrize("rows", [FLOWERS, FLOWERS[:4]], ids=["many", "few"])
def test_a_number_of_components_that_cannot_be(given, rows):
    for use in (LinearAutoencoder(given).fit, LinearAutoencoder(given).partial_fit):
        with pytest.raises(
            InputError, match=rf"^n_components: {given!r}: must be a whole number in 1\.\.3 for [^\n]*$"
        ):
            use(rows)


def test_a_part_of_the_variance_that_would_take_every_direction_is_refused():
    with pytest.raises(InputError, match=r"^n_components: 0\.9999: 3 components explain 0\.99478\d* at most$"):
        LinearAutoencoder(0.9999).fit(FLOWERS)


def test_no_more_components_than_directions():
    flat = FLOWERS.copy()
    flat[:, 3] = flat[:, 0] - flat[:, 1]  # of rank 3
    flat[:, 2] = flat[:, 0] + flat[:, 1]  # of rank 2
    assert LinearAutoencoder().fit(flat).n_components_ == 2
    with pytest.raises(InputError, match=r"^n_components: 3: must be a whole number in 1\.\.2"):
        LinearAutoencoder(3).fit(flat)


def test_the_precision_of_the_samples_is_kept(found):
    single = LinearAutoencoder(2).fit(FLOWERS.astype("float32"))
    assert single.components_.dtype == single.transform(FLOWERS.astype("float32")).dtype == np.float32
    np.testing.assert_allclose(single.components_, found.components_, atol=1e-5)
    assert LinearAutoencoder(2).fit((10 * FLOWERS).astype(int)).components_.dtype == np.float64


def test_data_frames_come_back_as_such():
    frame = pandas.DataFrame(FLOWERS, columns=["a", "b", "c", "d"], index=np.arange(150) + 7)
    found = LinearAutoencoder(2).set_output(transform="pandas").fit(frame)
    coordinates = found.transform(frame)
    assert coordinates.columns.tolist() == ["linearautoencoder0", "linearautoencoder1"]
    assert coordinates.index.equals(frame.index) and found.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert found.result_.components.feature_names.tolist() == ["a", "b", "c", "d"]


def test_in_a_pipeline_and_a_search():
    model = make_pipeline(StandardScaler(), LinearAutoencoder(max_iter=20), LogisticRegression())
    grid = {"linearautoencoder__n_components": [1, 2], "linearautoencoder__method": ["alternation", "rag"]}
    search = GridSearchCV(model, grid, cv=3, error_score="raise").fit(FLOWERS, KINDS)
    scores = dict(zip(map(str, search.cv_results_["params"]), search.cv_results_["mean_test_score"], strict=True))
    assert len(scores) == 4 and min(scores.values()) > 0.5  # twenty steps of RAG are on their way
    assert search.best_score_ == max(scores.values()) > 0.85 and search.score(FLOWERS, KINDS) > 0.85


def test_partial_fit_is_the_streaming_rule():
    stream = LinearAutoencoder(2, precision="float64")
    for part in np.split(FLOWERS, [60, 61, 130]):
        stream.partial_fit(part)
    whole = fit_stream([FLOWERS], 2, precision="float64", progress=False).components
    np.testing.assert_array_equal(stream.components_, whole.components)
    np.testing.assert_allclose(stream.explained_variance_, whole.explained_variance * 150 / 149, rtol=1e-15)
    np.testing.assert_allclose(stream.mean_, FLOWERS.mean(axis=0), rtol=1e-14)
    assert (stream.n_samples_, stream.n_iter_) == (150, 4)
    again = LinearAutoencoder(2, precision="float64").fit(FLOWERS)
    np.testing.assert_array_equal(again.partial_fit(FLOWERS).components_, whole.components)  # nothing is left of `fit`
    with pytest.raises(InputError, match=r"^n_components: 3: must be a whole number in 1\.\.2 for the first samples"):
        LinearAutoencoder(3).partial_fit(FLOWERS[:2])


def test_more_inputs_than_samples():
    rows = np.random.default_rng(0).standard_normal((3, 4))
    found = LinearAutoencoder(2).fit(rows)  # as many as three centred samples span
    np.testing.assert_allclose(found.inverse_transform(found.transform(rows)), rows, atol=1e-4)
    assert LinearAutoencoder().fit(rows).n_components_ == 2
