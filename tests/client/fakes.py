"""A cluster that a client can be tested against: in memory, dumb, with switches for everything a real one may do.

`FakeCluster` answers datagrams with datagrams. `World` puts simulated time and a lossy network in
between; `Served` puts it behind real sockets.
"""

import heapq
import json
import random
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from time import monotonic_ns

from quorumd.auth import Mac
from quorumd.client.operation import Operation
from quorumd.client.protocol import ClientProtocol
from quorumd.commands import (
    DeleteRange,
    Kind,
    Op,
    OpCode,
    Put,
    Record,
    Reply,
    Status,
    Txn,
    decode_command,
    decode_records,
    encode_reply,
    session_halves,
)
from quorumd.fragments import Fragmenter, Reassembler
from quorumd.limits import HEADER_BYTES, MILLISECOND, SESSION_WINDOW_OPS
from quorumd_fastpath import wire

CLUSTER = 0xC1A5


class FakeCluster:
    """Nodes 1..n that share one store; `leader` (0: nobody) executes at once, the others redirect."""

    def __init__(self, nodes: int = 3, *, mtu: int = 1400, ttl_ms: int = 30_000, mac: Mac | None = None) -> None:
        self.nodes = {node: f"node{node}:7000" for node in range(1, nodes + 1)}
        self.leader = 1
        self.term = 1
        self.mtu = mtu
        self.ttl_ms = ttl_ms
        self.mac = mac
        self.cluster = CLUSTER
        self.deaf: set[int] = set()
        """Nodes that hear nothing: dead, or cut off."""
        self.verdict: Callable[[int, Record], Status | None] = lambda node, record: None
        """A status to answer with instead of executing."""
        self.hint = True  # whether followers name the leader
        self.store: dict[bytes, bytes] = {}
        self.changed: dict[bytes, int] = {}  # by key: the revision of its last put
        self.revision = 1
        self.sessions: dict[bytes, dict[int, Reply]] = {}
        self.answered_below: Counter[bytes] = Counter()
        self.executed: Counter[tuple[bytes, int]] = Counter()
        self.seen: list[tuple[int, Record]] = []
        self.datagrams = 0
        self.fragmenters: dict[int, Fragmenter] = {
            node: Fragmenter(mtu, first_id=node << 32, tail_bytes=16 if mac else 0) for node in self.nodes
        }
        self.reassemblers: dict[int, Reassembler] = {node: Reassembler() for node in self.nodes}

    def elect(self, node: int) -> None:
        self.leader = node
        self.term += 1

    def node_at(self, address: object) -> int:
        return next((node for node, text in self.nodes.items() if text == address), 0)

    # -- datagrams ------------------------------------------------------------------------------------------------

    def receive(self, node: int, source: object, datagram: bytes, now: int) -> list[tuple[object, bytes]]:
        """What `node` sends on receiving this."""
        if node in self.deaf or node not in self.nodes:
            return []
        self.datagrams += 1
        opened = self.mac.open(datagram) if self.mac else datagram
        sent: list[bytes] = []
        for frame, payload in wire.parse_datagram(opened or b""):
            sent += self._frame(node, source, frame, payload, now)
        return [(source, part) for part in sent] + self.poll(node, now)

    def poll(self, node: int, now: int) -> list[tuple[object, bytes]]:
        if node in self.deaf:
            return []
        return [
            (dest, self._encode(node, wire.KIND_FRAGMENT, part.payload, term=part.message_id, index=part.number,
                                commit=part.total_bytes, count=part.total))
            for dest, part in self.fragmenters[node].poll(now)
        ]

    def _encode(self, node, kind, payload=b"", *, term=0, index=0, commit=0, count=0) -> bytes:
        frame = wire.encode_frame(kind, 0, self.cluster, node, 0, 99, 0, term, index, commit, count, payload)
        return self.mac.seal(frame) if self.mac else frame

    def _frame(self, node: int, source: object, frame: wire.Frame, payload: bytes, now: int) -> Iterable[bytes]:
        if frame.kind == wire.KIND_CLIENT_HELLO:
            yield self._encode(node, wire.KIND_CLIENT_HELLO_REPLY, self.hello(node), index=frame.index)
        elif frame.kind == wire.KIND_STATUS:
            yield self._encode(node, wire.KIND_STATUS_REPLY, b'{"node": %d}' % node, index=frame.index)
        elif frame.kind == wire.KIND_ADMIN:
            body = json.dumps(self._admin(node, frame.term)).encode()
            yield self._encode(node, wire.KIND_ADMIN_REPLY, body, term=frame.term, index=frame.index)
        elif frame.cluster != self.cluster:
            return
        elif frame.kind == wire.KIND_REQUEST:
            yield from self._request(node, source, payload, now)
        elif frame.kind == wire.KIND_FRAGMENT:
            bitmap, message = self.reassemblers[node].on_fragment(source, frame, payload, now)
            if bitmap is not None:
                yield self._encode(node, wire.KIND_FRAGMENT_ACK, bitmap, term=frame.term, count=frame.count)
            if message is not None:
                for inner, inner_payload in wire.parse_datagram(message):
                    yield from self._frame(node, source, inner, inner_payload, now)
        elif frame.kind == wire.KIND_FRAGMENT_ACK:
            self.fragmenters[node].on_ack(source, frame.term, frame.count, payload, now)

    def _admin(self, node: int, term: int) -> dict[str, object]:
        """The leader obeys in the term that it is told, and tells its own first."""
        if node != self.leader:
            return {"ok": False, "error": "not the leader"}
        if term != self.term:
            return {"ok": False, "error": "another term", "term": self.term}
        return {"ok": True, "error": ""}

    def hello(self, node: int) -> bytes:
        document = {
            "cluster": f"{self.cluster:016x}", "node": node, "leader": self.leader or None, "term": self.term,
            "members": {str(k): v for k, v in self.nodes.items()}, "mtu": self.mtu, "session_ttl_ms": self.ttl_ms,
            "auth": self.mac is not None,
        }
        return json.dumps(document).encode()

    def _request(self, node: int, source: object, payload: bytes, now: int) -> Iterable[bytes]:
        packed: list[bytes] = []
        room = self.mtu - HEADER_BYTES - (16 if self.mac else 0)
        for record in decode_records(payload):
            reply = encode_reply(self.answer(node, record))
            if len(reply) > room:
                frame = wire.encode_frame(wire.KIND_REPLY, 0, self.cluster, node, 0, 99, 0, 0, 0, 0, 1, reply)
                self.fragmenters[node].send(source, frame, now)
                continue
            if sum(map(len, packed)) + len(reply) > room:
                yield self._encode(node, wire.KIND_REPLY, b"".join(packed), count=len(packed))
                packed = []
            packed.append(reply)
        if packed:
            yield self._encode(node, wire.KIND_REPLY, b"".join(packed), count=len(packed))

    # -- records --------------------------------------------------------------------------------------------------

    def answer(self, node: int, record: Record) -> Reply:
        self.seen.append((node, record))
        refusal = self.verdict(node, record)
        if refusal is not None:
            return self._reply(record, refusal, b"")
        if record.kind is Kind.STALE_READ:
            return self._execute(record)
        return self._as_leader(record) if node == self.leader else self._redirect(record)

    def _redirect(self, record: Record) -> Reply:
        hint = self.leader if self.hint else 0
        text = self.nodes[hint].encode() if hint else b""
        return self._reply(record, Status.NOT_LEADER, hint.to_bytes(2, "little") + text)

    def _as_leader(self, record: Record) -> Reply:
        if record.kind is Kind.OPEN_SESSION:
            self.sessions.setdefault(record.session, {})
            return self._reply(record, Status.OK)
        if record.kind is Kind.CLOSE_SESSION:
            self.sessions.pop(record.session, None)
            return self._reply(record, Status.OK)
        if record.kind is Kind.READ:
            return self._execute(record)
        window = self.sessions.get(record.session)
        if window is None:
            return self._reply(record, Status.SESSION_EXPIRED)
        return self._reply(record, Status.OK) if record.kind is Kind.KEEP_ALIVE else self._in_session(record, window)

    def _in_session(self, record: Record, window: dict[int, Reply]) -> Reply:
        below = self.answered_below[record.session] = max(self.answered_below[record.session], record.answered_below)
        if record.seq < below:
            return self._reply(record, Status.ANSWERED)
        if record.seq >= below + SESSION_WINDOW_OPS:
            return self._reply(record, Status.WINDOW_FULL)
        if record.seq not in window:
            self.executed[record.session, record.seq] += 1
            window[record.seq] = self._execute(record)
        return window[record.seq]

    def _reply(self, record: Record, status: Status, body: bytes = b"") -> Reply:
        return Reply(status, record.kind, session_halves(record.session)[1], record.seq, self.revision, body)

    def _execute(self, record: Record) -> Reply:
        op = decode_command(record.command)
        return self._reply(record, Status.OK, self._run(op))

    def _run(self, op: Op) -> bytes:
        if isinstance(op, Put):
            self.revision += 1
            self.store[op.key] = op.value
            self.changed[op.key] = self.revision
            return b""
        if isinstance(op, Txn):  # compares of mod_revision, puts without an answer
            holds = all(self.changed.get(compare.key, 0) == compare.operand for compare in op.compares)
            taken = op.then if holds else op.orelse
            answers = [self._run(each) for each in taken]
            return bytes([holds]) + len(taken).to_bytes(4, "little") + b"".join(
                bytes([OpCode.PUT]) + len(each).to_bytes(4, "little") + each for each in answers
            )
        if isinstance(op, DeleteRange):
            deleted = self.store.pop(op.key, None) is not None
            self.revision += deleted
            return deleted.to_bytes(8, "little") + bytes(4)
        keys = sorted(key for key in self.store if op.key <= key < op.end) if op.end else [op.key]
        keys = [key for key in keys if key in self.store]
        taken = keys[: op.limit or 3] if op.end else keys
        body = len(keys).to_bytes(8, "little") + bytes([len(taken) < len(keys)]) + len(taken).to_bytes(4, "little")
        for key in taken:
            value = self.store[key]
            numbers = b"".join(n.to_bytes(8, "little") for n in (1, 2, 3, 0))
            body += numbers + len(key).to_bytes(4, "little") + len(value).to_bytes(4, "little") + key + value
        return body


class World:
    """Simulated time, one cluster, any number of protocols, and what the network does to datagrams."""

    def __init__(self, cluster: FakeCluster, seed: int = 0) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.now = 1_000_000_000
        self.loss = 0.0
        self.duplicates = 0.0
        self.delay = (MILLISECOND // 10, MILLISECOND // 5)
        self.filter: Callable[[object, object, bytes], bool] = lambda source, dest, datagram: True
        self.protocols: dict[str, ClientProtocol] = {}
        self.completed: list[Operation] = []
        self.states: dict[str, list] = {}
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def client(self, name: str = "client", *, endpoints: Iterable[str] = (), **options) -> ClientProtocol:
        protocol = ClientProtocol(
            list(endpoints) or list(self.cluster.nodes.values()),
            entropy=self.random.randbytes,
            resolve=lambda text: text,
            mac=self.cluster.mac,
            **options,
        )
        self.protocols[name] = protocol
        self.states[name] = []
        protocol.start(self.now)
        protocol.flush(self.now)
        self._send_all()
        return protocol

    def at(self, time: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, action))

    def submit(self, protocol: ClientProtocol, *operations: Operation) -> None:
        for operation in operations:
            protocol.submit(operation, self.now)
        protocol.flush(self.now)
        self._send_all()

    def _send_all(self) -> None:
        for name, protocol in self.protocols.items():
            for dest, datagram in protocol.take_datagrams():
                self._carry(name, dest, datagram)
            self.completed += protocol.take_completed()
            self.states[name] += protocol.take_states()

    def _carry(self, source: object, dest: object, datagram: bytes) -> None:
        if not self.filter(source, dest, datagram):
            return
        for _ in range(2 if self.random.random() < self.duplicates else 1):
            if self.random.random() >= self.loss:
                self.at(self.now + self.random.randint(*self.delay), lambda: self._arrive(source, dest, datagram))

    def _arrive(self, source: object, dest: object, datagram: bytes) -> None:
        protocol = self.protocols.get(str(dest))
        if protocol is not None:
            protocol.receive(datagram, source, self.now)
            protocol.flush(self.now)
            return
        node = self.cluster.node_at(dest)
        if node:
            for target, answer in self.cluster.receive(node, source, datagram, self.now):
                self._carry(dest, target, answer)

    def run(self, duration: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Advances time by `duration` ns, or until the condition holds; whether it does."""
        end = self.now + duration
        while not until():
            due = [protocol.next_deadline() for protocol in self.protocols.values()]
            due += [fragmenter.deadline() for fragmenter in self.cluster.fragmenters.values()]
            due += [self._events[0][0]] if self._events else []
            next_at = min((at for at in due if at is not None), default=end)
            if next_at > end:
                self.now = end
                return until()
            self.now = max(self.now, next_at)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            for node, text in self.cluster.nodes.items():
                for target, answer in self.cluster.poll(node, self.now):
                    self._carry(text, target, answer)
            for protocol in self.protocols.values():
                deadline = protocol.next_deadline()
                if deadline is not None and deadline <= self.now:
                    protocol.tick(self.now)
            self._send_all()
            if next_at == end and not self._events:
                return until()
        return True


class Served:
    """The cluster's nodes on loopback UDP ports of the system's choice, served by one thread."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.lock = threading.Lock()
        self.drop: Callable[[bytes], bool] = lambda datagram: False
        """Datagrams to a client that get lost."""
        self._sockets: dict[int, tuple[int, socket.socket]] = {}
        for node in cluster.nodes:
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind(("127.0.0.1", 0))
            udp.setblocking(False)
            self._sockets[udp.fileno()] = (node, udp)
            cluster.nodes[node] = f"127.0.0.1:{udp.getsockname()[1]}"
        self._stop_read, self._stop_write = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def endpoints(self) -> list[str]:
        return list(self.cluster.nodes.values())

    def __enter__(self) -> "Served":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_write.send(b"x")
        self._thread.join()
        for _, udp in self._sockets.values():
            udp.close()
        self._stop_read.close()
        self._stop_write.close()

    def _run(self) -> None:
        poll = select.poll()
        for fd in (*self._sockets, self._stop_read.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll(5):
                if fd == self._stop_read.fileno():
                    return
                node, udp = self._sockets[fd]
                datagram, source = udp.recvfrom(65535)
                with self.lock:
                    self._answer(udp, self.cluster.receive(node, source, datagram, monotonic_ns()))
            for node, udp in self._sockets.values():
                with self.lock:
                    self._answer(udp, self.cluster.poll(node, monotonic_ns()))

    def _answer(self, udp: socket.socket, datagrams: list[tuple[object, bytes]]) -> None:
        for target, datagram in datagrams:
            if not self.drop(datagram):
                udp.sendto(datagram, target)
