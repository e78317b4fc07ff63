"""Both checkers against the definition: thousands of small random histories, sound ones and spoiled ones."""

import pytest

from quorumd.checker.history import pair
from quorumd.checker.linearizability import check

from . import brute, generate

SEEDS = 2000


def verdicts(name, revisions, options):
    """(how many were linearizable, how many not); every verdict is compared with brute force."""
    counts = {True: 0, False: 0}
    for seed in range(SEEDS):
        shape = {"operations": 3 + seed % 4, "processes": 2 + seed % 2, "keys": "ab"[: 1 + seed % 2], **options}
        events = generate.history(seed, revisions=revisions, **shape)
        if seed % 3:
            events = generate.spoil(events, seed)
        operations = pair(events)
        expected = brute.explains(operations, revisions)
        verdict = check(operations)
        assert verdict.ok is expected, (name, seed, verdict.reason, [op.describe() for op in operations])
        assert (verdict.operations == []) is expected
        assert verdict.checker == name or not any(operation.outcome == "ok" for operation in operations)
        counts[expected] += 1
    return counts


@pytest.mark.parametrize("unknown", [0.0, 0.2, 0.5])
def test_by_revisions(unknown):
    counts = verdicts("revisions", True, {"unknown": unknown})
    assert min(counts.values()) > SEEDS // 8, counts


@pytest.mark.parametrize("unknown", [0.0, 0.2, 0.5])
def test_by_search(unknown):
    counts = verdicts("search", False, {"unknown": unknown, "stale": 0.0, "targets": "value value version"})
    assert min(counts.values()) > SEEDS // 8, counts
