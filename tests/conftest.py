"""Strict numerics for the whole suite."""

import jax
import pytest


def _strict():
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")


_strict()


@pytest.fixture(autouse=True)
def strict_numerics():
    """Launchers set the global switches of JAX: put them back for the next test."""
    yield
    _strict()
