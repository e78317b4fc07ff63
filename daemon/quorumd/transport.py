"""The UDP protocol between nodes: who a peer is, which life of it speaks, what its frames mean. No socket in it.

Rules kept here:
- A peer is known by the node id in the header, not by the address it sends from; we send to its configured address,
  which for a name is the one that it shows now (names.py).
- A frame counts only between known incarnations: the sender's must be the one it proved in a handshake, the
  receiver's must be ours. A handshake is HELLO(nonce) -> HELLO_REPLY(nonce) to the configured address, so a forged or
  replayed HELLO can make us ask, but can teach us nothing.
- Whatever is wrong with a frame is counted by reason and dropped; nothing a peer sends raises into the loop.
- The engine stays safe without the incarnation filter; the simulator switches it off to prove that.

Frame bodies are in peercodec.py. Longer than most files: admission of frames and sending share one table of peers.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from quorumd import limits, peercodec
from quorumd.consensus.messages import Heartbeat, HeartbeatReply
from quorumd.entryruns import EntryRuns, Sender
from quorumd.fragments import Fragmenter, Reassembler, first_of
from quorumd.log import Log
from quorumd.peercodec import BODY_APPEND, Codec, Reporter, RunFields
from quorumd.sources import BytesSource, SlabSource
from quorumd.types import Address, Incarnation, Index, Nanoseconds, NodeId, Term
from quorumd_fastpath import wire
from quorumd_fastpath.beats import Beats
from quorumd_fastpath.ring import check_entries
from quorumd_fastpath.wire import Counters, Outbox, Slab

# HELLO flags: what the sender is
HAS_STATE = 1  # its data directory held a cluster before this start
BOOTSTRAPPING = 2  # started with --bootstrap and still empty
VOTER = 4

BODY_HELLO = struct.Struct("<QQQQQHHI")  # nonce, hashes of HASHED_KEYS, wire version min, max, 0

HELLO_EVERY = 50 * limits.MILLISECOND
HELLO_REPLIES_PER_TURN = 16
SILENT_AFTER = 1 * limits.SECOND
TICK_EVERY = 5 * limits.MILLISECOND
NEVER: Nanoseconds = 1 << 62
MAX_CLAIMS = 1024  # digests kept for one turn


class Identity(NamedTuple):
    """Who this node is on the wire. `hashes` maps each of HASHED_KEYS to a 64-bit hash of its value."""

    node: NodeId
    incarnation: Incarnation
    hashes: Mapping[str, int]


MUST_AGREE = ("nodes", "engine", "quorums")  # or nodes do not talk
MAY_DIFFER = "storage.quota_mib"  # for a while: each leader says its own in the log, for all (ownentries.py)
HASHED_KEYS = (*MUST_AGREE, MAY_DIFFER)


class Peer:
    """What this node knows of one other member."""

    __slots__ = (
        "address",
        "answered",
        "cluster",
        "differs",
        "disk_full",
        "flags",
        "heard_at",
        "hello_due",
        "incarnation",
        "node",
        "nonce",
        "refusal",
        "term",
    )

    def __init__(self, node: NodeId, address: Address) -> None:
        self.node = node
        self.address = address
        self.incarnation: Incarnation = 0  # proven by a handshake; 0: none yet
        self.nonce = 0  # of the handshake under way; 0: none
        self.hello_due: Nanoseconds = 0
        self.heard_at: Nanoseconds = 0
        self.refusal = ""  # why we do not talk to it, "" if we do
        self.differs = False  # it was told another MAY_DIFFER
        self.disk_full = False  # it said so in its last reply
        self.flags = 0
        self.cluster = 0
        self.term = 0  # it named in its last handshake
        self.answered = False  # any handshake completed in this life


class Transport:
    """Frames in, engine messages out, and the reverse. Owned by core.py; `outbox` is sent by it at the turn's end."""

    def __init__(
        self,
        identity: Identity,
        peers: Mapping[NodeId, Address],
        outbox: Outbox,
        log: Log,
        codec: Codec,
        random_u64: Callable[[], int],
        mtu: int,
        *,
        filter_incarnations: bool = True,
    ) -> None:
        self.identity = identity
        self.cluster = 0
        self.hello_flags = 0
        self.term = 0  # the engine's, as of the last turn; told in handshakes
        self.peers = {node: Peer(node, address) for node, address in peers.items() if node != identity.node}
        self.outbox = outbox
        self.codec = codec
        self.counters = Counters()
        self.report: Reporter = peercodec.nothing_to_report
        self.verdict = peercodec.verdict(0, 0)  # what this node's heartbeats say a majority has
        # Digests heard since core looked last, all of them: a forged one must not hide the genuine one beside it.
        # What followers say they have, and what leaders say a majority has. (term, sender, index, digest)
        self.claims: set[tuple[Term, NodeId, Index, int]] = set()
        self.verdicts: set[tuple[Term, NodeId, Index, int]] = set()
        self.settled: tuple[Term, Index, int] = (0, 0, 0)  # term, index, digest: equal to ours, to be heard no more
        self.notices: list[tuple[str, NodeId, str]] = []  # for the node's log: event, peer, reason; taken by core
        self.fragmenter: Fragmenter[NodeId] = Fragmenter(mtu, first_id=first_of(identity.incarnation))
        single_bytes = mtu - limits.HEADER_BYTES - limits.MAC_BYTES
        self.runs = EntryRuns(outbox, log, self.fragmenter, single_bytes, self._sender)
        self.reassembler: Reassembler[tuple[NodeId, Incarnation]] = Reassembler()
        self._random_u64 = random_u64
        # `tick` has nothing to do before the first of these, and the second is worth a turn of its own.
        self._tick_due: Nanoseconds = 0
        self._wake_due: Nanoseconds = 0
        self._filter = filter_incarnations
        self._hello_replies = 0  # since the last tick
        self._beats = Beats(identity.node, identity.incarnation, limits.MAX_NUMBER, Heartbeat, HeartbeatReply)

    # -- receiving ----------------------------------------------------------------------------------------------

    def receive(self, slab: Slab, now: Nanoseconds) -> list[Any]:
        """Decodes every datagram of the slab; sources in the result are valid until slab.clear().

        Lone heartbeats come first, as the network could have had it: on an idle node nothing else arrives. They need
        none of the questions of _admit, and what is done with them is what _admit and _message do.
        """
        messages: list[Any] = []
        beats, others = self._beats.take(slab, self.cluster, self.term)
        for beat, disk_full, digest_index, digest in beats:
            peer = self.peers[beat.sender]
            peer.heard_at = now
            if disk_full is not None:
                peer.disk_full = disk_full
            if digest_index and (self.term, digest_index, digest) != self.settled:
                note(self.verdicts if disk_full is None else self.claims, self.term, peer.node, digest_index, digest)
            messages.append(beat)
        for slot in others:
            for frame in wire.parse_frames(slab, slot, self.counters):
                self._frame(frame, slab, slot, now, messages)
        return messages

    def _frame(self, frame: wire.Frame, slab: Slab, slot: int, now: Nanoseconds, out: list[Any]) -> None:
        kind = frame[2]
        peer = self._admit(frame, kind, now)
        if peer is None:
            return
        offset, length = frame[0], frame[1]
        if kind in self.codec.run_decoders:
            view = slab.view(slot)
            if length > BODY_APPEND.size:
                source: object = SlabSource(slab, slot, offset + BODY_APPEND.size, length - BODY_APPEND.size)
            else:
                source = None
            self._entries(frame, view, offset, length, source, out)
            return
        if kind in (wire.KIND_HELLO, wire.KIND_HELLO_REPLY):
            self._hello(peer, frame, slab.view(slot)[offset : offset + length], now)
        elif kind == wire.KIND_FRAGMENT:
            self._fragment(peer, frame, bytes(slab.view(slot)[offset : offset + length]), now, out)
        elif kind == wire.KIND_FRAGMENT_ACK:
            payload = bytes(slab.view(slot)[offset : offset + length])
            if not self.fragmenter.on_ack(peer.node, frame[9], frame[12], payload, now):
                self.counters.increment(wire.DROP_BAD_BODY)
        else:
            self._message(peer, frame, slab.view(slot)[offset : offset + length], out)

    def _message(self, peer: Peer, frame: wire.Frame, body: memoryview, out: list[Any]) -> None:
        decode = self.codec.decoders.get(frame[2])
        if decode is None:
            self.counters.increment(wire.DROP_BAD_KIND)
            return
        try:
            message, index, digest, disk_full = decode(frame, body)
        except struct.error:
            self.counters.increment(wire.DROP_BAD_BODY)
            return
        if disk_full is not None:
            peer.disk_full = disk_full
        if index:
            note(self.verdicts if type(message) is Heartbeat else self.claims, frame[9], peer.node, index, digest)
        out.append(message)

    def _admit(self, frame: wire.Frame, kind: int, now: Nanoseconds) -> Peer | None:
        """The sender, if this frame may be looked at; else the reason is counted."""
        sender, receiver, sender_inc, receiver_inc, cluster = frame[5], frame[6], frame[7], frame[8], frame[13]
        peer = self.peers.get(sender)
        if peer is None or frame[4] != 0:
            self.counters.increment(wire.DROP_UNKNOWN_SENDER)
            return None
        if receiver != self.identity.node:
            self.counters.increment(wire.DROP_WRONG_RECEIVER)
            return None
        if kind in (wire.KIND_HELLO, wire.KIND_HELLO_REPLY):
            return peer
        if cluster != self.cluster or not cluster:
            self.counters.increment(wire.DROP_WRONG_CLUSTER)
            return None
        if peer.refusal:
            self.counters.increment(wire.DROP_UNKNOWN_SENDER)
            return None
        if self._filter and (sender_inc != peer.incarnation or receiver_inc != self.identity.incarnation):
            if receiver_inc != self.identity.incarnation:
                self.counters.increment(wire.DROP_STALE_RECEIVER)
            elif sender_inc < peer.incarnation:
                self.counters.increment(wire.DROP_OLD_INCARNATION)
            else:
                self.counters.increment(wire.DROP_UNKNOWN_SENDER)
            self._greet(peer, now)
            return None
        if kind >= wire.KIND_REQUEST_VOTE and not self._plausible(peer, frame):
            self.counters.increment(wire.DROP_BAD_BODY)
            return None
        peer.heard_at = now
        return peer

    def _plausible(self, peer: Peer, frame: wire.Frame) -> bool:
        """Whether the header's numbers can be true. A handshake, which is fresh, may have told of a later term."""
        term, index, commit = frame[9], frame[10], frame[11]
        newest = max(self.term, peer.term) + limits.MAX_TERM_STEP
        return term <= newest and max(term, index, commit) < limits.MAX_NUMBER

    def _entries(
        self, frame: wire.Frame, view: memoryview, offset: int, length: int, source: object, out: list[Any]
    ) -> None:
        """A frame whose body holds entries, from `offset` of `view` on."""
        count, body = frame[12], BODY_APPEND.size
        if length < body or not check_entries(view, offset + body, length - body, count):
            self.counters.increment(wire.DROP_BAD_BODY)
            return
        prev_term, entries_term, reserved = BODY_APPEND.unpack_from(view, offset)
        decoder = self.codec.run_decoders[frame[2]]
        fields = RunFields(prev_term, entries_term, count, source)
        believable = max(prev_term, entries_term) <= max(self.term, frame[9]) + limits.MAX_TERM_STEP
        message = None if reserved or not believable else decoder(frame, fields)
        if message is None:
            self.counters.increment(wire.DROP_BAD_BODY)
            return
        out.append(message)

    def _fragment(
        self, peer: Peer, frame: wire.Frame, payload: bytes, now: Nanoseconds, out: list[Any]
    ) -> None:
        self._tick_due = min(self._tick_due, now + TICK_EVERY)  # which drops what never becomes whole
        ack, message = self.reassembler.on_fragment((peer.node, peer.incarnation), frame, payload, now)
        if ack is None:
            self.counters.increment(wire.DROP_REASSEMBLY_FULL)
            return
        self._put(peer, wire.KIND_FRAGMENT_ACK, frame[9], count=frame[12], payload=ack)
        if message is None:
            return
        # The whole message is a frame of its own, checked like any other; fragments do not nest.
        for inner, inner_payload in wire.parse_datagram(message, self.counters):
            if inner[2] not in self.codec.run_decoders or self._admit(inner, inner[2], now) is not peer:
                self.counters.increment(wire.DROP_BAD_BODY)
                return
            source = BytesSource(inner_payload, BODY_APPEND.size) if len(inner_payload) > BODY_APPEND.size else None
            self._entries(inner, memoryview(inner_payload), 0, len(inner_payload), source, out)

    # -- handshake ----------------------------------------------------------------------------------------------

    def _greet(self, peer: Peer, now: Nanoseconds) -> None:
        if now < peer.hello_due:
            return
        peer.hello_due = now + HELLO_EVERY
        if not peer.nonce:
            peer.nonce = self._random_u64() | 1
        self._send_hello(peer, wire.KIND_HELLO, peer.nonce, 0)

    def _send_hello(self, peer: Peer, kind: int, nonce: int, receiver_incarnation: Incarnation) -> None:
        hashes = self.identity.hashes
        version = wire.WIRE_VERSION
        body = BODY_HELLO.pack(nonce, *(hashes[key] for key in HASHED_KEYS), version, version, 0)
        self.outbox.frame(
            peer.address, kind, self.hello_flags, peer.node, receiver_incarnation, self.term, 0, 0, 0, body
        )

    def _hello(self, peer: Peer, frame: wire.Frame, payload: memoryview, now: Nanoseconds) -> None:
        if len(payload) != BODY_HELLO.size:
            self.counters.increment(wire.DROP_BAD_BODY)
            return
        self._tick_due = min(self._tick_due, now + TICK_EVERY)  # which allows the next replies
        nonce, *hashes, low, high, reserved = BODY_HELLO.unpack(payload)
        if reserved:
            self.counters.increment(wire.DROP_BAD_BODY)
            return
        if frame[2] == wire.KIND_HELLO:
            self._hello_replies += 1
            if self._hello_replies > HELLO_REPLIES_PER_TURN:
                self.counters.increment(wire.DROP_OVERFLOW)
                return
            self._send_hello(peer, wire.KIND_HELLO_REPLY, nonce, frame[7])
            if frame[7] != peer.incarnation:
                self._greet(peer, now)
            return
        if not peer.nonce or nonce != peer.nonce or frame[8] != self.identity.incarnation:
            self.counters.increment(wire.DROP_STALE_RECEIVER)
            return
        peer.nonce = 0
        self._learn(peer, frame, dict(zip(HASHED_KEYS, hashes, strict=True)), (low, high), now)

    def _learn(
        self, peer: Peer, frame: wire.Frame, hashes: dict[str, int], versions: tuple[int, int], now: Nanoseconds
    ) -> None:
        # The nonce makes the answer fresh, so what it says replaces what was known, be its incarnation lower or not.
        if frame[7] != peer.incarnation:
            self.fragmenter.forget(peer.node)
            self.reassembler.forget((peer.node, peer.incarnation))
        peer.incarnation = frame[7]
        peer.flags = frame[3]
        peer.cluster = frame[13]
        peer.term = frame[9]
        peer.heard_at = now
        peer.answered = True
        refusal = self._refusal(peer, hashes, versions)
        if refusal and refusal != peer.refusal:
            self.notices.append(("peer_refused", peer.node, refusal))
        peer.refusal = refusal
        differs = hashes[MAY_DIFFER] != self.identity.hashes[MAY_DIFFER]
        if differs and not peer.differs:
            reason = f"its config differs in '{MAY_DIFFER}': the leader's own holds until all nodes have the same file"
            self.notices.append(("peer_differs", peer.node, reason))
        peer.differs = differs
        if refusal:
            self._wake_due = min(self._wake_due, peer.hello_due)
        if self._filter:  # without it no incarnation is known to be the right one
            self._beats.know(peer.node, 0 if refusal else peer.incarnation)

    def _refusal(self, peer: Peer, hashes: dict[str, int], versions: tuple[int, int]) -> str:
        for key in MUST_AGREE:
            if hashes[key] != self.identity.hashes[key]:
                more = ", or in raft.lease_reads and timing with it" if key == "engine" else ""
                return f"its config differs in '{key}'{more}; give every node the same file"
        if self.cluster and peer.cluster and peer.cluster != self.cluster:
            return f"it belongs to cluster {peer.cluster:016x}, this node to {self.cluster:016x}"
        if not versions[0] <= wire.WIRE_VERSION <= versions[1]:
            return f"it speaks wire versions {versions[0]}..{versions[1]}, this node {wire.WIRE_VERSION}"
        return ""

    # -- sending ------------------------------------------------------------------------------------------------

    def send(self, message: Any, now: Nanoseconds) -> None:
        """Puts one engine message into the outbox (or parks it until its entries are back from disk)."""
        peer = self.peers[message.to]
        if peer.refusal or not peer.incarnation:
            self._greet(peer, now)
            return
        if (run_of := self.codec.run_encoders.get(type(message))) is not None:
            self.runs.send(peer, run_of(message), now)
        else:
            encode = self.codec.encoders[type(message)]
            kind, flags, index, commit, body = encode(message, self.report, self.verdict)
            self.outbox.frame(
                peer.address, kind, flags, peer.node, peer.incarnation, message.term, index, commit, 0, body
            )

    def _sender(self) -> Sender:
        return Sender(self.cluster, self.identity.node, self.identity.incarnation)

    def on_recalled(self, first: Index, term: Term, now: Nanoseconds) -> None:
        """Sends what waited for entries from `first` on."""
        for run in self.runs.unparked(first, term):
            peer = self.peers[run.to]
            if not peer.refusal and peer.incarnation:
                self.runs.send(peer, run, now)

    def _put(
        self,
        peer: Peer,
        kind: int,
        term: int,
        *,
        flags: int = 0,
        index: int = 0,
        commit: int = 0,
        count: int = 0,
        payload: bytes = b"",
    ) -> None:
        self.outbox.frame(
            peer.address, kind, flags, peer.node, peer.incarnation, term, index, commit, count, payload
        )

    def readdress(self, node: NodeId, address: Address) -> None:
        """From now on the peer is spoken to there, and is greeted there at once.

        What is known of it stays: it may be the same life of it. If it is another, the handshake says so.
        """
        peer = self.peers[node]
        peer.address = address
        peer.nonce = 0  # who answers from the old address proves nothing any more
        peer.hello_due = self._tick_due = self._wake_due = 0

    def tick(self, now: Nanoseconds) -> None:
        """Greets peers that are unknown or silent, resends fragments."""
        if now < self._tick_due and not self.fragmenter.bytes_waiting:
            return
        self._hello_replies = 0
        soon, wake = now + SILENT_AFTER, NEVER
        for peer in self.peers.values():
            if not peer.incarnation or peer.refusal:
                self._greet(peer, now)
                wake = min(wake, peer.hello_due)
            elif now - peer.heard_at > SILENT_AFTER:  # not worth a turn of its own: it may be down for long
                self._greet(peer, now)
                soon = min(soon, peer.hello_due)
            else:
                soon = min(soon, peer.heard_at + SILENT_AFTER + 1)
        self._tick_due, self._wake_due = min(soon, wake), wake
        self.reassembler.expire(now)
        for dest, (message_id, number, count, total_bytes, payload) in self.fragmenter.poll(now):
            peer = self.peers[dest]
            self._put(
                peer, wire.KIND_FRAGMENT, message_id, index=number, commit=total_bytes, count=count, payload=payload
            )

    def deadline(self) -> Nanoseconds:
        """When tick is due at the latest; NEVER if any turn that comes anyway will do."""
        due = self._wake_due
        if self.fragmenter.bytes_waiting:
            due = min(due, self.fragmenter.deadline() or due)
        return due


def note(heard: set[tuple[Term, NodeId, Index, int]], term: Term, node: NodeId, index: Index, digest: int) -> None:
    """Keeps a digest for core to judge."""
    if len(heard) < MAX_CLAIMS:
        heard.add((term, node, index, digest))
