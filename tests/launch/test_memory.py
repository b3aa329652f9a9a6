"""Launchers whose memory grows with what they are given say so before it is spent, and refuse what does not fit."""

import importlib

import pytest

from lae_jax.data.memory import LIBRARIES
from lae_jax.errors import InputError
from launch import command_line, memory, needs
from launch.common import CONFIGS

# Default fields that would read files, or much.
FIELDS = {
    "compare": {"problems": (("digits", 5, 10),)},
    "hessian": {"spectra": ("linear",)},
    "minibatch": {"dataset": "digits", "latent_dim": 5},
    "mnist": {"dataset": "digits", "methods": ("rag",)},
    "ordered_latents": {"dataset": "digits", "held_out": 100},
    "train": {"dataset": "digits", "latent_dim": 5},
}


def configuration(name):
    return command_line.load(str(CONFIGS / f"{name}.py"))


# `launch.scaling` bounds its batches by the field: tests/launch/test_scaling.
TELLING = [
    path.stem
    for path in sorted(CONFIGS.glob("*.py"))
    if (CONFIGS.parent / path.name).exists() and path.stem not in ("__init__", "scaling")
    if "max_memory" in configuration(path.stem)
]


@pytest.mark.parametrize("name", TELLING)
def test_a_launcher_refuses_what_does_not_fit_in_one_line(name, tmp_path):
    config = configuration(name)
    config.update(FIELDS.get(name, {}) | {"max_memory": 0.1})
    with pytest.raises(InputError, match=r"^max_memory: 102 MiB a process do not hold .*; what would: ") as told:
        importlib.import_module(f"launch.{name}").run(config, tmp_path)
    assert "\n" not in str(told.value) and not list(tmp_path.glob("*.csv"))


def test_what_is_said_and_what_is_refused(capsys):
    config = configuration("surface")
    memory.tell(needs.surface(config), 1, "nothing")
    assert capsys.readouterr().err == "memory: about 638 MiB a process, 0 MiB a device\n"
    config.resolution *= 100
    assert needs.surface(config).process - LIBRARIES > 9000 * 4 * 2**20
    with pytest.raises(InputError, match="max_memory: -1: must not be negative"):
        memory.limit_of(-1)
