"""`launch.train` as a user meets it: flags, one-line errors, exit status."""

import functools

import numpy as np
import pytest

from lae_jax.runs import directory
from tests import launching

SMALL = ["--config.dataset=digits", "--config.latent_dim=3", "--config.num_steps=40"]


launch = functools.partial(launching.launch, "train")


def test_trains_from_the_command_line(tmp_path):
    done = launch(f"--workdir={tmp_path / 'run'}", *SMALL, "--config.penalties=(0.01,0.02,0.03)",
                  "--config.method=non_uniform_l2", "--config.optimizer=adam")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "step 40" in done.stdout
    assert "40/40" in done.stderr and "loss" in done.stderr and "alignment" in done.stderr
    assert np.isfinite(directory.read_metrics(tmp_path / "run")["loss"]).all()
    again = launch(f"--workdir={tmp_path / 'run'}", *SMALL, "--config.penalties=(0.01,0.02,0.03)",
                   "--config.method=non_uniform_l2", "--config.optimizer=adam")  # fmt: skip
    assert again.returncode == 0 and "finished already" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.method=ragg"], "method: 'ragg' is not known; did you mean 'rag'"),
        (["--config.latentdim=3"], "did you mean 'latent_dim'"),
        (["--config.latent_dim=three"], "--config.latent_dim: 'three'"),
        (["--config=nowhere.py"], "nowhere.py"),
        (["--workdirr=x"], "workdirr"),
        (["extra"], "'extra' is not a flag"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, arguments, message):
    done = launch(f"--workdir={tmp_path / 'run'}", *SMALL, *arguments)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0], done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_missing_workdir_is_one_line():
    done = launch(*SMALL)
    assert done.returncode == 1 and "--workdir" in done.stderr and "Traceback" not in done.stderr


def test_config_files_for_the_authors_settings(tmp_path):
    file = "launch/configs/train_mnist.py:non_uniform_l2"
    done = launch(f"--workdir={tmp_path / 'run'}", f"--config={file}", "--config.num_steps=20")
    assert done.returncode == 0, done.stderr
    assert "latent 19, 20" in done.stderr  # the authors' penalties exceed the variances there
