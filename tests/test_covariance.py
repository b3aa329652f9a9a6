"""The four forms of C are one operator, and the derivatives written by hand are the derivatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lae_jax.covariance import Dense, Diagonal, LowRankHistory, Samples, gram, latent_moments, second_moment
from tests.helpers import assert_close, normal, random_params, rows_with

K, M, N = 2, 5, 40
VARIANCES = np.array([5.0, 3.0, 2.0, 0.7, 0.0])
FORMS = {
    "dense": Dense(jnp.diag(VARIANCES)),
    "diagonal": Diagonal(jnp.asarray(VARIANCES)),
    "samples": Samples(jnp.asarray(rows_with(VARIANCES, N))),
    # A past of the first three variances, a quarter of it there twice as large, and samples of the rest.
    "low-rank history": LowRankHistory(
        jnp.eye(M, 3),
        jnp.asarray(2 * VARIANCES[:3]),
        jnp.zeros(()),
        jnp.asarray(0.25),
        jnp.asarray(rows_with(VARIANCES * [0.5, 0.5, 0.5, 1, 1], N)),
        jnp.asarray(1 / N),
    ),
}
MATRIX = np.diag(VARIANCES)
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))


@every_form
def test_forms_agree_on_every_operation(form):
    first, second, vector = normal(2, M, K), normal(3, M, K), normal(4, M)

    @jax.jit
    def operations(covariance, first, second, vector):
        moment = second_moment(first.T, covariance)
        return covariance @ first, covariance @ vector, covariance.pair(first, second), covariance.trace, moment

    pair = (MATRIX @ first, MATRIX @ second)
    expected = (MATRIX @ first, MATRIX @ vector, pair, np.trace(MATRIX), first.T @ MATRIX @ first)
    assert_close(operations(form, first, second, vector), expected)


def test_dense_and_samples_agree_off_the_axes():
    rows, other = normal(1, N, M) + 1.0, normal(2, M, K)
    matrix = rows.T @ rows / N
    assert_close(Samples(jnp.asarray(rows)) @ jnp.asarray(other), matrix @ other)
    assert_close(Dense(jnp.asarray(matrix)) @ jnp.asarray(other), matrix @ other)
    assert_close(Samples(jnp.asarray(rows)).trace, np.trace(matrix))


def test_what_a_history_has_lost_counts_in_its_trace_alone():
    kept = FORMS["low-rank history"]
    assert_close(dataclasses.replace(kept, outside=jnp.asarray(8.0)).trace, kept.trace + 2.0)
    assert_close(dataclasses.replace(kept, outside=jnp.asarray(8.0)) @ jnp.eye(M), MATRIX)


def plain_moments(encoder, decoder, matrix):
    return encoder @ matrix @ encoder.T, jnp.diagonal(encoder @ matrix @ decoder)


def scalar_of(moments):
    """A curved function of M and the overlap that is not symmetric in M."""
    moment, overlap = moments
    return jnp.sum(normal(6, K, K) * moment**2) + jnp.sum(overlap**3) + moment[0, 1] * overlap[0] - moment[1, 0]


def derivatives(function, tangent):
    """The gradient, the Hessian and the slope along a tangent, compiled together."""

    @jax.jit
    def every(values):
        gradient = jax.grad(function)
        slope = jax.jvp(function, (values,), (tangent,))
        return gradient(values), jax.jacfwd(gradient)(values), slope

    return every


FLAT, UNRAVEL = ravel_pytree(random_params(7, K, M))
TANGENT = jnp.asarray(normal(8, FLAT.size))


@functools.cache
def plain_derivatives():
    return derivatives(lambda values: scalar_of(plain_moments(*UNRAVEL(values), MATRIX)), TANGENT)(FLAT)


@every_form
def test_latent_moments_and_their_derivatives(form):
    params = UNRAVEL(FLAT)
    assert_close(jax.jit(latent_moments)(*params, form), plain_moments(*params, MATRIX))
    ours = derivatives(lambda values: scalar_of(latent_moments(*UNRAVEL(values), form)), TANGENT)
    assert_close(ours(FLAT), plain_derivatives(), factor=1000)


@every_form
def test_latent_moments_are_differentiable_in_the_data_and_in_both(form):
    """Once, twice, and once in the data after once in the weights, against the moments of C written out."""
    params, field = UNRAVEL(FLAT), {Dense: "matrix", Diagonal: "variances"}.get(type(form), "rows")
    values, past = getattr(form, field), form @ jnp.eye(M) - MATRIX
    if isinstance(form, LowRankHistory):
        past = dataclasses.replace(form, rows=jnp.zeros_like(values)) @ jnp.eye(M)
    matrix_of = {"matrix": lambda v: (v + v.T) / 2, "variances": jnp.diag, "rows": lambda v: v.T @ v / N + past}[field]

    def ours(encoder, values):
        symmetric = matrix_of(values) if isinstance(form, Dense) else values
        data = dataclasses.replace(form, **{field: symmetric})
        return scalar_of(latent_moments(encoder, params.decoder, data))

    def plain(encoder, values):
        return scalar_of(plain_moments(encoder, params.decoder, matrix_of(values)))

    tangents = jnp.asarray(normal(15, K, M)), jnp.asarray(normal(16, *values.shape))

    def every(function):
        gradient = jax.grad(function, (0, 1))
        return jax.jit(lambda *primals: (gradient(*primals), jax.jvp(gradient, primals, tangents)[1]))

    assert_close(every(ours)(params.encoder, values), every(plain)(params.encoder, values), factor=10_000)


def test_gram_and_its_derivatives():
    matrix, tangent = jnp.asarray(normal(9, M, K)), jnp.asarray(normal(10, M, K))

    def scalar(product):
        return jnp.sum(normal(11, K, K) * product**2) + product[0, 1]

    assert_close(gram(matrix), matrix.T @ matrix)
    ours = derivatives(lambda values: scalar(gram(values)), tangent)
    plain = derivatives(lambda values: scalar(values.T @ values), tangent)
    assert_close(ours(matrix), plain(matrix), factor=1000)
    batch = jnp.asarray(normal(12, 3, M, K))
    assert_close(jax.vmap(gram)(batch), jnp.einsum("bmi,bmj->bij", batch, batch))
