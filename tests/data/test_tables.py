"""Named columns, in memory and in files: the right moments under the right names, or one line."""

import datetime
import sys

import h5py
import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
import zarr

from lae_jax.components import components_of, load
from lae_jax.data.datasets import from_samples
from lae_jax.data.datasets import load as load_dataset
from lae_jax.errors import InputError
from lae_jax.fitting import as_dataset
from lae_jax.params import LAEParams
from tests.helpers import normal

N, NAMES = 30, ["width", "height", "count", "flag"]
ROWS = np.column_stack([np.round(8 * normal(0, N, 2)) * [0.5, 0.25], np.arange(N) % 7, np.arange(N) % 2])
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
    "text": refused(["a"] * N, r"column 'height' holds String, not numbers; choose .* x\[\['width', 'count'\]\]"),
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


# Files


def table(columns=COLUMNS):
    return pyarrow.table(columns)


def parquet(path, given, **options):
    pyarrow.parquet.write_table(given, path, **options)


WRITERS = {
    ".parquet": lambda path, given: parquet(path, given, row_group_size=7),
    ".feather": lambda path, given: pyarrow.feather.write_feather(given, path, chunksize=7),
    ".csv": lambda path, given: pyarrow.csv.write_csv(given, path),
    ".tsv": lambda path, given: pyarrow.csv.write_csv(given, path, pyarrow.csv.WriteOptions(delimiter="\t")),
}


@pytest.fixture(params=[1 << 18, 4], ids=["one batch", "small batches"])
def batches(request, monkeypatch):
    """However many rows are read at a time."""
    monkeypatch.setattr("lae_jax.data.table_files._BATCH_NUMBERS", request.param * 4)
    monkeypatch.setattr("lae_jax.data.table_files._LEAST_ROWS", 1)
    monkeypatch.setattr("lae_jax.data.moments.BLOCK_BYTES", 8 * 4 * 5)


@pytest.mark.parametrize("suffix", WRITERS)
def test_files_give_the_moments_of_their_numbers(tmp_path, suffix, batches):
    path, folder = tmp_path / f"x{suffix}", tmp_path / "parts"
    WRITERS[suffix](path, table())
    folder.mkdir()
    for index, part in enumerate((table().slice(0, 11), table().slice(11, 0), table().slice(11))):
        WRITERS[suffix](folder / f"{index}{suffix}", part)
    for each in (path, folder):
        dataset = load_dataset(str(each))
        np.testing.assert_allclose(dataset.mean, EXACT.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(dataset.covariance, np.cov(EXACT.T, bias=True), atol=1e-12)
        np.testing.assert_allclose(dataset.load_rows(slice(9, 20)), (EXACT - EXACT.mean(axis=0))[9:20], atol=1e-5)
        assert dataset.columns == tuple(NAMES) and dataset.num_samples == N
        chosen = load_dataset(str(each), columns=("count", "width"))
        np.testing.assert_allclose(chosen.covariance, np.cov(EXACT[:, [2, 0]].T, bias=True), atol=1e-12)
        assert chosen.columns == ("count", "width")


def test_the_index_that_pandas_writes_is_no_column(tmp_path):
    pandas.DataFrame(COLUMNS, index=pandas.Index(np.arange(N) + 7.5, name="time")).to_parquet(tmp_path / "x.parquet")
    assert load_dataset(str(tmp_path / "x.parquet")).columns == tuple(NAMES)


def test_a_csv_may_begin_with_whole_numbers(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n" + "1,2\n3,1\n" * 300_000 + "0.5,1e3\n")
    assert load_dataset(str(tmp_path / "x.csv")).num_samples == 600_001


def text(content):
    return lambda path: path.write_text(content)


def of(**columns):
    return lambda path: parquet(path, table({**COLUMNS, **columns}))


def damaged(cut):
    def write(path):
        parquet(path, table())
        path.write_bytes(path.read_bytes()[:cut])

    return write


def changing(path):
    path.mkdir()
    parquet(path / "a.parquet", table())
    parquet(path / "b.parquet", table().rename_columns([*NAMES[:3], "other"]))


def mixed(path):
    path.mkdir()
    parquet(path / "a.parquet", table())
    pyarrow.csv.write_csv(table(), path / "b.csv")


BAD = {
    "text": ("x.parquet", of(flag=["a"] * N), r"column 'flag' holds string, .*, as columns=\('width', 'height'\)"),
    "late text": ("x.csv", text("a,b\n" + "1,2\n" * 300_000 + "1,x\n"), r"x\.csv: not a readable .* column #1.*'x'"),
    "date": ("x.parquet", of(count=[datetime.date(2020, 1, 1)] * N), "column 'count' holds date32"),
    "None": ("x.parquet", of(count=[None, *range(N - 1)]), "column 'count': 1 of 30 values are missing; remove or"),
    "NaN": ("x.parquet", of(height=[1.0, np.nan] * 15), "row 1, column 'height', is not finite; .* 15 of 30"),
    "nothing": ("x.parquet", of(height=pyarrow.nulls(N)), "column 'height': 30 of 30 values are missing"),
    "empty field": ("x.csv", text("a,b\n1,2\n,3\n4,5\n"), "column 'a': 1 of 3 values are missing"),
    "changing": ("parts", changing, r"b\.parquet: other columns than before: 'other' in the place of 'flag'; all"),
    "mixed": ("parts", mixed, r"parts: holds \.csv and \.parquet files; need those of one kind"),
    "empty": ("x.parquet", damaged(0), r"x\.parquet: not a readable \.parquet file \("),
    "empty csv": ("x.csv", text(""), r"x\.csv: not a readable \.csv file \(Empty CSV file"),
    "no rows": ("x.parquet", lambda path: parquet(path, table().slice(0, 0)), r"shape \(0, 4\); need at least 2"),
    "cut": ("x.parquet", damaged(-9), r"x\.parquet: not a readable \.parquet file"),
    "cut in the data": ("x.parquet", damaged(200), r"x\.parquet: not a readable \.parquet file"),
    "twice": (
        "x.parquet", lambda path: parquet(path, pyarrow.table(list(ROWS.T), names=list("abac"))),
        r"x\.parquet: 2 columns are called 'a'; give each a name of its own",
    ),
    "no names": ("x.csv", text("1.5,2\n3,4\n5,7\n"), r"x\.csv: its first line is of numbers; need one of the names"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "line"), BAD.values(), ids=list(BAD))
def test_files_that_hold_no_samples_are_named_in_one_line(tmp_path, name, write, line):
    write(tmp_path / name)
    with pytest.raises(InputError, match=rf"^{tmp_path}/[^\n]*{line}[^\n]*$"):
        load_dataset(str(tmp_path / name))


def test_columns_that_are_not_there(tmp_path):
    parquet(tmp_path / "x.parquet", table())
    with pytest.raises(InputError, match=r"^columns: 'heigth' is not known; did you mean 'height'\?"):
        load_dataset(str(tmp_path / "x.parquet"), columns=("heigth",))
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(InputError, match=r"^columns: \('a',\): .*x\.npy is no table"):
        load_dataset(str(tmp_path / "x.npy"), columns=("a",))


@pytest.mark.parametrize("suffix", WRITERS)
def test_what_to_install_is_said(tmp_path, suffix, monkeypatch):
    WRITERS[suffix](tmp_path / f"x{suffix}", table())
    for module in ("pyarrow", "pyarrow.parquet", "pyarrow.ipc", "pyarrow.csv"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"is not installed: pip install -e '\.\[tables\]'$"):
        load_dataset(str(tmp_path / f"x{suffix}"))


def test_arrays_of_hdf5_and_zarr_are_read_by_slices(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("x", data=EXACT, chunks=(7, 4))
        sliced = zarr.create_array(str(tmp_path / "x.zarr"), data=EXACT, chunks=(7, 4))
        for given in (stored, sliced, np.memmap(tmp_path / "x", mode="w+", shape=EXACT.shape)):
            given[:] = EXACT
            np.testing.assert_allclose(from_samples("x", given).covariance, np.cov(given[:].T, bias=True), atol=1e-12)
