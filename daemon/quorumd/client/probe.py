"""Asks nodes for their figures over their client sockets, without ever waiting for one of them.

For programs with a loop of their own, such as the supervisor; `Client.status` is the call that waits.
"""

import json
import secrets
import select
import socket
import time
from collections.abc import Iterable, Mapping

from quorumd.auth import Mac
from quorumd.client.channel import answer_reassembler
from quorumd.client.routing import SocketAddress
from quorumd.config import Config
from quorumd.endpoint import family_of
from quorumd.types import NodeId
from quorumd_fastpath import wire

Status = Mapping[str, object]
"""A node's STATUS reply, decoded JSON."""

MAX_DATAGRAM_BYTES = 65_536
BATCH = 256  # replies taken in one go: a flood must not hold the loop


class StatusProbe:
    """`ask` sends one STATUS to every node; `collect` takes in what came back since.

    key: the cluster's secret, if it has one. Names are resolved once, in `open`: a node whose name is unknown then is
    not asked.
    """

    def __init__(self, config: Config, key: bytes | None) -> None:
        self.config = config
        self.mac = Mac(key, b"client") if key else None
        self._addresses: dict[NodeId, tuple[str, int]] = {}
        self._socket: socket.socket | None = None
        self._first = self._nonce = secrets.randbits(63)
        self._answers = answer_reassembler()

    def open(self) -> "StatusProbe":
        """Raises OSError if no address can be resolved, or they are not all of one family."""
        self._addresses = resolved(self.config)
        families = {family_of(host) for host, _ in self._addresses.values()}
        if len(families) > 1:
            raise OSError(f"{self.config.source.name}: the nodes' client addresses are IPv4 and IPv6; use one for all")
        self._socket = socket.socket(families.pop(), socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        return self

    @property
    def unknown(self) -> set[NodeId]:
        """The nodes that are not asked, as nobody knows their names."""
        return set(self.config.members) - set(self._addresses)

    @property
    def is_open(self) -> bool:
        """Between `open` and `close`."""
        return self._socket is not None

    @property
    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise ValueError("the probe is not open")
        return self._socket

    def fileno(self) -> int:
        return self._open_socket.fileno()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self) -> int:
        """Sends the questions; what does not leave is as good as lost on the way. Their number, for `collect`."""
        self._nonce += 1
        frame = wire.encode_frame(wire.KIND_STATUS, 0, 0, 0, 0, 0, 0, 0, self._nonce, 0, 0)
        datagram = self.mac.seal(frame) if self.mac else frame
        for address in self._addresses.values():
            try:
                self._open_socket.sendto(datagram, address)
            except OSError:
                continue
        return self._nonce

    def collect(self, since: int = 0) -> Mapping[NodeId, Status]:
        """The newest reply of each node that answered, to question `since` or a later one. Never waits, never raises
        for what came in."""
        oldest = max(since, self._first)
        found: dict[NodeId, Status] = {}
        for _ in range(BATCH):
            try:
                datagram, source = self._open_socket.recvfrom(MAX_DATAGRAM_BYTES)
            except OSError:
                break
            plain = self.mac.open(datagram) if self.mac else datagram
            for frame, payload in self._frames(plain or b"", source):
                if frame.kind == wire.KIND_STATUS_REPLY and oldest <= frame.index <= self._nonce:
                    self._take(frame.sender, payload, found)
        return found

    def _frames(self, datagram: bytes, source: SocketAddress) -> Iterable[tuple[wire.Frame, bytes]]:
        """Those of a datagram, and those of what its fragments complete."""
        for frame, payload in wire.parse_datagram(datagram):
            if frame.kind == wire.KIND_FRAGMENT:
                message = self._answers.on_fragment(source, frame, payload, time.monotonic_ns())[1]
                yield from wire.parse_datagram(message or b"")
            else:
                yield frame, payload

    def _take(self, sender: NodeId, payload: bytes, found: dict[NodeId, Status]) -> None:
        try:
            status = json.loads(payload)
        except ValueError:
            return
        if isinstance(status, dict) and sender in self._addresses:
            found[sender] = status


def resolved(config: Config) -> dict[NodeId, tuple[str, int]]:
    """Where the nodes' clients reach them, without those whose names are unknown. Raises OSError if all are."""
    found, unknown = {}, OSError("no nodes")
    for node in config.nodes:
        try:
            found[node.id] = node.client_endpoint.resolve(), node.client_endpoint.port
        except OSError as error:
            unknown = OSError(f"{config.source.name}: {node.client_endpoint.host}: {error.strerror or error}")
    if not found:
        raise unknown
    return found


def sample(probe: StatusProbe, members: int, timeout_s: float) -> dict[NodeId, Status]:
    """One question to all: the replies, as soon as `members` have answered or the time is up."""
    found: dict[NodeId, Status] = {}
    deadline_s = time.monotonic() + timeout_s
    question = probe.ask()
    while len(found) < members and (left_s := deadline_s - time.monotonic()) > 0:
        if select.select([probe], [], [], left_s)[0]:
            found.update(probe.collect(question))
    return found
