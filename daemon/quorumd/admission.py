"""What may enter the log now: the ring's room, the disk's room, what followers can take. Refusals are definite.

Asked before the engine is: an append that the engine accepted must find room. Several questions can fall into one turn,
so what was let through counts until `settled`.
"""

import struct
from typing import Final

from quorumd import limits
from quorumd.clientplane import ClientPlane
from quorumd.commands import Kind
from quorumd.consensus.messages import AppendEntries
from quorumd.invariants import InvariantBroken
from quorumd.log import Log
from quorumd.storage import Storage
from quorumd.transport import BytesSource, SlabSource, Transport
from quorumd.types import Index
from quorumd_fastpath import wire
from quorumd_fastpath.wire import WRITES

HELD_SHARE: Final = 16  # of a segment may wait in the engine for its predecessors
DELETE_RANGE: Final = b"\x02"  # first byte of a command that only shrinks the store


class Admission:
    """See the module's docstring."""

    def __init__(self, log: Log, storage: Storage, transport: Transport, clients: ClientPlane, members: int) -> None:
        self.log = log
        self.storage = storage
        self.transport = transport
        self.clients = clients
        self._quorum = members // 2 + 1
        self._members = members
        self._bytes = 0  # let through to the engine since `settled`
        self._entries = 0

    def settled(self) -> None:
        """Everything let through was appended, or never will be."""
        self._bytes = self._entries = 0
        self.storage.settled()

    def entries(self, message: AppendEntries, last: Index, held: int) -> AppendEntries | None:
        """The message if the log takes a leader's entries; None if not: the leader will send them again.

        last, held: the log's last index, and bytes of messages the engine holds back until their predecessors come.
        Those are appended without another question, so their room is kept; one too many loses its entries, and tells
        the engine no more than that there is a gap.
        """
        source = message.source
        if source is None:
            return message
        if not isinstance(source, SlabSource | BytesSource):
            raise InvariantBroken("entries of a peer come with their bytes")
        size = source.size_bytes
        if message.prev_index > last and held + size > self.storage.segment_bytes // HELD_SHARE:
            return message._replace(entries=0, source=None)
        if not self._ring(size, message.entries):
            self.storage.yield_ring()
            if not self.log.ring.room(self._bytes, self._entries):
                return None
        room = self.storage.room(size + held, growing=True) or (
            self.storage.room(size + held, growing=False) and not grows(source, message.entries)
        )
        if not room:
            return None
        self.storage.claim(size)
        return message

    def own(self, count: int, size_bytes: int) -> bool:
        """Whether the log takes this leader's own housekeeping, which may use the disk's reserve."""
        if not self._ring(size_bytes, count) or not self.storage.room(size_bytes, growing=False):
            return False
        self.storage.claim(size_bytes)
        return True

    def staged(self, revision: int) -> bool:
        """Whether the staged writes may be proposed; those that may not are answered with the reason."""
        clients, storage = self.clients, self.storage
        stage = clients.stage
        if self._quorum_full() or storage.disk_full:
            whose = b"the leader has no room on its disk" if self.full_alone else b"no quorum has room on its disks"
            stage.filter_growing(clients.replies, wire.STATUS_DISK_FULL, revision, whose)
            if not stage.writes:
                return False
        count, size = stage.writes, stage.write_bytes
        if len(clients.pending) + count > limits.MAX_PENDING_OPS or not self._ring(size, count):
            clients.refuse(WRITES, wire.STATUS_OVERLOADED, revision, "too many operations under way")
            return False
        if not storage.room(size, growing=not stage.writes_only_shrink):
            status = wire.STATUS_DISK_FULL if storage.disk_full else wire.STATUS_OVERLOADED
            clients.refuse(WRITES, status, revision, "the log has no room")
            return False
        storage.claim(size)
        self.log.staged_entry_bytes = max(size // count, 1)
        return True

    def _ring(self, size: int, count: int) -> bool:
        self._bytes += size
        self._entries += count
        return self.log.ring.room(self._bytes, self._entries)

    @property
    def full_alone(self) -> bool:
        """Whether this node has no room on its disk while a quorum has."""
        return self.storage.disk_full and not self._quorum_full()

    def _quorum_full(self) -> bool:
        """Whether no quorum of nodes can take growing entries: followers say so in their acknowledgements."""
        full = sum(peer.disk_full for peer in self.transport.peers.values()) + self.storage.disk_full
        return self._members - full < self._quorum


def grows(source: SlabSource | BytesSource, count: int) -> bool:
    """Whether any of these entries adds data (only asked when the disk is full, so a loop in Python will do)."""
    owned = source.retain()
    data, offset = owned.data, owned.offset
    for _ in range(count):
        length, kind = struct.unpack_from("<IB", data, offset)
        if kind == Kind.OPEN_SESSION:
            return True
        if kind == Kind.COMMAND and data[offset + limits.ENTRY_HEADER_BYTES : offset + length][:1] != DELETE_RANGE:
            return True
        offset += length
    return False
