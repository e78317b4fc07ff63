"""What carries an asyncio client's datagrams: the client's protocol on the running event loop; as iothread.py does."""

import asyncio
import logging
import os
import socket
import weakref
from typing import Final

from quorumd.client.operation import Operation
from quorumd.client.protocol import ClientProtocol
from quorumd.client.sinceboot import glance, since_boot
from quorumd.client.sockets import UdpSockets, look_up
from quorumd.client.states import State, StateListener
from quorumd.client.watcher import WatchBatch, Watcher
from quorumd.types import Nanoseconds

LOG: Final = logging.getLogger("quorumd.client")

_open: "weakref.WeakSet[IoLoop]" = weakref.WeakSet()


class IoLoop:
    """One protocol on one event loop: its sockets, its timer, who waits for what."""

    def __init__(
        self, protocol: ClientProtocol, loop: asyncio.AbstractEventLoop, listeners: list[StateListener]
    ) -> None:
        self.protocol = protocol
        self.loop = loop
        self.joined = asyncio.Event()
        """A node has answered."""
        self._listeners = listeners
        self._sockets = UdpSockets(self._watch)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: Nanoseconds = 0
        self._flushing = False
        self._released = False
        self._look_ups: set[asyncio.Future[None]] = set()
        _open.add(self)

    @property
    def usable(self) -> bool:
        """Whether it is this process's and the running loop's, and was not released."""
        return not self._released and self.loop is asyncio.get_running_loop()

    def start(self) -> None:
        """Begins to look for the cluster."""
        self.protocol.start(since_boot())
        self._flush()

    def _watch(self, udp: socket.socket) -> None:
        self.loop.add_reader(udp, self._readable)

    def watch(self, watcher: Watcher) -> None:
        """Begins to watch. Raises Overloaded, ConnectionLost."""
        self.protocol.watching.add(watcher)
        self._flush_soon()

    def unwatch(self, watcher: Watcher) -> None:
        """Its user is done with it."""
        if self.usable:
            self.protocol.watching.drop(watcher)
            self._flush_soon()

    def take_batch(self, watcher: Watcher) -> WatchBatch | None:
        """The watcher's next batch, if it has one. Raises ProtocolError if it is none."""
        paused = watcher.paused
        waiting = self.protocol.watching.pop(watcher)
        if paused and not watcher.paused:
            self._flush_soon()
        return None if waiting is None else waiting.batch()

    def _flush_soon(self) -> None:
        if not self._flushing and not self._released:
            self._flushing = True
            self.loop.call_soon(self._flush)  # together with whatever else this turn of the loop begins

    async def call(self, operation: Operation) -> Operation:
        """Performs the operation; it is done when this returns."""
        waiter = operation.waiter = self.loop.create_future()
        self.protocol.submit(operation, since_boot())
        self._flush_soon()
        try:
            await waiter
        finally:
            if not operation.done:
                self.protocol.cancel(operation)
                self._flush_soon()  # others may have waited for it
        return operation

    def _flush(self) -> None:
        self._flushing = False
        if self._released:
            return
        self.protocol.flush(since_boot())
        self._put_out()

    def _readable(self) -> None:
        if self._released:  # in a forked child, whose loop polls the parent's sockets
            return
        now = since_boot()
        for datagram, source in self._sockets.drain():
            self.protocol.receive(datagram, source, now)
        self.protocol.flush(now)
        self._put_out()

    def _on_timer(self) -> None:
        self._timer = None
        self.protocol.tick(since_boot())
        self._put_out()

    def _put_out(self) -> None:
        """Everything the protocol has for the world; then the timer is set anew."""
        protocol = self.protocol
        for address, datagram in protocol.take_datagrams():
            self._sockets.send(address, datagram)
        for operation in protocol.take_completed():
            waiter = operation.waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        for watcher in protocol.watching.take_news():
            watcher.waiter()
        if protocol.cluster:
            self.joined.set()
        if protocol.router.wanted:
            for name in protocol.router.take_wanted():
                task = self.loop.create_task(self._look_up(name))
                self._look_ups.add(task)
                task.add_done_callback(self._look_ups.discard)
        self._set_timer()
        for state in protocol.take_states():  # last: what a listener raises that is no Exception is the loop's to raise
            self._tell(state)

    def _set_timer(self) -> None:
        due = self.protocol.next_deadline()
        if self._timer is not None:
            if due == self._timer_at and due > since_boot():
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_at = due
            # The loop's clock stands still while the host is suspended: what came due then must not wait for long.
            self._timer = self.loop.call_later(glance(due), self._on_timer)

    def _tell(self, state: State) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(state)
            except Exception:
                LOG.exception("a state listener failed; the client goes on")

    async def _look_up(self, name: str) -> None:
        address = await self.loop.run_in_executor(None, look_up, name)
        self.protocol.router.resolved(name, address)
        self._flush()

    async def stop(self) -> None:
        """Closes the session if it can, ends every operation with ConnectionLost, frees everything."""
        farewell = self.protocol.close(since_boot())
        if farewell is not None:
            farewell.waiter = self.loop.create_future()
        self._flush()
        try:
            if farewell is not None:
                await farewell.waiter
        finally:
            self.release()

    def release(self) -> None:
        """Frees everything at once."""
        if not self._released and not self.loop.is_closed():
            for task in self._look_ups:
                task.cancel()
            for udp in self._sockets.sockets():
                self.loop.remove_reader(udp)
        self.abandon()

    def abandon(self) -> None:
        """In a forked child: closes this process's copies of the sockets. What its loop polls is the parent's too."""
        self._released = True
        if self._timer is not None:
            self._timer.cancel()
        self._sockets.close()


def _after_fork_in_child() -> None:
    for io in list(_open):
        io.abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)
