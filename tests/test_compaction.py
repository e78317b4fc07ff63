"""Which revision is compacted to, and when."""

from typing import NamedTuple

import pytest

from quorumd.compaction import Compaction, CompactionPolicy
from quorumd.limits import COMPACT_EVERY, SECOND

HOUR = 3600 * SECOND


class Figures(NamedTuple):
    revision: int
    compacted: int = 0
    bytes: int = 0
    live_bytes: int = 0
    quota_bytes: int = 1000
    reclaiming: bool = False


def policy(mode="revisions", retain=None):
    compaction = Compaction(mode=mode, retain=retain)
    assert compaction.complaint() is None
    return CompactionPolicy(compaction)


@pytest.mark.parametrize(("retain", "revision", "compacted", "expected"), [
    (None, 100_000, 0, None),
    (None, 106_249, 0, None),  # a 16th at once
    (None, 106_250, 0, 6250),
    (None, 112_500, 6251, None),
    (None, 112_501, 6251, 12_501),
    (100, 106, 0, 6),
    (1, 2, 0, 1),
    (1, 2, 1, None),
])
def test_by_revisions(retain, revision, compacted, expected):
    assert policy(retain=retain).due(0, Figures(revision, compacted)) == expected


def test_a_proposal_is_made_again_but_not_at_once():
    compaction = policy(retain=10)
    assert compaction.due(5, Figures(20)) == 10
    assert compaction.due(5 + COMPACT_EVERY - 1, Figures(30)) is None
    assert compaction.due(5 + COMPACT_EVERY, Figures(30)) == 20


def test_by_age():
    compaction = policy("age", "1h")
    times = range(0, 4 * HOUR, HOUR // 100)
    compacted = 0
    for n, now in enumerate(times):
        target = compaction.due(now, Figures(10 * n + 1, compacted))
        assert (target is None) == (now < HOUR)
        if target is not None:
            # Nothing younger than an hour goes, and little that is older stays.
            assert 10 * (n - 103) + 1 <= target <= 10 * (n - 100) + 1
            compacted = target


def test_a_clock_that_stands_for_long_keeps_few_samples():
    compaction = policy("age", "90s")
    for now in range(0, 10_000 * SECOND, SECOND):
        compaction.due(now, Figures(now // SECOND + 1))
    assert compaction.due(20_000 * SECOND, Figures(30_000)) == 10_000
    assert compaction.due(20_091 * SECOND, Figures(30_000, 10_000)) == 30_000


@pytest.mark.parametrize(("mode", "retain"), [("revisions", None), ("age", "7d")])
def test_history_gives_way_to_live_keys(mode, retain):
    compaction = policy(mode, retain)
    assert compaction.due(0, Figures(1001, 1, 800, 600)) is None
    assert compaction.due(0, Figures(1001, 1, 801, 600, reclaiming=True)) is None
    assert compaction.due(0, Figures(1001, 1, 801, 600)) == 501
    assert compaction.due(SECOND, Figures(3, 2, 1200, 600)) == 3
    assert compaction.due(2 * SECOND, Figures(3, 3, 1200, 600)) is None


def test_off_is_off():
    assert policy("off").due(HOUR, Figures(10**9, 0, 5000)) is None


@pytest.mark.parametrize(("mode", "retain"), [
    ("revisions", 0), ("revisions", -1), ("revisions", "1h"), ("revisions", 1 << 62), ("age", 5), ("age", "1"),
    ("age", "0h"), ("age", "1w"), ("age", "1h\n"), ("age", ""), ("off", 5), ("off", "1h"),
])
def test_what_makes_no_sense_is_named(mode, retain):
    what, remedy = Compaction(mode=mode, retain=retain).complaint()
    assert what
    assert remedy
