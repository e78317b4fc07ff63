"""From committed to answered: feeds the store in order, answers reads at their point, compares digests.

Entries come out of the ring; those no longer in it (a node far behind its own log) are read back from the WAL piece by
piece. Invariant: the store has applied exactly 1..applied, and applied <= commit.

A few bytes can ask for much work: a turn stops applying, and answering, when it has done TURN_WORK of each, and goes on
in the next one. In between heartbeats leave, and what arrived is looked at. After a compaction it applies nothing for a
few turns if watchers need them to get what the next entry may reclaim.
"""

from collections import deque

from quorumd import limits, peercodec
from quorumd.clientplane import ClientPlane
from quorumd.digests import DigestJudge
from quorumd.errors import Diverged
from quorumd.log import Log, skip_entries, take_entries
from quorumd.peercodec import Report
from quorumd.storage import Storage
from quorumd.transport import Transport
from quorumd.types import Index, Nanoseconds, NodeId, Term
from quorumd_fastpath import wire
from quorumd_fastpath.apply import Store


class Applier:
    """See the module's docstring."""

    def __init__(
        self,
        store: Store,
        log: Log,
        storage: Storage,
        transport: Transport,
        clients: ClientPlane,
        applied: Index,
        divergence_stands: Nanoseconds = 0,
    ) -> None:
        self.store = store
        self.log = log
        self.storage = storage
        self.transport = transport
        self.clients = clients
        self.applied = applied
        self.commit = applied
        self.judge = DigestJudge(
            transport.identity.node, len(transport.peers) + 1, store.digest_at, divergence_stands
        )
        self._points: deque[tuple[Index, int]] = deque()  # (index, read id), in order of index
        self._reached: deque[tuple[int, Nanoseconds]] = deque()  # (read id, since when): next to be answered
        self._mark: tuple[Index, Nanoseconds] = (applied, 0)  # a commit index, and when it was that
        self._heard: Nanoseconds = 0  # the last mark that was reached
        self._recalling: Index = 0  # first index being read back for apply; 0: none
        self._seen = store.compacted  # the compaction that `_turns_held` is about
        self._turns_held = 0  # for which watchers were waited for
        self._regime: tuple[Term, NodeId] = (0, 0)  # term and leader under which digests are compared
        self._reported: tuple[Index, bool] = (-1, False)  # what `_report` was made of
        self._report = peercodec.nothing_to_report()
        transport.report = self.report

    @property
    def behind(self) -> bool:
        """Whether committed entries wait that could be applied at once, or reads that could be answered."""
        if self._reached:
            return True
        if self._recalling == self.applied + 1 or self.applied >= self.log.ring.last:
            return False
        return self.applied < self.commit

    def add_read(self, index: Index, read_id: int) -> None:
        """The read may be answered once `index` is applied."""
        self._points.append((index, read_id))

    def add_stale(self, read_id: int, now: Nanoseconds) -> None:
        """The reads may be answered at once, in their turn."""
        self._reached.append((read_id, now))

    def heard(self, now: Nanoseconds) -> Nanoseconds:
        """A time, `now` if nothing waits: commands that were committed by then, and keep-alives that were confirmed,
        have had their effect. What ends for want of them is judged by it. The next one comes when what is committed now
        is applied: under load without end it is late, but does not stand still.
        """
        return now if self.applied == self.commit else min(now, self._heard)

    def reject_reads(self) -> None:
        """This node leads no longer: what waits is refused, and not left to a later leadership of its own.

        That forgets which expiries are under way: a keep-alive would be answered although one of them comes next.
        """
        clients = self.clients
        for _, read_id in self._points:
            clients.reads.reject(read_id, clients.replies, wire.STATUS_NOT_LEADER, clients.hint())
        self._points.clear()

    def advance(self, now: Nanoseconds, latest: Nanoseconds, term: Term, leader: NodeId) -> None:
        """Applies a bounded number of entries, answers the reads whose point was reached, and judges digests heard.

        now, latest: see Core.finish. Raises Diverged if this replica must stop.
        """
        transport = self.transport
        until = self.store.work + limits.TURN_WORK
        compacted = self.store.compacted
        if self.storage.reads or transport.runs.recalls:
            self._recalled(latest, term, until)
        # What this turn has compacted already, watchers are shown when it ends.
        if self.applied < self.commit and self.store.compacted == compacted and not self._holds_back():
            self._apply(latest, until)
        if self._points or self._reached:
            self._answer(latest)
        if self.applied >= self._mark[0]:
            self._heard = now if self.applied == self.commit else self._mark[1]
            self._mark = self.commit, now
        if transport.claims or transport.verdicts or self.judge.doubts:
            self._compare(now, term, leader)

    def pin(self) -> None:
        """Entries not yet applied, or not yet on the disk, stay in the ring; the rest can be read back."""
        self.log.ring.pin = min(self.applied, self.storage.written) + 1

    def _answer(self, now: Nanoseconds) -> None:
        """Reads in the order in which they reached their point. Keep-alives have no work to wait for."""
        store, queue, replies, reached, points = (
            self.store, self.clients.reads, self.clients.replies, self._reached, self._points
        )  # fmt: skip
        until = store.work + limits.TURN_WORK
        while reached and store.work < until:
            read_id, since = reached[0]
            if now - since > limits.READ_WAIT:
                queue.reject(read_id, replies, wire.STATUS_OVERLOADED, b"too many reads are waiting")
            elif not store.read(queue, read_id, replies, now, until):
                break
            reached.popleft()
        while points and points[0][0] <= self.applied:
            read_id = points.popleft()[1]
            if not store.read(queue, read_id, replies, now, until):
                reached.append((read_id, now))

    def _holds_back(self) -> bool:
        """Whether watchers are given another turn, for what they lack and the next entry may reclaim."""
        if self.store.compacted != self._seen:
            self._seen = self.store.compacted
            self._turns_held = 0
        if self._turns_held < limits.WATCH_HELD_TURNS and self.clients.watches.endangered:
            self._turns_held += 1
            return True
        self._turns_held = limits.WATCH_HELD_TURNS  # once for each compaction
        return False

    def _apply(self, now: Nanoseconds, until: int) -> None:
        first = self.applied + 1
        if first < self.log.ring.first:
            if self._recalling != first and self.storage.recall(first):
                self._recalling = first
            return
        if self.store.work >= until:
            return
        last = min(self.commit, self.applied + limits.APPLY_ENTRIES_PER_TURN)
        if last > self.log.ring.last:  # a full ring keeps chosen slots waiting (slotlog.py)
            self.pin()
            self.log.absorb()
            last = min(last, self.log.ring.last)
            if last < first:
                return
        self.applied = self.store.apply(
            self.log.ring, first, last, self.clients.pending, self.clients.replies, now, stop_at_compaction=True,
            until=until,
        )  # fmt: skip
        self.pin()

    def _recalled(self, now: Nanoseconds, term: Term, until: int) -> None:
        """What came back from the disk: for this node's own apply, or for a follower that is far behind."""
        transport, store = self.transport, self.store
        own, begun = self._recalling == self.applied + 1, self.applied
        for record, data in self.storage.recalled():
            first, last = record.first, record.first + record.entries - 1
            # Only what this node's apply asked for: nobody waits for the answers of entries that are not in the ring.
            if own and first <= self.applied + 1 <= min(last, self.commit) and store.work < until:
                offset = skip_entries(data, self.applied + 1 - first)
                count = min(last, self.commit) - self.applied
                wanted = take_entries(data[offset:], count)
                self.applied += store.apply_bytes(wanted, self.applied + 1, count, now_ns=now, until=until)
            entries = take_entries(data, record.entries)
            self.log.keep_recalled(first, last, entries)
            for start in transport.runs.awaited(first, last):  # a follower's log may end within a record
                self.log.keep_recalled(start, last, entries[skip_entries(entries, start - first) :])
                transport.on_recalled(start, term, now)
        if self.applied != begun:
            self._recalling = 0  # what is left is read again
            self.pin()
        transport.runs.recalls = {first for first in sorted(transport.runs.recalls) if not self.storage.recall(first)}

    def superseded(self, first: Index, last: Index | None = None) -> None:
        """Entries first..last, or all from `first` on, were replaced: what was read back, or is being read, may be of
        the old ones, and so may be what clients wait for.
        """
        self.log.forget_recalled()
        self.storage.forget_reads()
        self.transport.runs.forget_parked()
        self.clients.pending.drop(first, last)
        self._recalling = 0

    def report(self) -> Report:
        """What this node's acknowledgements say of it now."""
        state = (self.applied, self.storage.disk_full)
        if state != self._reported:
            self._reported = state
            self._report = peercodec.report(self.applied, *self.store.checkpoint(), disk_full=state[1])
        return self._report

    def _compare(self, now: Nanoseconds, term: Term, leader: NodeId) -> None:
        judge, transport = self.judge, self.transport
        if (term, leader) != self._regime:
            self._regime = term, leader
            judge.reset()
        if leader == transport.identity.node:
            for said_in, node, index, digest in transport.claims:
                if said_in == term:
                    judge.hear(node, index, digest, now)
            transport.verdict = peercodec.verdict(*judge.agreed)
        elif leader:
            for said_in, node, index, digest in transport.verdicts:
                if (said_in, node) == (term, leader):
                    judge.told(index, digest, now)
        transport.claims.clear()
        transport.verdicts.clear()
        transport.settled = (0, 0, 0) if judge.doubts else (term, *judge.confirmed)
        reason = judge.standing(now)
        if reason:
            raise Diverged(reason)
