"""Flags of a launcher: `--workdir`, `--config` and its fields; one line where one is wrong."""

import contextlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from lae_jax.errors import InputError, unknown_name
from launch.help import describe

# What reading flags and running a configuration file may raise, whatever is in them.
_ERRORS = (flags.Error, InputError, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError,
           RecursionError, MemoryError)  # fmt: skip


def parse(default: Path, argv: list[str]) -> list[str]:
    """Define and read the flags; what is left of `argv`. Raises InputError; `--help` ends the program.

    `default` is the launcher's configuration file. One that is given may leave fields out: they have their defaults.
    """
    argv = _in_order(argv)
    if any(argument.lstrip("-") in ("h", "help", "helpfull", "helpshort") for argument in argv[1:]):
        print(describe(default, load(str(default))))
        sys.exit(0)
    with _as_input_errors():
        flags.DEFINE_string("workdir", None, "Folder that the results go to.", required=True)
        flags.DEFINE_string("compilation_cache", None, "Folder to keep compiled programs in for later starts.")
        given = next(
            (argument.partition("=")[2] for argument in argv if argument.startswith("--config=")), str(default)
        )
        known, config = load(str(default)), load(given)
        for name in config:
            if name not in known:
                raise InputError(f"--config={given}: not a configuration of this launcher, which has no field {name!r}")
        _check_fields(argv, given, config)
        config_flags.DEFINE_config_file("config", str(default), "Configuration, and its fields.", sys_argv=argv)
        rest: list[str] = flags.FLAGS(argv)
        with flags.FLAGS.config.unlocked():
            for name in set(known) - set(config):
                flags.FLAGS.config[name] = known[name]
    return rest


def _in_order(argv: list[str]) -> list[str]:
    """The flags with --config=FILE first, without which no field can be read; `--NAME VALUE` is made `--NAME=VALUE`."""
    joined = argv[:1]
    for argument in argv[1:]:
        if joined[-1].startswith("--") and "=" not in joined[-1] and not argument.startswith("--"):
            joined[-1] = f"{joined[-1]}={argument}"
        else:
            joined.append(argument)
    return joined[:1] + sorted(joined[1:], key=lambda argument: not argument.startswith("--config="))


@contextlib.contextmanager
def _as_input_errors() -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise error if isinstance(error, InputError) else InputError(" ".join(str(error).split())) from None


def load(given: str) -> ConfigDict:
    """The configuration of FILE.py or FILE.py:VARIANT. Raises InputError where it has none."""
    path, _, variant = given.partition(":")
    try:
        get_config = runpy.run_path(path)["get_config"]
        config = get_config(variant) if variant else get_config()
    except InputError as error:
        raise InputError(f"--config={given}: {error}") from None
    except Exception as error:  # whatever the file does: its code may go wrong in any way
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise InputError(f"--config={given}: {path} gives no configuration ({' '.join(str(reason).split())})") from None
    if not isinstance(config, ConfigDict):
        raise InputError(f"--config={given}: {path} gives no configuration (a {type(config).__name__})")
    return config


def _check_fields(argv: list[str], given: str, config: ConfigDict) -> None:
    """Raises InputError at the first field that is not there or does not take its value, each read on its own."""
    for argument in argv[1:]:
        name, _, value = argument.partition("=")
        field = name.removeprefix("--config.")
        if field == name:
            continue
        if field.split(".")[0] not in config:
            raise InputError(f"--{name.lstrip('-')}: {unknown_name('field', field, config)}")
        alone, values = [argv[0], argument], flags.FlagValues()
        try:
            config_flags.DEFINE_config_file("config", given, flag_values=values, sys_argv=alone)
            values(alone)
        except _ERRORS as error:
            kind = config.get_type(field).__name__ if field in config else "there is none of this name"
            why = f": {error}" if kind == "ConfigDict" else ""
            raise InputError(f"--config.{field}: {value!r} is not of the type of this field ({kind}{why})") from None
