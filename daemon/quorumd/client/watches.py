"""Watches as users have them: iterators of batches, blocking and asyncio, over the client's own thread or loop.

A batch (WatchBatch) is all events of one revision. What a user does between two batches runs on the user's thread or
task, never on the one that reads the socket, so it may call the client and take its time.
"""

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Protocol, Self

from quorumd.client.sinceboot import since_boot
from quorumd.client.watcher import Waiting, WatchBatch, Watcher
from quorumd.errors import ConnectionLost, ProtocolError, Timeout
from quorumd.limits import SECOND

LONGEST_WAIT_S: Final = 1.0  # a waiting user looks at the client itself at least so often

_watches: "weakref.WeakSet[Watch]" = weakref.WeakSet()


class Line(Protocol):
    """What stands between a watch and the protocol: an IoThread, or an asyncio client's link."""

    def watch(self, watcher: Watcher, /) -> None:
        """Begins to watch. Raises Overloaded, ConnectionLost."""

    def unwatch(self, watcher: Watcher, /) -> None:
        """Its user is done with it."""

    def take_batch(self, watcher: Watcher, /) -> WatchBatch | None:
        """The watcher's next batch, if it has one."""


class InterruptibleLine(Line, Protocol):
    """An IoThread, whose callers may be interrupted by a signal's handler at any instruction."""

    def take_batch(self, watcher: Watcher, taken: list[Waiting] | None = None, /) -> WatchBatch | None:
        """Likewise; `taken` has it once the watcher has it no more."""

    def put_back(self, watcher: Watcher, taken: Waiting, /) -> None:
        """What was taken did not get to its user."""


class Watch:
    """Made by Client.watch(). Iterate over it; it ends with close(), or with the client.

    It goes on by itself when nodes die, restart or are cut off: no batch is lost and none comes twice. It raises
    Compacted, with the revision to go on from, if its history is compacted before the user took it, Overloaded if the
    node has too many watchers, or too many bytes of their keys. In a forked child it goes on with a socket of the
    child's own. Safe to use from several threads, each of which gets other batches.
    """

    def __init__(
        self, running: Callable[[], InterruptibleLine], make: Callable[[int], Watcher], start_revision: int
    ) -> None:
        self._running = running
        self._make = make
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._closed = False
        self._watcher: Watcher | None = None
        self._io: InterruptibleLine | None = None
        self.revision = start_revision - 1
        """Of the batch given last: everything up to it has been given."""
        self._begin()
        _watches.add(self)

    def _begin(self) -> tuple[InterruptibleLine, Watcher]:
        io = self._running()
        with self._lock:
            if io is not self._io or self._watcher is None:
                watcher = self._make(self.revision + 1)
                watcher.waiter = self._news.set
                io.watch(watcher)
                self._io, self._watcher = io, watcher
            return io, self._watcher

    def _forked(self) -> None:
        """In the child, before anything else runs: what other threads held is held by nobody here."""
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._io = self._watcher = None

    def get(self, timeout: float | None = None) -> WatchBatch:
        """The next batch. Raises Timeout after `timeout` seconds without one, ConnectionLost after close()."""
        deadline = None if timeout is None else since_boot() + int(timeout * SECOND)
        while True:
            if self._closed:
                raise ConnectionLost("the watch is closed")
            io, watcher = self._begin()
            self._news.clear()
            taken: list[Waiting] = []
            try:
                batch = io.take_batch(watcher, taken)
                if batch is not None:
                    self.revision = batch.revision
                    return batch
            except ProtocolError:  # the batch's: it would be none again
                raise
            except BaseException:  # Ctrl-C, or whatever a signal's handler raises: whoever goes on misses nothing
                if taken:
                    self.revision = taken[0].revision - 1
                    io.put_back(watcher, taken[0])
                    self._news.set()
                raise
            if watcher.error is not None:
                raise watcher.error
            left = LONGEST_WAIT_S if deadline is None else (deadline - since_boot()) / SECOND
            if left <= 0:
                raise Timeout(f"nothing happened within {timeout} s")
            self._news.wait(min(left, LONGEST_WAIT_S))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchBatch:
        try:
            return self.get()
        except ConnectionLost:  # closed, this watch or its client: the end that was asked for
            raise StopIteration from None

    def close(self) -> None:
        """Ends it; whoever waits for a batch waits no longer."""
        self._closed = True
        io, watcher = self._io, self._watcher
        if io is not None and watcher is not None:
            io.unwatch(watcher)
        self._news.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncWatch:
    """Made by AsyncClient.watch(); as Watch, for one event loop. It begins with `async with`, or with the first get().

    start: gives the revision to begin at, which may take a read.
    """

    def __init__(
        self, running: Callable[[], Line], make: Callable[[int], Watcher], start: Callable[[], Awaitable[int]]
    ) -> None:
        self._running = running
        self._make = make
        self._start = start
        self._begun = False
        self._beginning = asyncio.Lock()
        self._news = asyncio.Event()
        self._closed = False
        self._watcher: Watcher | None = None
        self._link: Line | None = None
        self.revision = 0
        """Of the batch given last: everything up to it has been given. 0: it has not begun."""

    async def _begin(self) -> tuple[Line, Watcher]:
        async with self._beginning:
            if not self._begun:
                self.revision = await self._start() - 1
                self._begun = True
            if self._closed:  # meanwhile
                raise ConnectionLost("the watch is closed")
            link = self._running()
            if link is not self._link or self._watcher is None:
                watcher = self._make(self.revision + 1)
                self._news = asyncio.Event()
                watcher.waiter = self._news.set
                link.watch(watcher)
                self._link, self._watcher = link, watcher
            return link, self._watcher

    async def get(self, timeout: float | None = None) -> WatchBatch:
        """The next batch. Raises Timeout after `timeout` seconds without one, ConnectionLost after close()."""
        try:
            async with asyncio.timeout(timeout):
                return await self._next()
        except TimeoutError:
            raise Timeout(f"nothing happened within {timeout} s") from None

    async def _next(self) -> WatchBatch:
        while True:
            if self._closed:
                raise ConnectionLost("the watch is closed")
            link, watcher = await self._begin()
            self._news.clear()
            batch = link.take_batch(watcher)
            if batch is not None:
                self.revision = batch.revision
                return batch
            if watcher.error is not None:
                raise watcher.error
            await self._news.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchBatch:
        try:
            return await self._next()
        except ConnectionLost:  # closed, this watch or its client: the end that was asked for
            raise StopAsyncIteration from None

    async def close(self) -> None:
        """Ends it; whoever waits for a batch waits no longer."""
        self._closed = True
        if self._link is not None and self._watcher is not None:
            self._link.unwatch(self._watcher)
        self._news.set()

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _after_fork_in_child() -> None:
    for watch in list(_watches):
        watch._forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
