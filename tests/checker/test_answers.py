"""Answers are held to the past field by field: each here is right as it stands, and wrong with one field changed."""

from dataclasses import replace

import pytest

from quorumd.checker.answers import Answers
from quorumd.checker.invariants import Violation
from quorumd.checker.watches import Past
from quorumd.commands import (
    ALL,
    Compare,
    DeleteRange,
    DeleteResult,
    KeyValue,
    LeaseGrant,
    LeaseGrantResult,
    LeaseRevoke,
    LeaseRevokeResult,
    LeaseTimeToLive,
    LeaseTimeToLiveResult,
    Put,
    PutResult,
    Range,
    RangeResult,
    Txn,
    TxnResult,
)
from quorumd.errors import NoSpace, Timeout

HISTORY = {
    2: [(b"a", b"1", 0)],
    3: [(b"b", b"2", 7)],
    4: [(b"a", b"3", 7), (b"c", b"3", 0)],
    5: [(b"a", None, 0), (b"b", None, 0)],  # the end of lease 7
    6: [(b"c", b"4", 0)],
}
A2, B3 = KeyValue(b"a", b"1", 2, 2, 1, 0), KeyValue(b"b", b"2", 3, 3, 1, 7)
A4, C4, C6 = KeyValue(b"a", b"3", 2, 4, 2, 7), KeyValue(b"c", b"3", 4, 4, 1, 0), KeyValue(b"c", b"4", 4, 6, 2, 0)
BOTH = Txn([Compare.version(b"c", "=", 0)], [Put(b"a", b"3", 7), Put(b"c", b"3"), Range(b"a")], [Range(b"a")])
LOOK = LeaseTimeToLive(7, keys=True)

RIGHT = {
    "read": (Range(b"a"), RangeResult(3, (A2,), False, 1)),
    "read of what is gone": (Range(b"a"), RangeResult(5, (), False, 0)),
    "read of the past": (Range(b"a", revision=4), RangeResult(6, (A4,), False, 1)),
    "range": (Range(b"a", ALL), RangeResult(4, (A4, B3, C4), False, 3)),
    "range, cut": (Range(b"a", ALL, limit=2), RangeResult(4, (A4, B3), True, 3)),
    "put": (Put(b"b", b"2", 7), PutResult(3)),
    "delete": (DeleteRange(b"a", b"c"), DeleteResult(5, 2)),
    "delete of nothing": (DeleteRange(b"a"), DeleteResult(6, 0)),
    "both": (BOTH, TxnResult(4, True, (PutResult(4), PutResult(4), RangeResult(4, (A4,), False, 1)))),
    "neither": (BOTH, TxnResult(6, False, (RangeResult(6, (), False, 0),))),
    "grant": (LeaseGrant(1_000, 7), LeaseGrantResult(3, 7, 1_000)),
    "revoke": (LeaseRevoke(7), LeaseRevokeResult(5, 2)),
    "look": (LOOK, LeaseTimeToLiveResult(4, 1_000, 900, 2, (b"a", b"b"))),
    "look, cut": (LOOK, LeaseTimeToLiveResult(4, 1_000, 900, 2, (b"a",), more=True)),
}
WRONG = [
    ("read", {"kvs": ()}), ("read", {"kvs": (A4,)}), ("read", {"revision": 4}), ("read", {"count": 2}),
    ("read", {"kvs": (replace(A2, create_revision=1),)}), ("read", {"kvs": (replace(A2, mod_revision=3),)}),
    ("read", {"kvs": (replace(A2, version=2),)}), ("read", {"kvs": (replace(A2, lease=7),)}),
    ("read", {"kvs": (replace(A2, key=b"b"),)}), ("read of what is gone", {"kvs": (A4,)}),
    ("read of the past", {"kvs": (A2,)}), ("range", {"kvs": (A4, C4)}), ("range", {"kvs": (B3, A4, C4)}),
    ("range", {"more": True, "kvs": (A4, C4)}), ("range, cut", {"more": False}), ("range, cut", {"kvs": (A4, C4)}),
    ("put", {"revision": 4}), ("put", {"revision": 2}), ("delete", {"deleted": 1}), ("delete", {"revision": 4}),
    ("delete of nothing", {"revision": 4}), ("delete of nothing", {"deleted": 1}),
    ("both", {"revision": 6}), ("both", {"succeeded": False}), ("both", {"responses": (PutResult(4), PutResult(4))}),
    ("both", {"responses": (PutResult(4), PutResult(4), PutResult(4))}),
    ("both", {"responses": (PutResult(4), PutResult(4), RangeResult(4, (A2,), False, 1))}),
    ("grant", {"id": 8}), ("grant", {"ttl_ms": 2_000}), ("revoke", {"deleted": 1}), ("revoke", {"revision": 4}),
    ("look", {"count": 1}), ("look", {"keys": (b"a",)}), ("look", {"revision": 5}), ("look, cut", {"keys": (b"b",)}),
]  # fmt: skip


@pytest.fixture
def answers():
    past = Past()
    for revision, changes in HISTORY.items():
        past.add(revision, changes)
    return Answers(past)


def broken(word, act, *given):
    with pytest.raises(Violation) as caught:
        act(*given)
    assert caught.value.check == word


@pytest.mark.parametrize("what", RIGHT)
def test_an_answer_that_says_what_happened_is_right(answers, what):
    answers.told(*RIGHT[what], 0)


@pytest.mark.parametrize(("what", "changed"), WRONG)
def test_an_answer_with_one_field_changed_is_not(answers, what, changed):
    request, result = RIGHT[what]
    broken("answer-differs", answers.told, request, replace(result, **changed), 0)


def test_an_answer_of_another_kind_is_not(answers):
    broken("answer-differs", answers.told, Put(b"b", b"2", 7), DeleteResult(3, 0), 0)


def test_an_answer_must_be_as_new_as_what_was_applied_when_it_was_asked_for(answers):
    assert answers.asked(Range(b"c")) == 6
    answers.told(Range(b"c"), RangeResult(6, (C6,), False, 1), 6)
    broken("answer-stale", answers.told, Range(b"c"), RangeResult(4, (C4,), False, 1), 6)


def test_a_revision_that_nobody_has_applied_is_invented(answers):
    broken("answer-invented", answers.told, Range(b"c"), RangeResult(7, (C6,), False, 1), 0)


def test_what_was_asked_for_once_is_written_once():
    past = Past()
    answers = Answers(past)
    put = Put(b"a", b"1")
    answers.asked(put)
    answers.asked(Txn([], [Put(b"b", b"2")], [Put(b"c", b"3")]))
    past.add(2, [(b"a", b"1", 0)])
    past.add(3, [(b"b", b"2", 0)])
    answers.executed()
    answers.refused(put, Timeout())  # it may have happened
    answers.executed()
    past.add(4, [(b"a", b"1", 0)])
    broken("executed-more", answers.executed)
    answers.asked(put)
    answers.executed()
    answers.refused(put, NoSpace())
    broken("executed-more", answers.executed)
