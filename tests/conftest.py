"""Strict numerics for the whole suite, and programs that are compiled soon: they run for moments."""

import os

import jax
import pytest

# Read when JAX first compiles, here and in the processes that tests start. The second halves the time to compile; XLA
# ends the process at a flag that it does not know, and later versions do not know this one.
FLAGS = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()

# Networks of Flax, and what readers of the guide write, broadcast; everywhere else (k,) beside (m, k) is [None, :].
BROADCAST = {"test_docs", "test_readme", "test_ordered_latents"}


def _strict(ranks: str = "raise") -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_numpy_rank_promotion", ranks)


_strict()


@pytest.fixture(autouse=True)
def strict_numerics(request):
    """Launchers set the global switches of JAX: put them back for the next test."""
    _strict("allow" if request.module.__name__.split(".")[-1] in BROADCAST else "raise")
    yield
    _strict()


@pytest.fixture(autouse=True, scope="module")
def programs_are_dropped():
    """Each compiled program maps memory, and Linux ends a process that has some ten thousand such maps."""
    yield
    jax.clear_caches()
