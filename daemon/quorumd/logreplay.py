"""What the WAL's records say of the log, replayed in the order they were written: one class for each engine.

recovery.py scans the segments and decides where the log ends; these take the records it believes.
"""

from typing import Protocol

from quorumd.consensus.ballotlog import BallotLog
from quorumd.consensus.termlog import TermLog
from quorumd.errors import ConfigError
from quorumd.invariants import invariant
from quorumd.log import Log, RecordAt, skip_entries
from quorumd.slotlog import SlotLog
from quorumd.types import PAXOS, RAFT, Index, Term
from quorumd_fastpath import walframe

PIN_NOTHING = (1 << 64) - 1
KIND_NAMES = {
    walframe.APPEND: "APPEND", walframe.TRUNCATE: "TRUNCATE", walframe.ACCEPT: "ACCEPT", walframe.REACCEPT: "REACCEPT"
}


class Replay(Protocol):
    """What recovery.py needs of either."""

    @property
    def terms(self) -> TermLog | BallotLog:
        """What the engine is to know of the log."""
        ...

    @property
    def prefix(self) -> Index:
        """Last entry before the first hole."""
        ...

    def take(self, kind: int, index: Index, count: int, term: Term, position: int, payload: memoryview) -> None:
        """One record, whose header lies at the WAL position `position`. Raises ConfigError for another engine's."""
        ...

    def reads_to(self, commit: Index) -> Index:
        """The entries up to which index `restore` wants to be given, in order, given what is known committed."""
        ...

    def restore(self, first: Index, count: int, entries: memoryview | bytes, commit: Index) -> None:
        """Live entries, in the order of the log."""
        ...


class TermReplay:
    """Raft's: an APPEND supersedes everything behind it, so the ring can follow the records as they come."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.terms = TermLog()

    @property
    def prefix(self) -> Index:
        """Raft's log has no holes."""
        return self.terms.last

    def take(self, kind: int, index: Index, count: int, term: Term, position: int, payload: memoryview) -> None:
        """See Replay.take."""
        ring, terms = self.log.ring, self.terms
        if kind == walframe.APPEND:
            invariant(index <= terms.last + 1, f"the log has a gap before entry {index}")
            if index <= terms.last:
                terms.truncate(index - 1)
            terms.append(index, index + count - 1, term)
            ring.pin = PIN_NOTHING
            taken = ring.append(payload, index, count)
            invariant(taken, "nothing is pinned during recovery")
            self.log.records.add(RecordAt(index, count, term, position + walframe.RECORD_HEADER_BYTES, len(payload)))
        elif kind == walframe.TRUNCATE:
            terms.truncate(index)
            ring.truncate(index)
            self.log.records.truncate(index)
        else:
            raise foreign(kind, RAFT)

    def reads_to(self, commit: Index) -> Index:
        """What is not committed is in the ring, or in the WAL."""
        return commit

    def restore(self, first: Index, count: int, entries: memoryview | bytes, commit: Index) -> None:
        """The ring has them already, as far as it is large enough."""


class SlotReplay:
    """Multi-Paxos's: slots come in any order and several times, so their bytes are read once all of it is known."""

    def __init__(self, log: SlotLog) -> None:
        self.log = log
        self.terms = BallotLog()

    @property
    def prefix(self) -> Index:
        """See Replay.prefix."""
        return self.terms.upto(self.terms.base + 1)

    def take(self, kind: int, index: Index, count: int, term: Term, position: int, payload: memoryview) -> None:
        """See Replay.take."""
        ballots, last = self.terms, index + count - 1
        if kind == walframe.ACCEPT:
            record = RecordAt(index, count, term, position + walframe.RECORD_HEADER_BYTES, len(payload))
            self.log.records.overlay(record)
        elif kind == walframe.REACCEPT:
            invariant(ballots.upto(index) >= last, f"slots {index}..{last} are re-accepted and were never accepted")
        else:
            raise foreign(kind, PAXOS)
        ballots.accept(index, last, term)

    def reads_to(self, commit: Index) -> Index:
        """Everything: an open slot's bytes must be at hand, to be promised or accepted again."""
        return self.terms.last

    def restore(self, first: Index, count: int, entries: memoryview | bytes, commit: Index) -> None:
        """Fills ring and islands; only what is chosen may leave the ring for it."""
        log = self.log
        log.committed = commit
        log.ring.pin = commit + 1
        if not log.appends_at(first) or not log.ring.append(entries, first, count):
            log.place(first, count, bytes(entries))


def foreign(kind: int, engine: str) -> ConfigError:
    """A record that this engine never writes."""
    return ConfigError(
        f"a record of kind {KIND_NAMES.get(kind, kind)} was not written by the engine {engine!r}: the log was made "
        "with another 'engine:'; set that one again, or name another data_dir"
    )


def head(entries: memoryview | bytes, count: int) -> memoryview | bytes:
    """The first `count` packed entries."""
    return entries[: skip_entries(entries, count)]
