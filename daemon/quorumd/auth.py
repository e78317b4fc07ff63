"""Message authentication codes on datagrams: who holds the cluster key may speak, nobody else is even parsed.

A 16-byte BLAKE2b tag (RFC 7693, keyed mode) trails each datagram and covers every byte before it. Each plane has a key
of its own, derived from the cluster key, so that a datagram of one plane is worthless on the other. No encryption and
no replay window: replayed frames are harmless by the protocol (terms, indexes, incarnations, numbers of requests,
sequence numbers of sessions; an admin command is for one term).
"""

import hmac
from hashlib import blake2b
from typing import Final, Literal, Protocol

from quorumd.limits import MAC_BYTES
from quorumd_fastpath.wire import DROP_BAD_MAC

Buffer = bytes | bytearray | memoryview
Plane = Literal[b"peer", b"client"]

DERIVED_KEY_BYTES: Final = 32


class SealableOutbox(Protocol):
    """The part of wire.Outbox that sealing needs. Its tail room must have been set to MAC_BYTES."""

    def __len__(self) -> int: ...
    def datagram(self, i: int, /) -> bytes: ...
    def append_tail(self, i: int, data: bytes, /) -> None: ...


class InboundSlab(Protocol):
    """The part of wire.Slab that checking needs."""

    def __len__(self) -> int: ...
    def view(self, i: int, /) -> memoryview: ...
    def shrink(self, i: int, size: int, /) -> None: ...
    def drop(self, i: int, /) -> None: ...


class DropCounter(Protocol):
    """The part of wire.Counters that checking needs."""

    def increment(self, reason: int, /) -> None: ...


class Mac:
    """Tags and checks the datagrams of one plane under one cluster key.

    key: the cluster key, at least one byte (the config asks for more); plane: b"peer" or b"client".
    Raises ValueError for an empty key, which BLAKE2b would silently take as "no key".
    """

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes, plane: Plane) -> None:
        if not key:
            raise ValueError("the cluster key is empty")
        derived = blake2b(key, digest_size=DERIVED_KEY_BYTES, person=b"quorumd " + plane).digest()
        self._keyed = blake2b(key=derived, digest_size=MAC_BYTES)

    def tag(self, *parts: Buffer) -> bytes:
        """The MAC_BYTES tag of the parts' concatenation."""
        state = self._keyed.copy()
        for part in parts:
            state.update(part)
        return state.digest()

    def seal(self, datagram: bytes) -> bytes:
        """The datagram with its tag behind it."""
        return datagram + self.tag(datagram)

    def verify(self, datagram: Buffer) -> bool:
        """Whether the datagram's last MAC_BYTES are the tag of the rest; takes the same time wherever they differ."""
        if len(datagram) <= MAC_BYTES:
            return False
        view = memoryview(datagram)
        return hmac.compare_digest(self.tag(view[:-MAC_BYTES]), view[-MAC_BYTES:])

    def open(self, datagram: bytes) -> bytes | None:
        """The datagram without its tag, or None if the tag is wrong."""
        return datagram[:-MAC_BYTES] if self.verify(datagram) else None

    def seal_outbox(self, outbox: SealableOutbox) -> None:
        """Appends the tag to every waiting datagram. The last step before sending: nothing may be added after it."""
        for i in range(len(outbox)):
            outbox.append_tail(i, self.tag(outbox.datagram(i)))

    def check_slab(self, slab: InboundSlab, counters: DropCounter) -> None:
        """Strips the tag of every received datagram; empties those whose tag is wrong, and counts them as bad_mac."""
        for i in range(len(slab)):
            if self.verify(slab.view(i)):
                slab.shrink(i, MAC_BYTES)
            else:
                slab.drop(i)
                counters.increment(DROP_BAD_MAC)
