"""The public face: data of any kind to components in one call."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lae_jax
from lae_jax.errors import InputError
from lae_jax.methods import METHODS
from tests.helpers import normal, orthogonal, rows_with

M, N, K = 6, 40, 2
VARIANCES = np.array([9.0, 4.0, 2.0, 1.0, 0.5, 0.2])
ROWS = rows_with(VARIANCES, N) @ orthogonal(3, M).T
ROWS = ROWS - ROWS.mean(axis=0)


def pca(rows, latent_dim):
    _, _, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    return right[:latent_dim]


def assert_finds_the_components(fit, rows=ROWS, latent_dim=K, least=1 - 1e-6):
    cosines = np.abs(np.sum(fit.components.components * pca(rows, latent_dim), axis=1))
    assert (cosines > least).all()


@pytest.fixture(scope="module")
def fitted():
    return lae_jax.fit(ROWS, K)


def test_an_array_and_a_size_are_enough(fitted):
    assert_finds_the_components(fitted)
    assert fitted.notes == ()
    assert fitted.history["step"][-1] < lae_jax.fitting.MOST_STEPS
    assert fitted.history["axis_alignment"][-1] < 1e-6
    assert isinstance(fitted.params.encoder, np.ndarray) and fitted.params.encoder.shape == (K, M)
    nearest = fitted.components.inverse_transform(fitted.components.transform(ROWS))
    lost = np.sum((ROWS - nearest) ** 2) / N
    centred = np.linalg.svd(ROWS, compute_uv=False) ** 2 / N
    assert lost == pytest.approx(np.sum(centred[K:]), rel=1e-5)
    assert None not in (fitted.settings.learning_rate, fitted.settings.momentum)
    assert fitted.settings.representation == "eigenbasis"


@pytest.mark.parametrize("form", ["list", "jax", "path", "str", "dataset"])
def test_the_form_of_the_data_does_not_matter(fitted, form, tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    data = {
        "list": ROWS.tolist(),
        "jax": jnp.asarray(ROWS),
        "path": tmp_path / "rows.npy",
        "str": str(tmp_path / "rows.npy"),
        "dataset": lae_jax.datasets.from_samples("mine", ROWS),
    }[form]
    again = lae_jax.fit(data, np.int64(K))
    np.testing.assert_array_equal(again.params.decoder, fitted.params.decoder)


def test_settings_go_where_they_are_said_to(tmp_path):
    start = METHODS["lae"].lift(lae_jax.LAEParams(normal(0, K, M), normal(1, M, K)))
    np.savez(tmp_path / "start.npz", **start._asdict())
    fit = lae_jax.fit(
        ROWS, K, "non_uniform_l2", num_steps=3, optimizer="sgd", learning_rate=1e-3, penalties=np.array([0.1, 0.2]),
        init=tmp_path / "start.npz", record_every=1, center=False, scale=2.0, representation="dense",
    )  # fmt: skip
    assert fit.history["step"].tolist() == [0, 1, 2, 3]
    assert fit.settings.penalties == (0.1, 0.2)
    assert fit.components.scale == 2 and not fit.components.mean.any()
    matrix = 4 * ROWS.T @ ROWS / N
    params = jax.tree.map(jnp.asarray, start)
    for _ in range(3):
        gradients = jax.grad(lae_jax.objectives.l2)(params, matrix, jnp.array([0.1, 0.2]))
        params = jax.tree.map(lambda w, g: w - 1e-3 * g, params, gradients)
    np.testing.assert_allclose(fit.params.decoder, params.decoder, atol=1e-5)


def test_any_optax_transformation_stands_for_the_optimizer():
    """Unknown to the table, it is not assumed to commute with rotations, and brings its own rate."""
    fit = lae_jax.fit(ROWS, K, "rag", num_steps=400, optimizer=optax.chain(optax.clip(1.0), optax.adam(0.01)))
    assert fit.settings.representation == "dense" and fit.settings.learning_rate is None
    assert fit.history["loss"][-1] < fit.history["loss"][0] - 10
    with pytest.raises(InputError, match=r"learning_rate: .*brings its own"):
        lae_jax.fit(ROWS, K, optimizer=optax.adam(0.01), learning_rate=0.1)


def test_a_row_of_ones_own_is_trained_where_its_loss_is_what_it_says():
    """An l1 penalty is changed by a rotation of the inputs: the loss told is that at the weights handed back."""

    def l1(params, data, key, hyperparameter):
        return lae_jax.objectives.reconstruction(params, data) + 0.2 * jnp.sum(jnp.abs(params.encoder))

    fit = lae_jax.fit(ROWS, K, lae_jax.Method("l1", l1), num_steps=200)
    assert fit.settings.representation == "dense"
    covariance = jnp.asarray(np.cov(ROWS.T, bias=True))
    told = l1(jax.tree.map(jnp.asarray, fit.params), covariance, None, None)
    assert fit.history["loss"][-1] == pytest.approx(float(told), rel=1e-5)


def test_what_has_not_converged_says_so(monkeypatch):
    monkeypatch.setattr(lae_jax.fitting, "MOST_STEPS", 20)
    (note,) = lae_jax.fit(ROWS, K, "lae").notes
    assert note.startswith("num_steps: not converged: subspace distance is ") and "20 steps" in note
    assert lae_jax.fit(ROWS, K, "lae", num_steps=20).notes == ()


def test_a_method_that_finds_the_span_alone_stops_once_it_has():
    fit = lae_jax.fit(ROWS, K, "lae")
    assert fit.history["step"][-1] < lae_jax.fitting.MOST_STEPS and fit.notes == ()
    assert fit.history["subspace_distance"][-1] <= lae_jax.fitting.CONVERGED


def test_target_and_number_of_steps():
    reached = lae_jax.fit(ROWS, K, target=0.1).history
    assert reached["axis_alignment"][-1] <= 0.1 < reached["axis_alignment"][-2]
    assert lae_jax.fit(ROWS, K, num_steps=0).history["step"].tolist() == [0]


def test_many_fits_are_those_of_one_by_one():
    many = lae_jax.fit_many(ROWS, latent_dims=(1, 3), seeds=(0, 5), learning_rates=(0.005, 0.01), num_steps=100)
    assert [(fit.settings.latent_dim, fit.settings.seed, fit.settings.learning_rate) for fit in many[:3]] == [
        (1, 0, 0.005), (1, 0, 0.01), (1, 5, 0.005),
    ]  # fmt: skip
    for fit in (many[0], many[-1]):
        one = fit.settings
        alone = lae_jax.fit(ROWS, one.latent_dim, seed=one.seed, learning_rate=one.learning_rate, num_steps=100)
        np.testing.assert_allclose(fit.params.decoder, alone.params.decoder, atol=1e-4)
        np.testing.assert_array_equal(fit.history["step"], alone.history["step"][1:])
    assert_finds_the_components(lae_jax.fit_many(ROWS, 2)[0])


def test_of_many_one_that_diverges_says_so_and_the_others_go_on():
    good, bad = lae_jax.fit_many(ROWS, 2, learning_rates=(0.01, 1e3), num_steps=100)
    assert good.notes == () and "diverged" in bad.notes[-1] and bad.components.components.shape == (0, M)


BAD = [
    ({"latent_dim": 2.5}, "latent_dim: 2.5: must be a whole number"),
    ({"latent_dim": "2"}, "latent_dim: '2': must be a whole number"),
    ({"latent_dim": M}, "latent_dim: 6 is outside"),
    ({"latent_dim": 2, "num_steps": -1}, "num_steps: -1"),
    ({"latent_dim": 2, "record_every": 0}, "record_every: 0"),
    ({"latent_dim": 2, "method": "alined"}, "did you mean 'aligned'"),
    ({"latent_dim": 2, "method": None}, "method: None is not known"),
    ({"latent_dim": 2, "optimizer": "adm"}, "did you mean 'adam'"),
    ({"latent_dim": 2, "data": "no_such"}, "dataset: 'no_such' is not known"),
    ({"latent_dim": 2, "data": lae_jax.datasets.from_samples("x", ROWS), "center": True}, "center: given"),
    ({"latent_dim": 2, "penalties": 0.1}, "penalties: given, but method 'aligned' takes none"),
    ({"latent_dim": 2, "method": "uniform_l2", "penalties": [[0.1]]}, "penalties: .*takes 1 number"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:50])
def test_bad_arguments_in_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as raised:
        lae_jax.fit(**{"data": ROWS, **arguments})
    assert "\n" not in str(raised.value)


def test_everything_public_is_listed_and_says_what_it_is():
    assert len(set(lae_jax.__all__)) == len(lae_jax.__all__)
    for name in lae_jax.__all__:
        assert name in lae_jax.__doc__, name
        assert isinstance(getattr(lae_jax, name), dict) or getattr(lae_jax, name).__doc__, name


def test_a_loss_over_latent_sizes_is_a_vmap():
    """Zero padding needs no mask, and a plain matrix is a covariance."""
    each = [lae_jax.LAEParams(normal(k, k, M), normal(k + 9, M, k)) for k in (1, 2, 4)]
    matrix = ROWS.T @ ROWS / N
    losses = jax.jit(jax.vmap(lae_jax.objectives.l2, (0, None, 0)))(
        lae_jax.stack_latents(each), matrix, jnp.array([0.1, 0.2, 0.3])
    )
    alone = [lae_jax.objectives.l2(*pair) for pair in zip(each, [matrix] * 3, (0.1, 0.2, 0.3), strict=True)]
    np.testing.assert_allclose(losses, alone, rtol=1e-12)


def test_mini_batches_settle_by_the_row_for_them_with_nothing_to_tune():
    fit = lae_jax.fit(ROWS, K, "low_rank_history", batch_size=K - 1, spare=2, num_steps=4000, record_every=1000)
    assert_finds_the_components(fit, least=0.99)
    assert fit.notes == () and fit.settings.spare == 2
    np.testing.assert_array_equal(fit.params.encoder, fit.params.decoder.T)


def test_spare_latents_are_a_setting_and_save_steps():
    runs = [lae_jax.fit(ROWS, K, "alternation", spare=spare, num_steps=12, record_every=1) for spare in (0, 2)]
    steps = [int(np.argmax(run.history["axis_alignment"] < 1e-6)) for run in runs]
    assert 0 < steps[1] < steps[0]
