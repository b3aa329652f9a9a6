"""Strict numerics for the whole suite, and programs that are compiled soon: they run for moments."""

import os

import jax
import pytest

# Read when JAX first compiles, here and in the processes that tests start.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()


def _strict():
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")


_strict()


@pytest.fixture(autouse=True)
def strict_numerics():
    """Launchers set the global switches of JAX: put them back for the next test."""
    yield
    _strict()
