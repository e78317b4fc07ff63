"""Plain-Python twin of the wire codecs: the oracle of the property tests, never a fallback.

Written for reading next to the format, not for speed; shares no code with wire.pyx, so that the two can disagree.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

MAGIC: Final = 0x444D5251  # "QRMD"
VERSION: Final = 2
MAX_ENTRY_BYTES: Final = 1536 * 1024
FRAME_KINDS: Final = frozenset({*range(1, 5), *range(16, 23), *range(32, 39), *range(64, 74)})
HEARTBEAT: Final = 20
HEARTBEAT_REPLY: Final = 21
REQUEST: Final = 66

HEADER: Final = struct.Struct("<IBBHQIHHQQQQQIIII")
ENTRY: Final = struct.Struct("<IBBHQQQQ")
REPLY: Final = struct.Struct("<IBBHQQQ")
CRC_OFFSET: Final = 72

COMMAND, OPEN_SESSION, CLOSE_SESSION, EXPIRE_SESSION = range(1, 5)
READ, STALE_READ, KEEP_ALIVE, EXPIRE_LEASE, COMPACT, RULES = range(5, 11)
SHRINKING: Final = (2, 5, 7)
"""First bytes of the commands that free bytes: DELETE_RANGE, COMPACT, LEASE_REVOKE."""
MAX_OTHER_FRAMES: Final = 4096  # of one turn


def _crc_table() -> tuple[int, ...]:
    table = []
    for register in range(256):
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
        table.append(register)
    return tuple(table)


CRC_TABLE: Final = _crc_table()


def crc32c(data: bytes, seed: int = 0) -> int:
    """CRC-32C (RFC 3720, B.4), a byte at a time; continues from the finished CRC `seed`."""
    register = seed ^ 0xFFFFFFFF
    for byte in data:
        register = (register >> 8) ^ CRC_TABLE[(register ^ byte) & 0xFF]
    return register ^ 0xFFFFFFFF


# ---------------------------------------------------------------- frames


@dataclass(frozen=True, slots=True)
class Header:
    """Frame header without what follows from the payload. `reserved` and `group` are 0 in every valid frame."""

    kind: int
    flags: int = 0
    cluster: int = 0
    sender: int = 0
    receiver: int = 0
    sender_incarnation: int = 0
    receiver_incarnation: int = 0
    term: int = 0
    index: int = 0
    commit: int = 0
    count: int = 0
    group: int = 0
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class ParsedFrame:
    """A valid frame; payload_offset counts from the start of its datagram."""

    header: Header
    payload_offset: int
    payload: bytes


def encode_frame(header: Header, payload: bytes) -> bytes:
    """The frame's 80 header bytes, and the payload. The CRC takes in the payload first, then the header."""

    def packed(crc: int) -> bytes:
        return HEADER.pack(
            MAGIC,
            VERSION,
            header.kind,
            header.flags,
            header.cluster,
            header.group,
            header.sender,
            header.receiver,
            header.sender_incarnation,
            header.receiver_incarnation,
            header.term,
            header.index,
            header.commit,
            header.count,
            len(payload),
            crc,
            header.reserved,
        )

    return packed(crc32c(packed(0), crc32c(payload))) + payload


def _decode_frame(data: bytes) -> tuple[Header, bytes] | str:
    """The frame at the start of `data`, or the name of what is wrong with it."""
    if len(data) < HEADER.size:
        return "bad_length"
    fields = HEADER.unpack_from(data)
    magic, version, kind, flags, cluster, group, sender, receiver = fields[:8]
    sender_incarnation, receiver_incarnation, term, index, commit, count, length, crc, reserved = fields[8:]
    if magic != MAGIC:
        return "bad_magic"
    if version != VERSION:
        return "bad_version"
    payload = data[HEADER.size : HEADER.size + length]
    if len(payload) != length:
        return "bad_length"
    blank = data[:CRC_OFFSET] + bytes(4) + data[CRC_OFFSET + 4 : HEADER.size]
    if crc != crc32c(blank, crc32c(payload)):
        return "bad_crc"
    header = Header(
        kind=kind,
        flags=flags,
        cluster=cluster,
        sender=sender,
        receiver=receiver,
        sender_incarnation=sender_incarnation,
        receiver_incarnation=receiver_incarnation,
        term=term,
        index=index,
        commit=commit,
        count=count,
        group=group,
        reserved=reserved,
    )
    return header, payload


def parse_datagram(data: bytes) -> tuple[list[ParsedFrame], Counter[str]]:
    """Every valid frame of a datagram, and how many were dropped for which reason.

    A frame of unknown kind or with reserved bits is stepped over; any other damage ends the datagram.
    """
    frames: list[ParsedFrame] = []
    drops: Counter[str] = Counter()
    offset = 0
    while offset < len(data):
        decoded = _decode_frame(data[offset:])
        if isinstance(decoded, str):
            drops[decoded] += 1
            break
        header, payload = decoded
        start = offset + HEADER.size
        offset = start + len(payload)
        if header.reserved != 0 or header.group != 0:
            drops["bad_reserved"] += 1
        elif header.kind not in FRAME_KINDS:
            drops["bad_kind"] += 1
        else:
            frames.append(ParsedFrame(header, start, payload))
    return frames, drops


# ---------------------------------------------------------------- heartbeats


def take_beats(
    datagrams: Sequence[bytes], node: int, incarnation: int, known: dict[int, int], limit: int, cluster: int, term: int
) -> tuple[list[tuple[tuple[int, ...], bool | None, int, int]], list[int]]:
    """Twin of beats.Beats.take, with messages as plain tuples; known: the incarnation of each peer."""
    beats: list[tuple[tuple[int, ...], bool | None, int, int]] = []
    others: list[int] = []
    for slot, datagram in enumerate(datagrams):
        frames, _ = parse_datagram(datagram)
        header = frames[0].header if frames else Header(0)
        words = {HEARTBEAT: 2, HEARTBEAT_REPLY: 3}.get(header.kind, 0)
        if (
            words
            and len(datagram) == HEADER.size + 8 * words == HEADER.size + len(frames[0].payload)
            and (header.cluster, header.term) == (cluster, term)
            and (header.receiver, header.receiver_incarnation) == (node, incarnation)
            and header.sender_incarnation == known.get(header.sender, 0) != 0
            and max(header.index, header.commit) < limit
        ):
            digest_index, digest = struct.unpack("<QQ", frames[0].payload[-16:])
            if header.kind == HEARTBEAT:
                numbers, disk_full = (header.commit, header.index), None
            else:
                numbers, disk_full = (header.index, header.commit), bool(header.flags & 256)
            beats.append(((header.sender, node, term, *numbers), disk_full, digest_index, digest))
        else:
            others.append(slot)
    return beats, others


# ---------------------------------------------------------------- entry and reply records


@dataclass(frozen=True, slots=True)
class Entry:
    """One log entry, which is one client request."""

    kind: int
    session_hi: int = 0
    session_lo: int = 0
    seq: int = 0
    answered_below: int = 0
    command: bytes = b""


def encode_entry(entry: Entry, flags: int = 0, reserved: int = 0) -> bytes:
    """The record; `flags` and `reserved` are 0 in every valid one."""
    length = ENTRY.size + len(entry.command)
    head = (length, entry.kind, flags, reserved, entry.session_hi, entry.session_lo, entry.seq, entry.answered_below)
    return ENTRY.pack(*head) + entry.command


def decode_entry(data: bytes) -> tuple[Entry, int] | None:
    """The entry record at the start of `data` with its length, or None."""
    if len(data) < ENTRY.size:
        return None
    length, kind, flags, reserved, session_hi, session_lo, seq, answered_below = ENTRY.unpack_from(data)
    if not ENTRY.size <= length <= min(MAX_ENTRY_BYTES, len(data)) or flags or reserved or kind > RULES:
        return None
    return Entry(kind, session_hi, session_lo, seq, answered_below, data[ENTRY.size : length]), length


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer to one request."""

    status: int
    kind: int
    session_lo: int = 0
    seq: int = 0
    revision: int = 0
    body: bytes = b""


def encode_reply(reply: Reply) -> bytes:
    """One reply record."""
    length = REPLY.size + len(reply.body)
    return REPLY.pack(length, reply.status, reply.kind, 0, reply.session_lo, reply.seq, reply.revision) + reply.body


def decode_replies(payload: bytes, count: int) -> list[Reply] | None:
    """Exactly `count` reply records that fill the payload, or None."""
    replies: list[Reply] = []
    for _ in range(count):
        if len(payload) < REPLY.size:
            return None
        length, status, kind, reserved, session_lo, seq, revision = REPLY.unpack_from(payload)
        if not REPLY.size <= length <= len(payload) or reserved:
            return None
        replies.append(Reply(status, kind, session_lo, seq, revision, payload[REPLY.size : length]))
        payload = payload[length:]
    return None if payload else replies


# ---------------------------------------------------------------- staging of client requests


def _client_may_send(entry: Entry) -> bool:
    if entry.kind == COMMAND:
        return len(entry.command) >= 1
    if entry.kind in (OPEN_SESSION, CLOSE_SESSION, KEEP_ALIVE):
        return not entry.command
    return entry.kind in (READ, STALE_READ)


def request_records(payload: bytes, count: int) -> list[tuple[Entry, bytes]] | None:
    """Exactly `count` records that clients may send and that fill the payload, or None."""
    records: list[tuple[Entry, bytes]] = []
    for _ in range(count):
        decoded = decode_entry(payload)
        if decoded is None or not _client_may_send(decoded[0]):
            return None
        entry, length = decoded
        records.append((entry, payload[:length]))
        payload = payload[length:]
    return None if payload else records


def only_shrinks(entry: Entry) -> bool:
    """Whether the operation can only free bytes: let through when the disk is full."""
    shrinks = entry.kind == COMMAND and entry.command[:1] in [bytes([code]) for code in SHRINKING]
    return shrinks or entry.kind == CLOSE_SESSION


Staged = list[tuple[bytes, bytes]]
"""(address, record) of operations, in order of arrival."""


@dataclass(slots=True)
class StagedTurn:
    """What one turn's datagrams come to. `others` are (slot, frame) of what is not a client request."""

    capacity: int
    writes: Staged = field(default_factory=list)
    reads: Staged = field(default_factory=list)
    stale: Staged = field(default_factory=list)
    overflow: Staged = field(default_factory=list)
    others: list[tuple[int, ParsedFrame]] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)

    def take(self, addr: bytes, entry: Entry, record: bytes) -> None:
        classes = {READ: self.reads, KEEP_ALIVE: self.reads, STALE_READ: self.stale}
        target = classes.get(entry.kind, self.writes)
        if len(self.writes) + len(self.reads) + len(self.stale) >= self.capacity:
            target = self.overflow
        if target is self.overflow and len(self.overflow) >= self.capacity:
            self.drops["overflow"] += 1
        else:
            target.append((addr, record))


def stage(datagrams: Sequence[tuple[bytes, bytes]], cluster: int, capacity: int) -> StagedTurn:
    """Classifies every request record in the (bytes, address) datagrams; all or nothing per frame."""
    turn = StagedTurn(capacity)
    for slot, (data, addr) in enumerate(datagrams):
        frames, drops = parse_datagram(data)
        turn.drops += drops
        for frame in frames:
            if frame.header.kind != REQUEST:
                if len(turn.others) < MAX_OTHER_FRAMES:
                    turn.others.append((slot, frame))
                else:
                    turn.drops["overflow"] += 1
            elif frame.header.cluster != cluster:
                turn.drops["wrong_cluster"] += 1
            elif (records := request_records(frame.payload, frame.header.count)) is None:
                turn.drops["bad_record"] += 1
            else:
                for entry, record in records:
                    turn.take(addr, entry, record)
    return turn


# ---------------------------------------------------------------- packing


def group_replies(records: Iterable[tuple[bytes, bytes]], room: int) -> tuple[Staged, Staged]:
    """(address, reply record)s as (address, payload) of REPLY frames, and those that exceed `room` bytes alone.

    Addresses in order of first appearance, records of an address in order, each payload as full as that allows.
    """
    by_addr: dict[bytes, list[bytes]] = {}
    for addr, record in records:
        by_addr.setdefault(addr, []).append(record)
    packed: Staged = []
    too_large: Staged = []
    for addr, waiting in by_addr.items():
        payload = b""
        for record in waiting:
            if payload and len(payload) + len(record) > room:
                packed.append((addr, payload))
                payload = b""
            if len(record) > room:
                too_large.append((addr, record))
            else:
                payload += record
        if payload:
            packed.append((addr, payload))
    return packed, too_large


def join_frames(frames: Iterable[tuple[bytes, bytes]], room: int) -> Staged:
    """(address, frame)s as (address, datagram): consecutive frames to one address share one within `room` bytes."""
    datagrams: Staged = []
    for addr, frame in frames:
        if datagrams and datagrams[-1][0] == addr and len(datagrams[-1][1]) + len(frame) <= room:
            datagrams[-1] = (addr, datagrams[-1][1] + frame)
        else:
            datagrams.append((addr, frame))
    return datagrams
