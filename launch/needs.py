"""Estimates of the memory that a launcher takes which trains no run of `lae_jax.training.memory`.

Each function is of one launcher. The factors are measured: `python -m tests.measured_memory` holds them to peaks.

Legend: n samples, m inputs, k latents; numbers of float64 unless said otherwise.
"""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from lae_jax.data.benchmark import Shards
from lae_jax.data.dataset import Dataset
from lae_jax.data.memory import Estimate, estimate, of_reading
from lae_jax.theory.hessian import CHUNK
from lae_jax.theory.verify import DENSE_LIMIT, PADDED
from lae_jax.training.populations import Population

_DOUBLE, _SINGLE = 8, 4


def _closed_form(input_dim: int, latent_dim: int) -> int:
    """Numbers of a spectrum: blocks of 4 x 4 for pairs of latents, of 2 x 2 for latents and other components."""
    return 4 * latent_dim * (8 * latent_dim + 4 * input_dim)


def hessian(config: ConfigDict, input_dims: Sequence[int], latent_dim: int) -> Estimate:
    """Of the widest spectrum at the largest latent size: columns of a Hessian, matrices of what is diagonalised."""
    found = [0]
    for input_dim in input_dims:
        size = min(latent_dim, input_dim - 1)
        weights = 2 * input_dim * max(size, PADDED)
        differentiated = 3 * CHUNK * weights + 6 * min(weights, DENSE_LIMIT) ** 2 if config.autodiff else 0
        found.append(_closed_form(input_dim, size) + differentiated + (30 * weights if config.matrix_free else 0))
    return estimate(_DOUBLE * max(found) + 6 * _DOUBLE * max(input_dims, default=0))


def ordered_latents(config: ConfigDict, dataset: Dataset) -> Estimate:
    """Of samples (n, m) in several copies, with their widest hidden layer, and a batch decoded for each latent."""
    itemsize, (count, input_dim) = np.dtype(config.precision).itemsize, (dataset.num_samples, dataset.input_dim)
    host = of_reading((count, input_dim), config.precision)
    samples = 9 * count * input_dim + 3 * count * max(config.hidden)
    decoded = config.latent_dim * input_dim * (8 * config.batch_size + 2500)
    return estimate(host, itemsize * (samples + decoded))


def streaming(shards: Shards) -> Estimate:
    """Of the samples, which are read whole to be compared with, and of covariances."""
    copies = {"npy": 2, "parquet": 3}.get(shards.format, 0)
    return estimate(copies * shards.nbytes + 3 * _DOUBLE * shards.input_dim**2 + (1 << 26))


def benchmark(config: ConfigDict) -> Estimate:
    """Of the largest of what is timed: samples, batches of runs, pairs of the theory, spectra."""
    samples = config.num_samples * config.input_dim if config.methods or config.large_latent_dims else 0
    widest = max(config.large_latent_dims, default=config.latent_dim)
    batches = config.batch_runs * max(config.batch_latent_dims, default=0) * config.batch_input_dim
    shared = config.shared_runs * config.shared_samples * config.input_dim
    numbers = max(5 * samples + 26 * config.input_dim * widest, 6 * shared, 26 * batches)
    pairs = 20 * config.theory_pairs * config.latent_dim * (config.latent_dim + 1)
    spectra = max((_closed_form(*size) for size in config.spectrum_sizes), default=0)
    host = _DOUBLE * max(spectra, 20 * config.batch_input_dim**2)
    device = max(_SINGLE * numbers, _DOUBLE * pairs)
    return estimate(max(host - device, 0), device)


def penalties(config: ConfigDict, dataset: Dataset) -> Estimate:
    """Of reading, a spectrum, one run at a time, and what its program takes to compile."""
    shape = dataset.num_samples, dataset.input_dim
    host = of_reading(shape, np.float64) + _DOUBLE * _closed_form(dataset.input_dim, config.latent_dim) + (1 << 27)
    return estimate(host, 26 * _SINGLE * config.latent_dim * dataset.input_dim)


def limits(config: ConfigDict, population: Population, latent_dim: int, runs: int) -> Estimate:
    """Of the samples (n, m) that are drawn from, covariances, and what every run holds."""
    shape = population.num_samples, len(population.components)
    host = of_reading(shape, np.float32) + _SINGLE * shape[0] * shape[1] + 6 * _DOUBLE * shape[1] ** 2
    return estimate(host, 8 * _SINGLE * shape[1] * (latent_dim * runs + config.batch_size))


def noise_floor(config: ConfigDict, dataset: Dataset) -> Estimate:
    """Of the most of reading samples, the runs on their coordinates, and for Adam the moments of all weights."""
    shape, used, latent_dim = (dataset.num_samples, dataset.input_dim), config.num_components, len(config.prior)
    weights, rows = 2 * used * latent_dim, shape[0] * (used + 4 * latent_dim)
    adam = (5 * weights + 40) * weights**2 + 1500 * latent_dim * weights if config.optimizer == "adam" else 0
    reading = of_reading(shape, np.float64) + (_DOUBLE + _SINGLE) * shape[0] * shape[1]
    return estimate(max(reading, _DOUBLE * max(5 * (1 + config.runs) * rows // 4, adam)))


def surface(config: ConfigDict) -> Estimate:
    """Of the grid and its picture, and the paths."""
    return estimate(_DOUBLE * ((1 << 22) + 32 * config.resolution**2 + 30 * config.num_steps))
