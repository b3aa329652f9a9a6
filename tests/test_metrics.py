"""Each metric against its definition, and where rounding, padding, collapsed or dependent latents would spoil it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax import metrics
from lae_jax.covariance import Dense
from lae_jax.errors import InputError
from lae_jax.params import LAEParams, balanced, pad_latents
from tests.helpers import assert_close, cast, normal, orthogonal, random_params

K, M = 4, 9
BASIS = orthogonal(0, M)
U = BASIS[:, :K]
EIGENBASIS = np.eye(M)[:, :K]
DISTANCES = ("axis_alignment", "ordered_alignment", "subspace_distance")


@functools.partial(jax.jit, static_argnames="names")
def evaluate(decoder, components=None, latent_dim=None, names=DISTANCES):
    return [getattr(metrics, name)(decoder, components, latent_dim) for name in names]


measure, imbalance, transpose_gap = map(jax.jit, (metrics.measure, metrics.imbalance, metrics.transpose_gap))


def defined(decoder, components):
    """The three distances as the paper writes them; zero and dependent columns add nothing to the span."""
    latent_dim = components.shape[1]
    norms = np.linalg.norm(decoder, axis=0)
    alive = norms > 0
    cosines = np.where(alive, (components.T @ decoder) ** 2 / np.where(alive, norms, 1) ** 2, 0)
    directions, sizes, _ = np.linalg.svd(decoder[:, alive] / norms[alive], full_matrices=False)
    span = directions[:, sizes > 1e-12]
    shared = np.trace(components @ components.T @ span @ span.T)
    return [
        1 - sum(max(cosines[i, j] for j in range(latent_dim)) for i in range(latent_dim)) / latent_dim,
        1 - sum(cosines[i, i] for i in range(latent_dim)) / latent_dim,
        1 - shared / latent_dim,
    ]


def random_decoder(seed, tilt=0.3):
    """Near the components, in disorder, with columns of unequal length."""
    noisy = U + tilt * normal(seed, M, K)
    return noisy[:, [2, 0, 1, 3]] * np.array([1.0, -0.2, 3.0, -0.01])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tilt", [0.03, 0.3, 3.0])
def test_distances_are_as_defined(seed, tilt):
    decoder = random_decoder(seed, tilt)
    assert_close(evaluate(decoder, U), defined(decoder, U))


def test_distances_in_the_eigenbasis_need_no_components():
    decoder = random_decoder(1)
    assert_close(evaluate(BASIS.T @ decoder), evaluate(decoder, U))


def test_distances_at_the_components_are_zero_and_far_from_them_one():
    assert_close(evaluate(-2.0 * U, U), [0.0] * 3)
    assert_close(evaluate(BASIS[:, K : 2 * K], U), [1.0] * 3)


def test_order_counts_for_one_distance_only():
    axis, ordered, subspace = evaluate(U[:, [1, 0, 2, 3]] * np.array([1, -1, 2, -3]), U)
    assert_close([axis, ordered, subspace], [0.0, 0.5, 0.0])


def test_signs_scales_and_order_of_latents():
    decoder = random_decoder(2)
    signed = decoder * np.array([-1.0, 1e-3, 7.0, -1e3])
    assert_close(evaluate(signed, U), evaluate(decoder, U))
    shuffled = decoder[:, [3, 1, 0, 2]]
    assert_close(np.array(evaluate(shuffled, U))[[0, 2]], np.array(evaluate(decoder, U))[[0, 2]])


def test_rotated_latents_keep_the_subspace_and_lose_the_axes():
    axis, ordered, subspace = evaluate(U @ orthogonal(3, K), U)
    assert subspace < 1e-28
    assert ordered >= axis > 0.1


@pytest.mark.parametrize("null", [(0,), (1,), (3,), (1, 2), (0, 2, 3)])
def test_null_latents_align_with_nothing_and_span_nothing(null):
    decoder = random_decoder(4)
    decoder[:, null] = 0
    assert_close(evaluate(decoder, U), defined(decoder, U))
    components = U.copy()
    components[:, null] = 0
    assert_close(evaluate(components, U), [len(null) / K] * 3)


def test_all_latents_null():
    assert evaluate(np.zeros((M, K)), U) == [1.0] * 3


@pytest.mark.parametrize(
    "mixing",
    [
        [[1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]],  # the second column is twice the first
        [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]],  # the third is the sum of the first two
        [[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]],  # beside a column of zeros
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dependent_columns_span_no_more_than_they_do(mixing, dtype):
    decoder = random_decoder(4) @ np.array(mixing)
    assert_close(evaluate(*cast((decoder, U), dtype)), defined(decoder, U))


def test_a_column_that_is_not_a_number_is_not_hidden():
    decoder = random_decoder(5)
    decoder[1, 1] = np.nan
    assert np.isnan(evaluate(decoder, U)).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_components_of_any_length_are_directions(name):
    distance, decoder = getattr(metrics, name), random_decoder(6)
    assert_close(distance(decoder, U * np.array([2.0, 1e-3, -7.0, 1.0])), distance(decoder, U))
    for wrong, complaint in ((U + 0.1, "orthogonal"), (U[:-1], r"need \(m, k\) with m = 9"), (U[:, 0], "need")):
        with pytest.raises(InputError, match=f"^components: .*{complaint}"):
            distance(decoder, wrong)


NULL = {"none": [], "one": [1], "two": [0, 3], "all": [0, 1, 2, 3]}


@pytest.mark.parametrize("null", NULL.values(), ids=NULL)
def test_gradients_are_finite_and_those_of_the_other_columns(null):
    """Autodiff against differences; a column of zeros has the derivative zero."""
    decoder = random_decoder(7)
    decoder[:, null] = 0
    tangent = normal(8, M, K) * np.linalg.norm(decoder, axis=0)
    values = jax.jit(lambda step: jnp.stack(evaluate(decoder + step * tangent, U)))
    gradients = jax.jit(jax.jacobian(lambda decoder: jnp.stack(evaluate(decoder, U))))(decoder)
    assert not gradients[:, :, null].any()
    slopes = (values(1e-6) - values(-1e-6)) / 2e-6
    np.testing.assert_allclose(jnp.tensordot(gradients, tangent, 2), slopes, rtol=0, atol=1e-8)


def test_the_subspace_distance_is_differentiable_twice():
    def with_qr(decoder):
        return 1 - jnp.sum((U.T @ jnp.linalg.qr(decoder)[0]) ** 2) / K

    decoder, tangent = random_decoder(9), normal(10, M, K)
    ours, plain = (
        jax.jit(lambda x, f=f: jax.jvp(jax.grad(f), (x,), (tangent,)))(decoder)
        for f in (lambda decoder: metrics.subspace_distance(decoder, U), with_qr)
    )
    np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-9 * np.abs(plain[1]).max())


@pytest.mark.parametrize("name", ["imbalance", "transpose_gap"])
def test_gaps_that_are_zero_have_a_derivative(name):
    gap, params = getattr(metrics, name), random_params(11, K, M)
    tied = LAEParams(params.decoder.T, params.decoder)
    for gradient, finite in ((jax.grad(gap)(tied), 0.0), (jax.grad(gap)(params), 1.0)):
        assert all(np.isfinite(each).all() and each.any() == finite for each in gradient)
    assert np.isnan(gap(tied._replace(encoder=tied.encoder.at[0, 0].set(jnp.nan))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unit_columns_and_collapsed_of_numpy_and_of_jax(dtype):
    columns = random_decoder(12) * np.array([1e-30, 1e30, 0, 1e20])
    found = metrics.unit_columns(columns.astype(dtype))
    assert type(found) is np.ndarray and found.dtype == dtype
    assert_close(np.sum(found**2, axis=0), np.array([1, 1, 0, 1], dtype))
    assert_close(metrics.unit_columns(jnp.asarray(columns, dtype)), jnp.asarray(found))
    for each in (columns.astype(dtype), jnp.asarray(columns, dtype)):
        assert metrics.collapsed(each).tolist() == [True, False, True, True]
    assert metrics.collapsed(np.zeros((3, 2))).all()


def test_latents_below_the_null_fraction_have_collapsed():
    decoder = U * np.array([1.0, 1.0, 0.5 * metrics.NULL_FRACTION, 1.0])
    assert_close(evaluate(decoder, U), [1 / K] * 3)
    assert_close(evaluate(decoder * np.array([1, 1, 4, 1]), U), [0.0] * 3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_distances_do_not_depend_on_the_scale(scale, dtype):
    decoder, components = cast((random_decoder(5), U), dtype)
    assert_close(evaluate(dtype(scale) * decoder, components), evaluate(decoder, components))


@pytest.mark.parametrize("angle", [1e-3, 1e-4, 3e-5])
@pytest.mark.parametrize("components", [None, BASIS.astype(np.float32)[:, :K]], ids=["eigenbasis", "input"])
def test_float32_resolves_distances_of_1e_9(angle, components):
    near = EIGENBASIS + angle * normal(6, M, K) / 3
    decoder = (near if components is None else BASIS @ near).astype(np.float32)
    single = np.array(evaluate(decoder, components), np.float64)
    double = np.array(
        evaluate(decoder.astype(np.float64), None if components is None else components.astype(np.float64))
    )
    assert (double > 1e-10).all() and (double < 1e-5).all()
    np.testing.assert_allclose(single, double, rtol=1e-3, atol=1e-11)
    assert [value.dtype for value in evaluate(decoder, components)] == [jnp.float32] * 3


@pytest.mark.parametrize("active", [1, 3])
@pytest.mark.parametrize("traced", [False, True], ids=["number", "traced"])
def test_padding_does_not_count(active, traced):
    decoder = random_decoder(7)[:, :active]
    padded = np.pad(decoder, ((0, 0), (0, K - active)))
    latent_dim = jnp.asarray(active) if traced else active
    for components, narrow in ((U, U[:, :active]), (None, None)):
        assert_close(evaluate(padded, components, latent_dim), evaluate(decoder, narrow))


def test_non_diagonality_sums_what_is_off_the_diagonal():
    matrix = np.array([[5.0, -1.0, 2.0], [0.5, 7.0, -3.0], [4.0, 0.0, -9.0]])
    assert_close(metrics.non_diagonality(jnp.asarray(matrix)), 10.5)
    # A difference of two sums would lose it beside a large diagonal.
    assert metrics.non_diagonality(jnp.array([[1e9, 1.0], [-1.0, 1e9]], jnp.float32)) == 2


def test_gaps_between_encoder_and_decoder():
    params = random_params(8, K, M)
    encoder, decoder = map(np.asarray, params)
    assert_close(transpose_gap(params), np.sqrt(np.sum((encoder - decoder.T) ** 2)))
    assert_close(imbalance(params), np.sqrt(np.sum((encoder @ encoder.T - decoder.T @ decoder) ** 2)))


def test_balanced_weights_have_no_imbalance_though_the_transposes_differ():
    params = balanced(jax.random.key(9), K, M, 1.0)
    turned = LAEParams(params.encoder, jnp.asarray(orthogonal(10, M), jnp.float32) @ params.decoder)
    assert transpose_gap(params) == 0
    assert imbalance(turned) < 1e-4 < 1 < transpose_gap(turned)


def test_measure_gives_every_metric_in_order():
    params, root = random_params(11, K, M), normal(12, M, M)
    covariance = Dense(jnp.asarray(root @ root.T))
    assert tuple(metrics.measure(params, covariance, U)) == metrics.NAMES
    measured = measure(params, covariance, U)  # a compiled program sorts the names
    moment = params.encoder @ covariance.matrix @ params.encoder.T
    expected = [*evaluate(params.decoder, U), imbalance(params), transpose_gap(params)]
    assert_close([measured[name] for name in metrics.NAMES], [*expected, metrics.non_diagonality(moment)])


def test_measure_of_padded_weights_is_that_of_the_weights():
    params, root = random_params(13, 2, M), normal(14, M, M)
    covariance = Dense(jnp.asarray(root @ root.T))
    padded = measure(pad_latents(params, K), covariance, U, jnp.asarray(2))
    assert_close(padded, measure(params, covariance, U[:, :2]))
