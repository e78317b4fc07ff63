"""A simulated cluster built from a scenario: world, network, machines, client programs, history, observer."""

from collections.abc import Sequence
from typing import Any, TextIO

from quorumd import limits
from quorumd.checker.answers import Answers
from quorumd.checker.history import Recorder
from quorumd.checker.invariants import Violation
from quorumd.checker.leases import LeaseRules
from quorumd.checker.paxos_invariants import PaxosInvariants
from quorumd.checker.raft_invariants import RaftInvariants
from quorumd.client.session import Session
from quorumd.compaction import Compaction
from quorumd.consensus.engine import Role
from quorumd.consensus.paxos import PaxosConfig
from quorumd.consensus.paxos.ballots import node_of
from quorumd.consensus.raft import RaftConfig
from quorumd.peercodec import BODY_APPEND
from quorumd.settings import Settings
from quorumd.sim.clients import Program, Surroundings
from quorumd.sim.disk import SimDisk
from quorumd.sim.holders import LEASES, Holder
from quorumd.sim.lease_observer import LeaseObserver
from quorumd.sim.machine import Machine, client_address, peer_address
from quorumd.sim.network import SimNetwork, Weather
from quorumd.sim.observer import Observer
from quorumd.sim.paxos_observer import PaxosObserver
from quorumd.sim.raft_observer import RaftObserver
from quorumd.sim.readers import Reader
from quorumd.sim.scenario import Scenario
from quorumd.sim.viewers import Audience
from quorumd.sim.world import World
from quorumd.slotlog import IslandRoom
from quorumd.types import NOBODY, PAXOS, Index, Nanoseconds, NodeId, SessionId
from quorumd.watchplane import WatchRoom, widest

CLUSTER_ID = 0xC1C1
HASHES = {"nodes": 1, "engine": 2, "quorums": 3, "storage.quota_mib": 4}
MICROSECOND = 1_000


class Cluster:
    """See the module's docstring. Every machine is started, every client program runs."""

    def __init__(self, scenario: Scenario, trace: TextIO | None = None) -> None:
        self.scenario = scenario
        self.world = World(trace)
        low, high = scenario.delay_us
        self.network = SimNetwork(
            self.world, scenario.rng("network"), Weather((low * MICROSECOND, high * MICROSECOND))
        )
        self.ids: list[NodeId] = list(range(1, scenario.nodes + 1))
        self.quotas = dict.fromkeys(self.ids, scenario.quota_bytes)  # each node's setting, from its next start on
        self.observer = observer_of(scenario, self.ids)
        self.invariants = self.observer.invariants
        self.audience = Audience(scenario, self.world)
        self.observer.applied = self.audience.learn
        self.observer.session_ended = self._session_ended
        self.history = Recorder()
        self.answers = Answers(self.audience.past)
        self.programs: list[Program] = []
        self.former: list[Program] = []  # killed
        self._processes = 0
        self._around = Surroundings(
            self.world, self.network, self.ids, self.history, self.answers, self._next_process,
            scenario.timeout_ms * limits.MILLISECOND, self._session_lost,
        )  # fmt: skip
        self._programs = 0
        self.holders: list[Holder] = []
        self._ended: list[tuple[Session, Nanoseconds]] = []  # sessions, each with the time that it had expired
        self.lease_rules = LeaseRules(scenario.drift)
        self.leases = LeaseObserver(self.lease_rules, self.world, self.history, self._next_process)
        self.machines = {node: self._machine(node) for node in self.ids}
        for machine in self.machines.values():
            machine.start(bootstrap=CLUSTER_ID)
        for _ in range(scenario.clients):
            self.audience.attend(self.add_program())
        for _ in range(scenario.holders):
            self._add_holder()
        self.readers = [self._reader(number) for number in range(1, scenario.readers + 1)]

    @property
    def quorum(self) -> int:
        """How many nodes must work for all to be well: a majority, or the larger of Multi-Paxos's quorums."""
        return max(len(self.ids) // 2 + 1, self.scenario.phase1, self.scenario.phase2)

    # -- machines -----------------------------------------------------------------------------------------------

    def _machine(self, node: NodeId) -> Machine:
        scenario = self.scenario
        low, high = scenario.sync_us
        disk = SimDisk(
            f"disk{node}", self.world, scenario.rng(f"disk {node}"), (low * MICROSECOND, high * MICROSECOND)
        )
        rng = scenario.rng(f"machine {node}")
        rate = 1.0 + rng.uniform(-scenario.drift, scenario.drift)
        machine = Machine(
            node, self.world, self.network, disk, lambda bootstrap: self._settings(node, bootstrap), rng, rate=rate,
            wall=scenario.rng(f"wall {node}"), turn_ns=scenario.turn_ns(node),
        )  # fmt: skip
        self.observer.watch(machine)
        if scenario.holders:
            self.leases.watch(machine)
        return machine

    def _settings(self, node: NodeId, bootstrap: int | bool) -> Settings:
        scenario = self.scenario
        return Settings(
            node=node,
            peers={other: peer_address(other) for other in self.ids},
            client_addresses={other: f"{client_address(other).decode()}:1" for other in self.ids},
            consensus=engine_config(scenario),
            hashes=HASHES,
            mtu_peer=scenario.mtu,
            mtu_client=scenario.mtu,
            mac_bytes=scenario.mac_bytes,
            segment_bytes=limits.MIN_SEGMENT_BYTES,
            session_ttl=scenario.session_ttl_ms * limits.MILLISECOND,
            quota_bytes=self.quotas[node],
            disk_stall=scenario.disk_stall_ms * limits.MILLISECOND,
            compaction=Compaction(retain=scenario.retain),
            bootstrap=bootstrap,
            ring_bytes=scenario.ring_kib * limits.KIB,
            ring_entries=scenario.ring_entries,
            islands=IslandRoom(scenario.island_kib * limits.KIB, scenario.island_entries),
            filter_incarnations=scenario.filter_incarnations,
            watch_room=watch_room(scenario),
        )

    # -- client programs ----------------------------------------------------------------------------------------

    def add_program(self, *, workers: int | None = None) -> Program:
        """One more client program."""
        scenario = self.scenario
        self._programs += 1
        program = Program(
            f"c{self._programs}",
            self._around,
            scenario.mix,
            scenario.rng(f"client {self._programs}"),
            workers=scenario.workers if workers is None else workers,
            per_second=scenario.per_second,
        )
        self.programs.append(program)
        return program

    def kill_program(self, program: Program) -> None:
        """A client program is gone without a farewell."""
        program.vanish()
        self.programs.remove(program)
        self.former.append(program)

    def _add_holder(self) -> None:
        scenario, number = self.scenario, len(self.holders) + 1
        ids = [number * 10 + i for i in range(LEASES)]
        self.leases.ids.update(ids)
        rng = scenario.rng(f"holder {number}")
        self.holders.append(Holder(f"h{number}", self._around, rng, self.lease_rules, ids))

    def _reader(self, number: int) -> Reader:
        scenario = self.scenario
        rng = scenario.rng(f"reader {number}")
        return Reader(f"r{number}", self._around, scenario.mix, rng, self.audience.past)

    def _session_ended(self, ended: SessionId) -> None:
        for program in (*self.programs, *self.former, *self.holders):
            session = program.protocol.session
            if session is not None and session.id == ended:
                self._ended.append((session, self.world.now))
                self._not_early(session, self.world.now)

    def _session_lost(self, session: Session) -> None:
        """Its client was told that it has ended, so by then an entry had ended it. Whoever has applied all that is
        committed knows; a node that was ahead of all others may have told it, and died."""
        for machine in self.machines.values():
            core = machine.core
            if core is not None and core.store.applied == self.invariants.committed and core.store.session(session.id):
                raise Violation("session-lives-on", f"session {session.id.hex()} lives, and is said to have ended")

    def _not_early(self, session: Session, ended_at: Nanoseconds) -> None:
        """None expires before a full TTL has passed, by the fastest clock, since its client sent what was answered."""
        scenario = self.scenario
        safe_for = int(scenario.session_ttl_ms * limits.MILLISECOND / (1.0 + scenario.drift))
        if session.opened and ended_at < session.seen_alive_at + safe_for:
            since = (ended_at - session.seen_alive_at) // limits.MILLISECOND
            raise Violation("session-early", f"session {session.id.hex()} expired {since} ms after a sign of life")

    def sessions_kept(self) -> None:
        """Once more, at the end: an answer may have come after the session's end. Raises Violation."""
        for session, ended_at in self._ended:
            self._not_early(session, ended_at)

    def _next_process(self) -> int:
        self._processes += 1
        return self._processes

    @property
    def operations(self) -> int:
        """Operations that were answered with a result."""
        return sum(program.done for program in (*self.programs, *self.former))

    # -- looking ------------------------------------------------------------------------------------------------

    @property
    def leader(self) -> NodeId:
        """The running node that leads in the newest term or ballot; 0: none does."""
        engines = [machine.core.engine for machine in self.machines.values() if machine.core is not None]
        leading = [engine for engine in engines if engine is not None and engine.role == Role.LEADER]
        return max(leading, key=lambda engine: engine.term).leader if leading else NOBODY

    def agree(self, nodes: list[NodeId]) -> bool:
        """Whether these nodes run, follow one leader, and have applied the same, which is all that is committed."""
        cores = [machine.core for machine in map(self.machines.__getitem__, nodes)]
        seen: set[tuple[int, int, int]] = set()
        for core in cores:
            if core is None or core.engine is None or not core.engine.leader:
                return False
            seen.add((core.engine.leader, core.applier.applied, core.store.digest))
        (_, applied, _) = next(iter(seen))
        return len(seen) == 1 and applied == self.invariants.committed

    def least_applied(self, nodes: list[NodeId]) -> Index:
        """How far the last of these nodes has come."""
        cores = [machine.core for machine in map(self.machines.__getitem__, nodes)]
        return min(0 if core is None or core.engine is None else core.applier.applied for core in cores)

    @property
    def tight(self) -> bool:
        """Whether a node that runs was started with a quota that may be used up."""
        cores = [machine.core for machine in self.machines.values() if machine.core is not None]
        return any(core.settings.quota_bytes < limits.DEFAULT_QUOTA_BYTES for core in cores)

    @property
    def ruled(self) -> bool:
        """Whether the log says the quota of the node that leads, if it says any."""
        core = self.machines[self.leader].core if self.leader else None
        return core is not None and (not core.store.rules or core.store.quota_bytes == core.settings.quota_bytes)

    def describe(self) -> str:
        """Each node on a line, for whoever must find out what is stuck."""
        lines = []
        for node, machine in self.machines.items():
            core = machine.core
            if core is None:
                lines.append(f"node {node}: down {machine.failed}".rstrip())
            elif core.engine is None:
                lines.append(f"node {node}: {core.out_of_quorum or core.waiting or 'no log yet'}")
            else:
                engine, applier = core.engine, core.applier
                lines.append(
                    f"node {node}: {engine.role.name.lower()} of term {engine.term}, leader {engine.leader or 'none'}, "
                    f"last {engine.last}, commit {engine.commit}, applied {applier.applied}"
                    f"{', paused' if machine.paused else ''}, quota {core.settings.quota_bytes}, "
                    f"{core.store.quota_bytes} in the log"
                )
        return "; ".join(lines)


def engine_config(scenario: Scenario) -> RaftConfig | PaxosConfig:
    """What a scenario says of its engine."""
    common = (
        scenario.heartbeat_ms * limits.MILLISECOND,
        scenario.election_timeout_ms * limits.MILLISECOND,
        min(limits.MAX_APPEND_BYTES, scenario.ring_kib * limits.KIB // 4),  # in production the ring is far larger
        scenario.inflight_kib * limits.KIB,
        limits.MAX_INFLIGHT_MESSAGES,
    )
    datagram_bytes = scenario.mtu - limits.HEADER_BYTES - limits.MAC_BYTES - BODY_APPEND.size
    if scenario.engine == PAXOS:
        return PaxosConfig(*common, datagram_bytes=datagram_bytes, phase1=scenario.phase1, phase2=scenario.phase2)
    return RaftConfig(*common, lease_reads=scenario.lease_reads, datagram_bytes=datagram_bytes)


def watch_room(scenario: Scenario) -> WatchRoom:
    """What a scenario says of streams of watches: with narrow windows also little work a turn."""
    window = scenario.watch_window_kib * limits.KIB
    if window == limits.WATCH_WINDOW_BYTES:
        return widest()
    return WatchRoom(window, 4 * window, window // 4, 20)


def observer_of(scenario: Scenario, members: Sequence[NodeId]) -> Observer[Any]:
    """Who watches the nodes of a scenario's engine."""
    if scenario.engine == PAXOS:
        return PaxosObserver(PaxosInvariants(members, scenario.phase1, scenario.phase2, node_of))
    return RaftObserver(RaftInvariants(members))
