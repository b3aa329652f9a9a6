import matplotlib.pyplot as plt
import numpy as np
import pytest

from lae_jax.figures import scaling


def run(method, k, init, seed, steps, rate="0.0001"):
    about = {"method": method, "optimizer": "nesterov", "latent_dim": str(k), "init": init, "seed": str(seed)}
    return about | {"learning_rate": rate, "steps_0.3": steps, "axis_alignment": "0.3" if steps else "0.6"}


RUNS = [
    run("rag", 2, "authors", 1234, "680"),
    run("rag", 2, "gaussian", 0, "500"),
    run("rag", 2, "gaussian", 1, ""),
    run("rag", 2, "gaussian", 2, "900"),
    run("rag", 5, "authors", 1234, ""),
    run("nested_dropout", 2, "gaussian", 0, "40"),
]
PUBLISHED = {("rag", "nesterov"): {2: 850, 5: 3150}}


@pytest.fixture
def table():
    return scaling.table(
        RUNS, PUBLISHED, {("rag", "nesterov", 2, "0.0001"): 640.5, ("rag", "nesterov", 5, "0.0001"): None}, 0.3
    )


def test_the_table_says_what_was_published_drawn_again_and_met_by_other_seeds(table):
    columns = ("published", "authors_draws", "ratio", "seeds", "median", "lowest", "highest", "predicted")
    assert [tuple(row[name] for name in columns) for row in table] == [
        ("850", "680", "0.8", "3", "900", "500", "inf", "640.5"),
        ("3150", "inf", "inf", "0", "", "", "", ""),
        ("", "", "", "1", "40", "40", "40", ""),
    ]


def test_the_figure_shows_the_table(table):
    figure = scaling.figure(table, 50_000, 0.3, "title")
    (axes,) = figure.axes
    drawn = {
        line.get_marker(): tuple(map(tuple, line.get_data())) for line in axes.get_lines() if len(line.get_xdata())
    }
    assert drawn["s"] == ((2, 5), (850, 3150)) and drawn["+"] == ((2,), (640.5,))
    curves = [tuple(map(tuple, line.get_data())) for line in axes.get_lines() if line.get_marker() == "o"]
    assert curves == [((2,), (40,)), ((2,), (680,))]  # nested dropout's is the median of its seeds
    assert [line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "x"] == [5]
    bands = [collection.get_segments() for collection in axes.collections if hasattr(collection, "get_segments")]
    assert [band[0][0].tolist() for band in bands] == [[2, 40], [2, 500]]
    assert np.isfinite(bands[1][0][1][1])  # a seed that missed the target: the band goes to the top
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "RAG" in labels and any("cannot be drawn again" in label for label in labels)
    plt.close(figure)


def test_learning_rates_are_listed_where_several_were_tried():
    assert scaling.tried(RUNS, 0.3) == []
    runs = [*RUNS[:1], run("rag", 2, "authors", 1234, "80", rate="0.01")]
    assert [(row["learning_rate"], row["median_steps"], row["won"]) for row in scaling.tried(runs, 0.3)] == [
        ("0.0001", "680", ""),
        ("0.01", "80", "yes"),
    ]
