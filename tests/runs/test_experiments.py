import pytest

from lae_jax.data import datasets
from lae_jax.errors import InputError
from lae_jax.runs import experiments
from lae_jax.runs.directory import InterruptedRunError
from lae_jax.runs.tables import Table
from lae_jax.training.settings import Settings, resolve

KEY = ("latent_dim", "learning_rate")
TARGETS = (0.5, 0.01)  # met in the first chunk and in a later one


@pytest.fixture(scope="module")
def dataset():
    return datasets.synthetic(input_dim=30, num_samples=60, largest=10.0)


def sweep(workdir, dataset, rates=(1e-4,), on_steps=lambda label, steps: None):
    """One rule at k = 2 and 3, and how to train it in a folder."""
    runs = {
        (str(k), str(rate)): resolve(
            Settings(method="generalized_hebbian", latent_dim=k, learning_rate=rate, init_scale=0.05), dataset
        )[0]
        for k in (2, 3)
        for rate in rates
    }
    table = experiments.runs_table(workdir, KEY, list(runs), TARGETS)
    return experiments.Sweep(table, dataset, 4000, TARGETS, on_steps=on_steps), runs


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_sweep_goes_on_with_the_same_bits_wherever_it_is_stopped(tmp_path, dataset):
    whole, runs = sweep(tmp_path / "whole", dataset)
    expected = whole.train(runs)
    for row in expected:  # both targets are met, at the first recorded step at or below each
        assert 0 < int(row["steps_0.5"]) <= 500 < int(row["steps_0.01"]) and float(row["axis_alignment"]) <= 0.01

    for stop_at in (1, 2, 3):
        told = []

        def stop(label, steps, told=told, stop_at=stop_at):
            told.append(steps)
            if len(told) == stop_at:
                raise InterruptedRunError

        stopped, runs = sweep(tmp_path / str(stop_at), dataset, on_steps=stop)
        with pytest.raises(InterruptedRunError):
            stopped.train(runs)
        assert [path.name for path in (tmp_path / str(stop_at) / "in_flight").glob("*")] == [
            "generalized_hebbian_nesterov_3_0.npz"
        ]
        again, runs = sweep(
            tmp_path / str(stop_at), dataset, on_steps=lambda label, steps, told=told: told.append(steps)
        )
        assert without_seconds(again.train(runs)) == without_seconds(expected)
        assert sum(told) == 2 * 4000  # no step is taken twice
        assert not list((tmp_path / str(stop_at) / "in_flight").glob("*"))


def test_the_best_rate_reaches_more_then_is_sooner_then_closer():
    def row(first, second, end):
        return {"steps_0.5": first, "steps_0.01": second, "axis_alignment": end}

    tried = {
        "reaches one, and soon": [row("10", "", "0.02")],
        "reaches both late": [row("900", "1000", "0.01")],
        "reaches both sooner": [row("950", "990", "0.01")],
        "diverged": [row("", "", "nan")],
    }
    order = []
    while tried:
        order.append(experiments.best_rate(tried, TARGETS))
        del tried[order[-1]]
    assert order == ["reaches both sooner", "reaches both late", "reaches one, and soon", "diverged"]
    rows = [row("10", "20", "0.01"), row("", "", "0.5"), row("", "", "0.5")]
    assert [experiments.median_steps(rows[:n], 0.5) for n in (1, 2, 3)] == [10, float("inf"), float("inf")]


def test_damaged_files_are_told_in_one_line(tmp_path, dataset):
    trained, runs = sweep(tmp_path, dataset)
    header = "latent_dim,learning_rate,steps_0.5,steps_0.01,axis_alignment,seconds\n"
    for text in ("7,0.0001,10,20,0.01,1\n", "2,0.0001,10", "2,0.0001,10,20,0.01,1,5\n"):
        trained.table.path.write_text(header + text)
        with pytest.raises(
            InputError, match=r"runs.csv: the row '\d,0.0001' is none of this table, or not whole"
        ) as told:
            experiments.runs_table(tmp_path, KEY, list(runs), TARGETS)
        assert "\n" not in str(told.value)
    (tmp_path / "in_flight").mkdir()
    (tmp_path / "in_flight" / "generalized_hebbian_nesterov_3_0.npz").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match=r"generalized_hebbian_nesterov_3_0.npz: cannot be read .*delete it"):
        trained.train(runs)


def test_rows_of_a_table_are_in_the_order_of_its_keys(tmp_path):
    keys = [("a", "1"), ("a", "2"), ("b", "1")]
    table = Table(tmp_path / "x.csv", ("name", "number"), ("value",), keys)
    table.add({keys[2]: [None]})
    table.add({keys[0]: [0.5], keys[1]: ["c,d"]})
    assert table.path.read_text().splitlines() == ["name,number,value", "a,1,0.5", 'a,2,"c,d"', "b,1,"]
    again = Table(tmp_path / "x.csv", ("name", "number"), ("value",), keys)
    assert again.rows == table.rows and list(again.rows) == keys
