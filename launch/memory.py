"""What a launcher takes of memory: one line before it is spent, or one that refuses (`launch.needs` estimates)."""

import sys
from collections.abc import Iterable

from ml_collections import ConfigDict

from lae_jax.data import datasets, hosts
from lae_jax.data.dataset import Dataset
from lae_jax.data.memory import Estimate
from lae_jax.errors import InputError
from lae_jax.training import memory
from lae_jax.training.settings import Settings


def tell(needed: Estimate, max_memory: float, remedies: str) -> None:
    """Say what is taken. Raises InputError where that is more than `max_memory` GiB, 0 being what there is."""
    needed.check(limit_of(max_memory), remedies)
    _show(needed)


def tell_runs(runs: Iterable[Settings], dataset: Dataset, max_memory: float) -> None:
    """`tell` for what the largest of these runs takes."""
    _show(memory.largest(runs, dataset, limit_of(max_memory)))


def limit_of(max_memory: float) -> float | None:
    """The field `max_memory` in bytes; None where it sets no limit. Raises InputError where it is negative."""
    if max_memory < 0:
        raise InputError(f"max_memory: {max_memory}: must not be negative; 0 is what there is")
    return max_memory * 2**30 or None


def load(config: ConfigDict) -> Dataset:
    """The data set that the fields `dataset`, `data_dir` and `download` name, read in `max_memory`."""
    fields = {name: config[name] for name in ("data_dir", "download")}
    return datasets.load(config.dataset, max_memory=limit_of(config.max_memory), **fields)


def _show(needed: Estimate) -> None:
    if hosts.is_first():
        print(f"memory: {needed}", file=sys.stderr)
