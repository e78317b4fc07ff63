"""pages() against the store itself: whatever is written meanwhile, all pages are of one revision."""

import random

import pytest

from quorumd.client.calls import pages
from quorumd.commands import ALL, Compact, DeleteRange, Kind, Put, Range, Status, decode, encode, encode_record
from quorumd_fastpath.apply import Store

SESSION = bytes(range(16))


class Writer:
    """A store of 40 keys of 100 kB, and of one writer."""

    def __init__(self):
        self.store = Store(1 << 40)
        self.seq = 0
        self.store.apply_bytes(encode_record(Kind.OPEN_SESSION, SESSION, 0, 0), 1, 1)
        rng = random.Random(1)
        for n in range(40):
            self.run(Put(b"k%02d" % n, rng.randbytes(1) * 100_000))

    def run(self, op):
        self.seq += 1
        entry = encode_record(Kind.COMMAND, SESSION, self.seq, self.seq, encode(op))
        self.store.apply_bytes(entry, self.store.applied + 1, 1)

    def ask(self, request):
        status, revision, body = self.store.query(encode(request))
        return decode(request, revision, body) if status == Status.OK else Status(status)

    def read(self, request, between):
        """(result, number of pages); or the status that ended it."""
        reading, count = pages(request), 0
        ask = next(reading)
        while True:
            count += 1
            page = self.ask(ask)
            if isinstance(page, Status):
                return page, count
            try:
                ask = reading.send(page)
            except StopIteration as whole:
                return whole.value, count
            between(self)

    def whole(self, request):
        """The same without a limit of bytes: key by key."""
        kvs = [kv for n in range(40) for kv in self.ask(Range(b"k%02d" % n, revision=request.revision)).kvs]
        if request.sort_target == "value":
            kvs.sort(key=lambda kv: kv.value)
        if request.order == "descend":
            kvs.sort(key=lambda kv: kv.key, reverse=True)
        kvs = [kv for kv in kvs if kv.mod_revision >= request.min_mod_revision]
        return tuple(kvs[: request.limit or None])


def disturb(writer):
    writer.run(DeleteRange(b"k20", b"k30"))
    writer.run(Put(b"k35", b"changed"))
    writer.run(Put(b"k05\0new", bytes(100_000)))


@pytest.mark.parametrize("options", [
    {}, {"limit": 33}, {"limit": 12}, {"sort_target": "value"}, {"order": "descend"}, {"min_mod_revision": 9},
    {"sort_target": "value", "limit": 25}, {"revision": 21},
], ids=str)
def test_all_pages_are_of_the_first_ones_revision(options):
    writer = Writer()
    request = Range(b"k", ALL, **options)
    expected, revision = writer.whole(request), writer.store.revision
    result, count = writer.read(request, disturb)
    assert (result.kvs, result.revision) == (expected, revision)
    assert result.count == (20 if "revision" in options else 40)
    assert result.more is (0 < request.limit < 40)
    assert count >= 2
    # A read that begins now sees everything that was written meanwhile.
    assert writer.read(Range(b"k35"), disturb)[0].kvs[0].value == b"changed"


def test_a_compaction_in_between_is_an_error_and_no_mixture():
    def compact(writer):
        disturb(writer)
        writer.run(Compact(writer.store.revision))

    assert Writer().read(Range(b"k", ALL), compact) == (Status.COMPACTED, 2)
