"""One run with the defaults of `lae_jax.runs.directory.RunConfig`: RAG on MNIST, k = 20.

    python -m launch.train --workdir=DIR [--config.FIELD=VALUE ...]

Reaches axis alignment below 0.005 at 30,000 steps.
"""

import dataclasses
import typing

from ml_collections import ConfigDict, config_dict

from lae_jax.runs.directory import RunConfig


def get_config() -> ConfigDict:
    """Every field of a run with its default; fields without one are placeholders of their type."""
    config = ConfigDict()
    types = typing.get_type_hints(RunConfig)
    for field in dataclasses.fields(RunConfig):
        optional = [kind for kind in typing.get_args(types[field.name]) if kind is not type(None)]
        config[field.name] = config_dict.placeholder(optional[0]) if field.default is None else field.default
    return config
