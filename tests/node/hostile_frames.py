"""Hostile datagrams made from genuine ones: noise, replays, and mutations whose CRC is right again.

Pure and seeded; test_hostile.py feeds them to simulated nodes, bench/hostile.py to real ones. What is made here knows
nothing of a cluster key: under one, `sealed` says that recorded datagrams end in a MAC that will no longer fit.
"""

import random
import struct
from collections import deque
from collections.abc import Callable

from quorumd.limits import HEADER_BYTES, MAC_BYTES
from quorumd_fastpath import crc, wire
from quorumd_fastpath.reference import CRC_OFFSET, HEADER

FIELDS = (
    *("magic", "version", "kind", "flags", "cluster", "group", "sender", "receiver", "sender_incarnation"),
    *("receiver_incarnation", "term", "index", "commit", "count", "payload_length", "crc", "reserved"),
)
WIDTHS = dict(zip(FIELDS, (32, 8, 8, 16, 64, 32, 16, 16, 64, 64, 64, 64, 64, 32, 32, 32, 32), strict=True))
PAYLOAD_LENGTH, CRC = FIELDS.index("payload_length"), FIELDS.index("crc")
# What a frame is about: mutating the others mostly shows that the first checks work.
DEEP_FIELDS = ("kind", "flags", "sender", "term", "index", "commit", "count")
KINDS = tuple(value for name, value in vars(wire).items() if name.startswith("KIND_"))
EDGES = tuple(edge for bit in (0, 1, 7, 8, 16, 31, 32, 40, 61, 62, 63, 64) for edge in ((1 << bit) - 1, 1 << bit))
FRAGMENT_PREFIX = struct.Struct("<BBHI")
MAX_DATAGRAM = 65_000


def split(datagram: bytes) -> list[bytes]:
    """The frames of a genuine datagram, each with its payload."""
    frames = []
    offset = 0
    while offset + HEADER_BYTES <= len(datagram):
        end = offset + HEADER_BYTES + HEADER.unpack_from(datagram, offset)[PAYLOAD_LENGTH]
        frames.append(datagram[offset:end])
        offset = end
    return frames


def with_crc(frame: bytes) -> bytes:
    """The frame with the CRC that its header and payload (as long as the header claims, if it is there) ask for."""
    length = HEADER.unpack_from(frame)[PAYLOAD_LENGTH]
    head = frame[:CRC_OFFSET] + bytes(4) + frame[CRC_OFFSET + 4 : HEADER_BYTES]
    seed = crc.crc32c(frame[HEADER_BYTES : HEADER_BYTES + length])
    return head[:CRC_OFFSET] + crc.crc32c(head, seed).to_bytes(4, "little") + frame[CRC_OFFSET + 4 :]


class Recording:
    """The newest genuine datagrams to one destination, `each` of every kind (that of the first frame)."""

    def __init__(self, each: int = 64) -> None:
        self.each = each
        self.by_kind: dict[int, deque[bytes]] = {}
        self.seen = 0

    def add(self, datagram: bytes) -> None:
        """Remembers one."""
        self.seen += 1
        kind = datagram[5]
        kept = self.by_kind.get(kind)
        if kept is None:
            kept = self.by_kind[kind] = deque(maxlen=self.each)
        kept.append(datagram)

    def draw(self, rng: random.Random) -> bytes:
        """Any of them; every kind is as likely as the others, however rare it is on the wire."""
        kept = self.by_kind[rng.choice(tuple(self.by_kind))]
        return kept[rng.randrange(len(kept))]


class Hostile:
    """Draws hostile datagrams. `recorded` are genuine ones of the plane they are meant for, and may grow meanwhile."""

    def __init__(self, rng: random.Random, recorded: Recording, *, sealed: bool = False) -> None:
        self.rng = rng
        self.recorded = recorded
        self.sealed = sealed
        self._burst: list[bytes] = []
        self._message = rng.getrandbits(48)

    # -- a third: random, bit-flipped ---------------------------------------------------------------------------

    def noise(self) -> bytes:
        """Random bytes of any length, or a genuine datagram with bits flipped, cut or prolonged."""
        rng = self.rng
        if rng.random() < 0.5:
            size = rng.randrange(rng.choice((17, 200, 1500, 1500, 9000)))
            random_bytes = rng.randbytes(size)
            return random_bytes if rng.random() < 0.5 else (struct.pack("<IB", wire.MAGIC, 1) + random_bytes)
        datagram = bytearray(self.recorded.draw(rng))
        for _ in range(rng.randint(1, 8)):
            bit = rng.randrange(8 * len(datagram))
            datagram[bit // 8] ^= 1 << bit % 8
        if rng.random() < 0.3:
            del datagram[rng.randrange(len(datagram)) :]
        elif rng.random() < 0.1:
            datagram += rng.randbytes(rng.randrange(300))
        return bytes(datagram)

    # -- a third: genuine, replayed, duplicated, reordered ----------------------------------------------------------

    def replay(self) -> bytes:
        """A genuine datagram of some time ago, often the same several times, in no order."""
        if not self._burst:
            self._burst = [self.recorded.draw(self.rng)] * self.rng.choice((1, 1, 2, 5))
        return self._burst.pop()

    # -- a third: mutated, with the CRC recomputed ------------------------------------------------------------------

    def mutated(self) -> bytes:
        """A genuine datagram of which one frame says something else."""
        while True:
            datagram = self.recorded.draw(self.rng)
            mutated = self._mutate(datagram)
            if mutated != datagram:
                return mutated

    def _mutate(self, datagram: bytes) -> bytes:
        rng = self.rng
        tail = b""
        if self.sealed:
            datagram, tail = datagram[:-MAC_BYTES], datagram[-MAC_BYTES:]
        frames = split(datagram)
        at = rng.randrange(len(frames))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            frames[at] = with_crc(rng.choice(MUTATIONS)(self, frames[at]))
        if rng.random() < 0.1:
            frames[at] = self.fragmented(frames[at])
        if rng.random() < 0.05:
            frames *= rng.randint(2, 20)
        return b"".join(frames)[: MAX_DATAGRAM - len(tail)] + tail

    def number(self, bits: int, old: int) -> int:
        """A number to put where `old` was: edges of integer types, neighbours, flipped bits, anything."""
        rng = self.rng
        new = rng.choice(
            (
                rng.choice(EDGES),
                old + rng.choice((-2, -1, 1, 2, 1 << 10, 1 << 20)),
                old ^ 1 << rng.randrange(bits),
                rng.getrandbits(bits),
            )
        )
        return new & (1 << bits) - 1

    def _header(self, frame: bytes, name: str) -> bytes:
        values = list(HEADER.unpack_from(frame))
        field = FIELDS.index(name)
        values[field] = self.number(WIDTHS[name], values[field])
        return HEADER.pack(*values) + frame[HEADER_BYTES:]

    def any_field(self, frame: bytes) -> bytes:
        """Any header field."""
        return self._header(frame, self.rng.choice(FIELDS))

    def deep_field(self, frame: bytes) -> bytes:
        """A header field that the protocol reads."""
        return self._header(frame, self.rng.choice(DEEP_FIELDS))

    def other_kind(self, frame: bytes) -> bytes:
        """The same under another name."""
        return frame[:5] + bytes((self.rng.choice(KINDS),)) + frame[6:]

    def body_bytes(self, frame: bytes) -> bytes:
        """Some bytes of the payload."""
        if len(frame) == HEADER_BYTES:
            return self.resized(frame)
        out = bytearray(frame)
        for _ in range(self.rng.randint(1, 4)):
            out[self.rng.randrange(HEADER_BYTES, len(out))] = self.rng.getrandbits(8)
        return bytes(out)

    def body_number(self, frame: bytes) -> bytes:
        """A number in the payload: lengths, counts, terms and digests begin at multiples of four or eight."""
        size = self.rng.choice((2, 4, 8))
        if len(frame) < HEADER_BYTES + size:
            return self.resized(frame)
        room = min(len(frame) - size, HEADER_BYTES + 256)
        offset = self.rng.randrange(HEADER_BYTES, room + 1, min(4, size))
        old = int.from_bytes(frame[offset : offset + size], "little")
        return frame[:offset] + self.number(8 * size, old).to_bytes(size, "little") + frame[offset + size :]

    def resized(self, frame: bytes) -> bytes:
        """The payload cut or prolonged, and its length in the header with it."""
        rng = self.rng
        payload = frame[HEADER_BYTES:]
        payload = payload[: rng.randrange(len(payload) + 1)] + rng.randbytes(rng.choice((0, 1, 7, 8, 40, 300)))
        values = list(HEADER.unpack_from(frame))
        values[PAYLOAD_LENGTH] = len(payload)
        return HEADER.pack(*values) + payload

    def spliced(self, frame: bytes) -> bytes:
        """The payload of another frame under this header, or this payload twice."""
        donor = self.recorded.draw(self.rng)
        other = self.rng.choice(split(donor[:-MAC_BYTES] if self.sealed else donor))
        payload = other[HEADER_BYTES:] if self.rng.random() < 0.7 else 2 * frame[HEADER_BYTES:]
        values = list(HEADER.unpack_from(frame))
        values[PAYLOAD_LENGTH] = len(payload)
        return HEADER.pack(*values) + payload

    def fragmented(self, frame: bytes) -> bytes:
        """The frame as a fragment, or the only one, of a large message."""
        rng = self.rng
        values = dict(zip(FIELDS, HEADER.unpack_from(frame), strict=True))
        self._message += rng.choice((0, 1))
        count = rng.choice((1, 1, 1, 2, 2200))
        total = len(frame) if rng.random() < 0.8 else self.number(32, len(frame))
        payload = FRAGMENT_PREFIX.pack(frame[5], 0, int.from_bytes(frame[6:8], "little"), 0) + frame
        return wire.encode_frame(
            wire.KIND_FRAGMENT,
            0,
            values["cluster"],
            values["sender"],
            values["receiver"],
            values["sender_incarnation"],
            values["receiver_incarnation"],
            self._message,
            0,
            total,
            count,
            payload[: MAX_DATAGRAM - HEADER_BYTES],
        )

    def third(self, i: int) -> bytes:
        """Datagram number i: a third of each sort."""
        return (self.noise, self.replay, self.mutated)[i % 3]()


MUTATIONS: tuple[Callable[[Hostile, bytes], bytes], ...] = (
    Hostile.any_field,
    Hostile.deep_field,
    Hostile.deep_field,
    Hostile.other_kind,
    Hostile.body_bytes,
    Hostile.body_number,
    Hostile.body_number,
    Hostile.resized,
    Hostile.spliced,
)
