"""What may enter the log now: the ring's room, the disk's room, what followers can take. Refusals are definite.

Asked before the engine is: an append that the engine accepted must find room. Several questions can fall into one turn,
so what was let through counts until `settled`.
"""

import struct
from bisect import bisect_left
from typing import Final

from quorumd import limits
from quorumd.clientplane import ClientPlane
from quorumd.commands import Kind, OpCode
from quorumd.consensus.engine import Held
from quorumd.consensus.messages import REFUSED, AppendEntries
from quorumd.invariants import InvariantBroken
from quorumd.log import Log
from quorumd.sources import BytesSource, SlabSource
from quorumd.storage import Storage
from quorumd.transport import Transport
from quorumd.types import Index
from quorumd_fastpath import wire
from quorumd_fastpath.wire import WRITES, Stage

HELD_SHARE: Final = 16  # of a segment may wait in the engine for its predecessors
HELD_ROOM: Final = 2  # of the ring's free room half may: the predecessors must find theirs beside it
NOTHING_HELD: Final = Held(0, 0)
SHRINKING: Final = tuple(bytes([code]) for code in (OpCode.DELETE_RANGE, OpCode.COMPACT, OpCode.LEASE_REVOKE))
"""First bytes of the commands that only shrink the store."""


class Admission:
    """See the module's docstring."""

    def __init__(
        self, log: Log, storage: Storage, transport: Transport, clients: ClientPlane, members: int,
        quorums: tuple[int, int] | None = None,
    ) -> None:
        """quorums: how many nodes elect a leader, and how many commit; None: a majority each."""
        self.log = log
        self.storage = storage
        self.transport = transport
        self.clients = clients
        self.electing, self._committing = quorums or (members // 2 + 1, members // 2 + 1)
        self._members = members
        self._bytes = 0  # let through to the engine since `settled`
        self.entries_open = 0  # likewise
        self._held = NOTHING_HELD  # by the engine, when it was asked last

    def settled(self) -> None:
        """Everything let through was appended, or never will be."""
        self._bytes = self.entries_open = 0
        self.storage.settled()

    def entries(self, message: AppendEntries, last: Index, held: Held) -> AppendEntries | None:
        """The message if the log takes a leader's entries; None if not: the leader will send them again.

        last, held: the log's last index, and what the engine holds back until its predecessors come. That is appended
        without another question, so its room is kept; a message too many loses its entries, and tells the engine that
        there is a gap, and why.
        """
        source = message.source
        if source is None:
            return message
        if not isinstance(source, SlabSource | BytesSource):
            raise InvariantBroken("entries of a peer come with their bytes")
        size, ring = source.size_bytes, self.log.ring
        self._released(held)
        with_held, entries_with_held = size + held.size_bytes, message.entries + held.entries
        if message.prev_index > last and (
            with_held > self.storage.segment_bytes // HELD_SHARE
            or not ring.room(HELD_ROOM * with_held, HELD_ROOM * entries_with_held)
        ):
            return message._replace(entries=0, source=REFUSED)
        if not self._ring(size, message.entries, held):
            self.storage.yield_ring()
            if not ring.room(self._bytes + held.size_bytes, self.entries_open + held.entries):
                return None
        room = self.storage.room(with_held, growing=True) or (
            self.storage.room(with_held, growing=False) and not grows(source, message.entries)
        )
        if not room:
            return None
        self.storage.claim(size)
        return message

    def _released(self, held: Held) -> None:
        """What was held and is no longer is on its way into the ring: it needs room from now on like all else."""
        before, self._held = self._held, held
        size = max(before.size_bytes - held.size_bytes, 0)
        self._bytes += size
        self.entries_open += max(before.entries - held.entries, 0)
        self.storage.claim(size)

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
        fitting = self._writes_taken(stage)
        if fitting < stage.writes:
            status, reason = wire.STATUS_OVERLOADED, "too many operations under way"
            if self._memory_takes(stage, fitting + 1):
                status = wire.STATUS_DISK_FULL if storage.disk_full else status
                reason = "the log has no room"
            clients.refuse(WRITES, status, revision, reason, kept=fitting)
            if not fitting:
                return False
        size = stage.write_bytes
        self._ring(size, fitting)
        storage.claim(size)
        self.log.staged_entry_bytes = max(size // fitting, 1)
        return True

    def _writes_taken(self, stage: Stage) -> int:
        """How many of the staged writes, from the first on, find room.

        Not all or none: clients that are refused together come again together, and would be too many every time.
        """
        growing = not stage.writes_only_shrink

        def too_many(count: int) -> bool:
            size = stage.write_bytes_of(count)
            return not self._memory_takes(stage, count) or not self.storage.room(size, growing=growing)

        return bisect_left(range(1, stage.writes), True, key=too_many) if too_many(stage.writes) else stage.writes

    def _memory_takes(self, stage: Stage, count: int) -> bool:
        """Whether the first `count` of the staged writes can be under way beside all that is."""
        under_way = len(self.clients.pending) + count
        return under_way <= limits.MAX_PENDING_OPS and self._ring_room(stage.write_bytes_of(count), count)

    def _ring(self, size: int, count: int, held: Held = NOTHING_HELD) -> bool:
        """Counts what is let through, and tells whether the ring had room for it."""
        fits = self._ring_room(size, count, held)
        self._bytes += size
        self.entries_open += count
        return fits

    def _ring_room(self, size: int, count: int, held: Held = NOTHING_HELD) -> bool:
        """Whether so much more fits into the ring, beside what was let through, and what is held besides."""
        return self.log.ring.room(self._bytes + size + held.size_bytes, self.entries_open + count + held.entries)

    @property
    def full_alone(self) -> bool:
        """Whether this node has no room on its disk while a quorum has."""
        return self.storage.disk_full and not self._quorum_full()

    def _quorum_full(self) -> bool:
        """Whether no quorum of nodes can take growing entries: followers say so in their acknowledgements."""
        full = sum(peer.disk_full for peer in self.transport.peers.values()) + self.storage.disk_full
        return self._members - full < self._committing


def grows(source: SlabSource | BytesSource, count: int) -> bool:
    """Whether any of these entries adds data (only asked when the disk is full, so a loop in Python will do)."""
    owned = source.retain()
    data, offset = owned.data, owned.offset
    for _ in range(count):
        length, kind = struct.unpack_from("<IB", data, offset)
        if kind == Kind.OPEN_SESSION:
            return True
        if kind == Kind.COMMAND and not data.startswith(SHRINKING, offset + limits.ENTRY_HEADER_BYTES, offset + length):
            return True
        offset += length
    return False
