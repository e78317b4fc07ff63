"""Plain-Python twin of the WAL framing, and a dumb model of the log ring: the oracles of the property tests.

Written from the format's description and not from the compiled code, so that a mistake must be made twice to pass.
Slow on purpose; never imported by a running node.
"""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

SEGMENT: Final = struct.Struct("<8sIIQQQQQQQQQII")
BATCH: Final = struct.Struct("<IIIIQQQIIQQ")
RECORD: Final = struct.Struct("<IIIBBHQIIQ")
SECTOR: Final = 512
BATCH_MAGIC: Final = int.from_bytes(b"QBAT", "little")
HARD_STATE, APPEND, TRUNCATE, ACCEPT, REACCEPT = 1, 2, 3, 4, 5
LIMIT: Final = 1 << 64


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE: Final = _crc_table()


def crc32c(data: bytes, seed: int = 0) -> int:
    """CRC-32C, a byte at a time; seed and result are finished CRCs."""
    crc = seed ^ 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Header(NamedTuple):
    """A segment header; the same fields in the same order as walframe.SegmentHeader."""

    number: int
    segment_bytes: int
    nonce: int
    cluster: int
    node: int
    term: int
    vote: int
    first_index: int
    commit: int
    prev_chain: int
    seed: int


@dataclass(frozen=True, slots=True)
class Item:
    """One record to write: HARD_STATE has the vote as index, TRUNCATE the last index kept."""

    kind: int
    index: int
    count: int
    term: int
    payload: bytes


class Scan(NamedTuple):
    """The same fields in the same order as walframe.ScanResult."""

    records: list[tuple[int, int, int, int, int, int, int]]
    end_offset: int
    end_chain: int
    commit: int
    synced_to: int
    seq: int
    batches: int
    stop: str | None
    stop_offset: int
    stop_index: int


# -- segment header ----------------------------------------------------------------------------------------------


def encode_segment_header(header: Header, version: int = 2) -> bytes:
    """512 bytes: magic, version, CRC over the block with the CRC field zero, the fields but for the seed, zeros."""

    def block(crc: int) -> bytes:
        return SEGMENT.pack(b"QRMDWAL1", version, crc, *header[:-1], 0).ljust(SECTOR, b"\0")

    return block(crc32c(block(0)))


def decode_segment_header(data: bytes) -> Header | None:
    """The header, or None if anything about it is wrong."""
    block = bytes(data[:SECTOR])
    if len(block) < SECTOR:
        return None
    magic, version, crc = SEGMENT.unpack_from(block)[:3]
    reserved = SEGMENT.unpack_from(block)[-1]
    if magic != b"QRMDWAL1" or version not in (1, 2) or reserved != 0:
        return None
    if crc32c(block[:12] + bytes(4) + block[16:]) != crc:
        return None
    header = Header._make((*SEGMENT.unpack_from(block)[3:-1], 0))
    if header.segment_bytes % SECTOR or header.segment_bytes <= SECTOR:
        return None
    if (header.number + 1) * header.segment_bytes >= LIMIT:
        return None
    return header._replace(seed=crc32c(struct.pack("<Q", header.nonce), crc))


# -- batches -----------------------------------------------------------------------------------------------------


def encode_batch(
    header: Header, offset: int, chain: int, knows: tuple[int, int, int], items: list[Item]
) -> tuple[bytes, int]:
    """(the padded batch, the chain after it); `knows` is (synced_to, commit, seq)."""
    synced_to, commit, seq = knows
    length = BATCH.size + sum(RECORD.size + len(item.payload) for item in items)
    position = header.number * header.segment_bytes + offset

    def batch_header(crc: int) -> bytes:
        return BATCH.pack(BATCH_MAGIC, crc, length, len(items), position, synced_to, commit, chain, 0, seq, 0)

    crc = crc32c(batch_header(0), header.seed)
    out = batch_header(crc)
    for item in items:
        rest = (crc32c(item.payload), len(item.payload), item.kind, 0, 0, item.index, item.count, 0, item.term)
        crc = crc32c(RECORD.pack(0, *rest), crc)
        out += RECORD.pack(crc, *rest) + item.payload
    return out + bytes(-len(out) % SECTOR), crc


class _Batch(NamedTuple):
    length: int
    records: int
    synced_to: int
    commit: int
    chain_in: int
    seq: int
    crc: int


def _batch_header(data: bytes, header: Header, offset: int) -> _Batch | str:
    """The batch header at `offset`, or why there is none."""
    raw = data[offset : offset + BATCH.size]
    if len(raw) < BATCH.size or raw[:4] != b"QBAT":
        return "end"
    _, crc, length, records, position, synced_to, commit, chain_in, zero, seq, zero2 = BATCH.unpack(raw)
    if crc32c(raw[:4] + bytes(4) + raw[8:], header.seed) != crc:
        return "bad_header"
    if position != header.number * header.segment_bytes + offset or synced_to > position or zero or zero2:
        return "bad_header"
    return _Batch(length, records, synced_to, commit, chain_in, seq, crc)


def _plausible(record: tuple[int, ...]) -> bool:
    _, _, length, kind, flags, zero, index, count, zero2, _ = record
    if flags or zero or zero2:
        return False
    if kind == REACCEPT:
        return count > 0 and index > 0 and index + count < LIMIT and length == 0
    if kind in (APPEND, ACCEPT):
        return count > 0 and index > 0 and index + count < LIMIT and length >= 40 * count
    return kind in (HARD_STATE, TRUNCATE) and count == 0 and length == 0 and index < LIMIT - 1


class _Walk:
    """Records of one batch: `found` so far, `chain` and `next_index` as they go on."""

    def __init__(self, chain: int, next_index: int) -> None:
        self.chain = chain
        self.next_index = next_index
        self.found: list[tuple[int, int, int, int, int, int, int]] = []

    def records(self, data: bytes, base: int, offset: int, batch: _Batch) -> str | None:
        end = offset + batch.length
        offset += BATCH.size
        for _ in range(batch.records):
            raw = data[offset : min(end, offset + RECORD.size)]
            if len(raw) < RECORD.size:
                return "bad_record"
            record = RECORD.unpack(raw)
            crc, payload_crc, length, kind, _, _, index, count, _, term = record
            payload = data[offset + RECORD.size : min(end, offset + RECORD.size + length)]
            if crc32c(bytes(4) + raw[4:], self.chain) != crc or len(payload) < length:
                return "bad_record"
            if not _plausible(record):
                return "bad_record"
            if kind in (APPEND, ACCEPT, REACCEPT):
                self.next_index = index
            if crc32c(payload) != payload_crc:
                return "bad_payload"
            self.found.append((kind, index, count, term, offset + RECORD.size, length, base + offset))
            self.chain = crc
            after = index + count
            self.next_index = {
                APPEND: after, ACCEPT: after, REACCEPT: after, TRUNCATE: index + 1, HARD_STATE: self.next_index,
            }[kind]
            offset += RECORD.size + length
        return None if offset == end else "bad_record"


def scan(data: bytes, header: Header, offset: int, chain: int) -> Scan:
    """walframe.scan, the slow way."""
    data = bytes(data[: header.segment_bytes])
    base = header.number * header.segment_bytes
    records: list[tuple[int, int, int, int, int, int, int]] = []
    commit = synced_to = seq = batches = 0
    next_index = header.first_index
    stop: str | None = None
    while offset < len(data):
        batch = _batch_header(data, header, offset)
        if isinstance(batch, str):
            stop = batch
        elif not BATCH.size <= batch.length <= len(data) - offset:
            stop = "overrun"
        elif batch.chain_in != chain:
            stop = "bad_chain"
        else:
            walk = _Walk(batch.crc, next_index)
            stop = walk.records(data, base, offset, batch)
            next_index = walk.next_index
        if stop is not None or isinstance(batch, str):
            break
        records += walk.found
        chain, seq, batches = walk.chain, batch.seq, batches + 1
        commit, synced_to = max(commit, batch.commit), max(synced_to, batch.synced_to)
        offset += batch.length + -batch.length % SECTOR
    return Scan(records, offset, chain, commit, synced_to, seq, batches, stop, offset, next_index)


def highest_synced(data: bytes, header: Header, from_offset: int) -> tuple[int, int]:
    """walframe.highest_synced, the slow way."""
    data = bytes(data[: header.segment_bytes])
    synced_to = position = 0
    for offset in range(SECTOR, len(data), SECTOR):
        batch = _batch_header(data, header, offset)
        if offset >= from_offset and isinstance(batch, _Batch):
            synced_to = max(synced_to, batch.synced_to)
            position = header.number * header.segment_bytes + offset
    return synced_to, position


def claimed_synced(data: bytes, base: int) -> int | None:
    """walframe.claimed_synced, the slow way."""
    claims = []
    for offset in range(0, len(data) - BATCH.size + 1, SECTOR):
        magic, _, _, _, position, synced_to, *_ = BATCH.unpack_from(data, offset)
        if magic == BATCH_MAGIC and position == base + offset and synced_to <= position:
            claims.append(synced_to)
    return max(claims, default=None)


# -- the ring ----------------------------------------------------------------------------------------------------


class RingModel:
    """What Ring does, on a list: (index, place, bytes) per entry, place being a position that only grows.

    Entry i+1 lies right behind entry i, or at the next multiple of the capacity when it would cross that.
    """

    def __init__(self, capacity_bytes: int, capacity_entries: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.capacity_entries = capacity_entries
        self.reset(1)

    def reset(self, next_index: int) -> None:
        """Empty; the next entry is `next_index`."""
        self.entries: list[tuple[int, int, bytes]] = []
        self.next_index = next_index
        self.pin = next_index
        self.head = 0

    @property
    def first(self) -> int:
        """Oldest index held."""
        return self.entries[0][0] if self.entries else self.next_index

    @property
    def last(self) -> int:
        """Newest index held."""
        return self.next_index - 1

    def append(self, records: list[bytes], first_index: int) -> bool:
        """Supersedes, then evicts one by one from the oldest until it fits; False if a pinned entry is in the way."""
        if not 0 < first_index <= self.next_index:
            raise ValueError("gap")
        kept = [entry for entry in self.entries if entry[0] < first_index]
        dropped = [entry for entry in self.entries if entry[0] >= first_index]
        if kept:
            head = kept[-1][1] + len(kept[-1][2])
        else:
            head = dropped[0][1] if dropped else self.head
        new = []
        for i, record in enumerate(records):
            room = -head % self.capacity_bytes
            if room and room < len(record):
                head += room
            new.append((first_index + i, head, record))
            head += len(record)
        while kept and not self._fits(kept + new):
            if kept[0][0] >= self.pin:
                return False
            kept.pop(0)
        if not self._fits(new):
            return False
        self.entries = kept + new
        self.head = head
        self.pin = min(self.pin, first_index)
        self.next_index = first_index + len(records)
        return True

    def _fits(self, entries: list[tuple[int, int, bytes]]) -> bool:
        size = entries[-1][1] + len(entries[-1][2]) - entries[0][1]
        return size <= self.capacity_bytes and len(entries) <= self.capacity_entries

    def truncate(self, last: int) -> None:
        """Drops everything after `last`."""
        if last >= self.last:
            return
        if last + 1 < self.first:
            self.reset(last + 1)
            return
        dropped = [entry for entry in self.entries if entry[0] > last]
        kept = self.entries[: len(self.entries) - len(dropped)]
        self.head = kept[-1][1] + len(kept[-1][2]) if kept else dropped[0][1]
        self.entries = kept
        self.next_index = last + 1
        self.pin = min(self.pin, last + 1)

    def copy(self, first: int, last: int) -> bytes:
        """The bytes of first..last."""
        return b"".join(data for index, _, data in self.entries if first <= index <= last)
