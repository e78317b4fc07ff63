"""Watches made of reads: what they tell is what changed, whenever they looked."""

import pytest
from recipe_fakes import FakeClient

from quorumd.commands import DeleteRange, KeyValue, Put, Range, RangeResult
from quorumd.errors import ConnectionLost, Timeout
from quorumd.recipes.polling import Looks, PollingWatch


def kv(key, created, modified):
    return KeyValue(key, b"", created, modified, 1, 0)


def test_the_first_look_is_at_the_revision_before():
    looks = Looks(b"a", b"b", 7)
    assert looks.next() == Range(b"a", b"b", revision=7)
    assert looks.note(RangeResult(9, (kv(b"a1", 2, 2), kv(b"a2", 3, 3)), False, 2)) is None
    assert looks.next() == Range(b"a", b"b")
    revision, events = looks.note(RangeResult(9, (kv(b"a2", 3, 8), kv(b"a3", 9, 9)), False, 2))
    assert revision == 9
    assert [(event.kv.key, event.deleted, event.kv.mod_revision) for event in events] == [
        (b"a1", True, 9), (b"a2", False, 8), (b"a3", False, 9),
    ]  # fmt: skip
    assert looks.note(RangeResult(10, (kv(b"a2", 3, 8), kv(b"a3", 9, 9)), False, 2)) is None
    assert looks.pause_s > 0


def test_a_watch_from_the_beginning_of_time():
    looks = Looks(b"a", b"", 0)
    assert looks.next() == Range(b"a")
    assert len(looks.note(RangeResult(3, (kv(b"a", 2, 2),), False, 1))[1]) == 1


class Unwatched:
    """A client without watches; the next `failures` calls time out."""

    def __init__(self):
        self.inner, self.failures = FakeClient(), 0

    def execute(self, request, *, timeout=None):
        if self.failures:
            self.failures -= 1
            raise Timeout("no answer")
        return self.inner.execute(request)


def test_a_watch_outlives_timeouts_and_ends_when_closed():
    client = Unwatched()
    revision = client.execute(Put(b"a", b"1")).revision
    watch = PollingWatch(client, b"a", b"", revision)
    assert watch.next(0.0) is None
    client.failures = 1
    assert watch.next(0.05) is None
    client.execute(DeleteRange(b"a"))
    (event,) = watch.next(20.0)[1]
    assert event.deleted
    watch.close()
    with pytest.raises(ConnectionLost):
        watch.next(20.0)
