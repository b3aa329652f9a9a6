import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax import objectives
from lae_jax.data import datasets
from lae_jax.methods import METHODS
from lae_jax.training import batch, benchmark
from tests.helpers import assert_close, cast, random_params

M, K, N = 24, 3, 50


def test_candidates_are_timed_in_turn_for_long_enough_and_the_median_is_taken(monkeypatch):
    now, asked = [0.0], []

    def candidate(name, cost, count):
        asked.append(name)
        slow = 5.0 if asked.count("b") == 9 else 1.0  # the machine is disturbed once
        now[0] += slow * cost * count

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])
    both = [functools.partial(candidate, "a", 0.01), functools.partial(candidate, "b", 0.03)]
    assert benchmark.in_turn(both, 0.2, 5) == pytest.approx([0.01, 0.03])
    assert asked[-10:] == ["a", "b"] * 5


def test_what_a_value_is_held_against():
    assert benchmark.Measurement("a step", 30.0, "us", 20.0).ratio == 1.5
    assert benchmark.Measurement("memory", 30.0, "MiB").ratio is None


@pytest.mark.parametrize("form", ["samples", "dense", "eigenbasis"])
def test_the_bare_products_are_those_of_the_gradient(form):
    """They are all the products of dL = 2 (W2^T W2 W1 C - W2^T C, W2 M - C W1^T), but for what is only subtracted."""
    data, params = benchmark.random_data(M, N)[form], cast(random_params(0, K, M), jnp.float32)
    encoder, decoder = benchmark.bare_products(METHODS["lae"], data, *params)
    gradient = jax.grad(objectives.reconstruction)(params, data)
    through_encoder, through_decoder = data.pair(params.encoder.T, params.decoder)
    assert_close(2e9 * decoder - 2 * through_encoder, gradient.decoder)
    # Of W2^T W2 (C W2)^T in place of (C W1^T)^T: a product of the same size.
    assert_close(1e9 * encoder, params.decoder.T @ params.decoder @ through_decoder.T)


@pytest.mark.parametrize("name", ["lae", "rag"])
@pytest.mark.parametrize("form", ["samples", "dense", "eigenbasis"])
def test_operations_are_those_the_compiler_counts(name, form):
    data, params = benchmark.random_data(M, N)[form], cast(random_params(0, K, M), jnp.float32)
    program = jax.jit(functools.partial(benchmark.bare_products, METHODS[name])).lower(data, *params).compile()
    counted = program.cost_analysis()["flops"]
    stated = benchmark.operations(METHODS[name], form, M, K, N)
    elementwise = 16 * M * K  # scaling, sums, means and products with a diagonal
    assert stated <= counted <= stated + elementwise + N * M


def test_batches_and_loops_do_the_same_work():
    dataset = datasets.synthetic(input_dim=M, num_samples=N, largest=10.0, center=False)
    candidates = benchmark.batch_and_loop(K, 3, 40, dataset)
    (batched,), (side_by_side,), looped = (candidates[name](1) for name in ("batch", "side by side", "loop"))
    for index, (state, alignments, count) in enumerate(looped):
        for stacked in (batched, side_by_side):
            np.testing.assert_allclose(stacked[0].params.decoder[index], state.params.decoder, rtol=0, atol=1e-6)
            assert stacked[2][index] == count == 4
            assert not np.asarray(stacked[1][index, 4 : batch.ROWS_PER_CHUNK]).any()


def test_every_row_of_the_table(monkeypatch):
    def timed(candidates, least, repeats):
        for candidate in candidates:
            jax.block_until_ready(candidate(1))
        return [3.0, 2.0, 1.5][: len(candidates)]

    monkeypatch.setattr(benchmark, "in_turn", timed)
    dataset = datasets.synthetic(input_dim=M, num_samples=N, largest=10.0, center=False)
    rows = {row.what: row for row in benchmark.steps(("lae", "nested_dropout"), M, N, K, 0.0, 1)}
    assert list(rows) == [
        "lae, samples, k = 3", "nested_dropout, samples, k = 3", "lae, dense, k = 3", "lae, eigenbasis, k = 3",
        "lae: samples / eigenbasis",
    ]  # fmt: skip
    assert rows["lae, dense, k = 3"][1:] == (3e6, "us", 2e6) and rows["lae: samples / eigenbasis"].ratio == 1
    step, speed, *_ = benchmark.large_steps(M, N, (K,), 0.0, 1)
    assert step.ratio == 1.5 and speed.ratio == pytest.approx(1 / 1.5)  # a step that takes longer reaches less
    assert benchmark.shared_step(M, N, K, 2, 0.0, 1).what == "nested_dropout, samples, k = 3, 2 runs"
    (eigenvalues,) = benchmark.spectra([(M, K)])
    assert eigenvalues.what.startswith("all 144 eigenvalues") and eigenvalues.value > 0
    found = list(benchmark.batches((K,), 2, 20, dataset, 0.0, 1))
    assert [(row.what, row.ratio) for row in found] == [
        ("2 runs, k = 3: batch / loop", 2.0),
        ("2 runs, k = 3: side by side / loop", pytest.approx(4 / 3)),
    ]
    assert benchmark.devices((K,), 2, 20, dataset, 1).what == f"2 runs: {len(jax.devices())} devices / one"
