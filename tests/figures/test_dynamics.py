"""What Figures 2 and 3 draw: which lines, bands and markers, with which values."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from lae_jax.errors import InputError
from lae_jax.figures import agreement, dynamics, style
from lae_jax.runs.dynamics import Learned
from tests.helpers import normal, orthogonal

STEPS = np.arange(0, 50, 10)


def history(level, distance=1e-3):
    return {"step": STEPS, "axis_alignment": np.full(5, level), "subspace_distance": np.full(5, distance)}


FOUND = {
    ("rag", "nesterov"): Learned(history(0.5), [history(0.4), history(0.7, 1e-12)], None),
    ("mine", "adam"): Learned(None, [history(0.2)], None),
    ("nested_dropout", "adam"): Learned(None, [], None),
}
PUBLISHED = {("rag", "nesterov"): {10: (0.45, None), 20: (0.44, 1e-4)}, ("nested_dropout", "adam"): {10: (0.1, 1e-3)}}


def test_learning_dynamics_draws_curves_bands_and_published_points():
    figure = dynamics.learning_dynamics(FOUND, PUBLISHED, "title")
    upper, lower = figure.axes
    curves = {
        (line.get_color(), line.get_linestyle()): line.get_ydata() for line in upper.lines if len(line.get_xdata()) == 5
    }
    np.testing.assert_array_equal(curves[style.colour("rag"), "-"], 0.5)
    assert any(np.array_equal(values, np.full(5, 0.2)) for values in curves.values())
    points = [(list(line.get_xdata()), list(line.get_ydata())) for line in upper.lines if line.get_marker() != "None"]
    assert ([10, 20], [0.45, 0.44]) in points and ([10], [0.1]) in points
    below = [(list(line.get_xdata()), list(line.get_ydata())) for line in lower.lines if line.get_marker() != "None"]
    assert ([20], [1e-4]) in below
    bands = [each for each in upper.collections if isinstance(each, PolyCollection)]
    extents = [each.get_datalim(upper.transData) for each in bands]
    assert any((extent.y0, extent.y1) == pytest.approx((0.4, 0.7)) for extent in extents)
    assert upper.get_yscale() == "linear" and lower.get_yscale() == "log"
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told[:3] == ["RAG", "mine", "nested dropout"] and "range over 2 seeds of ours" in told
    assert "published curve, nesterov" in told


def test_without_published_values_nothing_is_said_of_them():
    figure = dynamics.learning_dynamics({("mine", "adam"): FOUND["mine", "adam"]}, {}, "title")
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert not [text for text in told if "published" in text] and "from the first seed" in told


def test_learned_decoders_shows_the_products():
    components = orthogonal(0, 6)[:, :2]
    decoders = {"rag": {0: normal(1, 6, 2), 10: components}, "mine": {0: normal(2, 6, 2), 10: -components}}
    figure = dynamics.learned_decoders(decoders, components, (2, 3), "title")
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    shown = [each for each in shown if each.shape == (2, 2)]
    np.testing.assert_allclose(shown[1], np.eye(2), atol=1e-12)
    np.testing.assert_allclose([shown[0], shown[3]], [components.T @ decoders["rag"][0], -np.eye(2)], atol=1e-12)
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["RAG", "mine"]
    assert len(dynamics.learned_decoders(decoders, components, None, "title").axes) == 5  # 2 x 2 and the bar


def test_image_grid_keeps_the_order():
    grid = dynamics.image_grid(np.arange(1, 13.0).reshape(3, 4).T[:, :3] / 12, (2, 2), 2)
    np.testing.assert_allclose(12 * grid[:2, :2], [[1, 2], [3, 4]])
    np.testing.assert_allclose(12 * grid[2:, :2], [[9, 10], [11, 12]])
    assert not grid[2:, 2:].any()


def test_agreement_reads_what_a_picture_shows(tmp_path):
    import matplotlib.image

    truth = np.clip(normal(3, 6, 4, 20, 20) / 3, -1, 1)
    picture = np.ones(agreement._SHAPE)
    side = agreement._SIDE / 20
    for row, top in enumerate(agreement._TOP):
        for column, left in enumerate(agreement._LEFT):
            for i in range(20):
                for j in range(20):
                    high, wide = top + side * i, left + side * j
                    cell = np.s_[round(high) : round(high + side), round(wide) : round(wide + side)]
                    picture[cell] = (truth[row, column, i, j] + 1) / 2
    matplotlib.image.imsave(tmp_path / "figure3.png", np.dstack([picture] * 3))
    blocks = agreement.read_blocks(tmp_path / "figure3.png")
    np.testing.assert_allclose(blocks, truth, atol=0.01)
    decoders = {"rag": {step: truth[1, place] for place, step in enumerate((0, 1, 5, 10))}}
    rows = agreement.agreement(blocks, decoders, np.eye(20), ("uniform_l2", "rag"))
    assert [row["step"] for row in rows] == [0, 1, 5, 10]
    assert all(row["correlation"] > 0.999 and row["difference"] < 0.01 for row in rows)
    flipped = agreement.agreement(blocks, decoders, -np.eye(20), ("uniform_l2", "rag"))
    assert all(row["correlation"] < -0.999 for row in flipped)


@pytest.mark.parametrize(("name", "message"), [("none.png", "not a picture"), ("small.png", "2 x 3 pixels, not 1634")])
def test_what_is_no_picture_of_figure_3(tmp_path, name, message):
    import matplotlib.image

    matplotlib.image.imsave(tmp_path / "small.png", np.zeros((3, 2)))
    with pytest.raises(InputError, match=f"^published_figure3: .*{message}"):
        agreement.read_blocks(tmp_path / name)
