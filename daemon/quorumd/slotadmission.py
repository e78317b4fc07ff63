"""What may enter a log with holes: the questions of admission.py, with other answers for a peer's entries.

Open slots stay in memory, in the ring or as islands, until they are chosen: what is full may only become free through
the first of them. So that one is let in whatever waits behind it, and no other: memory holds one value more than the
bounds say. Where values are to take the place of others, only what they need beyond those counts.
"""

from typing import Any

from quorumd.admission import NOTHING_HELD, Admission, grows
from quorumd.clientplane import ClientPlane
from quorumd.consensus.engine import Held
from quorumd.invariants import InvariantBroken
from quorumd.log import entry_length
from quorumd.slotlog import SlotLog
from quorumd.sources import BytesSource, SlabSource
from quorumd.storage import Storage
from quorumd.transport import Transport
from quorumd.types import Index


class SlotAdmission(Admission):
    """See the module's docstring. A peer's slots go to the ring's end, into the ring, or aside as islands."""

    def __init__(
        self, log: SlotLog, storage: Storage, transport: Transport, clients: ClientPlane, members: int,
        quorums: tuple[int, int],
    ) -> None:
        super().__init__(log, storage, transport, clients, members, quorums)
        self.slots = log

    def entries(self, message: Any, last: Index, held: Held) -> Any:
        """The message if the log takes its values, or as many of them as it takes, from the first on; None if it takes
        none. What is left out will be sent again.

        Nothing waits in the engine: a slot behind a hole waits in the log, where the bound of the islands is its own.
        What the ring cannot take at its end becomes an island too, so room there is enough in every case.
        """
        source = message.source
        if source is None:
            return message
        if not isinstance(source, SlabSource | BytesSource):
            raise InvariantBroken("entries of a peer come with their bytes")
        size, count = source.size_bytes, self._fitting(message.first, message.entries, source)
        if not count:
            return None
        room = self.storage.room(size, growing=True) or (
            self.storage.room(size, growing=False) and not grows(source, count)
        )
        if not room:
            return None
        self.storage.claim(size)
        self._bytes += size
        self.entries_open += count
        return message if count == message.entries else message._replace(entries=count)

    def _fitting(self, first: Index, count: int, source: SlabSource | BytesSource) -> int:
        """How many slots from `first` on find room, beside what was let through in this turn."""
        log, so_far = self.slots, (self._bytes + source.size_bytes, self.entries_open + count)
        if self._has_place(first, *so_far):
            return count
        self.storage.yield_ring()
        log.absorb()
        if self._has_place(first, *so_far):
            return count
        if self.entries_open:
            return 0  # what they take the place of is known once that is in the log: then this is asked again
        return self._replacing(first, count, source)

    def _has_place(self, first: Index, size: int, count: int) -> bool:
        """Whether so much more finds room, even if nothing of it takes another value's place.

        Room in the ring belongs to what waits for it, should there be anything.
        """
        log = self.slots
        if first <= log.ring.last + 1 and not log.waits_for_room and log.ring.room(size, count):
            return True
        return log.island_room(size, count)

    def _replacing(self, first: Index, count: int, source: SlabSource | BytesSource) -> int:
        """As `_fitting`, slot by slot: what is here already needs no more room than it grows by.

        A slot that shrinks makes up for no other one: whether the engine takes it is not known yet.
        """
        log, owned = self.slots, source.retain()
        chosen, data, at = log.committed, owned.data, owned.offset
        freed = self.storage.written >= chosen  # else what was chosen before it is still in memory as well
        for _ in range(first, min(first + count, chosen + 1)):  # known to be chosen, so the engine leaves them out
            at += entry_length(data, at)
        size = entries = 0
        begin = max(first, chosen + 1)
        for slot, here in enumerate(log.lengths(begin, first + count - 1), begin):
            length = entry_length(data, at)
            if length > here:
                size += length - here
                entries += not here
                if not (freed and slot == chosen + 1) and not log.island_room(size, entries):
                    return slot - first
            at += length
        return count

    def _ring_room(self, size: int, count: int, held: Held = NOTHING_HELD) -> bool:
        """What this leader proposes comes behind everything that waits, which so needs its room first."""
        log = self.slots
        waiting = Held(held.size_bytes + log.island_bytes, held.entries + log.island_entries)
        return super()._ring_room(size, count, waiting)
