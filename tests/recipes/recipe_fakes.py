"""The model behind clients that block and await, on the real clock: what drivers and faces are tested on."""

import asyncio
import threading
import time
from time import monotonic, monotonic_ns

from recipe_model import Model

from quorumd.client.watcher import WatchBatch
from quorumd.commands import Put, Range, Txn
from quorumd.errors import ConnectionLost, Timeout


def suspend(monkeypatch, hours=1):
    """As if the machine had been suspended for so long: the clock that counts such time moves on, the others do not."""
    reading, slept = time.clock_gettime_ns, hours * 3600 * 10**9
    moved_on = {time.CLOCK_BOOTTIME: slept}
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: reading(clock) + moved_on.get(clock, 0))


class FakeStore:
    """One model for any number of clients. `down`: no request is answered. `closed`: the clients are."""

    def __init__(self):
        self.model = Model()
        self.model.min_ttl_ms = 1
        self.changed = threading.Condition()
        self.down = False
        self.closed = False
        self.watch_error = None  # of the next watch
        self.loops = set()
        self.calls = []

    def execute(self, op):
        with self.changed:
            if self.closed:
                raise ConnectionLost("the client is closed")
            self.expire()
            self.calls.append((threading.current_thread().name, op))
            try:
                return self.model.execute(op, monotonic_ns())
            finally:
                self.tell()

    def await_keys(self, prefix, count, timeout):
        """Until so many keys begin with `prefix`."""
        with self.changed:
            there = self.changed.wait_for(
                lambda: sum(key.startswith(prefix) for key in self.model.kvs) == count, timeout
            )
        assert there, sorted(self.model.kvs)

    def tell(self):
        self.changed.notify_all()
        for loop, event in tuple(self.loops):
            loop.call_soon_threadsafe(event.set)

    def expire(self):
        for lease_id, lease in list(self.model.leases.items()):
            if lease.ends_at() <= monotonic_ns():
                self.model.end_lease(lease_id)
                self.tell()

    def next_expiry(self):
        """Seconds until a lease may end; a default if there is none."""
        ends = [lease.ends_at() for lease in self.model.leases.values()]
        return max(min(ends, default=monotonic_ns() + 10**9) - monotonic_ns(), 10**6) / 1e9

    def events(self, key, end, after):
        self.expire()
        groups = self.model.events_after(key, end, after)
        return groups[0] if groups else None


class FakeClient:
    """As quorumd.client.Client, as far as recipes go."""

    def __init__(self, store=None):
        self.store = store or FakeStore()
        self.timeout = 5.0

    def execute(self, request, *, settled=False, timeout=None):
        store = self.store
        if store.down:
            with store.changed:
                if not store.changed.wait_for(lambda: not store.down, self.timeout if timeout is None else timeout):
                    raise Timeout("no answer")
        return store.execute(request)

    @classmethod
    def connect(cls, endpoints):
        return cls()

    def put(self, key, value):
        return self.execute(Put(key, value))

    def get(self, key):
        return next(iter(self.execute(Range(key)).kvs), None)

    def txn(self, compares, then=(), orelse=()):
        return self.execute(Txn(compares, then, orelse))

    def close(self):
        self.store.down = True

    def watch(self, key, end=b"", *, start_revision=0):
        made = FakeWatch(self.store, key, end, start_revision - 1)
        made.error, self.store.watch_error = self.store.watch_error, None
        return made


class FakeWatch:
    def __init__(self, store, key, end, after):
        self.store, self.key, self.end, self.after = store, key, end, after
        self.closed = False
        self.error = None  # it has ended for good: every `get` raises this

    def get(self, timeout=None):
        deadline = None if timeout is None else monotonic() + timeout
        store = self.store
        with store.changed:
            while True:
                if self.closed:
                    raise ConnectionLost("the watch is closed")
                if self.error is not None:
                    raise self.error
                batch = None if store.down else store.events(self.key, self.end, self.after)
                if batch is not None:
                    self.after = batch[0]
                    return WatchBatch(*batch)
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    raise Timeout("nothing happened")
                pause = store.next_expiry()
                store.changed.wait(pause if left is None else min(left, pause))

    def close(self):
        with self.store.changed:
            self.closed = True
            self.store.changed.notify_all()


class AsyncFakeClient:
    """As quorumd.client.AsyncClient, as far as recipes go."""

    def __init__(self, _endpoints=(), store=None):
        self.store = store or FakeStore()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *failure):
        self.store.down = True

    async def execute(self, request, *, settled=False, timeout=None):
        if self.store.down:
            await asyncio.sleep(5.0 if timeout is None else timeout)
            raise Timeout("no answer")
        await asyncio.sleep(0)
        return self.store.execute(request)

    async def txn(self, compares, then=(), orelse=()):
        return await self.execute(Txn(compares, then, orelse))

    def watch(self, key, end=b"", *, start_revision=0):
        made = AsyncFakeWatch(self.store, key, end, start_revision - 1)
        made.error, self.store.watch_error = self.store.watch_error, None
        return made


class AsyncFakeWatch:
    def __init__(self, store, key, end, after):
        self.store, self.key, self.end, self.after = store, key, end, after
        self.event = asyncio.Event()
        self.error = None
        self.mark = (asyncio.get_running_loop(), self.event)
        store.loops.add(self.mark)

    async def get(self, timeout=None):
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            if self.error is not None:
                raise self.error
            self.event.clear()
            with self.store.changed:
                batch = None if self.store.down else self.store.events(self.key, self.end, self.after)
                pause = self.store.next_expiry()
            if batch is not None:
                self.after = batch[0]
                return WatchBatch(*batch)
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                raise Timeout("nothing happened")
            try:
                await asyncio.wait_for(self.event.wait(), pause if left is None else min(left, pause))
            except TimeoutError:
                continue

    async def close(self):
        self.store.loops.discard(self.mark)
