"""What the paper's own program draws from its seed: initial weights, and the samples of Figure 4.

The published runs are made by the authors' PyTorch code (github.com/XuchanBao/linear-ae, commit c3b8f04), which
seeds numpy 1.17 and torch 1.3 with 1234. Both generators are the Mersenne Twister MT19937 seeded with one
integer, so numpy alone draws the same numbers again, and with them the published curves come out point by
point. (Their stochastic nested dropout drew its masks on a GPU: those cannot be drawn again.)

numpy's legacy `RandomState` is used on purpose: its stream of numbers is frozen.
"""

import jax.numpy as jnp
import numpy as np
import scipy.linalg.lapack

from lae_jax.errors import InputError
from lae_jax.params import LAEParams

SEED = 1234
# Torch fills a tensor with normal numbers in blocks of this many.
_BLOCK = 16
# The samples of Figure 4.
_NUM_SAMPLES, _INPUT_DIM = 5000, 1000


def _generator(seed: int) -> np.random.RandomState:
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: {seed}: the authors' generator takes 0 to {2**32 - 1}")
    return np.random.RandomState(seed)


def _words(generator: np.random.RandomState, count: int) -> np.ndarray:
    """The next `count` outputs of the Mersenne Twister, 32 bits each."""
    return generator.randint(0, 2**32, count, dtype=np.uint32)


def loader_draws(num_samples: int) -> int:
    """How many 32-bit numbers a shuffling torch DataLoader draws, before the weights, for its one full batch.

    Two for the seed of its workers, and one for each exchange of two samples that shuffles the rows. MNIST is loaded
    so; the samples of Figure 4 are a tensor, which draws nothing.
    """
    return 2 + num_samples - 1


def _normal(generator: np.random.RandomState, count: int) -> np.ndarray:
    """`count` standard normal numbers as `torch.Tensor.normal_` of torch 1.3 fills a float32 tensor, in float64.

    All the uniform numbers come first, then each block of 16 is turned in place (Box and Muller): its first eight
    are radii, its last eight angles. If 16 does not divide `count`, the last 16 entries are drawn anew.
    """

    def uniform(amount: int) -> np.ndarray:
        mantissas = _words(generator, amount) & np.uint32(2**24 - 1)
        return mantissas.astype(np.float32) / np.float32(2**24)

    def turned(uniforms: np.ndarray) -> np.ndarray:
        radii, angles = np.split(uniforms.reshape(-1, _BLOCK), 2, axis=1)
        radii = np.sqrt(-2 * np.log1p(-radii.astype(np.float64)))
        angles = (np.float32(2 * np.pi) * angles).astype(np.float64)
        return np.concatenate([radii * np.cos(angles), radii * np.sin(angles)], axis=1).ravel()

    uniforms = uniform(count)
    values = np.empty(count)
    whole = count - count % _BLOCK
    values[:whole] = turned(uniforms[:whole])
    if count % _BLOCK:
        values[-_BLOCK:] = turned(uniform(_BLOCK))
    return values


def initial_weights(
    latent_dim: int, input_dim: int, scale: float = 1e-4, *, seed: int = SEED, draws_before: int = 0
) -> LAEParams:
    """The N(0, scale^2) weights that a published run starts from, to float32 rounding (1e-6 of the scale).

    Args:
        latent_dim: k.
        input_dim: m; k m is at least 16, below which torch draws in another way.
        scale: standard deviation of every entry.
        seed: of torch; the published runs have 1234.
        draws_before: 32-bit numbers drawn before the weights: `loader_draws(60_000)` for MNIST, 0 for Figure 4.

    Returns:
        Encoder (k, m) and decoder (m, k), float32.

    Raises:
        InputError: at a seed that is not of 32 bits, or fewer than 16 weights in a layer.
    """
    count = latent_dim * input_dim
    if count < _BLOCK:
        raise InputError(
            f"init: 'authors' draws at least {_BLOCK} numbers a layer; latent_dim {latent_dim} x {input_dim} inputs are"
            f" {count}; use 'gaussian'"
        )
    generator = _generator(seed)
    # Two layers at torch's default initial values, of one number each, which are then overwritten.
    _words(generator, draws_before + 2 * count)
    encoder = _normal(generator, count).reshape(latent_dim, input_dim)
    decoder = _normal(generator, count).reshape(input_dim, latent_dim)
    return LAEParams(jnp.asarray(scale * encoder, jnp.float32), jnp.asarray(scale * decoder, jnp.float32))


def _random_orthogonal(generator: np.random.RandomState, size: int) -> np.ndarray:
    """A random orthogonal (m, m), as `scipy.stats.ortho_group` of scipy 1.3 drew it: m Householder reflections.

    Reflection n acts on the coordinates from n on and is drawn as its vector; LAPACK multiplies them.
    """
    vectors, factors, signs = np.zeros((size, size), order="F"), np.empty(size), np.empty(size)
    for n in range(size):
        vector = generator.normal(size=size - n)
        signs[n] = np.copysign(1, vector[0])
        vector[0] += signs[n] * np.linalg.norm(vector)
        factors[n] = 2 * vector[0] ** 2 / (vector @ vector)
        vectors[n:, n] = vector / vector[0]
    product, _, _ = scipy.linalg.lapack.dorgqr(vectors, factors)
    return product * np.cumprod(-signs)


def synthetic_samples(seed: int = SEED) -> np.ndarray:
    """The samples (5000, 1000) of Figure 4, float32, not centred.

    Their population variances are linspace(100, 1, 1000) in a random orthonormal basis.

    Args:
        seed: of numpy; the published figure has 1234.

    Raises:
        InputError: at a seed that is not of 32 bits.
    """
    generator = _generator(seed)
    basis = _random_orthogonal(generator, _INPUT_DIM)
    deviations = np.sqrt(np.linspace(100, 1, _INPUT_DIM))
    scores = generator.normal(size=(_NUM_SAMPLES, _INPUT_DIM))
    return ((scores * deviations) @ basis.T).astype(np.float32)
