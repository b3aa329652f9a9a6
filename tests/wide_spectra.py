"""Every eigenvalue against mpmath on random spectra whose variances span up to 14 orders of magnitude.

    python -m tests.wide_spectra [NUMBER_OF_SPECTRA]

The blocks are written out again here, from the second derivatives, and diagonalised with so many digits that the
smallest eigenvalue keeps thirty. `tests/theory/test_eigenvalues.py` runs a few dozen.
"""

import sys

import mpmath
import numpy as np

from lae_jax.theory import eigenvalues

DIGITS = 150


def drawn(rng, largest_span=14.0):
    """Variances (m,) descending over up to this many orders of magnitude, in any unit, and a latent dimension."""
    latent_dim = int(rng.integers(2, 5))
    input_dim = latent_dim + int(rng.integers(1, 4))
    span = rng.uniform(0, largest_span)
    logs = np.sort(rng.uniform(-span, 0, input_dim))[::-1]
    if rng.random() < 0.7:
        logs[0], logs[-1] = 0, -span
    variances = 10.0 ** (logs + rng.choice([0, 0, rng.uniform(-8, 8)]))
    if rng.random() < 0.3:  # nearly equal neighbours
        i = int(rng.integers(input_dim - 1))
        variances[i + 1] = variances[i] * (1 - 10.0 ** rng.uniform(-10, -1))
        variances[i + 2 :] = np.minimum(variances[i + 2 :], variances[i + 1])
    variances = np.sort(variances)[::-1]
    for i in range(latent_dim):  # the paper's assumption
        if variances[i + 1] >= variances[i]:
            variances[i + 1 :] *= 0.5 * variances[i] / variances[i + 1]
    return variances, latent_dim


def drawn_penalties(rng, variances, latent_dim):
    """Ascending penalties, most often below d_k, over many orders of magnitude or with near-equal neighbours."""
    top = variances[latent_dim - 1] if rng.random() < 0.75 else variances[0]
    values = np.sort(10.0 ** rng.uniform(-rng.choice([1.0, 6.0]), 0, latent_dim)) * top * 0.99
    if rng.random() < 0.3:
        values[1] = values[0] * (1 + 10.0 ** rng.uniform(-10, -1))
    return np.sort(values)


def drawn_prior(rng, latent_dim):
    """Probabilities, some tiny."""
    weights = 10.0 ** rng.uniform(-rng.choice([1.0, 8.0]), 0, latent_dim)
    return weights / weights.sum()


def exact_l2(d, lam):
    """Own, pair and tail matrices of Eq. (3)."""
    k, l = len(lam), lam  # noqa: E741
    w2 = [1 - li / di if li < di else mpmath.mpf(0) for li, di in zip(l, d, strict=False)]
    w = [mpmath.sqrt(value) for value in w2]
    e = [d[i] * (1 - w2[i]) for i in range(k)]
    own = [[[d[i] * w2[i] + l[i], d[i] * w2[i] - e[i]], [d[i] * w2[i] - e[i], d[i] * w2[i] + l[i]]] for i in range(k)]
    pairs = [
        [
            [d[j] * w2[i] + l[i], -e[j], 0, d[j] * w[i] * w[j]],
            [-e[j], d[i] * w2[i] + l[i], d[i] * w[i] * w[j], 0],
            [0, d[i] * w[i] * w[j], d[i] * w2[j] + l[j], -e[i]],
            [d[j] * w[i] * w[j], 0, -e[i], d[j] * w2[j] + l[j]],
        ]
        for i in range(k)
        for j in range(i + 1, k)
    ]
    tail = [[[d[q] * w2[i] + l[i], -d[q]], [-d[q], d[i] * w2[i] + l[i]]] for i in range(k) for q in range(k, len(d))]
    return [2 * mpmath.matrix(block) for block in own + pairs + tail]


def exact_nested(d, prior):
    """Own, pair and tail matrices of twice Eq. (6)."""
    k, total = len(prior), mpmath.fsum(prior)
    c = [mpmath.fsum(prior[i:]) / total for i in range(k)]
    own = [[[c[i] * d[i]] * 2] * 2 for i in range(k)]
    pairs = [
        [
            [d[j] * c[i], -d[j] * (c[i] - c[j]), 0, d[j] * c[j]],
            [-d[j] * (c[i] - c[j]), d[i] * c[i], d[i] * c[j], 0],
            [0, d[i] * c[j], d[i] * c[j], 0],
            [d[j] * c[j], 0, 0, d[j] * c[j]],
        ]
        for i in range(k)
        for j in range(i + 1, k)
    ]
    tail = [[[c[i] * d[q], -c[i] * d[q]], [-c[i] * d[q], c[i] * d[i]]] for i in range(k) for q in range(k, len(d))]
    return [2 * mpmath.matrix(block) for block in own + pairs + tail]


def exact_vae(d, k):
    """The arrowhead, the pairs and the tail of the linear VAE."""
    m = len(d)
    s = mpmath.fsum(d[k:]) / (m - k)
    t = [mpmath.sqrt(d[i] - s) for i in range(k)]
    own = mpmath.zeros(3 * k + 1)

    def put(row, column, value):
        own[row, column] = own[column, row] = value

    for i in range(k):
        put(i, i, d[i] ** 2 / s)
        put(k + i, k + i, 1 / s)
        put(i, k + i, (d[i] - s) / s - 1)
        put(2 * k + i, 2 * k + i, mpmath.mpf(1) / 2)
        put(2 * k + i, k + i, t[i] / d[i])
        put(3 * k, i, t[i])
        put(3 * k, 2 * k + i, -(d[i] - s) / (2 * d[i]))
    put(3 * k, 3 * k, mpmath.mpf(m) / 2)
    pairs = [
        [
            [d[i] * d[j] / s, -1, 0, t[i] * t[j] / s],
            [-1, 1 / s, t[i] * t[j] / s, 0],
            [0, t[i] * t[j] / s, d[i] * d[j] / s, -1],
            [t[i] * t[j] / s, 0, -1, 1 / s],
        ]
        for i in range(k)
        for j in range(i + 1, k)
    ]
    tail = [[[d[i] * d[q] / s, -d[q] / s], [-d[q] / s, 1 / s]] for i in range(k) for q in range(k, m)]
    return [own, *(mpmath.matrix(block) for block in pairs + tail)]


def worst_error(found, matrices, nulls=0):
    """Largest relative error over all eigenvalues, block by block; the smallest `nulls` of a block may be NaN."""
    rows = [row for block in found for row in np.asarray(block)]
    worst = 0.0
    for row, matrix in zip(rows, matrices, strict=True):
        exact = sorted(mpmath.eigsy(matrix, eigvals_only=True))
        kept = np.sort(row)[: np.count_nonzero(~np.isnan(row))]
        for value, truth in zip(kept, exact[len(exact) - len(kept) :], strict=True):
            worst = max(worst, abs(float(mpmath.mpf(float(value)) / truth - 1)))
    return worst


def errors(rng):
    """Objective -> worst relative error on one random spectrum."""
    variances, latent_dim = drawn(rng)
    penalties, prior = drawn_penalties(rng, variances, latent_dim), drawn_prior(rng, latent_dim)
    equal = np.full(latent_dim, penalties[0])
    with mpmath.workdps(DIGITS):
        d, lam, p = ([mpmath.mpf(float(value)) for value in values] for values in (variances, penalties, prior))
        found = {
            "non_uniform_l2": (eigenvalues.non_uniform_l2(variances, penalties), exact_l2(d, lam)),
            "uniform_l2": (
                eigenvalues.non_uniform_l2(variances, np.full(latent_dim, penalties[0])),
                exact_l2(d, equal),
            ),
            "deterministic_nested_dropout": (eigenvalues.nested_dropout(variances, prior), exact_nested(d, p)),
            "lae": (
                eigenvalues.reconstruction(variances, latent_dim),
                exact_nested(d, [mpmath.mpf(0)] * (latent_dim - 1) + [mpmath.mpf(1)]),
            ),
            "linear_vae": (eigenvalues.linear_vae(variances, latent_dim), exact_vae(d, latent_dim)),
        }
        return variances, penalties, prior, {name: worst_error(*pair) for name, pair in found.items()}


def main(count=300):
    """The worst of this many spectra, by objective."""
    rng, worst = np.random.default_rng(0), {}
    for _ in range(count):
        *_, found = errors(rng)
        worst = {name: max(worst.get(name, 0.0), error) for name, error in found.items()}
    for name, error in worst.items():
        print(f"{name:30} worst relative error {error:.2g} over {count} spectra")
    return 0 if max(worst.values()) < 1e-10 else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
