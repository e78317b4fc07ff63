"""The asyncio client: the same protocol and the same calls as sync.Client, on the running event loop, no thread.

    async with AsyncClient(["127.0.0.1:7201"]) as client:
        await client.put(b"greeting", b"hello")
"""

import asyncio
import logging
import os
import socket
import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from secrets import token_bytes
from time import monotonic_ns
from types import TracebackType
from typing import Any, Final, Self

from quorumd.auth import Mac
from quorumd.client.calls import (
    LEADER,
    bytes_only,
    check_accepted,
    compare_and_set,
    deadline_after,
    document_of,
    expect,
    operation_for,
    parts,
    status_operation,
    transfer_operation,
)
from quorumd.client.leases import AsyncLeaseCalls
from quorumd.client.operation import Operation
from quorumd.client.protocol import ClientProtocol
from quorumd.client.sockets import UdpSockets, look_up, resolve_numeric
from quorumd.client.states import State, StateListener
from quorumd.client.watcher import WatchBatch, Watcher, make_watcher
from quorumd.client.watches import AsyncWatch
from quorumd.commands import (
    Compact,
    CompactResult,
    Compare,
    DeleteRange,
    DeleteResult,
    KeyValue,
    Op,
    Order,
    Put,
    PutResult,
    Range,
    RangeResult,
    Result,
    SortTarget,
    Txn,
    TxnOp,
    TxnResult,
)
from quorumd.errors import ConnectionLost, Timeout
from quorumd.limits import CLIENT_TIMEOUT_S, SECOND
from quorumd.types import Nanoseconds, NodeId

LOG: Final = logging.getLogger("quorumd.client")

_links: "weakref.WeakSet[_Link]" = weakref.WeakSet()


class AsyncClient(AsyncLeaseCalls):
    """A client of one cluster, for one event loop. Arguments, errors and semantics as sync.Client.

    Opens nothing until `connect`, `async with`, or the first call. Operations begun in one turn of the loop share
    datagrams. Cancelling a call gives up waiting; what was sent may still happen.
    """

    def __init__(
        self,
        endpoints: Iterable[str],
        *,
        key: bytes | None = None,
        cluster: int | None = None,
        timeout: float = CLIENT_TIMEOUT_S,
        retry: bool = True,
    ) -> None:
        self._endpoints = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        self._mac = Mac(key, b"client") if key is not None else None
        self._cluster = cluster
        self._timeout = timeout
        self._retry = retry
        self._listeners: list[StateListener] = []
        self._link: _Link | None = None
        self._closed = False

    # -- life -----------------------------------------------------------------------------------------------------

    @classmethod
    async def connect(
        cls,
        endpoints: Iterable[str],
        *,
        key: bytes | None = None,
        cluster: int | None = None,
        timeout: float = CLIENT_TIMEOUT_S,
        retry: bool = True,
    ) -> Self:
        """A client that a node has answered. Raises Timeout if none does within `timeout` seconds."""
        client = cls(endpoints, key=key, cluster=cluster, timeout=timeout, retry=retry)
        await client._join()
        return client

    async def _join(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._running().joined.wait()
        except TimeoutError:
            await self.close()
            raise Timeout(
                f"no node answered within {self._timeout} s at {', '.join(self._endpoints)}: "
                "nodes down, wrong addresses, another cluster id or another cluster key"
            ) from None
        except asyncio.CancelledError:
            await self.close()  # nobody else can, or knows that it is to be done
            raise

    async def __aenter__(self) -> Self:
        await self._join()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends what is under way with ConnectionLost, says goodbye to the cluster (at most 0.2 s), frees everything.

        In a forked child, or on another loop than the calls before, it only frees: the session is its owner's.
        """
        self._closed = True
        link, self._link = self._link, None
        if link is not None and link.usable:
            await link.stop()
        elif link is not None:
            link.release()

    def _running(self) -> "_Link":
        if self._closed:
            raise ConnectionLost("the client is closed")
        loop = asyncio.get_running_loop()
        link = self._link
        if link is not None and not link.usable:
            link.release()
            link = None
        if link is None:
            protocol = ClientProtocol(
                self._endpoints, entropy=token_bytes, resolve=resolve_numeric, mac=self._mac, cluster=self._cluster
            )
            link = self._link = _Link(protocol, loop, self._listeners)
            link.start()
        return link

    # -- state ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What is known of the connection now."""
        return self._link.protocol.state if self._link is not None else State.LOST

    @property
    def leader(self) -> NodeId:
        """The node believed to lead; 0: none is known."""
        router = self._running().protocol.router
        return 0 if router.doubted else router.leader

    @property
    def members(self) -> dict[NodeId, str]:
        """Node id -> "host:port" of its client address, as the cluster says."""
        return self._running().protocol.router.members()

    def add_listener(self, listener: StateListener) -> None:
        """`listener(state)` is called on the event loop after each change of state."""
        self._listeners.append(listener)

    def remove_listener(self, listener: StateListener) -> None:
        """Raises ValueError if it was not added."""
        self._listeners.remove(listener)

    def session_safe_for(self) -> float:
        """Seconds for which the cluster certainly keeps this client's session; 0.0 if there is none to rely on."""
        safe_until = self._running().protocol.session_safe_until
        return max(0.0, (safe_until - monotonic_ns()) / SECOND) if safe_until is not None else 0.0

    # -- operations -----------------------------------------------------------------------------------------------

    async def get(
        self, key: bytes, *, revision: int = 0, stale: bool = False, timeout: float | None = None
    ) -> KeyValue | None:
        """The key as it is, None if there is none. stale: what any one node has, perhaps long outdated.

        revision: as it was then. Raises Compacted if that is no longer held, and FutureRevision if it is to come; a
        stale read waits for a node that has it.
        """
        bytes_only(key=key)
        request = Range(key, revision=revision)
        found = expect(RangeResult, await self._execute(request, self._deadline(timeout), stale=stale))
        return found.kvs[0] if found.kvs else None

    async def range(
        self,
        key: bytes,
        end: bytes = b"",
        *,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        revision: int = 0,
        sort_target: SortTarget = "key",
        order: Order = "none",
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        stale: bool = False,
        timeout: float | None = None,
    ) -> RangeResult:
        """The keys of [key, end) in order; end ALL: from `key` on. limit 0: all of them.

        All at one revision: the newest, which is the one returned, or `revision`. A result beyond 1 MiB is read in
        pages within one timeout; if its revision is compacted meanwhile, that raises Compacted. `count` is of all keys
        in the range, whatever the limit and the bounds on their revisions.
        """
        bytes_only(key=key, end=end)
        request = Range(
            key, end, limit, keys_only, count_only, revision, sort_target, order, min_mod_revision,
            max_mod_revision, min_create_revision, max_create_revision,
        )  # fmt: skip
        return expect(RangeResult, await self.execute(request, stale=stale, timeout=timeout))

    async def put(
        self,
        key: bytes,
        value: bytes,
        *,
        lease: int = 0,
        prev_kv: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """Sets a key; the result holds the store's revision and, with `prev_kv`, what was replaced.

        lease: the key goes when that ends; 0: of no lease. ignore_value (give an empty one) keeps the value that the
        key has, ignore_lease its lease. Raises KeyNotFound if there is no key to keep them of, LeaseNotFound.
        """
        bytes_only(key=key, value=value)
        request = Put(key, value, lease, prev_kv, ignore_value, ignore_lease)
        return expect(PutResult, await self._execute(request, self._deadline(timeout)))

    async def delete(self, key: bytes, *, timeout: float | None = None) -> bool:
        """Deletes a key; whether there was one."""
        return (await self.delete_range(key, timeout=timeout)).deleted > 0

    async def delete_range(
        self, key: bytes, end: bytes = b"", *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Deletes the keys of [key, end), end ALL: from `key` on, end empty: `key` alone."""
        bytes_only(key=key, end=end)
        return expect(DeleteResult, await self._execute(DeleteRange(key, end, prev_kv), self._deadline(timeout)))

    async def txn(
        self,
        compares: Sequence[Compare] = (),
        then: Sequence[TxnOp] = (),
        orelse: Sequence[TxnOp] = (),
        *,
        timeout: float | None = None,
    ) -> TxnResult:
        """If every compare holds, `then`, else `orelse`, at one revision. Without writes in it, it is not logged.

        An operation may be a transaction too, which chooses its branch by the state before the outermost one.
        """
        return expect(TxnResult, await self._execute(Txn(compares, then, orelse), self._deadline(timeout)))

    async def compact(self, revision: int, *, timeout: float | None = None) -> CompactResult:
        """Forgets what only reads below `revision` need. Raises Compacted if it is already, FutureRevision."""
        return expect(CompactResult, await self._execute(Compact(revision), self._deadline(timeout)))

    async def cas(self, key: bytes, expected: bytes | None, value: bytes, *, timeout: float | None = None) -> bool:
        """Sets the key if its value is `expected` (None: if there is no such key); whether it did."""
        request = compare_and_set(key, expected, value)
        return expect(TxnResult, await self._execute(request, self._deadline(timeout))).succeeded

    async def execute(
        self, request: Op, *, stale: bool = False, settled: bool = False, timeout: float | None = None
    ) -> Result:
        """Any one operation, as sync.Client.execute()."""
        deadline = self._deadline(timeout)
        reading = parts(request)
        part = next(reading)
        while True:
            result = await self._execute(part, deadline, stale=stale, settled=settled)
            try:
                part = reading.send(result)
            except StopIteration as whole:
                answer: Result = whole.value
                return answer

    async def submit(self, request: Op, *, stale: bool = False, timeout: float | None = None) -> Result:
        """Any one operation. A range longer than one reply comes back marked `more`; it is not read on."""
        return await self._execute(request, self._deadline(timeout), stale=stale)

    def watch(
        self,
        key: bytes,
        end: bytes = b"",
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        put: bool = True,
        delete: bool = True,
        progress: bool = False,
        timeout: float | None = None,
    ) -> AsyncWatch:
        """Arguments as sync.Client.watch(). It begins with `async with`, or when the first batch is asked for."""
        make = partial(make_watcher, key, end, prev_kv=prev_kv, put=put, delete=delete, progress=progress)
        make(start_revision)  # nonsense is refused here

        async def start() -> int:
            if start_revision:
                return start_revision
            read = await self._execute(Range(key, count_only=True), self._deadline(timeout))
            return expect(RangeResult, read).revision + 1

        return AsyncWatch(self._running, make, start)

    async def status(self, node: NodeId | str = LEADER, *, timeout: float | None = None) -> dict[str, Any]:
        """A node's own figures. node: its id, its "host:port", or LEADER. Raises ValueError if it is no host:port."""
        return document_of(await self._running().call(status_operation(node, self._deadline(timeout))))

    async def transfer_leader(self, to: NodeId = 0, *, timeout: float | None = None) -> None:
        """Asks the leader to hand over to `to`, 0: to whichever is most up to date. Errors as sync.Client's."""
        check_accepted(await self._running().call(transfer_operation(to, self._deadline(timeout))))

    def _deadline(self, timeout: float | None) -> Nanoseconds:
        return deadline_after(monotonic_ns(), self._timeout if timeout is None else timeout)

    async def _execute(self, request: Op, deadline: Nanoseconds, **options: bool) -> Result:
        operation = operation_for(request, deadline, retry=self._retry, **options)
        return (await self._running().call(operation)).result()


class _Link:
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
        _links.add(self)

    @property
    def usable(self) -> bool:
        """Whether it is this process's and the running loop's, and was not released."""
        return not self._released and self.loop is asyncio.get_running_loop()

    def start(self) -> None:
        """Begins to look for the cluster."""
        self.protocol.start(monotonic_ns())
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
        self.protocol.submit(operation, monotonic_ns())
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
        self.protocol.flush(monotonic_ns())
        self._put_out()

    def _readable(self) -> None:
        if self._released:  # in a forked child, whose loop polls the parent's sockets
            return
        now = monotonic_ns()
        for datagram, source in self._sockets.drain():
            self.protocol.receive(datagram, source, now)
        self.protocol.flush(now)
        self._put_out()

    def _on_timer(self) -> None:
        self._timer = None
        self.protocol.tick(monotonic_ns())
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
        for state in protocol.take_states():
            self._tell(state)
        if protocol.router.wanted:
            for name in protocol.router.take_wanted():
                task = self.loop.create_task(self._look_up(name))
                self._look_ups.add(task)
                task.add_done_callback(self._look_ups.discard)
        self._set_timer()

    def _set_timer(self) -> None:
        due = self.protocol.next_deadline()
        if self._timer is not None:
            if due == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_at = due
            self._timer = self.loop.call_later(max(0, due - monotonic_ns()) / SECOND, self._on_timer)

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
        farewell = self.protocol.close(monotonic_ns())
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
    for link in list(_links):
        link.abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)
