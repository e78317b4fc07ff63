"""The asyncio client: the same protocol and the same calls as sync.Client, on the running event loop, no thread.

    async with AsyncClient(["127.0.0.1:7201"]) as client:
        await client.put(b"greeting", b"hello")
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from secrets import token_bytes
from types import TracebackType
from typing import Any, Self

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
from quorumd.client.ioloop import IoLoop
from quorumd.client.leases import AsyncLeaseCalls
from quorumd.client.protocol import ClientProtocol
from quorumd.client.sinceboot import since_boot
from quorumd.client.sockets import resolve_numeric
from quorumd.client.states import State, StateListener
from quorumd.client.watcher import make_watcher
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
        self._io: IoLoop | None = None
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
                "nodes down, wrong addresses, another cluster id or another cluster key; `quorumd up` starts a "
                "cluster, `quorumd status` shows its nodes"
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
        io, self._io = self._io, None
        if io is not None and io.usable:
            await io.stop()
        elif io is not None:
            io.release()

    def _running(self) -> IoLoop:
        if self._closed:
            raise ConnectionLost("the client is closed")
        loop = asyncio.get_running_loop()
        io = self._io
        if io is not None and not io.usable:
            io.release()
            io = None
        if io is None:
            protocol = ClientProtocol(
                self._endpoints, entropy=token_bytes, resolve=resolve_numeric, mac=self._mac, cluster=self._cluster
            )
            io = self._io = IoLoop(protocol, loop, self._listeners)
            io.start()
        return io

    # -- state ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What is known of the connection now."""
        return self._io.protocol.state if self._io is not None else State.LOST

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
        return max(0.0, (safe_until - since_boot()) / SECOND) if safe_until is not None else 0.0

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
        return deadline_after(since_boot(), self._timeout if timeout is None else timeout)

    async def _execute(self, request: Op, deadline: Nanoseconds, **options: bool) -> Result:
        operation = operation_for(request, deadline, retry=self._retry, **options)
        return (await self._running().call(operation)).result()
