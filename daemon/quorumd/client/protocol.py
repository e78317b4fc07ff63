"""The client without IO: operations in, datagrams out, and back. Time is an argument, randomness a parameter.

An IO layer (sync.py, aio.py, the simulator) does only this:

    protocol.submit(operation, now)                 # any number of them
    protocol.flush(now)                             # packs what may leave into datagrams
    for address, datagram in protocol.take_datagrams(): send(...)
    protocol.receive(datagram, source, now)         # for each that arrives; then flush
    protocol.tick(now)                              # at next_deadline() at the latest; flushes too
    for operation in protocol.take_completed(): wake its caller
    for state in protocol.take_states(): tell the listeners

Nothing here is thread-safe, and nothing raises for what a node or the network did. One file, although a long one: its
methods are the transitions of one state machine and are read together; addresses, bytes and windows live elsewhere.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final

from quorumd.auth import Mac
from quorumd.client.channel import Channel, Hello
from quorumd.client.control import CONTROL_REPLIES, Control
from quorumd.client.ledger import Ledger
from quorumd.client.operation import Operation, Plane, again, error_of
from quorumd.client.routing import Resolve, Router, SocketAddress
from quorumd.client.session import Pulse, Session
from quorumd.client.states import State
from quorumd.client.transmitter import Transmitter
from quorumd.client.watching import Watching
from quorumd.commands import Kind, Reply, Status, decode_replies, session_halves
from quorumd.errors import ConnectionLost, DiskFull, NotLeader, Overloaded, ProtocolError, QuorumdError
from quorumd.limits import (
    CLIENT_CLOSE_DEADLINE,
    CLIENT_MAX_RETRY,
    CLIENT_OPEN_DEADLINE,
    CLIENT_QUEUE_OPS,
    CLIENT_READS_IN_FLIGHT,
    CLIENT_REFUSED_RETRY,
    CLIENT_STALE_IN_FLIGHT,
    CLIENT_SUSPENDED_AFTER,
)
from quorumd.types import NOBODY, Nanoseconds, NodeId
from quorumd_fastpath import wire

_FOR_THE_LEADER: Final = (Plane.WRITE, Plane.READ)


class ClientProtocol:
    """One client of one cluster.

    endpoints: "host:port" of at least one node. entropy: n -> n random bytes. resolve: see Router. mac: for datagrams
    of the client plane, if the cluster has a key. cluster: the only cluster id to talk to; None: the first that
    answers. Raises ValueError if an endpoint is nonsense.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        entropy: Callable[[int], bytes],
        resolve: Resolve,
        mac: Mac | None = None,
        cluster: int | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("no endpoints; give at least one host:port")
        self.router = Router(endpoints, resolve)
        self.session: Session | None = None
        self.state = State.LOST
        self._channel = Channel(entropy, mac)
        self._expected_cluster = cluster
        self._entropy = entropy
        self._nonce = int.from_bytes(entropy(7), "little")  # of every hello
        self._reader = entropy(16)  # session id of reads: only echoed, tells our replies from those to others
        self._writes: deque[Operation] = deque()  # have no sequence number yet
        self._reads: deque[Operation] = deque()  # likewise
        self._stale: deque[Operation] = deque()  # likewise
        self._due: deque[Operation] = deque()  # admitted, for the leader, to be sent again or first
        self._stale_due: deque[Operation] = deque()  # stale reads to be sent again
        self._oldest_deadline: Nanoseconds | None = None  # not above that of anything in _unsent()
        self._cancelled = 0  # operations, since the queues were last swept
        self._ledger = Ledger()
        self._transmitter = Transmitter(self._channel, self._ledger)
        self._control = Control(self._ledger, self._transmitter, self.router, self._channel.counters)
        self.watching = Watching(self._channel, self.router, self._nonce)
        self._opening: Operation | None = None
        self._pulse = Pulse()
        self._session_lost = False
        self._heard_at: Nanoseconds = 0  # the last frame from the leader
        self._closed = False
        self._states: list[State] = []

    # -- what the IO layer takes ----------------------------------------------------------------------------------

    def take_datagrams(self) -> list[tuple[SocketAddress, bytes]]:
        """(address, datagram) to send, in order."""
        taken, self._channel.datagrams = self._channel.datagrams, []
        return taken

    def take_completed(self) -> list[Operation]:
        """Operations that have their outcome since the last call."""
        taken, self._ledger.completed = self._ledger.completed, []
        return taken

    def take_states(self) -> list[State]:
        """Changes of state since the last call, in order."""
        taken, self._states = self._states, []
        return taken

    @property
    def has_states(self) -> bool:
        """Whether take_states() has something."""
        return bool(self._states)

    @property
    def cluster(self) -> int:
        """The cluster's id; 0 until a node has answered."""
        return self._channel.cluster

    @property
    def counters(self) -> Counter[str]:
        """What was ignored, by reason: bad_mac, wrong_cluster, malformed, stray, reassembly_full."""
        return self._channel.counters

    @property
    def in_flight(self) -> int:
        """Operations sent and not answered."""
        return len(self._ledger.pending)

    @property
    def waiting(self) -> int:
        """Operations never sent yet, and control frames to be sent again."""
        return len(self._writes) + len(self._reads) + len(self._stale) + len(self._control.waiting)

    @property
    def session_safe_until(self) -> Nanoseconds | None:
        """Before this instant the cluster cannot have ended the session; None: there is no session."""
        session = self.session
        return session.seen_alive_at + self._pulse.ttl if session and session.opened else None

    def next_deadline(self) -> Nanoseconds | None:
        """When tick() is due at the latest; None: not before something else happens."""
        due = [self._ledger.next_timer(), self._oldest_deadline, self._pulse.due, self._channel.next_deadline()]
        due.append(self.watching.next_deadline())
        if self.router.searching_since is not None:
            due.append(self.router.probe_at)
            if self.state is State.CONNECTED:
                due.append(self.router.searching_since + CLIENT_SUSPENDED_AFTER)
        return min((at for at in due if at is not None), default=None)

    # -- what the IO layer does -----------------------------------------------------------------------------------

    def start(self, now: Nanoseconds) -> None:
        """Begins to look for the cluster."""
        self.router.doubt(now)

    def submit(self, operation: Operation, now: Nanoseconds) -> None:
        """Takes an operation; it leaves with flush(). Raises Overloaded (too many wait), ConnectionLost (closed)."""
        self.submit_all((operation,), now)

    def submit_all(self, operations: Sequence[Operation], now: Nanoseconds) -> None:
        """Takes all of them, or raises as submit() and takes none: what is refused definitely does not happen."""
        if self._closed:
            raise ConnectionLost("the client is closed")
        if self.waiting + len(operations) > CLIENT_QUEUE_OPS:
            raise Overloaded(f"more than {CLIENT_QUEUE_OPS} operations would wait in this client")
        for operation in operations:
            self._enqueue(operation)
        if self.router.searching_since is not None:
            self.router.hurry(now)

    def cancel(self, operation: Operation) -> None:
        """The caller no longer waits; what was sent may still happen."""
        if not operation.done:
            self._ledger.finish(operation)
            self._cancelled += 1
            if 16 * self._cancelled > self.waiting:  # one at a time they would cost a look at all the others each
                self._sweep()

    def receive(self, datagram: bytes, source: SocketAddress, now: Nanoseconds) -> None:
        """One datagram arrived."""
        for frame, payload in self._channel.receive(datagram, source, now):
            if frame.kind == wire.KIND_CLIENT_HELLO_REPLY:
                if frame.index == self._nonce:
                    self._on_hello_reply(frame, payload, source, now)
                else:  # the answer to a request for another life of that node, or somebody says so: ask
                    self._channel.ask_life(source, self._nonce, now)
                continue
            if frame.sender == self.router.leader:
                self._heard_at = now
            if frame.kind == wire.KIND_REPLY:
                self._on_replies(frame, payload, now)
            elif frame.kind == wire.KIND_WATCH_EVENTS:
                self.watching.receive(frame, payload, source, now)
            elif frame.kind in CONTROL_REPLIES.values():
                self._control.receive(frame, payload)

    def tick(self, now: Nanoseconds) -> None:
        """Everything that time alone brings about, then flush()."""
        for operation in self._ledger.due(now):
            self._on_timer(operation, now)
        if self._oldest_deadline is not None and now >= self._oldest_deadline:
            self._expire_queues(now)
        searching = self.router.searching_since
        if searching is not None and self.state is State.CONNECTED and now - searching >= CLIENT_SUSPENDED_AFTER:
            self._enter(State.SUSPENDED)
        if (due := self._pulse.due) is not None and now >= due:
            self._keep_alive(now)
        self.flush(now)

    def flush(self, now: Nanoseconds) -> None:
        """Packs everything that may leave now into datagrams."""
        if self.router.searching_since is not None:
            idle = not (self._ledger.pending or self._writes or self._reads)
            for address in self.router.probe(now, idle):
                self._channel.send(address, wire.KIND_CLIENT_HELLO, index=self._nonce)
        if not self.cluster:
            return
        if self._control.waiting:
            self._control.flush(now)
        if self._stale or self._stale_due:
            self._flush_stale(now)
        waiting = self._writes or self._reads or self._due
        target = self.router.target() if waiting else None
        self._channel.greet_due = None
        if target is not None and not self._channel.greet(target[1], self._nonce, now):
            if self._channel.is_silent(target[1]):
                self.router.doubt(now)
        elif target is not None:
            batch = [operation for operation in self._due if not operation.done]
            self._due.clear()
            self._take_reads(batch)
            self._take_writes(batch, now)
            if batch:
                below = self.session.answered_below if self.session is not None else 0
                self._transmitter.records(batch, below, *target, now)
        self.watching.flush(now)
        self._channel.poll(now)

    def close(self, now: Nanoseconds) -> Operation | None:
        """Ends every operation with ConnectionLost and, if there is a session, begins to close it.

        The operation returned, if any, completes within CLIENT_CLOSE_DEADLINE; waiting for it is a courtesy.
        """
        self._closed = True
        self.watching.close(now)
        self._opening = self._pulse.since = None
        for operation in (*self._ledger.pending.values(), *self._unsent()):
            self._ledger.complete(operation, ConnectionLost("the client was closed with the operation under way"))
        session, self.session = self.session, None
        if session is None or not session.opened:
            return None
        farewell = Operation(Plane.READ, Kind.CLOSE_SESSION, b"", now + CLIENT_CLOSE_DEADLINE)
        farewell.session = session.id
        self._enqueue(farewell)
        return farewell

    # -- frames that arrive ---------------------------------------------------------------------------------------

    def _on_hello_reply(self, frame: wire.Frame, payload: bytes, source: SocketAddress, now: Nanoseconds) -> None:
        wanted = self.cluster or self._expected_cluster
        if not frame.cluster or (wanted and frame.cluster != wanted):
            self.counters["wrong_cluster"] += 1  # or a node that belongs to none yet
            return
        try:
            hello = Hello(json.loads(payload))
        except (ValueError, TypeError, KeyError, RecursionError):
            self.counters["malformed"] += 1
            return
        if not self.cluster:
            self._channel.join(frame.cluster, hello.mtu)
        self._pulse.named(frame.sender, hello.session_ttl)
        if self._channel.met(source, frame.sender, frame.sender_incarnation):
            self.watching.met(source, frame.sender_incarnation, now)
            self._on_leader(frame.sender)
        router = self.router
        router.answered(frame.sender, source, hello.members)
        if router.claimed(frame.sender, hello.leader, max(hello.term, frame.term)):
            self._on_leader()
        if frame.sender == router.leader:
            self._heard_at = now
        if router.target() is not None:
            self._connected()

    def _on_leader(self, reborn: NodeId = NOBODY) -> None:
        """There is somebody to ask: what another node, or an earlier life of that one, was asked goes there at once."""
        for operation in self._ledger.pending.values():
            elsewhere = operation.asked != self.router.leader or operation.asked == reborn
            if operation.plane in _FOR_THE_LEADER and elsewhere:
                self._again(operation)

    def _on_replies(self, frame: wire.Frame, payload: bytes, now: Nanoseconds) -> None:
        try:
            replies = decode_replies(payload, frame.count)
        except ProtocolError:
            self.counters["malformed"] += 1
            return
        for reply in replies:
            operation = self._ledger.pending.get((reply.kind, reply.session_lo, reply.seq))
            if operation is None:
                self.counters["stray"] += 1
            elif reply.status is Status.OK:
                self._on_success(operation, reply, frame.sender, now)
            elif operation.may_pass(reply.status):
                self._on_refusal(operation, reply.status, reply.body, frame.sender, now)
            elif reply.status is Status.SESSION_EXPIRED and (session := self._session_of(operation)) is not None:
                self._lose_session(session, error_of(reply.status, reply.body))
            else:
                error = error_of(reply.status, reply.body)
                self._ledger.complete(operation, error)
                if operation is self._opening:
                    self.session = self._opening = None
                    self._fail_unsent_writes(error, patient=True)

    def _on_success(self, operation: Operation, reply: Reply, node: NodeId, now: Nanoseconds) -> None:
        self._transmitter.measured(operation, now)
        operation.reply_revision = reply.revision
        operation.reply_body = reply.body
        self._ledger.complete(operation, None)
        session = self.session
        if session is not None and operation.session == session.id:
            session.alive(operation)
            self._pulse.since = session.seen_alive_at
            if operation is self._opening:
                self._opening = None
                session.opened = True
                self._session_lost = False
        if node == self.router.leader and operation.plane in _FOR_THE_LEADER:
            self.router.heard_ok()
            self._connected()

    def _on_refusal(self, operation: Operation, status: Status, body: bytes, node: NodeId, now: Nanoseconds) -> None:
        error = error_of(status, body)
        operation.refused(node, error)
        if status is Status.NOT_LEADER:
            leader = int.from_bytes(body[:2], "little")
            if self.router.hinted(node, leader, body[2:].decode(errors="replace"), now):
                self._on_leader()
            elif operation.asked == node:
                self._again(operation)
            return
        if status is Status.STOPPED:
            if node == self.router.leader:
                self.router.doubt(now, CLIENT_REFUSED_RETRY)
            self._again(operation)
            return
        if operation is self._opening:
            self._fail_unsent_writes(error, patient=isinstance(error, DiskFull))
        elif operation.definite and (isinstance(error, DiskFull) or not operation.retry):
            self._ledger.complete(operation, error)
            return
        operation.backoff = min(max(2 * operation.backoff, CLIENT_REFUSED_RETRY), CLIENT_MAX_RETRY)
        self._ledger.set_timer(operation, now + operation.backoff)

    # -- time -----------------------------------------------------------------------------------------------------

    def _on_timer(self, operation: Operation, now: Nanoseconds) -> None:
        if now >= operation.deadline:
            self._ledger.complete(operation, self._verdict_at_deadline(operation))
            return
        if operation.plane in _FOR_THE_LEADER and self._heard_at <= operation.sent_at:
            self.router.doubt(now)
        self._again(operation)

    def _again(self, operation: Operation) -> None:
        """An admitted operation is to be sent again as soon as there is somebody to send it to."""
        if not operation.queued:
            operation.queued = True
            if operation.plane in _FOR_THE_LEADER:
                self._due.append(operation)
            else:
                (self._stale_due if operation.plane is Plane.STALE else self._control.waiting).append(operation)
            self._ledger.set_timer(operation, operation.deadline)

    def _expire_queues(self, now: Nanoseconds) -> None:
        """Ends what was never sent and is past its deadline."""
        for operation in self._unsent():
            if now >= operation.deadline:
                self._ledger.complete(operation, self._verdict_at_deadline(operation))
        self._sweep()
        self._oldest_deadline = min((operation.deadline for operation in self._unsent()), default=None)

    def _sweep(self) -> None:
        """What is done waits no more: flush() does not come to it while nobody answers, and the client fills."""
        self._cancelled = 0
        for queue in (self._writes, self._reads, self._stale, self._control.waiting):
            if any(operation.done for operation in queue):
                left = [operation for operation in queue if not operation.done]
                queue.clear()
                queue.extend(left)

    def _unsent(self) -> tuple[Operation, ...]:
        """What has no timer since it was never sent, and control frames to be sent again."""
        return (*self._writes, *self._reads, *self._stale, *self._control.waiting)

    def _note_deadline(self, operation: Operation) -> None:
        oldest = self._oldest_deadline
        self._oldest_deadline = operation.deadline if oldest is None else min(oldest, operation.deadline)

    def _verdict_at_deadline(self, operation: Operation) -> QuorumdError:
        if operation.transmissions == 0:
            if operation.plane is Plane.CONTROL and operation.target:
                return NotLeader(f"node {operation.target} has no known address")
            opening = self._opening
            if opening is not None and opening.refusal is not None and operation.plane is Plane.WRITE:
                return again(opening.refusal)
            if self.router.target() is None:
                return NotLeader("no leader was found in time; the operation was never sent")
            return Overloaded("never sent in time: too much before it is unanswered")
        return operation.out_of_time()

    # -- the session ----------------------------------------------------------------------------------------------

    def _keep_alive(self, now: Nanoseconds) -> None:
        session = self.session
        self._pulse.since = None
        if session is not None and session.opened:
            self._pulse.since = now
            ping = Operation(Plane.READ, Kind.KEEP_ALIVE, b"", now + self._pulse.ttl // 3)
            ping.session = session.id
            self._admit_read(ping)  # before all reads that wait, and it ends with the session
            self._again(ping)

    def _open_session(self, now: Nanoseconds) -> Operation:
        session = self.session = Session(self._entropy(16))
        opening = self._opening = Operation(Plane.READ, Kind.OPEN_SESSION, b"", now + CLIENT_OPEN_DEADLINE)
        opening.session = session.id
        self._admit_read(opening)
        return opening

    def _fail_unsent_writes(self, error: QuorumdError, *, patient: bool) -> None:
        """No session can be opened: tells those who wait for one; those that retry only if `patient`."""
        for write in self._writes:
            if patient or not write.retry:
                self._ledger.complete(write, again(error))
        self._sweep()

    def _session_of(self, operation: Operation) -> Session | None:
        """The session, if the operation is of the one that there is now."""
        session = self.session
        return session if session is not None and operation.session == session.id else None

    def _lose_session(self, session: Session, error: QuorumdError) -> None:
        """The cluster ended the session: what was sent in it may have happened; what was not waits for a new one."""
        self.session = self._opening = self._pulse.since = None
        for operation in [each for each in self._ledger.pending.values() if each.session == session.id]:
            self._ledger.complete(operation, again(error))
        self._session_lost = True
        self._enter(State.LOST)

    def _connected(self) -> None:
        """There is a leader. After the loss of a session it takes a new one to be CONNECTED again."""
        if not self._session_lost:
            self._enter(State.CONNECTED)

    def _enter(self, state: State) -> None:
        if self.state is not state:
            self.state = state
            self._states.append(state)

    # -- sending --------------------------------------------------------------------------------------------------

    def _enqueue(self, operation: Operation) -> None:
        operation.queued = True
        if operation.plane is Plane.WRITE:
            self._writes.append(operation)
        elif operation.plane is Plane.READ:
            self._reads.append(operation)
        elif operation.plane is Plane.STALE:
            self._stale.append(operation)
        else:
            self._control.waiting.append(operation)
        self._note_deadline(operation)

    def _admit_read(self, operation: Operation) -> None:
        operation.session = operation.session or self._reader
        self._ledger.admit_numbered(operation, operation.kind, session_halves(operation.session)[1])

    def _take_reads(self, batch: list[Operation]) -> None:
        while self._reads and self._ledger.reads < CLIENT_READS_IN_FLIGHT:
            operation = self._reads.popleft()
            if not operation.done:
                self._admit_read(operation)
                batch.append(operation)

    def _take_writes(self, batch: list[Operation], now: Nanoseconds) -> None:
        writes = self._writes
        while writes and writes[0].done:
            writes.popleft()
        if not writes:
            return
        session = self.session
        if session is None or not session.opened:
            if self._opening is None or self._opening.done:
                batch.append(self._open_session(now))
            return
        for operation in session.take(writes):
            self._ledger.admit(operation, (operation.kind, session.low, operation.seq))
            batch.append(operation)

    def _flush_stale(self, now: Nanoseconds) -> None:
        """Sends stale reads to any one node, another one each time."""
        batch = [operation for operation in self._stale_due if not operation.done]
        self._stale_due.clear()
        while self._stale and self._ledger.stale < CLIENT_STALE_IN_FLIGHT:
            operation = self._stale.popleft()
            if not operation.done:
                self._admit_read(operation)
                batch.append(operation)
        choice = self.router.any_node(self._ledger.next_seq + sum(operation.transmissions for operation in batch))
        if batch and choice is not None:
            self._transmitter.records(batch, 0, *choice, now)
