"""Named columns, in memory and in files: the right moments under the right names, or one line."""

import datetime

import numpy as np
import pandas
import polars
import pyarrow
import pytest

from lae_jax.components import components_of, load
from lae_jax.data.datasets import from_samples
from lae_jax.errors import InputError
from lae_jax.fitting import as_dataset
from lae_jax.params import LAEParams
from tests.helpers import normal

N, NAMES = 30, ["width", "height", "count", "flag"]
ROWS = np.column_stack([normal(0, N, 2) * [3.0, 2.0], np.arange(N) % 7, np.arange(N) % 2])
COLUMNS = {
    "width": ROWS[:, 0],
    "height": ROWS[:, 1].astype("float32"),
    "count": ROWS[:, 2].astype(int),
    "flag": ROWS[:, 3] > 0,
}
EXACT = np.column_stack([np.asarray(column, np.float64) for column in COLUMNS.values()])
KINDS = {
    "pandas": lambda columns: pandas.DataFrame(
        columns, index=pandas.RangeIndex(7, 7 + len(next(iter(columns.values()))))
    ),
    "nullable": lambda columns: pandas.DataFrame(columns).convert_dtypes(),
    "polars": polars.DataFrame,
    "arrow": pyarrow.table,
    "record batch": pyarrow.record_batch,
}
EVERY = pytest.mark.parametrize("kind", KINDS)


def components(names=NAMES):
    decoder = np.linalg.qr(normal(1, 4, 4))[0][:, :2]
    return components_of(LAEParams(decoder.T, decoder), np.cov(EXACT.T), EXACT.mean(axis=0), 1.0, names)


@EVERY
def test_frames_give_the_moments_of_their_numbers_and_keep_their_names(kind):
    dataset = as_dataset(KINDS[kind](COLUMNS))
    np.testing.assert_allclose(dataset.mean, EXACT.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(dataset.covariance, np.cov(EXACT.T, bias=True), atol=1e-12)
    np.testing.assert_allclose(dataset.load_rows(), EXACT - EXACT.mean(axis=0), atol=1e-5)
    assert dataset.columns == tuple(NAMES)


@EVERY
def test_a_frame_is_transformed_to_one_of_its_kind_by_the_names_of_its_columns(kind):
    found = components()
    shuffled = {name: COLUMNS[name] for name in ("flag", "count", "width", "height")} | {"text": ["x"] * N}
    expected = components(None).transform(EXACT)
    given = KINDS[kind](COLUMNS)
    told = found.transform(given)
    np.testing.assert_allclose(np.asarray(told), expected, rtol=1e-12)
    again = found.transform(KINDS[kind]({name: column for name, column in shuffled.items() if name != "text"}))
    np.testing.assert_allclose(np.asarray(again), expected, rtol=1e-12)
    assert list(getattr(told, "column_names", told.columns)) == ["component_1", "component_2"]
    if isinstance(given, pandas.DataFrame):
        assert told.index.equals(given.index)
    with pytest.raises(InputError, match=r"^samples: has no column 'width'; need width, height, count, flag$"):
        found.transform(KINDS[kind]({name: COLUMNS[name] for name in NAMES[1:]}))


def refused(values, reason):
    return {**COLUMNS, "height": values}, reason


REFUSED = {
    "text": refused(
        ["a"] * N, r"column 'height' holds String, not numbers; choose .*: x\[\['width', 'count', \.\.\.\]\]"
    ),
    "date": refused([datetime.date(2020, 1, 1)] * N, r"column 'height' holds (Date|Object|String), not numbers"),
    "times": refused([datetime.datetime(2020, 1, 1)] * N, "column 'height' holds Datetime"),
    "missing": refused([None, None, *range(N - 2)], "column 'height': 2 of 30 values are missing; remove or impute"),
    "several": (
        {**COLUMNS, "count": [None, *range(N - 1)], "flag": [None, *range(N - 1)]},
        "column 'count': 1 of 30 values are missing, and some in 1 other columns",
    ),
    "infinite": refused([np.inf, *range(N - 1)], "row 0, column 'height', is not finite; .* 1 values"),
}


@EVERY
@pytest.mark.parametrize(("columns", "line"), REFUSED.values(), ids=list(REFUSED))
def test_columns_that_are_not_numbers_are_named(kind, columns, line):
    with pytest.raises(InputError, match=rf"^data: {line}[^\n]*$"):
        as_dataset(KINDS[kind](columns))


@pytest.mark.parametrize(
    "frame",
    [pandas.DataFrame(ROWS, columns=["a", "b", "a", "c"]), pyarrow.table(list(ROWS.T), names=["a", "b", "a", "c"])],
    ids=["pandas", "arrow"],
)
def test_columns_of_one_name_are_refused(frame):
    with pytest.raises(InputError, match=r"^x: 2 columns are called 'a'; give each a name of its own$"):
        from_samples("x", frame)


def test_numbers_in_the_place_of_names_are_none():
    assert as_dataset(pandas.DataFrame(ROWS)).columns is None


def test_names_are_printed_saved_and_read(tmp_path):
    found = components()
    lines = repr(found).splitlines()
    assert lines[0] == "2 components of 4 features" and len(lines) == 3
    assert all(name in lines[1] for name in NAMES)
    assert "x0" in repr(components(None))
    for each in (found, components(None)):
        each.save(tmp_path / "found.npz")
        again = load(tmp_path / "found.npz")
        assert repr(again) == repr(each)
        for name, value in each._asdict().items():
            np.testing.assert_array_equal(getattr(again, name), value)
