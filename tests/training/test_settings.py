"""Settings: what is refused, what is chosen, and that a seed names one run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax import METHODS, OPTIMIZERS
from lae_jax.data import datasets, spectra
from lae_jax.data.datasets import from_samples
from lae_jax.data.representations import REPRESENTATIONS
from lae_jax.errors import InputError
from lae_jax.hyperparameters import HYPERPARAMETERS, collapsing_latents, default_penalties, geometric_prior
from lae_jax.objectives import tail_probabilities
from lae_jax.params import VAEParams
from lae_jax.training.loop import step
from lae_jax.training.settings import Settings, build, load_weights, resolve
from tests.helpers import assert_close, normal, orthogonal

K, M, N = 3, 8, 60
SAMPLES = normal(0, N, M) @ np.diag([3.0, 2.0, 1.4, 1.0, 0.6, 0.3, 0.2, 0.1]) @ orthogonal(1, M) + 2.0
DATASET = from_samples("mine", SAMPLES)
FIXED = {"latent_dim": K, "precision": "float64"}


def settled(dataset=DATASET, **fields):
    return resolve(Settings(**{**FIXED, **fields}), dataset)[0]


BAD = [
    ({"method": "rags"}, "method", "did you mean 'rag'"),
    ({"method": ""}, "method", "known: lae"),
    ({"optimizer": "adm"}, "optimizer", "did you mean 'adam'"),
    ({"precision": "float16"}, "precision", "did you mean 'float"),
    ({"representation": "eigen"}, "representation", "did you mean 'eigenbasis'"),
    ({"latent_dim": 0}, "latent_dim", "1..7"),
    ({"latent_dim": -1}, "latent_dim", "1..7"),
    ({"latent_dim": M}, "latent_dim", "1..7"),
    ({"learning_rate": 0.0}, "learning_rate", "positive"),
    ({"learning_rate": -0.1}, "learning_rate", "positive"),
    ({"learning_rate": float("nan")}, "learning_rate", "finite"),
    ({"learning_rate": float("inf")}, "learning_rate", "finite"),
    ({"momentum": 1.0}, "momentum", "[0, 1)"),
    ({"momentum": -0.1}, "momentum", "[0, 1)"),
    ({"momentum": float("nan")}, "momentum", "[0, 1)"),
    ({"momentum": 0.5, "optimizer": "sgd"}, "momentum", "'sgd' takes none"),
    ({"momentum": 0.5, "optimizer": "adam"}, "momentum", "'adam' takes none"),
    ({"init_scale": 0.0}, "init_scale", "positive"),
    ({"init_scale": float("nan")}, "init_scale", "finite"),
    ({"batch_size": -1}, "batch_size", f"0..{N}"),
    ({"spare": 2}, "spare", "has none"),
    ({"spare": -1, "method": "alternation"}, "spare", "-1 is outside 0.."),
    ({"spare": 1.5, "method": "alternation"}, "spare", "1.5: must be a whole number"),
    ({"batch_size": N + 1}, "batch_size", f"0..{N}"),
    ({"batch_size": 5, "representation": "dense"}, "representation", "use 'samples'"),
    ({"method": "nested_dropout", "representation": "eigenbasis"}, "representation", "use 'samples'"),
    ({"penalties": (0.1, 0.2, 0.3)}, "penalties", "'rag' takes none"),
    ({"prior": (0.2, 0.3, 0.5)}, "prior", "'rag' takes none"),
    ({"method": "deterministic_nested_dropout", "penalties": (1.0,)}, "penalties", "takes none"),
    ({"method": "non_uniform_l2", "penalties": (0.1, 0.2)}, "penalties", "takes 3"),
    ({"method": "non_uniform_l2", "penalties": (0.1,)}, "penalties", "takes 3"),
    ({"method": "uniform_l2", "penalties": (0.1, 0.2, 0.3)}, "penalties", "takes 1"),
    ({"method": "uniform_l2", "penalties": (-0.1,)}, "penalties", "positive"),
    ({"method": "non_uniform_l2", "penalties": (0.3, 0.2, 0.4)}, "penalties", "number 2 (0.2)"),
    ({"method": "non_uniform_l2", "penalties": (0.1, 0.2, 0.2)}, "penalties", "number 3 (0.2)"),
    ({"method": "non_uniform_l2", "penalties": (-0.1, 0.2, 0.3)}, "penalties", "positive"),
    ({"method": "non_uniform_l2", "penalties": (0.0, 0.2, 0.3)}, "penalties", "positive"),
    ({"method": "non_uniform_l2", "penalties": (0.1, 0.2, float("inf"))}, "penalties", "finite"),
    ({"method": "non_uniform_l2", "penalties": (0.1, float("nan"), 0.3)}, "penalties", "finite"),
    ({"method": "nested_dropout", "prior": (0.5, 0.5)}, "prior", "takes 3"),
    ({"method": "oftadeh", "prior": (0.2, 0.3, 0.5)}, "prior", "every b the same probability"),
    ({"method": "nested_dropout", "prior": (0.2, 0.3, 0.4)}, "prior", "sums to 0.9"),
    ({"method": "deterministic_nested_dropout", "prior": (0.7, 0.6, -0.3)}, "prior", "not negative"),
    ({"method": "deterministic_nested_dropout", "prior": (0.5, 0.5, float("nan"))}, "prior", "finite"),
]


@pytest.mark.parametrize(("fields", "name", "hint"), BAD, ids=[str(fields) for fields, *_ in BAD])
def test_bad_settings_are_refused_in_one_line_by_name(fields, name, hint):
    with pytest.raises(InputError) as caught:
        settled(**fields)
    text = str(caught.value)
    assert text.startswith(f"{name}: ") and hint in text and "\n" not in text


@pytest.mark.parametrize("init", ["gausian", "weights.txt", ""])
def test_an_unknown_start_is_refused(init):
    with pytest.raises(InputError, match=r"^init: .*gaussian.*balanced.*npz"):
        build(settled(init=init), DATASET)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_float64_needs_x64():
    with jax.enable_x64(False), pytest.raises(InputError, match=r"^precision: 'float64' needs .*jax_enable_x64"):
        build(settled(), DATASET)


# What is chosen


def test_defaults_meet_the_assumptions_of_the_theorems():
    for latent_dim in range(1, M):
        penalties = np.array(settled(method="non_uniform_l2", latent_dim=latent_dim).penalties)
        assert penalties.shape == (latent_dim,)
        assert (penalties > 0).all() and (np.diff(penalties) > 0).all()
        assert penalties[-1] < DATASET.variances[latent_dim - 1]
        (uniform,) = settled(method="uniform_l2", latent_dim=latent_dim).penalties
        assert 0 < uniform < DATASET.variances[latent_dim - 1]
        prior = np.array(settled(method="nested_dropout", latent_dim=latent_dim).prior)
        assert prior.shape == (latent_dim,) and (prior > 0).all()
        assert prior.sum() == pytest.approx(1, abs=1e-14)
        np.testing.assert_allclose(tail_probabilities(prior), 0.9 ** np.arange(latent_dim), rtol=1e-13)


def test_default_penalties_scale_with_the_data():
    assert_close(default_penalties(100 * DATASET.variances, K), 100 * default_penalties(DATASET.variances, K))


def test_geometric_prior_takes_its_ratio():
    np.testing.assert_allclose(geometric_prior(4, 0.5), [0.5, 0.25, 0.125, 0.125])


def test_what_is_given_is_kept():
    given = {
        "learning_rate": 0.123,
        "momentum": 0.4,
        "representation": "dense",
        "method": "non_uniform_l2",
        "penalties": (0.01, 0.02, 0.03),
        "seed": 7,
    }
    resolved = settled(**given)
    assert {name: getattr(resolved, name) for name in given} == given
    prior = (0.5, 0.0, 0.5)
    assert settled(method="nested_dropout", prior=prior).prior == prior


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resolving_settles_everything_once(method, optimizer):
    resolved, notes = resolve(Settings(method=method, optimizer=optimizer, **FIXED), DATASET)
    assert notes == []
    assert resolved.learning_rate > 0 and resolved.representation in REPRESENTATIONS
    assert resolved.momentum == (0.9 if optimizer == "nesterov" else 0)
    taken = HYPERPARAMETERS[METHODS[method].hyperparameter].field if METHODS[method].hyperparameter else None
    assert {field for field in ("penalties", "prior", "beta") if getattr(resolved, field)} == {taken} - {None}
    if optimizer == "nesterov":
        assert resolve(resolved, DATASET) == (resolved, [])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [0, 5])
def test_the_cheapest_exact_representation_is_chosen(method, optimizer, batch_size):
    representation = settled(method=method, optimizer=optimizer, batch_size=batch_size).representation
    if batch_size or METHODS[method].needs_samples:
        assert representation == "samples"
    else:
        exact = OPTIMIZERS[optimizer].rotation_equivariant and METHODS[method].rotation_invariant
        assert representation == ("eigenbasis" if exact else "dense")


def test_wide_data_are_run_from_their_samples(monkeypatch):
    monkeypatch.setattr(spectra, "WIDEST_COVARIANCE", M - 1)
    wide = from_samples("wide", SAMPLES)
    assert settled(wide).representation == settled(wide, optimizer="adam").representation == "samples"
    with pytest.raises(InputError, match=r"^latent_dim: 7 is more than the 4 directions"):
        monkeypatch.setattr(spectra, "NARROW_RANK", 4)
        settled(from_samples("wide", np.tile(SAMPLES, (2, 1))), latent_dim=7)


def test_a_method_that_does_not_settle_on_batches_is_noted():
    _, notes = resolve(Settings(method="alternation", batch_size=5, **FIXED), DATASET)
    assert len(notes) == 1 and notes[0].startswith("batch_size: method 'alternation'") and "\n" not in notes[0]
    for name in ("rag", "aligned", "low_rank_history"):
        assert resolve(Settings(method=name, batch_size=5, **FIXED), DATASET)[1] == []


def test_adam_in_the_eigenbasis_is_noted_as_another_run():
    _, notes = resolve(Settings(optimizer="adam", representation="eigenbasis", **FIXED), DATASET)
    assert len(notes) == 1 and notes[0].startswith("representation: adam") and "\n" not in notes[0]


def test_the_authors_penalties_on_mnist_collapse_two_latents():
    mnist = datasets.mnist()
    penalties = tuple(np.linspace(0.1, 0.9, 20) ** 2)
    resolved, notes = resolve(Settings(method="non_uniform_l2", penalties=penalties), mnist)
    assert resolved.penalties == penalties
    assert len(notes) == 1 and notes[0].startswith("penalties: ") and "latent 19, 20:" in notes[0]
    assert collapsing_latents(np.array(penalties), mnist.variances) == [19, 20]
    assert resolve(Settings(method="uniform_l2", penalties=(0.25,)), mnist)[1] == []


def test_latents_collapse_at_the_variance_itself():
    variances = DATASET.variances
    penalties = np.array([0.1, 0.2, variances[2]])
    assert collapsing_latents(penalties, variances) == [3]
    assert collapsing_latents(penalties * [1, 1, 0.999], variances) == []


# The start of a run


def stored(tmp_path, **arrays):
    np.savez(tmp_path / "start.npz", **arrays)
    return str(tmp_path / "start.npz")


ENCODER, DECODER = normal(2, K, M), normal(3, M, K)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("method", ["rag", "linear_vae"])
def test_weights_come_back_in_the_coordinates_in_which_they_were_given(tmp_path, method, representation):
    init = stored(tmp_path, encoder=ENCODER, decoder=DECODER, unrelated=np.zeros(3))
    run = build(settled(method=method, init=init, representation=representation), DATASET)
    assert (run.basis is None) == (representation != "eigenbasis")
    back = run.in_input_coordinates(run.state.params)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(back))
    assert_close((back.encoder, back.decoder), (ENCODER, DECODER))
    if method == "linear_vae":
        assert isinstance(back, VAEParams)
        assert not back.latent_log_variance.any() and not back.noise_log_variance
    if representation == "eigenbasis":
        factor = run.problem.unit if method == "linear_vae" else 1  # inputs are measured in the unit of the run
        assert_close(run.state.params.encoder, factor * ENCODER @ DATASET.components)
    else:
        assert_close(run.problem.components, DATASET.components[:, :K])


BAD_WEIGHTS = {
    "encoder of another size": (
        {"encoder": ENCODER[:2], "decoder": DECODER},
        "encoder .*shape \\(2, 8\\); need \\(3, 8\\)",
    ),
    "decoder transposed": ({"encoder": ENCODER, "decoder": DECODER.T}, "decoder .*shape \\(3, 8\\); need \\(8, 3\\)"),
    "not finite": ({"encoder": ENCODER * np.nan, "decoder": DECODER}, "encoder .*finite"),
    "complex": ({"encoder": ENCODER, "decoder": DECODER * 1j}, "decoder .*finite"),
    "no decoder": ({"encoder": ENCODER}, "no array 'decoder'"),
}


@pytest.mark.parametrize(("arrays", "reason"), BAD_WEIGHTS.values(), ids=list(BAD_WEIGHTS))
def test_bad_initial_weights_are_refused(tmp_path, arrays, reason):
    with pytest.raises(InputError, match=reason) as caught:
        build(settled(init=stored(tmp_path, **arrays)), DATASET)
    assert "start.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_initial_weights_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.npz"):
        load_weights(str(tmp_path / "none.npz"), K, M)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_everything_is_in_the_precision_of_the_run(precision):
    run = build(settled(precision=precision, method="non_uniform_l2", optimizer="adam"), DATASET)
    numbers = [
        leaf
        for leaf in jax.tree.leaves((run.state, run.problem._replace(unit=None)))
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert {leaf.dtype for leaf in numbers} == {jnp.dtype(precision)}


def test_one_seed_starts_both_precisions_alike():
    starts = [
        build(settled(precision=name, representation="dense"), DATASET).state.params for name in ("float32", "float64")
    ]
    assert np.array_equal(starts[0].encoder.astype(jnp.float64), starts[1].encoder)
    other = build(settled(seed=1, representation="dense"), DATASET).state.params
    assert not np.allclose(other.encoder, starts[1].encoder, atol=1e-6)


compiled_step = jax.jit(step, static_argnums=0)


def after(num_steps=10, **fields):
    """Weights in input coordinates after some steps, from weights of ordinary size."""
    run = build(settled(init_scale=0.3, learning_rate=0.01, **fields), DATASET)
    state = run.state
    for _ in range(num_steps):
        state = compiled_step(run.recipe, run.problem, state)
    return run.in_input_coordinates(state.params)


SAME_RUN = [
    ("rag", "nesterov", ["samples", "dense", "eigenbasis"]),
    ("linear_vae", "sgd", ["samples", "dense", "eigenbasis"]),
    ("non_uniform_l2", "adam", ["samples", "dense"]),
]


@pytest.mark.parametrize(("method", "optimizer", "representations"), SAME_RUN)
def test_one_start_is_one_run_in_every_exact_representation(tmp_path, method, optimizer, representations):
    init = stored(tmp_path, encoder=0.3 * ENCODER, decoder=0.3 * DECODER)
    ends = [after(method=method, optimizer=optimizer, representation=name, init=init) for name in representations]
    for end in ends[1:]:
        assert_close(end, ends[0], factor=10_000)


def test_a_seed_names_one_run():
    ends = [after(representation=name, seed=seed) for name, seed in (("samples", 0), ("dense", 0), ("dense", 1))]
    assert_close(ends[1], ends[0], factor=10_000)
    assert not np.allclose(ends[2].decoder, ends[1].decoder, atol=1e-3)


def test_a_seed_names_the_batches():
    ends = [after(3, batch_size=5, seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(ends[0].decoder, ends[1].decoder)
    full = after(3)
    assert not np.allclose(ends[0].decoder, full.decoder, atol=1e-4)


def test_settings_hold_nothing_unsettled_after_resolving():
    assert None not in dataclasses.astuple(settled())


@pytest.mark.parametrize(("method", "optimizer"), [("rag", "nesterov"), ("linear_vae", "sgd")])
def test_a_seed_names_one_run_in_every_exact_representation(method, optimizer):
    ends = [
        after(method=method, optimizer=optimizer, representation=name) for name in ("samples", "dense", "eigenbasis")
    ]
    for end in ends[1:]:
        assert_close(end, ends[0], factor=10_000)


@pytest.mark.parametrize("dtype", [np.int64, np.float16])
@pytest.mark.parametrize("representation", ["dense", "eigenbasis"])
def test_initial_weights_of_any_type_keep_their_digits(tmp_path, dtype, representation):
    encoder, decoder = (4 * ENCODER).astype(dtype), (4 * DECODER).astype(dtype)
    run = build(
        settled(init=stored(tmp_path, encoder=encoder, decoder=decoder), representation=representation), DATASET
    )
    back = run.in_input_coordinates(run.state.params)
    assert_close((back.encoder, back.decoder), (encoder.astype(float), decoder.astype(float)))


def test_a_uniform_penalty_collapses_the_latents_of_small_variance():
    penalty = float(DATASET.variances[1])
    _, notes = resolve(Settings(method="uniform_l2", penalties=(penalty,), latent_dim=3), DATASET)
    assert len(notes) == 1 and "latent 2, 3:" in notes[0]


def test_latent_dim_beyond_the_rank_is_refused():
    flat = from_samples("flat", normal(4, 60, 4) @ normal(5, 4, M))
    settled(flat, latent_dim=4)
    with pytest.raises(InputError, match=r"^latent_dim: 5 is more than the 4 directions"):
        settled(flat, latent_dim=5)


def test_float64_without_x64_is_refused_without_a_warning():
    with jax.enable_x64(False), pytest.raises(InputError, match=r"^precision: 'float64' needs .*jax_enable_x64"):
        build(settled(), DATASET)


def test_a_spectrum_beyond_the_precision_is_noted_before_training():
    stamps = np.column_stack([1.6e9 + 3600.0 * np.arange(len(SAMPLES)), SAMPLES[:, :4]])  # times beside small numbers
    dataset = from_samples("stamps", stamps)
    notes = resolve(Settings(method="rag", latent_dim=3), dataset)[1]
    assert len(notes) == 1 and notes[0].startswith("precision: sigma_3^2 is ") and "float64" in notes[0]
    assert not resolve(Settings(method="rag", latent_dim=3, precision="float64"), dataset)[1]
    assert not resolve(Settings(method="rag", latent_dim=1), dataset)[1]
