"""`launch.penalties` and `launch.landscape` at toy size, what they draw, and what they refuse."""

import csv

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lae_jax.errors import InputError
from lae_jax.figures import theory
from lae_jax.theory import penalties as experiment
from launch import landscape, noise_floor, penalties
from launch.configs import landscape as landscape_config
from launch.configs import noise_floor as noise_floor_config
from launch.configs import penalties as penalties_config


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_best_penalties_are_slower_at_first_and_faster_in_the_end(tmp_path, capsys):
    """Footnote 2, on digits with five latents; with three the best penalties are the faster ones throughout."""
    config = penalties_config.get_config()
    config.update({"num_settings": 3, "seeds": (1,), "num_steps": 2000})
    penalties.run(config, tmp_path)
    paper, _, best = rows(tmp_path / "penalties.csv")
    assert float(best["predicted_rate"]) > 10 * float(paper["predicted_rate"])
    assert int(best["steps_0.3"]) > int(paper["steps_0.3"]) and int(best["steps_0.1"]) > int(paper["steps_0.1"])
    assert int(best["steps_0.01"]) < int(paper["steps_0.01"] or 2001)
    assert (tmp_path / "penalties.png").read_bytes().startswith(b"\x89PNG")
    assert "median steps" in capsys.readouterr().out


def test_the_penalties_picture_shows_medians_and_leaves_out_what_is_missed():
    table = [
        {"setting": setting, "predicted_rate": 0.01 * (setting + 1), "steps_0.3": steps}
        for setting, steps in ((0.0, 10), (0.0, 30), (1.0, 50), (1.0, ""))
    ]
    figure = theory.penalties(table, [0.3], "title")
    dots, medians, predicted = figure.axes[0].get_lines()
    np.testing.assert_allclose(dots.get_ydata(), [10, 30, 50])
    np.testing.assert_allclose(medians.get_xydata(), [[0, 20]])
    np.testing.assert_allclose(predicted.get_ydata(), [50, 25])
    plt.close(figure)


def test_runs_end_where_their_last_target_is_reached_and_settings_are_independent():
    variances, path = [3.0, 1.5, 0.7, 0.2], experiment.between([0.1, 0.2], [0.3, 0.6], 3)
    np.testing.assert_allclose(path[1] ** 2, path[0] * path[2])
    together = experiment.steps_to_targets(variances, path, [0.3, 0.01], learning_rate=0.05, num_steps=20_000)
    alone = experiment.steps_to_targets(variances, path[1], [0.3, 0.01], learning_rate=0.05, num_steps=20_000)
    np.testing.assert_array_equal(together[1], alone)
    assert np.all(together[:, 0] <= together[:, 1]) and np.all(np.isfinite(together))
    missed = experiment.steps_to_targets(variances, path[0], [0.3, 1e-9], learning_rate=0.05, num_steps=100)
    assert np.isinf(missed[1])
    with pytest.raises(InputError, match="two at least"):
        experiment.between([0.1], [0.2], 1)
    with pytest.raises(InputError, match="positive"):
        experiment.steps_to_targets(variances, path, [], learning_rate=0.05)


def test_landscape_lists_and_draws_every_point(tmp_path, capsys):
    landscape.run(landscape_config.get_config(), tmp_path)
    table = rows(tmp_path / "landscape.csv")
    counts = {name: [row for row in table if row["objective"] == name] for name in {row["objective"] for row in table}}
    assert len(counts["deterministic_nested_dropout"]) == 1 + 15 + 60 + 60
    for own in counts.values():
        (minimum,) = [row for row in own if row["index"] == "0"]
        assert minimum["components"] == "1 2 3"
        assert float(minimum["loss"]) == min(float(row["loss"]) for row in own)
    assert "local minima: latents hold 1 2 3" in capsys.readouterr().out
    assert (tmp_path / "landscape.png").read_bytes().startswith(b"\x89PNG")


def test_landscape_refuses_too_many(tmp_path):
    config = landscape_config.get_config()
    config.most_points = 100
    with pytest.raises(InputError, match="most_points, 100: give fewer"):
        landscape.run(config, tmp_path)


def test_noise_floors_are_measured_beside_what_is_predicted(tmp_path, capsys):
    config = noise_floor_config.get_config()
    config.update({"num_components": 4, "prior": (0.5, 0.5), "learning_rates": (0.05,), "num_steps": 1000, "runs": 4})
    noise_floor.run(config, tmp_path)
    (row,) = rows(tmp_path / "noise_floor.csv")
    assert float(row["ratio_axis_alignment"]) == pytest.approx(1, abs=0.2)
    assert "measured over predicted" in capsys.readouterr().out
    for fields, message in (
        ({"num_components": 2}, "num_components: 2: must be above 2"),
        ({"num_components": 4, "optimizer": "adma"}, "did you mean 'adam'"),
    ):
        config.update(fields)
        with pytest.raises(InputError, match=message):
            noise_floor.run(config, tmp_path)
