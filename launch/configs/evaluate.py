"""A saved run against exact PCA.

    python -m launch.evaluate --workdir=DIR [--config.run=RUN] [--config.dataset=DATA]

Measures the run in DIR, or in RUN, on its own data or on others; takes as long as their spectrum does.
"""

import typing

from ml_collections import ConfigDict, config_dict

from lae_jax.runs.directory import DATA_FIELDS, RunConfig


def get_config() -> ConfigDict:
    """The run, and its fields of the data: those that are not given stay the run's own."""
    config = ConfigDict()
    config.run = ""  # folder of the run; empty: the one in workdir
    types = typing.get_type_hints(RunConfig)
    for name in DATA_FIELDS:
        kind = typing.get_origin(types[name])
        if kind is not tuple:
            kind, *_ = typing.get_args(types[name]) or (types[name],)
        config[name] = config_dict.placeholder(kind)
    return config
