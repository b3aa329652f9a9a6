"""What is said of flags that are wrong, and what `--help` shows."""

import re

import pytest
from ml_collections import ConfigDict

from launch import common, help
from launch.command_line import load
from tests import launching

NUMBERS = [f"--config.{field}" for field in ("latent_dim=1", "num_steps=1", "seed=2", "batch_size=3")]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        # A value that occurs in another field, too.
        ("train", ["--config.latent_dim=1", "--config.num_steps=1e3"], "--config.num_steps: '1e3' is not of the type"),
        (
            "train",
            [*NUMBERS, "--config.scale=1/255"],
            "--config.scale: '1/255' is not of the type of this field (float",
        ),
        ("train", [*NUMBERS, "--config.center=1/2"], "--config.center: '1/2' is not of the type of this field (bool)"),
        ("train", [*NUMBERS, "--config.dataset.x=1"], "--config.dataset.x: '1'"),
        ("train", ["--config", "launch/configs/train.py", "--config.latentdim", "1"], "did you mean 'latent_dim'?"),
        # Variants and files.
        ("train", ["--config=launch/configs/train_mnist.py:ragg"], "'ragg' is not known; did you mean 'rag'? known: u"),
        ("compare", ["--config=launch/configs/compare.py:ful"], "variant: 'ful' is not known; did you mean 'full'?"),
        ("scaling", ["--config=launch/configs/scaling.py:tuned"], "did you mean 'tune'? known: full, tune"),
        ("train", ["--config=launch/configs/train.py:rag"], "gives no configuration (TypeError"),
        ("train", ["--config=launch/configs/scaling.py"], "not a configuration of this launcher, which has no field"),
        ("mnist", ["--config=launch/configs/hessian.py"], "not a configuration of this launcher, which has no field"),
        ("train", ["--config=setup.cfg"], "setup.cfg gives no configuration (No such file"),
        ("train", ["--config=pyproject.toml"], "gives no configuration ("),
        ("train", ["--config=launch/common.py"], "gives no configuration (KeyError: 'get_config')"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, name, arguments, message):
    done = launching.launch(name, f"--workdir={tmp_path / 'run'}", *arguments, flags_only=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr


def test_flags_in_any_order_and_spelling(tmp_path):
    given = ["--config.latent_dim", "3", "--workdir", tmp_path, "--config", "launch/configs/train_mnist.py:rag"]
    assert launching.launch("train", *given, "--config.snapshot_steps=0", flags_only=True).returncode == 0
    given = ["--workdir", tmp_path, "--config.problems", "(('wine.npy', 3, 200),)"]  # a path with a dot
    assert launching.launch("compare", *given, flags_only=True).returncode == 0


def test_a_file_may_leave_fields_out(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'dataset': 'digits', 'num_steps': 7, 'latent_dim': 2})\n"
    )
    done = launching.launch("train", f"--workdir={tmp_path / 'run'}", f"--config={tmp_path / 'mine.py'}")
    assert done.returncode == 0 and "step 7" in done.stdout, done.stderr


def test_meanings_are_the_comments():
    source = """
    one: int = 3  # the first
    two: tuple[int, ...] = ()
    # The third,
    # in two lines.
    config.three = "a # b"
    config.four = {"x": 1}  # {"y": 2} is as good
"""
    assert help.meanings(source) == {
        **{"one": "the first", "two": "", "three": "The third, in two lines.", "four": '{"y": 2} is as good'}
    }


@pytest.mark.parametrize("path", sorted(common.CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_help_tells_what_every_field_means(path):
    if path.stem == "__init__" or not (launching.ROOT / "launch" / path.name).exists():
        return  # a file for one of the launchers, or what the files share
    config = load(str(path))
    shown = help.describe(path, config)
    assert isinstance(config, ConfigDict)
    silent = [name for name in config if not re.search(rf"^  --config.{name} \(\w+, .*\): \S", shown, re.MULTILINE)]
    assert not silent


def test_help_shows_fields_and_variants():
    done = launching.launch("train", "--help", flags_only=True)
    assert done.returncode == 0 and done.stderr == ""
    assert "--config.latent_dim (int, 20): " in done.stdout
    assert "launch/configs/train_mnist.py:linear_vae" in done.stdout and "train_synthetic.py" in done.stdout
    assert "python -m launch.train" in done.stdout
