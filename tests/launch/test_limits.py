import csv

import pytest

from lae_jax.errors import InputError
from launch import limits
from launch.configs import limits as settings


def config(**fields):
    made = settings.get_config()
    made.update({"rules": ("low_rank_history", "rag"), "num_seeds": 2, "batch_size": 64, "counted": ()} | fields)
    made.problems = fields.get("problems", (("digits", 3, 4), ("digits", 3, 12)))
    return made


def test_tables_and_figure(tmp_path, capsys):
    limits.run(config(counted=(500,)), tmp_path)
    with open(tmp_path / "limits.csv", newline="") as file:
        rows = {(row["rule"], row["num_batches"]): row for row in csv.DictReader(file)}
    assert set(rows) == {(rule, length) for rule in ("limit", "low_rank_history", "rag") for length in ("4", "12")}
    assert float(rows["low_rank_history", "12"]["ratio"]) < 1.1 < float(rows["rag", "12"]["ratio"])
    assert float(rows["limit", "12"]["axis_alignment"]) < float(rows["limit", "4"]["axis_alignment"])
    with open(tmp_path / "drift.csv", newline="") as file:
        assert float(next(csv.DictReader(file))["ratio"]) < 1.5
    assert (tmp_path / "limits.png").read_bytes().startswith(b"\x89PNG")
    assert "/ limit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rules": ("algined",)}, "rules: 'algined' is not known; did you mean 'aligned'"),
        ({"problems": (("digits", "ten", 7),)}, r"problems: \('digits', 'ten', 7\): give"),
        ({"problems": (("digit", 10, 7),)}, "dataset: 'digit' is not known"),
    ],
)
def test_bad_input_is_told_in_one_line(fields, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        limits.run(config(**fields), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variant", settings.VARIANTS)
def test_variants_name_what_there_is(variant):
    made = settings.get_config(variant)
    assert made.problems and set(made.rules) <= set(settings.get_config().rules)
