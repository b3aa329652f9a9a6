"""The tables of the README and the site, each a function of the csv files in docs/results."""

from collections.abc import Callable

TABLES: dict[str, Callable[[], str]] = {}
