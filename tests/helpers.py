"""Small problems and tolerances that the tests share."""

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lae_jax.params import LAEParams, VAEParams

COMPILED: list[str] = []  # functions in the order in which XLA compiled them, as jit(NAME)


def _note(event: str, seconds: float, **told: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(told["fun_name"])


jax.monitoring.register_event_duration_secs_listener(_note)


def compilations(name: str) -> int:
    """How often a jitted function of this name has been compiled."""
    return COMPILED.count(f"jit({name})")


def tolerance(dtype: Any, factor: float = 100.0) -> float:
    """This many roundings of a number of order 1."""
    return factor * float(jnp.finfo(dtype).eps)


def assert_close(actual: Any, expected: Any, factor: float = 100.0) -> None:
    """Two trees alike up to `factor` roundings, in the coarser precision, of the largest entry (at least 1)."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        got, wanted = np.asarray(got), np.asarray(wanted)
        assert got.shape == wanted.shape
        coarser = np.float32 if np.float32 in (got.dtype, wanted.dtype) else np.float64
        largest = max(1.0, np.abs(wanted).max(initial=0.0))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=largest * tolerance(coarser, factor))


def on_devices(count: int, script: str, *arguments: Any) -> "subprocess.CompletedProcess[str]":
    """A script in a process of its own, with this many virtual devices."""
    several = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    environment = os.environ | {"XLA_FLAGS": several, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers in float64."""
    return np.random.default_rng(seed).standard_normal(shape)


def orthogonal(seed: int, size: int) -> np.ndarray:
    """A random orthogonal matrix (size, size)."""
    return np.linalg.qr(normal(seed, size, size))[0]


def random_params(seed: int, latent_dim: int, input_dim: int, scale: float = 0.5) -> LAEParams:
    """Unrelated encoder and decoder in float64."""
    weights = scale * normal(seed, 2, latent_dim, input_dim)
    return LAEParams(jnp.asarray(weights[0]), jnp.asarray(weights[1].T))


def random_vae(seed: int, latent_dim: int, input_dim: int) -> VAEParams:
    """Unrelated weights and log-variances in float64."""
    log_variances = 0.5 * normal(seed + 1000, latent_dim + 1)
    return VAEParams(
        *random_params(seed, latent_dim, input_dim), *map(jnp.asarray, (log_variances[1:], log_variances[0]))
    )


def rows_with(variances: np.ndarray, num_samples: int, seed: int = 0) -> np.ndarray:
    """Samples (n, m) whose second moment X X^T / n is exactly diag(variances)."""
    basis = np.linalg.qr(normal(seed, num_samples, len(variances)))[0]
    return basis * np.sqrt(num_samples * variances)


def cast(tree: Any, dtype: Any) -> Any:
    """Every array of a tree in this precision."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


# One value of each hyperparameter that a loss may take, for three latents.
HYPERPARAMETERS = {
    None: None,
    "penalties": np.array([0.1, 0.3, 0.7]),
    "penalty": np.array([0.3]),
    "prior": np.array([0.3, 0.2, 0.5]),
    "uniform_prior": np.full(3, 1 / 3),
    "beta": np.array([0.7]),
}
