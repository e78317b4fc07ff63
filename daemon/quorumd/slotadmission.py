"""What may enter a log with holes: the questions of admission.py, with other answers for a peer's entries."""

from typing import Any

from quorumd.admission import Admission, grows
from quorumd.clientplane import ClientPlane
from quorumd.consensus.engine import Held
from quorumd.invariants import InvariantBroken
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
        """The message if the log takes its values; None if not: they will be sent again.

        Nothing waits in the engine: a slot behind a hole waits in the log, where the bound of the islands is its own.
        What the ring cannot take at its end becomes an island too, so room there is enough in every case.
        """
        source = message.source
        if source is None:
            return message
        if not isinstance(source, SlabSource | BytesSource):
            raise InvariantBroken("entries of a peer come with their bytes")
        size, count = source.size_bytes, message.entries
        if not self._has_place(message.first, size, count):
            return None
        room = self.storage.room(size, growing=True) or (
            self.storage.room(size, growing=False) and not grows(source, count)
        )
        if not room:
            return None
        self.storage.claim(size)
        self._bytes += size
        self.entries_open += count
        return message

    def _has_place(self, first: Index, size: int, count: int) -> bool:
        """Whether so many more slots from `first` on find room, beside what was let through in this turn."""
        ring, so_far = self.slots.ring, (self._bytes + size, self.entries_open + count)
        if first <= ring.last + 1:  # closes a hole, or there is none: never refused for what waits behind
            if ring.room(*so_far):
                return True
            self.storage.yield_ring()
            if ring.room(*so_far):
                return True
        return self.slots.island_room(*so_far)

