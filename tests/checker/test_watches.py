"""The checker of watches against each thing that can go wrong: it must name it, and be silent when nothing is."""

import pytest

from quorumd.checker.invariants import Violation
from quorumd.checker.watches import Account, Past
from quorumd.commands import ALL, KeyValue
from quorumd.watchcodec import NO_DELETE, NO_PUT, PREV_KV, Event


def kv(key, value, created, modified, version):
    return KeyValue(key, value, created, modified, version, 0)


A2 = kv(b"a", b"1", 2, 2, 1)
A3 = kv(b"a", b"2", 2, 3, 2)
B3 = kv(b"b", b"x", 3, 3, 1)
A5 = kv(b"a", b"3", 5, 5, 1)
C6 = kv(b"c", b"y", 6, 6, 1)
PUT2, PUT3, PUT_B3 = Event(A2), Event(A3, prev_kv=A2), Event(B3)
DELETE4 = Event(KeyValue(b"a", b"", 0, 4, 0, 0), True, A3)
PUT5, PUT_C6 = Event(A5), Event(C6)


def past_of():
    past = Past()
    past.add(2, [(b"a", b"1", 0)])
    past.add(3, [(b"a", b"2", 0), (b"b", b"x", 0)])
    past.add(4, [(b"a", None, 0)])
    past.add(5, [(b"a", b"3", 0)])
    past.add(6, [(b"c", b"y", 0)])
    past.compacted = 3
    return past


def account(key=b"\0", end=ALL, flags=PREV_KV, start=1):
    return Account(past_of(), "w", key, end, flags, start)


WHOLE = [(2, (PUT2,)), (3, (PUT3, PUT_B3)), (4, (DELETE4,)), (5, (PUT5,)), (6, (PUT_C6,))]


def tell(who, told):
    for revision, events in told:
        if events is None:
            who.progress(revision)
        else:
            who.batch(revision, events)


def test_the_past_works_out_what_each_change_replaced_and_made():
    assert list(past_of().between(1, 6)) == WHOLE


@pytest.mark.parametrize("start", range(1, 7))
def test_everything_from_the_start_on_is_right_wherever_progress_comes(start):
    who = account(start=start)
    for revision, events in WHOLE:
        if revision >= start:
            assert who.behind == revision
            who.batch(revision, events)
            who.progress(revision)
    assert not who.behind
    who.past.reaches(9)
    who.progress(9)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"key": b"a", "end": b""}, [(2, (PUT2,)), (3, (PUT3,)), (4, (DELETE4,)), (5, (PUT5,))]),
        ({"flags": PREV_KV | NO_PUT}, [(4, (DELETE4,))]),
        ({"flags": PREV_KV | NO_DELETE, "key": b"b"}, [(3, (PUT_B3,)), (6, (PUT_C6,))]),
        ({"flags": 0, "key": b"a", "end": b"b", "start": 3},
         [(3, (Event(A3),)), (4, (Event(DELETE4.kv, True),)), (5, (PUT5,))]),
    ],
)  # fmt: skip
def test_only_what_was_asked_for_is_wanted(options, told):
    who = account(**options)
    tell(who, told)
    assert not who.behind


@pytest.mark.parametrize(
    ("check", "told", "options"),
    [
        ("watch-gap", [(2, (PUT2,)), (4, (DELETE4,))], {}),
        ("watch-gap", [(5, (PUT5,))], {"start": 4}),
        ("watch-repeated", [(2, (PUT2,)), (2, (PUT2,))], {}),
        ("watch-repeated", [*WHOLE, (4, (DELETE4,))], {}),
        ("watch-order", [(3, (PUT_B3, PUT3))], {"start": 3}),
        ("watch-split", [(3, (PUT3,))], {"start": 3}),
        ("watch-split", [(3, (PUT3, PUT_B3, PUT_B3))], {"start": 3}),
        ("watch-resume", [(3, (PUT3, PUT_B3))], {"start": 4}),
        ("watch-bookmark", [(2, None)], {}),
        ("watch-bookmark", [(2, (PUT2,)), (3, None)], {}),
        ("watch-bookmark", [(7, None)], {"start": 7}),
        ("watch-bookmark", [*WHOLE, (5, None)], {}),
        ("watch-bookmark", [(3, None), (3, (PUT3,))], {"key": b"c", "end": b""}),
        ("watch-invented", [(7, (PUT5,))], {}),
        ("watch-filter", [(2, (PUT2,))], {"flags": PREV_KV | NO_PUT}),
        ("watch-filter", [(2, (PUT2,)), (3, (PUT3, PUT_B3))], {"key": b"a", "end": b""}),
        ("watch-previous", [(3, (Event(A3), PUT_B3))], {"start": 3}),
        ("watch-previous", [(3, (Event(A3, prev_kv=A3), PUT_B3))], {"start": 3}),
        ("watch-previous", [(3, (PUT3, PUT_B3))], {"start": 3, "flags": 0}),
        ("watch-created", [(5, (Event(kv(b"a", b"3", 5, 5, 3)),))], {"start": 5}),
        ("watch-created", [(3, (Event(kv(b"a", b"2", 2, 3, 1), prev_kv=A2), PUT_B3))], {"start": 3}),
        ("watch-event", [(5, (Event(kv(b"a", b"9", 5, 5, 1)),))], {"start": 5}),
        ("watch-event", [(5, (Event(kv(b"a", b"3", 2, 5, 1)),))], {"start": 5}),
    ],
)
def test_each_broken_guarantee_is_named(check, told, options):
    who = account(**options)
    tell(who, told[:-1])
    with pytest.raises(Violation) as caught:
        tell(who, told[-1:])
    assert caught.value.check == check


@pytest.mark.parametrize(("told", "resume", "right"), [(1, 4, True), (2, 4, False), (1, 5, False), (0, 2, True)])
def test_a_compaction_is_told_only_to_who_lacks_what_it_took(told, resume, right):
    who = account()
    tell(who, WHOLE[:told])
    if right:
        who.compacted(resume)
    else:
        with pytest.raises(Violation, match="watch-compacted"):
            who.compacted(resume)


def test_a_revision_that_comes_twice_is_no_past():
    with pytest.raises(Violation, match="history-order"):
        past_of().add(6, [])
