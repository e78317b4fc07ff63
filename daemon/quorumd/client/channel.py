"""The client's frames on their way out and in: cluster id, MAC, packing into datagrams, fragments. Sans-IO."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from quorumd.auth import Mac
from quorumd.client.routing import SocketAddress
from quorumd.fragments import Fragmenter, Reassembler
from quorumd.limits import (
    ANSWERS_BYTES,
    CLIENT_FIRST_RETRY,
    CLIENT_LIVES,
    HEADER_BYTES,
    LOOPBACK_MTU,
    MAC_BYTES,
    MAX_ANSWER_BYTES,
    MILLISECOND,
    MIN_MTU,
)
from quorumd.types import NOBODY, Incarnation, Nanoseconds, NodeId
from quorumd_fastpath import wire

LONGEST_TTL_MS: Final = 86_400_000
_HELLO: Final = bytes([wire.KIND_CLIENT_HELLO_REPLY])
_ANSWERS: Final = frozenset({_HELLO, bytes([wire.KIND_STATUS_REPLY]), bytes([wire.KIND_ADMIN_REPLY])})

Life: TypeAlias = tuple[NodeId, Incarnation]
"""One life of one node: an incarnation alone is a time, and two nodes may have been started at the same."""
_UNKNOWN: Final[Life] = (NOBODY, 0)


class Hello:
    """A hello reply's document, checked. Raises ValueError, TypeError or KeyError for one that is none."""

    def __init__(self, document: object) -> None:
        if not isinstance(document, dict):
            raise TypeError("not an object")
        leader = document["leader"]
        self.leader: NodeId = NOBODY if leader is None else _number(leader, 0, 0xFFFF)
        self.term = _number(document.get("term", 0), 0, (1 << 64) - 1)
        self.mtu = _number(document["mtu"], MIN_MTU, LOOPBACK_MTU)
        self.session_ttl: Nanoseconds = _number(document["session_ttl_ms"], 1, LONGEST_TTL_MS) * MILLISECOND
        self.members: dict[NodeId, str] = {}
        members = document["members"]
        if not isinstance(members, dict):
            raise TypeError("the members are not an object")
        for node, address in members.items():
            if not isinstance(address, str):
                raise TypeError("a member's address is not a string")
            self.members[_number(int(node), 1, 0xFFFF)] = address


def _number(value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{value!r} is not between {low} and {high}")
    return value


def answer_reassembler() -> Reassembler[SocketAddress]:
    """Puts hello, status and admin replies together whose fragments a node sends once: they are not acknowledged."""
    return Reassembler(limit_bytes=ANSWERS_BYTES, max_message_bytes=HEADER_BYTES + MAX_ANSWER_BYTES)


class Channel:
    """Frames of one client. Until `join` nothing but hellos can be sent."""

    def __init__(self, entropy: Callable[[int], bytes], mac: Mac | None) -> None:
        self.cluster = 0  # 0: not known yet
        self.counters: Counter[str] = Counter()
        self.datagrams: list[tuple[SocketAddress, bytes]] = []
        self.room = 0
        """Bytes of records that fit one datagram."""
        self._entropy = entropy
        self._mac = mac
        self._tail_bytes = MAC_BYTES if mac is not None else 0
        # What leaves in fragments arrives after smaller requests that left later, and by any number of them. Within one
        # sequence it would fall out of the node's window, so it has its own, under an id that is no client's first.
        self.incarnation: Incarnation = int.from_bytes(entropy(8), "little") | 3
        self._large_id: Incarnation = self.incarnation ^ 1
        # Requests name the life of the node that they are for, and their number there (fastpath replays.pyx). A node
        # knows a client whichever address it is reached by: numbers begun anew at another one would look like copies.
        self._lives: dict[SocketAddress, Life] = {}
        self._numbers: Counter[Life] = Counter()
        self._large_numbers: Counter[Life] = Counter()
        # When a node is asked again which life it is in, and how often it was asked in vain.
        self._asked: dict[SocketAddress, tuple[Nanoseconds, int]] = {}
        self.greet_due: Nanoseconds | None = None
        """When greet() is due again, for whoever waits for it."""
        self._fragmenter: Fragmenter[SocketAddress] | None = None
        self._reassembler: Reassembler[SocketAddress] = Reassembler()
        # By itself, for hello replies are taken from strangers: their fragments must not keep other messages out.
        self._answers = answer_reassembler()

    def join(self, cluster: int, mtu: int) -> None:
        """The cluster is known, and how large a datagram its path takes."""
        self.cluster = cluster
        self.room = mtu - HEADER_BYTES - self._tail_bytes
        first_id = int.from_bytes(self._entropy(8), "little")
        self._fragmenter = Fragmenter(mtu, first_id=first_id, tail_bytes=self._tail_bytes)

    # -- whom it speaks to ----------------------------------------------------------------------------------------

    def met(self, address: SocketAddress, node: NodeId, incarnation: Incarnation) -> bool:
        """A node told which life it is in; whether that is news."""
        self._asked.pop(address, None)
        if self._lives.get(address) == (node, incarnation):
            return False
        if len(self._lives) >= CLIENT_LIVES:
            self._lives.clear()
        self._lives[address] = node, incarnation
        return True

    def greet(self, address: SocketAddress, nonce: int, now: Nanoseconds) -> bool:
        """Whether a node's life is known, so that requests can be addressed to it; else it is asked."""
        if address not in self._lives:
            self.ask_life(address, nonce, now)
            self.greet_due = now + CLIENT_FIRST_RETRY
        return address in self._lives

    def ask_life(self, address: SocketAddress, nonce: int, now: Nanoseconds) -> None:
        """Asks a node which life it is in, but not more often than CLIENT_FIRST_RETRY."""
        again, times = self._asked.get(address, (0, 0))
        if again <= now:
            if len(self._asked) >= CLIENT_LIVES:
                self._asked.clear()
            self._asked[address] = now + CLIENT_FIRST_RETRY, times + 1
            self.send(address, wire.KIND_CLIENT_HELLO, index=nonce)

    def life(self, address: SocketAddress) -> Incarnation:
        """The incarnation that a node said it is in; 0: not known."""
        return self._life(address)[1]

    def _life(self, address: SocketAddress) -> Life:
        return self._lives.get(address, _UNKNOWN)

    def is_silent(self, address: SocketAddress) -> bool:
        """Whether a node did not say which life it is in when it was asked."""
        return self._asked.get(address, (0, 0))[1] > 1

    # -- out ------------------------------------------------------------------------------------------------------

    def send(
        self,
        address: SocketAddress,
        kind: int,
        *,
        flags: int = 0,
        receiver: Incarnation = 0,
        term: int = 0,
        index: int = 0,
        commit: int = 0,
        count: int = 0,
        payload: bytes = b"",
    ) -> None:
        """One frame in a datagram of its own."""
        datagram = wire.encode_frame(
            kind, flags, self.cluster, 0, 0, self.incarnation, receiver, term, index, commit, count, payload
        )
        self.datagrams.append((address, self._mac.seal(datagram) if self._mac is not None else datagram))

    def send_any(
        self,
        address: SocketAddress,
        kind: int,
        now: Nanoseconds,
        *,
        flags: int,
        receiver: Incarnation,
        term: int,
        index: int,
        commit: int,
        count: int,
        payload: bytes,
    ) -> None:
        """One frame, in fragments if it exceeds a datagram; lost if too many wait, as datagrams are."""
        if len(payload) <= self.room or self._fragmenter is None:
            self.send(
                address, kind, flags=flags, receiver=receiver, term=term, index=index, commit=commit, count=count,
                payload=payload,
            )  # fmt: skip
            return
        frame = wire.encode_frame(
            kind, flags, self.cluster, 0, 0, self.incarnation, receiver, term, index, commit, count, payload
        )
        self._fragmenter.send(address, frame, now, content=(kind, term, index, count))

    def send_records(self, address: SocketAddress, records: Iterable[bytes]) -> None:
        """Request records of at most `room` bytes each, as few datagrams as they fit."""
        packed: list[bytes] = []
        size = 0
        for record in records:
            if size + len(record) > self.room:
                self._send_request(address, packed)
                packed, size = [], 0
            packed.append(record)
            size += len(record)
        if packed:
            self._send_request(address, packed)

    def _send_request(self, address: SocketAddress, records: list[bytes]) -> None:
        life = self._life(address)
        self._numbers[life] += 1
        number = self._numbers[life] if life[1] else 0  # 0: not numbered
        self.send(
            address, wire.KIND_REQUEST, receiver=life[1], index=number, count=len(records), payload=b"".join(records)
        )

    def send_large(self, address: SocketAddress, record: bytes, now: Nanoseconds) -> int | None:
        """One request record in fragments, paced by poll(); the message's id, or None if too many wait."""
        fragmenter = self._fragmenter
        if fragmenter is None:
            return None
        life = self._life(address)
        number = self._large_numbers[life] + 1 if life[1] else 0
        frame = wire.encode_frame(
            wire.KIND_REQUEST, 0, self.cluster, 0, 0, self._large_id, life[1], 0, number, 0, 1, record
        )
        message_id = fragmenter.next_id
        if not fragmenter.send(address, frame, now):
            return None
        # Only now: numbers lie no further apart than their messages in the lane, whose span the node's window covers
        # (unless the node's address changes: then one may be dropped, and is sent again).
        self._large_numbers[life] += 1
        return message_id

    def under_way(self, address: SocketAddress, message_id: int) -> bool:
        """Whether fragments of that message are still being sent."""
        return self._fragmenter is not None and self._fragmenter.holds(address, message_id)

    def poll(self, now: Nanoseconds) -> None:
        """Sends the fragments that are due."""
        for reassembler in (self._reassembler, self._answers):
            if len(reassembler):
                reassembler.expire(now)
        if self._fragmenter is None or not self._fragmenter.bytes_waiting:
            return
        for address, fragment in self._fragmenter.poll(now):
            self.send(
                address,
                wire.KIND_FRAGMENT,
                term=fragment.message_id,
                index=fragment.number,
                commit=fragment.total_bytes,
                count=fragment.total,
                payload=fragment.payload,
            )

    def next_deadline(self) -> Nanoseconds | None:
        """When poll() is due at the latest."""
        fragmenter = self._fragmenter
        due = fragmenter.deadline() if fragmenter is not None and fragmenter.bytes_waiting else None
        return due if self.greet_due is None else min(due or self.greet_due, self.greet_due)

    # -- in -------------------------------------------------------------------------------------------------------

    def receive(
        self, datagram: bytes, source: SocketAddress, now: Nanoseconds
    ) -> Iterator[tuple[wire.Frame, bytes]]:
        """The valid frames of one datagram with their payloads. Only hello replies may be of another cluster.

        Fragments are acknowledged here; what they complete is among the frames.
        """
        if self._mac is not None:
            opened = self._mac.open(datagram)
            if opened is None:
                self.counters["bad_mac"] += 1
                return
            datagram = opened
        for frame, payload in wire.parse_datagram(datagram):
            kind = frame.kind
            if kind == wire.KIND_CLIENT_HELLO_REPLY:
                yield frame, payload
            elif kind == wire.KIND_FRAGMENT and payload[:1] == _HELLO:
                yield from self._on_fragment(frame, payload, source, now)
            elif not self.cluster or frame.cluster != self.cluster:
                self.counters["wrong_cluster"] += 1
            elif kind == wire.KIND_FRAGMENT:
                yield from self._on_fragment(frame, payload, source, now)
            elif kind == wire.KIND_FRAGMENT_ACK:
                self._on_ack(frame, payload, source, now)
                yield frame, payload
            else:
                yield frame, payload

    def _on_ack(self, frame: wire.Frame, payload: bytes, source: SocketAddress, now: Nanoseconds) -> None:
        fragmenter = self._fragmenter
        if fragmenter is not None and not fragmenter.on_ack(source, frame.term, frame.count, payload, now):
            self.counters["malformed"] += 1

    def _on_fragment(
        self, frame: wire.Frame, payload: bytes, source: SocketAddress, now: Nanoseconds
    ) -> Iterator[tuple[wire.Frame, bytes]]:
        is_answer = payload[:1] in _ANSWERS  # the kind of what is inside
        reassembler = self._answers if is_answer else self._reassembler
        bitmap, message = reassembler.on_fragment(source, frame, payload, now)
        if bitmap is None:
            self.counters["reassembly_full"] += 1
            return
        if not is_answer:
            self.send(source, wire.KIND_FRAGMENT_ACK, term=frame.term, count=frame.count, payload=bitmap)
        if message is not None:
            for inner, inner_payload in wire.parse_datagram(message):
                if inner.cluster == self.cluster or inner.kind == wire.KIND_CLIENT_HELLO_REPLY:
                    yield inner, inner_payload
