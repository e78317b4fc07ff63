"""Watches leases on behalf of checker.leases: what each entry does to them and to their keys, on the node that applies
it first, entry by entry.

It stands between a node and its store and changes nothing: entries that come together are applied one at a time, which
the store's contract says is the same. The revisions that holders and expiries make are written into the history too, as
operations that begin and end in that instant: so they explain the revisions in between those of the other clients.
"""

from collections.abc import Callable, Iterable
from typing import Any

from quorumd.checker.history import Recorder
from quorumd.checker.leases import Change, LeaseRules, Shown
from quorumd.commands import Kind, Range, RangeResult, Status, decode, encode
from quorumd.consensus.engine import Role
from quorumd.core import CHORES_EVERY, Core
from quorumd.limits import MILLISECOND
from quorumd.sim.machine import Machine
from quorumd.sim.scenario import FEW, Scenario
from quorumd.sim.workload import read_back
from quorumd.sim.world import World
from quorumd.types import Index, Nanoseconds
from quorumd_fastpath.apply import Store
from quorumd_fastpath.ring import Pending, Ring
from quorumd_fastpath.wire import Replies

FIRST_REVISION = 1  # of the empty store
ALL_WORK = (1 << 64) - 1  # that a store may do: no bound
SLOW_TURNS = 5  # under way at a deadline, at the one after a stall; the proposal's, one for each of two answers
ELECTION = 4  # election timeouts in which a healed majority elects a leader
KIND_AT = 4  # of an entry record
LEASE = slice(16, 24)  # likewise: session.low
PREFIX = b"lease/"
AFTER = b"lease0"
"""Keys of holders lie in [PREFIX, AFTER); nobody else writes there, and holders nowhere else."""

Version = tuple[bytes, int, int, int, int]  # value, create revision, mod revision, version, lease
Event = tuple[int, bytes, Version | None, Version | None]


class LeaseObserver:
    """See the module's docstring. ids: of all leases that anybody may ask for. process: gives each process of the
    history its number."""

    def __init__(self, rules: LeaseRules, world: World, history: Recorder, process: Callable[[], int]) -> None:
        self.rules = rules
        self.ids: set[int] = set()
        self.seen: Index = 0  # the newest entry that any node applied
        self.rearmed: Nanoseconds = 0  # when a node gave all leases a full TTL last
        self.stalled: Nanoseconds = 0  # when a leader stood still last, and then let no lease end for a while
        self._world = world
        self._history = history
        self._writer = process()
        self._revision = FIRST_REVISION  # after entry `seen`
        self._core: dict[int, Core] = {}

    def watch(self, machine: Machine) -> None:
        """From now on, through all lives of its node."""
        look = machine.after_turn

        def after_turn(machine: Machine) -> None:
            core = machine.core
            if core is not None and core.engine is not None and self._core.get(machine.node) is not core:
                self._core[machine.node] = core
                self._stand_between(core)
            look(machine)

        machine.after_turn = after_turn

    def _stand_between(self, core: Core) -> None:
        stepped: Any = Stepped(core, self)
        core.store = core.applier.store = core.own.store = stepped
        self.caught_up(core.store)

    # -- what the store does ------------------------------------------------------------------------------------

    def entry(self, index: Index, entry: bytes, store: Store) -> None:
        """A node has applied an entry that nobody had applied before."""
        self.seen = index
        events: list[Event] = []
        if store.revision > self._revision:
            events = store.events(store.revision, 1)
            self._revision = store.revision
            self._write_down(events)
        kind = entry[KIND_AT]
        if kind in (Kind.COMMAND, Kind.EXPIRE_LEASE):
            expires = int.from_bytes(entry[LEASE], "little") if kind == Kind.EXPIRE_LEASE else 0
            changes = [Change(key, shown[4] if shown is not None else None) for _, key, shown, _ in events]
            self.rules.applied(self._world.now, self._shown(store), changes, expires=expires)

    def caught_up(self, store: Store) -> None:
        """A node has applied entries that nobody was seen to apply: while it recovered, or read back from the disk."""
        if store.applied <= self.seen:
            return
        self.seen = store.applied
        for revision in range(self._revision + 1, store.revision + 1):
            self._write_down(store.events(revision, 1))  # none is compacted yet: somebody saw it before it could be
        self._revision = store.revision
        self.rules.resumed(self._world.now, self._shown(store), self._keys(store))

    def _shown(self, store: Store) -> dict[int, Shown | None]:
        shown: dict[int, Shown | None] = {}
        for lease in sorted(self.ids):
            found = store.lease(lease)
            shown[lease] = Shown(*found) if found is not None else None
        return shown

    @staticmethod
    def _keys(store: Store) -> dict[bytes, int]:
        request = Range(PREFIX, AFTER)
        status, revision, body = store.query(encode(request))
        result = decode(request, revision, body) if status == Status.OK else None
        return {kv.key: kv.lease for kv in result.kvs} if isinstance(result, RangeResult) else {}

    def _write_down(self, events: Iterable[Event]) -> None:
        """What holders wrote, and what went with leases: every revision needs somebody who made it."""
        events = list(events)
        if not all(key.startswith(PREFIX) for _, key, _, _ in events):
            return
        writes = [["write", key.decode(), read_back(shown[0]) if shown else None] for _, key, shown, _ in events]
        now, revision = self._world.now, events[0][0]
        self._history.invoke(self._writer, "txn", None, _txn(writes), now)
        self._history.complete(self._writer, "ok", now, revision=revision, succeeded=True, results=[None] * len(writes))

    def rearm(self) -> None:
        """A node gives all leases a full TTL."""
        self.rearmed = self._world.now

    def put_off(self) -> None:
        """A leader lets no lease end for a while."""
        self.stalled = self._world.now


def _txn(writes: list[list[str | None]]) -> dict[str, Any]:
    return {"compare": [], "success": writes, "failure": []}


class Stepped:
    """A node's store, applied entry by entry where nobody has applied before."""

    def __init__(self, core: Core, observer: LeaseObserver) -> None:
        self._core = core
        self._store = core.store
        self._observer = observer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def apply(
        self,
        ring: Ring,
        first: Index,
        last: Index,
        pending: Pending | None = None,
        replies: Replies | None = None,
        now_ns: Nanoseconds = 0,
        stop_at_compaction: bool = False,
        until: int = ALL_WORK,
    ) -> Index:
        """See Store.apply."""
        store, observer = self._store, self._observer
        known = min(last, observer.seen)
        done = first - 1
        if first <= known:
            done = store.apply(ring, first, known, pending, replies, now_ns, stop_at_compaction, until)
            if done < known:
                return done
        for index in range(done + 1, last + 1):
            entry, compacted = ring.copy(index, index), store.compacted
            done = store.apply(ring, index, index, pending, replies, now_ns, stop_at_compaction)
            observer.entry(index, entry, store)
            if (stop_at_compaction and store.compacted != compacted) or store.work >= until:
                return done
        return done

    def apply_bytes(self, data: Any, first_index: Index, count: int, *given: Any, **named: Any) -> int:
        """See Store.apply_bytes."""
        done = self._store.apply_bytes(data, first_index, count, *given, **named)
        self._observer.caught_up(self._store)
        return done

    def rearm(self, now_ns: Nanoseconds) -> None:
        """See Store.rearm."""
        self._observer.rearm()
        self._store.rearm(now_ns)

    def put_off(self, until_ns: Nanoseconds, ttl_ns: Nanoseconds) -> None:
        """See Store.put_off. Deadlines of nodes that do not lead mean nothing."""
        if self._core.engine is not None and self._core.engine.role is Role.LEADER:
            self._observer.put_off()
        self._store.put_off(until_ns, ttl_ns)


def late_at_most(scenario: Scenario) -> Nanoseconds:
    """How long after its TTL a lease may end, under a leader that stays (expiry.py): a turn, which a heartbeat brings
    at the latest, and a commit, a round trip with a sync on both ends, which may have to wait for the one before. Each
    time something arrives at a slow node, a turn may be under way."""
    wakes = (scenario.heartbeat_ms * MILLISECOND + CHORES_EVERY) / (1.0 - scenario.drift)
    commit_us = 2 * scenario.delay_us[1] + 4 * scenario.sync_us[1]
    turns = SLOW_TURNS * scenario.turn_ns(scenario.slow)[1] if scenario.slow else 0
    return int(wakes) + commit_us * 1_000 + turns + MILLISECOND


def gives_up_at_most(scenario: Scenario) -> Nanoseconds:
    """How long a leader whose own disk hangs may propose nothing: a ring of few entries is full soon, as what is on no
    disk of its own cannot leave it. When it gives up, and another is elected, all leases have a full TTL again."""
    if scenario.ring_entries > FEW:
        return 0
    span_ms = scenario.disk_stall_ms + ELECTION * scenario.election_timeout_ms
    return int(span_ms * MILLISECOND / (1.0 - scenario.drift))


def put_off_at_most(scenario: Scenario) -> Nanoseconds:
    """By how much a leader that stalls, however often, may let a lease end later (expiry.py)."""
    return int(scenario.election_timeout_ms * MILLISECOND / (1.0 - scenario.drift))
