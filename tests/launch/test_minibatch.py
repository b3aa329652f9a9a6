import csv

import pytest

from lae_jax.errors import InputError
from launch import minibatch
from launch.configs import minibatch as settings


def config(**fields):
    made = settings.get_config()
    small = {"dataset": "digits", "latent_dim": 3, "batch_size": 100, "num_steps": 400, "record_every": 20}
    made.update(small | {"methods": ("lae", "aligned"), "learning_rates": (0.1, 100.0)} | fields)
    return made


def test_table_and_figure(tmp_path, capsys):
    minibatch.run(config(), tmp_path)
    with open(tmp_path / "minibatch.csv", newline="") as file:
        rows = {(row["method"], row["learning_rate"]): row for row in csv.DictReader(file)}
    assert 10 * float(rows["aligned", "0.1"]["axis_alignment"]) < float(rows["lae", "0.1"]["axis_alignment"])
    assert "not finite at step" in rows["lae", "100.0"]["note"] and rows["lae", "100.0"]["axis_alignment"] == "inf"
    assert (tmp_path / "minibatch.png").read_bytes().startswith(b"\x89PNG")
    assert "settles at" in capsys.readouterr().out


def test_decay_lowers_where_it_settles(tmp_path):
    """With the learning rate and the rotation kept up, the noise of the batches stays in the weights."""

    def settled(decay):
        minibatch.run(config(methods=("aligned",), learning_rates=(0.1,), decay=decay), tmp_path / str(decay))
        with open(tmp_path / str(decay) / "minibatch.csv", newline="") as file:
            return float(next(csv.DictReader(file))["axis_alignment"])

    assert settled(0.01) < 0.5 * settled(1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ("algined",)}, "methods: 'algined' is not known; did you mean 'aligned'"),
        ({"learning_rates": ()}, "learning_rates: empty"),
        ({"decay": 0.0}, r"decay: 0\.0: must be above 0"),
        ({"batch_size": 2000}, r"batch_size: 2000 is outside 0\.\.1797"),
    ],
)
def test_bad_input_is_told_in_one_line(fields, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        minibatch.run(config(**fields), tmp_path)
    assert "\n" not in str(caught.value)
