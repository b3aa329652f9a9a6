"""Whatever the data are measured in, every method finds the same in float32, and tells it in the data's own unit."""

import functools

import jax
import numpy as np
import pytest
from sklearn.datasets import load_iris

from lae_jax import METHODS, OPTIMIZERS, InputError, fit
from lae_jax.data.datasets import from_samples
from lae_jax.training import loop
from lae_jax.training.settings import Settings, build, resolve
from lae_jax.training.units import unit_of
from tests import scales

IRIS = load_iris().data
SCALES = [1e-30, 0.1, 1e30]
STEPS = 60


@functools.cache
def iris(scale):
    return from_samples("iris", IRIS * scale)


@functools.cache
def trained(method, scale, optimizer="nesterov", unit=None, init="gaussian"):
    """The settings, the weights in the data's unit, and the history."""
    dataset = iris(scale)
    given = Settings(method=method, latent_dim=2, optimizer=optimizer, unit=unit, init=init, init_scale=0.1)
    settings, _ = resolve(given, dataset)
    run = build(settings, dataset)
    *_, (state, history) = loop.train(run.recipe, run.problem, run.state, STEPS, record_every=20)
    return settings, run.in_input_coordinates(state.params), history


@pytest.mark.parametrize("method", METHODS)
def test_every_method_does_the_same_at_every_scale(method):
    _, _, plain = trained(method, 1.0)
    for scale in SCALES:
        _, _, history = trained(method, scale)
        np.testing.assert_allclose(history["axis_alignment"], plain["axis_alignment"], atol=1e-3)
        assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("method", ["rag", "non_uniform_l2", "linear_vae"])
def test_so_do_the_other_optimisers(method, optimizer):
    for scale in (1e-30, 1e30):
        found, plain = (trained(method, each, optimizer)[2]["axis_alignment"] for each in (scale, 1.0))
        np.testing.assert_allclose(found, plain, atol=1e-3)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "linear_vae"])
def test_a_unit_changes_no_bit_of_gradient_descent(method):
    (settings, params, history), (_, plain, before) = trained(method, 1.0), trained(method, 1.0, unit=1.0)
    assert settings.unit == 2.0  # sigma_1 of iris is 2.05
    np.testing.assert_array_equal(params.encoder, plain.encoder)
    for name in loop.COLUMNS:
        np.testing.assert_array_equal(history[name], before[name])


@pytest.mark.parametrize("method", METHODS)
def test_weights_and_records_are_in_the_unit_of_the_data(method):
    """The loss recorded is that of the weights handed on, on the data as they are."""
    for scale in (2.0**-20, 2.0**20):
        _, params, history = trained(method, scale)
        dataset = iris(scale)
        own = build(
            resolve(Settings(method=method, latent_dim=2, unit=1.0, representation="samples"), dataset)[0], dataset
        )
        key = jax.random.fold_in(own.problem.key, STEPS)
        weights = jax.tree.map(jax.numpy.asarray, params)
        loss = float(own.recipe.method.loss(weights, own.problem.data, key, own.problem.hyperparameter))
        assert history["loss"][-1] == pytest.approx(loss, rel=1e-4, abs=1e-3 if method == "linear_vae" else 0)


def test_weights_from_a_file_are_in_the_unit_of_the_data(tmp_path):
    _, params, _ = trained("linear_vae", 2.0**10)
    np.savez(tmp_path / "w.npz", encoder=params.encoder, decoder=params.decoder)
    dataset = from_samples("iris", IRIS * 2.0**10)
    given = Settings(method="linear_vae", latent_dim=2, init=str(tmp_path / "w.npz"))
    run = build(resolve(given, dataset)[0], dataset)
    back = run.in_input_coordinates(run.state.params)
    np.testing.assert_allclose(back.encoder, params.encoder, rtol=1e-5, atol=1e-9)
    assert float(back.noise_log_variance) == pytest.approx(0, abs=1e-5)


def test_rows_and_optimisers_of_ones_own_keep_the_unit_of_the_data():
    dataset = from_samples("iris", IRIS)
    own = METHODS["rag"]._replace(label="mine")
    assert resolve(Settings(method=own, latent_dim=2), dataset)[0].unit == 1.0
    with pytest.raises(InputError, match=r"^unit: 2\.0: "):
        resolve(Settings(method=own, latent_dim=2, unit=2.0), dataset)
    with pytest.raises(InputError, match=r"^unit: -1\.0: must be positive"):
        resolve(Settings(latent_dim=2, unit=-1.0), dataset)
    for unit in (1e-200, 1e200):
        with pytest.raises(InputError, match=r"^unit: 1e.200: must be between"):
            resolve(Settings(latent_dim=2, unit=unit), dataset)
    assert unit_of(METHODS["rag"], OPTIMIZERS["sgd"], 2.0**-60) == 2.0**-30


def test_the_sweep_over_scales_sees_a_difference(monkeypatch):
    """`python -m tests.scales`, of one method; and with a rule whose default rate knows no unit."""
    assert float(scales.compared("iris", "rag", [1e30], 50)["worst_difference"]) < scales.MOST
    monkeypatch.setattr(scales, "fit", functools.partial(fit, learning_rate=0.003))
    assert float(scales.compared("iris", "rag", [0.1], 50)["worst_difference"]) > scales.MOST
