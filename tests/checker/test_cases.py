"""Hand-made histories: each anomaly is rejected for its reason, and accepted where an unknown outcome explains it."""

import pytest

from quorumd.checker.history import Recorder, pair
from quorumd.checker.linearizability import check
from quorumd.errors import HistoryError

from .cases import cases


def judge(events, expected, checker):
    operations = pair(events)
    verdict = check(operations)
    word, _, part = expected.partition(":")
    assert verdict.ok is (word == "ok"), verdict.reason
    assert verdict.checker == checker
    assert part.strip() in verdict.reason
    if not verdict.ok:
        assert verdict.operations
        assert all(operation in operations for operation in verdict.operations)
    else:
        assert not verdict.operations


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_by_revisions(case):
    judge(case.events(), case.revisions, "revisions")


@pytest.mark.parametrize("case", [case for case in cases() if case.search != "-"], ids=lambda case: case.name)
def test_by_search(case):
    judge(case.without_revisions(), case.search, "search")


def test_every_kind_of_verdict_is_there():
    for expected in ("ok", "violation"):
        assert sum(case.revisions.startswith(expected) for case in cases()) >= 8
        assert sum(case.search.startswith(expected) for case in cases()) >= 8


def test_a_history_with_some_revisions_is_not_judged_without_them():
    recorder = Recorder()
    for process, revision in ((1, 2), (2, None), (3, 2)):
        recorder.invoke(process, "write", "k", str(process), 10 * process)
        recorder.complete(process, "ok", 10 * process + 5, revision=revision)
    with pytest.raises(HistoryError, match=r"not that of process 2 to what it asked at 20 ns; give all of them one"):
        check(pair(recorder.events))
