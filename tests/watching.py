"""What tests of watches share: a store that is written to, its history in plain Python, and what a watcher must get."""

from dataclasses import dataclass, field

from quorumd import watchcodec
from quorumd.commands import ALL, Compact, KeyValue, Kind, encode, encode_record
from quorumd.watchcodec import Event
from quorumd_fastpath.apply import Store

SESSION = bytes(16)


def covers(key: bytes, end: bytes, other: bytes) -> bool:
    """Whether `other` is in the range, named as etcd does."""
    return other == key if not end else key <= other and (end == ALL or other < end)


class Written:
    """A store, and every event that ever was in it: compaction does not touch `history`."""

    def __init__(self):
        self.store = Store(1 << 40)
        self.history: list[tuple[int, Event]] = []
        self.records: list[bytes] = []
        self.seq = 0
        self._apply(Kind.OPEN_SESSION, b"")

    def _apply(self, kind, command):
        record = encode_record(kind, SESSION, self.seq, self.seq, command)
        self.records.append(record)
        self.store.apply_bytes(record, self.store.applied + 1, 1)

    def run(self, op):
        before = self.store.revision
        self.seq += 1
        self._apply(Kind.COMMAND, encode(op))
        self.note(before)

    def compact(self, revision):
        self.run(Compact(revision))

    def note(self, after: int):
        """Copies the events above a revision."""
        for revision, key, shown, replaced in self.store.events(after + 1) if self.store.revision > after else ():
            prev = None if replaced is None else KeyValue(key, *replaced)
            if shown is None:
                self.history.append((revision, Event(KeyValue(key, b"", 0, revision, 0, 0), True, prev)))
            else:
                self.history.append((revision, Event(KeyValue(key, *shown), False, prev)))


def worst_order(seed, count):
    """Keys in the order in which who knows an index's seed begins ranges: the tree becomes a list, smallest key last.

    The n-th key's rank is that of the n-th priority; see watchindex.h.
    """
    full = (1 << 64) - 1
    priorities = []
    for n in range(1, count + 1):
        mixed = seed + n * 0x9E3779B97F4A7C15 & full
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & full
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & full
        priorities.append(mixed ^ mixed >> 31)
    ranks = {priority: rank for rank, priority in enumerate(sorted(priorities))}
    return [b"k%08d" % ranks[priority] for priority in priorities]


def expected(history, key, end, flags, start):
    """[(revision, events)] that a watcher gets, in order: the history filtered."""
    batches: list[tuple[int, list[Event]]] = []
    for revision, event in history:
        unwanted = watchcodec.NO_DELETE if event.deleted else watchcodec.NO_PUT
        if revision < start or flags & unwanted or not covers(key, end, event.key):
            continue
        shown = event if flags & watchcodec.PREV_KV else Event(event.kv, event.deleted)
        if not batches or batches[-1][0] != revision:
            batches.append((revision, []))
        batches[-1][1].append(shown)
    return [(revision, tuple(events)) for revision, events in batches]


@dataclass
class Reader:
    """One watcher's end of a stream, the dumbest there can be: puts pieces together, and checks what must hold."""

    key: bytes
    end: bytes
    flags: int
    start: int
    created: bool = False
    batches: list[tuple[int, tuple[Event, ...]]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    revision: int = 0  # of the pieces, or of the last batch
    progress: int = 0
    ended: watchcodec.Item | None = None

    def take(self, item):
        assert self.ended is None, "an item after the end"
        if item.kind == watchcodec.Tell.CREATED:
            assert not self.created
            self.created = True
        elif item.kind == watchcodec.Tell.ENDED:
            self.ended = item
        elif item.kind == watchcodec.Tell.PROGRESS:
            assert not self.pieces, "progress amid a revision"
            assert item.revision >= self.revision, "progress behind an event"
            self.progress = item.revision
        else:
            self._events(item)

    def _events(self, item):
        assert self.created
        assert item.revision > self.progress, "an event that progress had left behind"
        assert item.revision == self.revision if self.pieces else item.revision > self.revision
        self.revision = item.revision
        self.pieces.append(item.body)
        if not item.flags & watchcodec.MORE:
            self.batches.append((item.revision, watchcodec.decode_events(b"".join(self.pieces))))
            self.pieces = []
