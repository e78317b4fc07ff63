"""The blocking client. Thread-safe; one UDP socket and one thread for all callers; knows when it was forked.

    with Client.connect(["127.0.0.1:7201", "127.0.0.1:7202", "127.0.0.1:7203"]) as client:
        client.put(b"greeting", b"hello")
        found = client.get(b"greeting")

Every call has a deadline, and an error says what it means for the operation: errors.Definite, it did not happen;
errors.Indefinite, it may have happened. Writes execute exactly once, however often datagrams are lost and repeated.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
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
from quorumd.client.iothread import IoThread, Promise
from quorumd.client.leases import LeaseCalls
from quorumd.client.operation import Operation
from quorumd.client.pipeline import Pipeline
from quorumd.client.sinceboot import since_boot
from quorumd.client.states import State, StateListener
from quorumd.client.watcher import make_watcher
from quorumd.client.watches import Watch
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
from quorumd.errors import ConnectionLost, QuorumdError, Timeout
from quorumd.limits import CLIENT_TIMEOUT_S, SECOND
from quorumd.types import Nanoseconds, NodeId

_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()


class Client(LeaseCalls):
    """A client of one cluster. Opens nothing until `connect`, or the first call.

    endpoints: "host:port" of client addresses, one is enough, more survive more. key: the cluster key, if it has one.
    cluster: the only cluster id to talk to; None: whichever answers first. timeout: seconds, the default of every call.
    retry: whether a refusal that may pass (queues full) is retried until the deadline, or raised at once.

    Every call raises errors.Definite or errors.Indefinite, whose subclasses say more, or ValueError and TypeError for
    arguments that make no sense. After a fork the child's first call opens a socket and a session of its own.
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
        self._endpoints = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints)
        self._mac = Mac(key, b"client") if key is not None else None
        self._cluster = cluster
        self._timeout = timeout
        self._retry = retry
        self._listeners: list[StateListener] = []
        self._lock = threading.Lock()
        self._io: IoThread | None = None
        self._pid = 0
        self._closed = False
        self._finalizer: weakref.finalize[..., Client] | None = None

    # -- life -----------------------------------------------------------------------------------------------------

    @classmethod
    def connect(
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
        if not client._running().joined.wait(timeout):
            client.close()
            raise Timeout(
                f"no node answered within {timeout} s at {', '.join(client._endpoints)}: "
                "nodes down, wrong addresses, another cluster id or another cluster key; `quorumd up` starts a "
                "cluster, `quorumd status` shows its nodes"
            )
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is under way with ConnectionLost, says goodbye to the cluster (at most 0.2 s), frees everything.

        It waits a second at most for a callback or listener that runs on the client's thread.
        """
        with self._lock:
            self._closed = True
            io, self._io = self._io, None
        if io is not None and self._pid == os.getpid():
            io.stop()
            if self._finalizer is not None:
                self._finalizer.detach()

    def _running(self) -> IoThread:
        io = self._io
        if io is not None and self._pid == os.getpid():
            return io
        with self._lock:
            if self._closed:
                raise ConnectionLost("the client is closed")
            if self._io is None or self._pid != os.getpid():
                io = IoThread(self._endpoints, self._mac, self._cluster, self._listeners)
                io.start()  # what does not start must not be found by the next call
                self._pid = os.getpid()
                self._io = io
                self._finalizer = weakref.finalize(self, io.shut_down)
                _clients.add(self)
            return self._io

    def _forked(self) -> None:
        """In the child, before anything else runs: neither locks nor sockets are this process's."""
        self._lock = threading.Lock()
        io, self._io = self._io, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if io is not None:
            io.abandon()

    # -- state ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What is known of the connection now."""
        io = self._io
        return io.protocol.state if io is not None else State.LOST

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
        """`listener(state)` is called on the client's thread after each change of state.

        Whatever it raises is logged, SystemExit too, and the client goes on: sys.exit() ends no thread but one's own.
        """
        self._listeners.append(listener)

    def remove_listener(self, listener: StateListener) -> None:
        """Raises ValueError if it was not added."""
        self._listeners.remove(listener)

    def session_safe_for(self) -> float:
        """Seconds for which the cluster certainly keeps this client's session; 0.0 if there is none to rely on."""
        safe_until = self._running().protocol.session_safe_until
        return max(0.0, (safe_until - since_boot()) / SECOND) if safe_until is not None else 0.0

    # -- reads ----------------------------------------------------------------------------------------------------

    def get(
        self, key: bytes, *, revision: int = 0, stale: bool = False, timeout: float | None = None
    ) -> KeyValue | None:
        """The key as it is, None if there is none. stale: what any one node has, perhaps long outdated.

        revision: as it was then. Raises Compacted if that is no longer held, and FutureRevision if it is to come; a
        stale read waits for a node that has it.
        """
        bytes_only(key=key)
        request = Range(key, revision=revision)
        found = expect(RangeResult, self._execute(request, self._deadline(timeout), stale=stale))
        return found.kvs[0] if found.kvs else None

    def range(
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
        return expect(RangeResult, self.execute(request, stale=stale, timeout=timeout))

    # -- writes ---------------------------------------------------------------------------------------------------

    def put(
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
        return expect(PutResult, self._execute(request, self._deadline(timeout)))

    def delete(self, key: bytes, *, timeout: float | None = None) -> bool:
        """Deletes a key; whether there was one."""
        return self.delete_range(key, timeout=timeout).deleted > 0

    def delete_range(
        self, key: bytes, end: bytes = b"", *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Deletes the keys of [key, end), end ALL: from `key` on, end empty: `key` alone."""
        bytes_only(key=key, end=end)
        return expect(DeleteResult, self._execute(DeleteRange(key, end, prev_kv), self._deadline(timeout)))

    def txn(
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
        return expect(TxnResult, self._execute(Txn(compares, then, orelse), self._deadline(timeout)))

    def compact(self, revision: int, *, timeout: float | None = None) -> CompactResult:
        """Forgets what only reads below `revision` need. Raises Compacted if it is already, FutureRevision."""
        return expect(CompactResult, self._execute(Compact(revision), self._deadline(timeout)))

    def cas(self, key: bytes, expected: bytes | None, value: bytes, *, timeout: float | None = None) -> bool:
        """Sets the key if its value is `expected` (None: if there is no such key); whether it did."""
        request = compare_and_set(key, expected, value)
        return expect(TxnResult, self._execute(request, self._deadline(timeout))).succeeded

    def execute(
        self, request: Op, *, stale: bool = False, settled: bool = False, timeout: float | None = None
    ) -> Result:
        """Any one operation; what exceeds a reply is read in parts, a range at one revision, within one timeout.

        settled: a write that, if it executes, does so after every write of this client that ended before without an
        answer (Timeout, cancelled), or those never will. It may first wait for writes that are under way.
        """
        deadline = self._deadline(timeout)
        reading = parts(request)
        part = next(reading)
        while True:
            result = self._execute(part, deadline, stale=stale, settled=settled)
            try:
                part = reading.send(result)
            except StopIteration as whole:
                answer: Result = whole.value
                return answer

    # -- watches --------------------------------------------------------------------------------------------------

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
    ) -> Watch:
        """What happens to the keys of [key, end), as batches of all events of one revision, to iterate over.

        start_revision: of the first event to be given, which may lie in the past, if it is not compacted; 0: what
        happens after this call, and so after everything that was acknowledged before it. prev_kv: events tell what they
        replaced. put, delete: whether such events are given. progress: batches without events come now and then, when
        nothing happens to these keys: everything up to their revision was given.
        timeout: of the read that finds where to begin, if start_revision is 0.
        """
        make = partial(make_watcher, key, end, prev_kv=prev_kv, put=put, delete=delete, progress=progress)
        make(start_revision)  # nonsense is refused before anything is asked
        if not start_revision:
            read = self._execute(Range(key, count_only=True), self._deadline(timeout))
            start_revision = expect(RangeResult, read).revision + 1
        return Watch(self._running, make, start_revision)

    # -- many at once ---------------------------------------------------------------------------------------------

    def submit(self, request: Op, *, stale: bool = False, timeout: float | None = None) -> "Future[Result]":
        """Begins an operation; its result or error comes with the future, which cannot be cancelled.

        Operations of one client that are under way together may execute in any order. Callbacks of futures run one at a
        time, on the client's thread or on any that calls it; they may call the client too, but not wait for futures.
        What they raise is logged. SystemExit and the like do not end the client's thread; on another one they are
        raised by the call that ran the callback, since there they may as well be a signal's handler's.
        """
        return self._begin(request, Operation.result, stale=stale, timeout=timeout)

    def put_nowait(self, key: bytes, value: bytes, *, timeout: float | None = None) -> "Future[PutResult]":
        """put() without waiting, as submit()."""
        bytes_only(key=key, value=value)
        return self._begin(Put(key, value), lambda done: expect(PutResult, done.result()), timeout=timeout)

    def get_nowait(self, key: bytes, *, timeout: float | None = None) -> "Future[KeyValue | None]":
        """get() without waiting, as submit()."""
        bytes_only(key=key)

        def convert(done: Operation) -> KeyValue | None:
            found = expect(RangeResult, done.result())
            return found.kvs[0] if found.kvs else None

        return self._begin(Range(key), convert, timeout=timeout)

    def pipeline(self) -> Pipeline:
        """Collects operations and sends them together, packed into as few datagrams as they fit."""
        return Pipeline(self._execute_all)

    # -- the cluster ----------------------------------------------------------------------------------------------

    def status(self, node: NodeId | str = LEADER, *, timeout: float | None = None) -> dict[str, Any]:
        """A node's own figures. node: its id, its "host:port", or LEADER. Raises ValueError if it is no host:port."""
        return document_of(self._running().call(status_operation(node, self._deadline(timeout))))

    def transfer_leader(self, to: NodeId = 0, *, timeout: float | None = None) -> None:
        """Asks the leader to hand over to `to`, 0: to whichever is most up to date.

        Raises Rejected with its reason, or Timeout if it refuses a repetition: the answer that was lost may be yes.
        """
        check_accepted(self._running().call(transfer_operation(to, self._deadline(timeout))))

    # -- below ----------------------------------------------------------------------------------------------------

    def _deadline(self, timeout: float | None) -> Nanoseconds:
        return deadline_after(since_boot(), self._timeout if timeout is None else timeout)

    def _execute(self, request: Op, deadline: Nanoseconds, **options: bool) -> Result:
        operation = operation_for(request, deadline, retry=self._retry, **options)
        return self._running().call(operation).result()

    def _execute_all(self, requests: Sequence[Op], timeout: float | None) -> list[Result | QuorumdError]:
        deadline = self._deadline(timeout)
        io = self._running()
        operations = []
        for request in requests:
            operation = operation_for(request, deadline, retry=self._retry)
            operation.waiter = Promise(Operation.result)
            operations.append(operation)
        io.submit(operations)
        return [operation.waiter.outcome(deadline) for operation in operations]

    def _begin(
        self,
        request: Op,
        convert: Callable[[Operation], Any],
        *,
        stale: bool = False,
        timeout: float | None = None,
    ) -> "Future[Any]":
        operation = operation_for(request, self._deadline(timeout), stale=stale, retry=self._retry)
        promise = operation.waiter = Promise(convert)
        self._running().submit((operation,), lazily=True)
        return promise.future


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
