"""Micro-benchmarks of watches (`make bench`): what an event costs a node with 10,000 watchers.

Each says how many events a round has; divide for a cost an event. Applying them is not counted.
"""

import pytest

from quorumd import commands, limits
from quorumd.commands import Kind
from quorumd_fastpath.apply import Store
from quorumd_fastpath.watch import Hub

WATCHERS = 10_000
STREAMS = 100
SESSION = bytes(16)


class Watched:
    """A store and a hub; `watch` says what watcher i watches."""

    def __init__(self, watch):
        self.store = Store(1 << 40)
        self.seq = 0
        self.store.apply_bytes(commands.encode_record(Kind.OPEN_SESSION, SESSION, 0, 0), 1, 1)
        self.hub = Hub(
            seed=1,
            watchers=WATCHERS,
            watcher_bytes=limits.WATCHER_BYTES,
            window_bytes=limits.WATCH_WINDOW_BYTES,
            total_bytes=limits.WATCH_TOTAL_BYTES,
            piece_bytes=limits.WATCH_PIECE_BYTES,
            turn_cost=1 << 40,
        )
        self.slots = [self.hub.open_stream() for _ in range(STREAMS)]
        for slot in self.slots:
            self.hub.open_window(slot)
        for i in range(WATCHERS):
            assert self.hub.watch(self.store, self.slots[i % STREAMS], i + 1, *watch(i), 0, 0)
        self.pump()

    def put(self, keys):
        """Puts of 256 bytes, not yet seen by the hub."""
        records = []
        for key in keys:
            self.seq += 1
            command = commands.encode(commands.Put(key, bytes(256)))
            records.append(commands.encode_record(Kind.COMMAND, SESSION, self.seq, self.seq, command))
        self.store.apply_bytes(b"".join(records), self.store.applied + 1, len(records))

    def pump(self):
        """One turn; everything is taken and acknowledged. Returns how many items there were."""
        slots, _ = self.hub.pump(self.store)
        items = 0
        for slot in slots:
            while (batch := self.hub.take(slot, limits.LOOPBACK_MTU))[0]:
                items += batch[0]
                self.hub.acknowledged(slot, len(batch[1]))
        return items


def key(i):
    return b"/services/%05d" % i


SINGLE = (lambda i: (key(i), b""), "keys")
RANGES = (lambda i: (key(i) + b"/", key(i) + b"0"), "ranges")


@pytest.mark.parametrize("watch", [SINGLE, RANGES], ids=lambda watch: watch[1])
@pytest.mark.parametrize("matching", ["none", "one"])
def test_1000_events(benchmark, watch, matching):
    watched = Watched(watch[0])
    suffix = b"/member" if watch is RANGES else b""
    keys = [key(7 * i) + suffix if matching == "one" else b"/other/%05d" % i for i in range(1000)]
    items = benchmark.pedantic(watched.pump, setup=lambda: watched.put(keys), rounds=20)
    assert items == (1000 if matching == "one" else 0)


@pytest.mark.parametrize("watch", [lambda i: (b"/leader", b""), lambda i: (b"/", b"0")], ids=["keys", "ranges"])
def test_10_events_that_concern_everybody(benchmark, watch):
    watched = Watched(watch)
    items = benchmark.pedantic(watched.pump, setup=lambda: watched.put([b"/leader"] * 10), rounds=10)
    assert items == 10 * WATCHERS
