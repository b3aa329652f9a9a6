"""Alternation beside eigsh: both reach the target, and the row says how."""

import subprocess

import jax
import numpy as np
import pytest

from lae_jax.errors import InputError
from lae_jax.training import paired


def test_a_flat_spectrum_has_the_variances_it_says():
    np.testing.assert_allclose(np.linalg.eigvalsh(paired.covariance_of("flat_30")), np.linspace(1, 100, 30))


@pytest.mark.parametrize("target", [1e-3, 1e-6])
def test_both_go_as_far_as_the_target_and_are_timed_in_turn(monkeypatch, target):
    ends = []

    def timed(candidates, least, repeats):
        ends.extend(candidate(1)[0] for candidate in candidates)
        jax.block_until_ready(ends)
        return [0.003, 0.002]

    monkeypatch.setattr(paired, "in_turn", timed)
    (row,) = paired.against_lanczos([("flat_30", 3)], target, 0.0, 1)
    assert row.what.startswith("flat_30, k = 3: alternation, ") and " steps / eigsh, tol " in row.what
    assert (row.value, row.unit, row.ratio) == (3.0, "ms", pytest.approx(1.5))
    truth = np.linalg.eigh(paired.covariance_of("flat_30"))[1][:, :-4:-1]
    for end in ends:
        unit = np.asarray(end) / np.linalg.norm(end, axis=0)
        assert np.mean(np.sum(unit * truth, axis=0) ** 2) > 1 - 2 * target


def test_a_target_that_alternation_does_not_reach_is_no_row():
    with pytest.raises(InputError, match=r"^target: -1\.0: alternation is not there after 300 steps on flat_8, k = 2"):
        next(paired.against_lanczos([("flat_8", 2)], -1.0, 0.0, 1))


def test_a_target_that_eigsh_does_not_reach_is_no_row(monkeypatch):
    monkeypatch.setattr(paired, "_TOLERANCES", (1.0,))
    with pytest.raises(InputError, match=r"^target: 1e-06: eigsh is not there at tolerance 1\.0 on flat_30, k = 3"):
        next(paired.against_lanczos([("flat_30", 3)], 1e-6, 0.0, 1))


def test_the_memory_of_a_stream_is_told_beside_what_a_program_takes(monkeypatch):
    def run(command, **options):
        assert command[3:] == ["100", "5", "7"]
        return subprocess.CompletedProcess(command, 0, stdout="90.5 100.0\n")

    monkeypatch.setattr(paired.subprocess, "run", run)
    (row,) = paired.stream_memory([(100, 5, 7)])
    assert (row.value, row.reference, row.unit) == (90.5, 100.0, "MiB")
