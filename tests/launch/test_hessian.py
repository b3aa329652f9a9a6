"""`launch.hessian` and `launch.surface` at toy size, and what they refuse."""

import csv

import numpy as np
import pytest

from lae_jax.errors import InputError
from lae_jax.figures import spectra
from lae_jax.theory import bounds, eigenvalues, tables, verify
from launch import hessian, surface
from launch.configs import hessian as hessian_config
from launch.configs import surface as surface_config


def small():
    config = hessian_config.get_config()
    config.spectra, config.latent_dims, config.analytic_dim = ("linear",), (2, 3), 8
    config.matrix_free, config.rate_latent_dim = ("linear",), 3
    return config


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_every_case_with_its_checks_and_bounds(tmp_path, capsys):
    hessian.run(small(), tmp_path)
    table = rows(tmp_path / "hessian.csv")
    cases = {(row["spectrum"], row["objective"], row["setting"], row["latent_dim"]) for row in table}
    assert ("linear", "rag", "none", "3") in cases and ("linear", "non_uniform_l2", "optimal", "2") in cases
    assert {row["objective"] for row in table} == set(verify.OBJECTIVES)
    assert max(float(row["autodiff_error"]) for row in table) < 1e-12
    for row in table:
        assert not row["violated"]
        for name in ("s_max", "s_min", "condition_number"):
            assert float(row[f"autodiff_{name}"]) == pytest.approx(float(row[name]), rel=1e-9)
        if row["matrix_free_s_min"]:
            assert float(row["matrix_free_s_min"]) == pytest.approx(float(row["s_min"]), rel=1e-6)
            assert float(row["matrix_free_s_max"]) == pytest.approx(float(row["s_max"]), rel=1e-8)
        if row["l2_spread"]:
            assert float(row["l2_spread"]) <= float(row["condition_number"])
    for row in rows(tmp_path / "rates.csv"):
        assert float(row["ratio"]) == pytest.approx(1, abs=0.01)
    assert (tmp_path / "condition_numbers.png").stat().st_size > 20_000
    assert "sharpest" in capsys.readouterr().out


def quick(size=3):
    config = small()
    config.latent_dims, config.rate_latent_dim, config.matrix_free = (size,), 0, ()
    return config


def test_a_bound_multiplied_by_its_margin_is_an_error_that_names_the_case(tmp_path, monkeypatch):
    hessian.run(quick(), tmp_path)
    optimal = next(row for row in rows(tmp_path / "hessian.csv") if row["setting"] == "optimal")
    margin = 1.001 * float(optimal["condition_number"]) / float(optimal["l2_spread"])
    bound = bounds.BOUNDS["l2_spread"]
    raised = bound._replace(function=lambda *arguments: margin * bound.function(*arguments))
    monkeypatch.setitem(bounds.BOUNDS, "l2_spread", raised)
    with pytest.raises(InputError, match=r"l2_spread: .* on linear, non_uniform_l2 \(optimal\), k = 3"):
        hessian.run(quick(), tmp_path)
    broken = [row["violated"] for row in rows(tmp_path / "hessian.csv") if row["violated"]]
    assert len(broken) == 1 and "in closed form" in broken[0] and "by jax.hessian" in broken[0]


def test_a_wrong_sign_in_a_closed_form_is_an_error(tmp_path, monkeypatch):
    pair = eigenvalues.dropout_pair
    monkeypatch.setattr(eigenvalues, "dropout_pair", lambda d_i, d_j, *rest: pair(d_i, -d_j + 2 * d_i, *rest))
    with np.errstate(invalid="ignore"), pytest.raises(InputError, match=r"closed form: an eigenvalue differs"):
        hessian.run(quick(), tmp_path)


def test_penalties_and_a_prior_of_ones_own(tmp_path):
    config = quick(2)
    config.penalties, config.prior, config.beta = (0.5, 1.0, 2.5), (0.5, 0.2, 0.3), (1.5,)
    hessian.run(config, tmp_path)
    given = {row["objective"]: row for row in rows(tmp_path / "hessian.csv") if row["setting"] == "given"}
    assert given.keys() == {"non_uniform_l2", "deterministic_nested_dropout", "linear_vae"}
    assert given["linear_vae"]["collapsed_latents"] == "3"
    found = verify.verify("non_uniform_l2", np.arange(8.0, 0, -1), penalties=[0.5, 1.0, 2.5])
    assert float(given["non_uniform_l2"]["autodiff_condition_number"]) == found.autodiff_condition_number
    assert found.condition_number == pytest.approx(found.autodiff_condition_number, rel=1e-11)


def test_a_single_size_is_drawn():
    """With markers, crosses by jax.hessian, and "default" where the paper has no setting."""
    published = {"deterministic_nested_dropout": np.array([0.5, 0.3, 0.2])}
    variances = np.arange(8.0, 0, -1)
    table = list(
        tables.hessian_rows(
            "mine", variances, 3, lambda _, name, k: published.get(name), {}, 3, autodiff=True, matrix_free=False
        )
    )
    for axis, objective in zip(spectra.condition_numbers(table).axes, spectra.PRINTED, strict=True):
        lines = {line.get_label().split(", ")[-1]: line for line in axis.get_lines()}
        assert ("default setting" in lines) == (objective == "non_uniform_l2")
        assert ("the paper's setting" in lines) == (objective == "deterministic_nested_dropout")
        assert all(line.get_marker() not in (None, "None", "") for line in lines.values())
        exact = [row["condition_number"] for row in table if row["objective"] in (objective, "rag")]
        crosses = next(line for line in axis.get_lines() if line.get_marker() == "x")
        np.testing.assert_allclose(crosses.get_ydata(), exact, rtol=1e-9)


def test_a_spectrum_from_a_file(tmp_path):
    np.save(tmp_path / "variances.npy", [1.0, 5.0, 3.0, 0.0])
    config = small()
    config.spectra, config.latent_dims = (str(tmp_path / "variances.npy"),), (2,)
    config.rate_latent_dim, config.matrix_free = 0, ()
    hessian.run(config, tmp_path / "out")
    rag = next(row for row in rows(tmp_path / "out" / "hessian.csv") if row["objective"] == "rag")
    assert float(rag["condition_number"]) == pytest.approx(8 * 5 / 2)  # 8 d_1 / gap


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spectra": ("linaer",)}, "did you mean 'linear'"),
        ({"latent_dims": (50,)}, "latent_dims"),
        ({"spectra": ("nowhere.npy",)}, "nowhere.npy"),
    ],
)
def test_bad_fields(tmp_path, fields, message):
    config = small()
    config.update(fields)
    with pytest.raises(InputError, match=message):
        hessian.run(config, tmp_path / "out")


def test_surface_draws_and_rag_turns_faster(tmp_path):
    config = surface_config.get_config()
    config.resolution = 21
    surface.run(config, tmp_path)
    assert (tmp_path / "figure1.png").stat().st_size > 20_000
    last = {row["rule"]: row for row in rows(tmp_path / "surface.csv")}
    angles = {rule: abs(float(row["y"]) / float(row["x"])) for rule, row in last.items()}
    assert angles["RAG"] < 1e-3 < angles["gradient descent on Eq. (3)"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"penalties": (0.6, 0.2)}, "penalties: .0.6, 0.2."),
        ({"variances": (4.0, 2.0, 1.0)}, "need two of each"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": 10.0}, "diverges"),
    ],
)
def test_surface_refuses(tmp_path, fields, message):
    config = surface_config.get_config()
    config.resolution = 5
    config.update(fields)
    with pytest.raises(InputError, match=message):
        surface.run(config, tmp_path)
