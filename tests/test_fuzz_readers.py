"""The first cases of `python -m tests.fuzz_readers`."""

from tests import fuzz_readers


def test_damaged_inputs_are_refused_or_read():
    outcomes, failures = fuzz_readers.run(280, 1)
    assert not failures, failures[0][2]
    assert all(counts["refused"] for counts in outcomes.values())
    assert sum(counts["read"] for counts in outcomes.values()) > 10
