"""One node without IO: everything between the datagrams that arrived and the datagrams and disk writes that leave.

The loop that matters (node.py runs it on Linux, the simulator on simulated ports):

    on_peers(slab)     frames -> engine messages -> engine
    on_clients(slab)   operations staged (C), proposed as one batch, redirected or refused
    finish(now, ..)    durable? -> tick -> Ready -> log, WAL, messages -> apply (C) -> answers (C)

Rules kept here:
- Nothing is acknowledged before it is durable on a quorum: client answers leave only from apply, apply follows only
  `committed`, and the engine commits only on acknowledgements that waited for Durable.
- C runs once per operation, Python once per batch: nothing here loops over operations.
- Slabs stay untouched from on_* to the end of finish(): the engine's sources point into them.

The one place that knows the order in which everything else is called.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from quorumd import limits
from quorumd.answers import carry_out, hello_of, status_of
from quorumd.applier import Applier
from quorumd.clientplane import ClientPlane
from quorumd.consensus.engine import (
    Durable,
    Engine,
    Propose,
    ReadIndex,
    Ready,
    Role,
    Stalled,
    Tick,
    TransferLeadership,
)
from quorumd.engines import (
    codec_of,
    empty,
    make_admission,
    make_appender,
    make_engine,
    make_log,
    promise_of,
    storage_of,
)
from quorumd.errors import ConfigError, CorruptLog
from quorumd.join import judge
from quorumd.ownentries import OwnEntries, Records
from quorumd.ports import Disk, Meta
from quorumd.recovery import recover
from quorumd.settings import NodeRandom, Settings
from quorumd.storage import Storage
from quorumd.transport import BOOTSTRAPPING, HAS_STATE, VOTER, Identity, Transport
from quorumd.types import NOBODY, Incarnation, Nanoseconds, NodeId
from quorumd_fastpath import wire
from quorumd_fastpath.apply import Store
from quorumd_fastpath.ring import Ring
from quorumd_fastpath.wire import OVERFLOW, READS, STALE, WRITES, Outbox, Slab

CHORES_AT_REST = 1 * limits.SECOND
CHORES_EVERY = 5 * limits.MILLISECOND
DIVERGENCE_HEARTBEATS = 10  # for how long nothing genuine may contradict a claim of divergence (digests.py)


class Core:
    """See the module's docstring. One instance is one life of one node."""

    def __init__(self, settings: Settings, disk: Disk, random: NodeRandom, log_event: Callable[..., None]) -> None:
        self.settings = settings
        self.disk = disk
        self.random = random
        self.log_event = log_event
        self.peer_outbox = Outbox(limits.OUTBOX_DATAGRAMS, limits.OUTBOX_SCRATCH_BYTES, settings.mtu_peer)
        self.client_outbox = Outbox(limits.OUTBOX_DATAGRAMS, limits.OUTBOX_SCRATCH_BYTES, settings.mtu_client)
        self.peer_outbox.set_tail_room(settings.mac_bytes)
        self.client_outbox.set_tail_room(settings.mac_bytes)
        self.log = make_log(settings.engine, Ring(settings.ring_bytes, settings.ring_entries), settings.islands)
        self.store = Store(limits.DEFAULT_QUOTA_BYTES, limits.MAX_SESSIONS, random.u64())  # the log says another
        self.own = OwnEntries(self.store, settings)
        self.engine: Engine | None = None
        self.storage: Storage | None = None
        self.out_of_quorum = ""  # why this node neither votes nor acknowledges; "" if it does
        self.waiting = ""  # what an empty node waits for
        self._last_seq = 0  # newest Ready that waits for the disk, or whose messages do
        self._durable_seq = 0
        self._parked: deque[tuple[int, Sequence[Any]]] = deque()
        self._next_read = 1
        self._role = Role.FOLLOWER
        self.disk_woke = True  # background file work ended: chores take it up
        # Until then, if nothing arrives, all there is to do is to send what lies in the peer outbox again with every
        # heartbeat: a follower takes it for a datagram that came twice. 0: there is more to do. Set by deadline().
        self.rests_until: Nanoseconds = 0
        self._chores_due: Nanoseconds = 0
        self.now: Nanoseconds = 0  # as of the last turn
        self._promised: Nanoseconds = 0  # to leaders, by this life or any before (ports.Meta)
        self._transfer_told: Nanoseconds = 0

    # -- start --------------------------------------------------------------------------------------------------

    def start(self, now: Nanoseconds, wall_ns: int) -> None:
        """Reads the stamp and the log. Blocking; afterwards frames may leave. Raises DiskError, ConfigError."""
        self.now = now
        node = self.settings.node
        meta = self.disk.read_meta()
        engine = self.settings.engine
        if meta is not None and meta.cluster and meta.engine != engine:
            raise ConfigError(
                f"{self.disk.where()} holds the log of engine {meta.engine!r}, which {engine!r} cannot read; set "
                f"'engine: {meta.engine}' again, or name another data_dir"
            )
        stored = meta.incarnation if meta else 0
        cluster = meta.cluster if meta else 0
        incarnation: Incarnation = max(stored + 1, wall_ns)
        self._promised = max(meta.promised if meta else 0, promise_of(self.settings.consensus))
        self.disk.write_meta(Meta(cluster, node, incarnation, engine, self._promised))
        identity = Identity(node, incarnation, self.settings.hashes)
        self.transport = Transport(
            identity, self.settings.peers, self.peer_outbox, self.log, codec_of(engine), self.random.u64,
            self.settings.mtu_peer, filter_incarnations=self.settings.filter_incarnations,
        )  # fmt: skip
        self.clients = ClientPlane(
            node, self.client_outbox, self.settings.mtu_client, incarnation, self.store, self.random.u64,
            self.settings.watch_room,
        )  # fmt: skip
        self.clients.hello = partial(hello_of, self)
        self.clients.status = self.status
        self.clients.admin = partial(carry_out, self)
        self.clients.leader = self._leader_hint
        self._identify(cluster)
        bootstrap = self.settings.bootstrap
        if cluster:
            self.transport.hello_flags = HAS_STATE
            self._open(cluster, now, fresh=False)
        elif bootstrap and bootstrap is not True:
            self._found(bootstrap, now)
        elif bootstrap:
            self.transport.hello_flags = BOOTSTRAPPING

    def _identify(self, cluster: int) -> None:
        incarnation = self.transport.identity.incarnation
        self.transport.cluster = self.clients.cluster = cluster
        self.peer_outbox.identify(cluster, self.settings.node, incarnation)
        self.client_outbox.identify(cluster, self.settings.node, incarnation)

    def _found(self, cluster: int, now: Nanoseconds) -> None:
        """First start of this member: the log exists before the stamp, so a stamped directory always has one."""
        for number in self.disk.segments():  # of an earlier attempt that died before the stamp; nothing was said yet
            self.disk.remove(number)
        self._open(cluster, now, fresh=True)
        identity = self.transport.identity
        stamp = Meta(cluster, identity.node, identity.incarnation, self.settings.engine, self._promised)
        self.disk.write_meta(stamp)
        self._identify(cluster)
        self.transport.hello_flags |= BOOTSTRAPPING
        self.log_event("founded", cluster=f"{cluster:016x}")

    def _open(self, cluster: int, now: Nanoseconds, *, fresh: bool) -> None:
        self.storage = storage_of(self.log)(
            self.disk, self.log, cluster=cluster, node=self.settings.node, segment_bytes=self.settings.segment_bytes,
            random_u64=self.random.u64,
        )  # fmt: skip
        recovered = empty(self.settings.engine)
        if fresh:
            self.log.ring.reset(1)
            self.storage.start_fresh(1)
        else:
            try:
                recovered = recover(self.storage, self.store, self.log_event)
            except CorruptLog as damage:
                self._leave_quorum(str(damage))
                return
        self.engine = make_engine(self.settings, recovered, self.log, self.random, now, self._promised)
        self.transport.hello_flags |= VOTER
        storage = self.storage
        self.admission = make_admission(self.settings, self.log, storage, self.transport, self.clients)
        stands = 0 if self.settings.mac_bytes else DIVERGENCE_HEARTBEATS * self.settings.consensus.heartbeat_ns
        self.applier = Applier(self.store, self.log, storage, self.transport, self.clients, recovered.applied, stands)
        self.applier.pin()
        self.log.committed = recovered.applied
        self.appender = make_appender(self.log, storage, self.applier, self.clients)

    def _leave_quorum(self, reason: str) -> None:
        self.out_of_quorum = reason
        self.transport.hello_flags &= ~VOTER
        self.log_event("out_of_quorum", reason=reason)

    def _try_join(self, now: Nanoseconds) -> None:
        """An empty directory: see join.py."""
        verdict = judge(
            self.settings.node,
            self.transport.identity.incarnation,
            self.transport.peers,
            bootstrap=self.settings.bootstrap is True,
        )
        if verdict.refusal:
            self._leave_quorum(verdict.refusal)
        elif verdict.cluster:
            self._found(verdict.cluster, now)
        if verdict.waiting != self.waiting:
            self.waiting = verdict.waiting
            if verdict.waiting:
                self.log_event("waiting", reason=verdict.waiting)

    # -- inputs -------------------------------------------------------------------------------------------------

    def on_peers(self, slab: Slab, now: Nanoseconds) -> None:
        """One slab of datagrams from peers, read before `now`. Clear it only after finish() or settle()."""
        self.now = now  # a leadership won in settle() begins now, not when the turn before ended
        messages = self.transport.receive(slab, now)
        engine, storage = self.engine, self.storage
        if engine is None or storage is None:
            return
        carries_entries = self.transport.codec.run_encoders
        for message in messages:
            if type(message) in carries_entries:
                taken = self.admission.entries(message, engine.last, engine.held)
                if taken is None and self.admission.entries_open:
                    self.settle()  # it may be the next after those let through, which are in the log only now
                    taken = self.admission.entries(message, engine.last, engine.held)
                if taken is not None:
                    engine.step(taken)
            else:
                engine.step(message)

    def on_clients(self, slab: Slab, now: Nanoseconds) -> None:
        """One slab of datagrams from clients."""
        clients = self.clients
        clients.collect(slab, now)
        stage = clients.stage
        if stage.refused:
            clients.refuse(OVERFLOW, wire.STATUS_OVERLOADED, self.store.revision, "too many operations in one turn")
        if self.out_of_quorum:
            for which in (WRITES, READS, STALE):
                clients.refuse(which, wire.STATUS_STOPPED, self.store.revision, self.out_of_quorum)
            return
        engine = self.engine
        if stage.stale and engine is None:
            self.store.read_stale(stage, clients.replies)  # of what is empty
        elif stage.stale and (read_id := self._enqueue(STALE)):
            self.applier.add_stale(read_id, now)
        if engine is None or engine.role is not Role.LEADER:
            if stage.writes or stage.reads:
                clients.redirect(self.store.revision)
            return
        if self._role is not Role.LEADER:
            self.settle()  # won in this turn: its no-op takes its room before anything staged does
        if stage.reads:
            self._ask_reads(engine)
        if stage.writes:
            self._propose(engine)

    def _ask_reads(self, engine: Engine) -> None:
        if read_id := self._enqueue(READS):
            engine.step(ReadIndex(read_id))

    def _enqueue(self, which: int) -> int:
        """Copies staged reads for later. Their id, or 0: they are refused."""
        read_id = self._next_read
        self._next_read += 1
        if self.clients.reads.enqueue(self.clients.stage, read_id, which == STALE):
            return read_id
        self.clients.refuse(which, wire.STATUS_OVERLOADED, self.store.revision, "too many reads are waiting")
        return 0

    def _propose(self, engine: Engine) -> None:
        """One Propose for everything staged, or one definite refusal for it."""
        stage = self.clients.stage
        if not engine.accepts_proposals:
            self.clients.refuse(WRITES, wire.STATUS_NOT_LEADER, self.store.revision)
        elif not self.own.rules_said and not self._say_rules(engine):
            self.clients.refuse(WRITES, wire.STATUS_OVERLOADED, self.store.revision, "the log has no room")
        elif self.admission.staged(self.store.revision):
            engine.step(Propose(stage.writes, stage.write_bytes))

    # -- the turn -----------------------------------------------------------------------------------------------

    def finish(self, now: Nanoseconds, latest: Nanoseconds) -> None:
        """Ends a loop turn: everything that follows from its inputs happens, and the outboxes are full afterwards.

        now: before the sockets were read; what waits for a time, waits for this one. latest: after they were read;
        from then on lasts what is promised for a time. See Tick.
        """
        self.now = latest
        engine, storage = self.engine, self.storage
        if engine is None or storage is None:
            if not self.out_of_quorum:
                self._try_join(now)
        else:
            if storage.busy or self._durable_seq < self._last_seq:
                self._durable(engine, storage, now)
            engine.step(Tick(now, latest))
            self.transport.term = term = engine.term
            if now >= self._chores_due or self.disk_woke:
                self._chores(engine, storage, now)
            self.settle()
            self.applier.advance(now, latest, term, engine.leader)
            if self._reclaims:
                self._chores_due = min(self._chores_due, max(latest + CHORES_EVERY, self.own.reclaims_at))
        self.transport.tick(now)
        self.clients.finish(now)

    def _durable(self, engine: Engine, storage: Storage, now: Nanoseconds) -> None:
        durable = storage.poll(now)
        if not storage.busy:
            durable = self._last_seq
        if durable > self._durable_seq:
            self._durable_seq = durable
            engine.step(Durable(durable))
            self.applier.pin()  # what was applied before it was on this disk could not leave the ring until now
            self._release(now)

    def _release(self, now: Nanoseconds) -> None:
        parked = self._parked
        while parked and parked[0][0] <= self._durable_seq:
            for message in parked.popleft()[1]:
                self.transport.send(message, now)

    @property
    def parked(self) -> bool:
        """Whether messages wait for the disk."""
        return bool(self._parked)

    def settle(self) -> None:
        """Performs every Ready the engine has; slabs may be cleared afterwards."""
        engine, storage = self.engine, self.storage
        if engine is None or storage is None:
            return
        while (ready := engine.ready()) is not None:
            self._perform(engine, storage, ready)
        if self.admission.entries_open:
            self.admission.settled()

    def _perform(self, engine: Engine, storage: Storage, ready: Ready) -> None:
        """Acts on one Ready, in the order its fields stand."""
        now = self.now
        for item in ready.append:
            self.appender.append(item)
        if ready.touches_disk:
            self._last_seq = ready.seq
            self._chores_due = min(self._chores_due, now + CHORES_EVERY)
            storage.write(ready.seq, ready.hard_state, ready.append, self.applier.commit)
            self.applier.pin()
        for message in ready.messages:
            self.transport.send(message, now)
        if ready.messages_after_durable:
            self._last_seq = ready.seq
            self._parked.append((ready.seq, ready.messages_after_durable))
        if ready.committed is not None:
            self.applier.commit = self.log.committed = ready.committed[1]
        for read in ready.reads:
            self.applier.add_read(read.read_index, read.read_id)
        for read_id in ready.reads_failed:
            self.clients.reads.reject(read_id, self.clients.replies, wire.STATUS_NOT_LEADER, self.clients.hint())
        if ready.events:  # a change of role is one
            for event in ready.events:
                self.log_event(event.what, **event.detail)
            self._follow_role(engine, now)
        if not storage.busy and self._last_seq > self._durable_seq:
            self._durable_seq = self._last_seq
            engine.step(Durable(self._last_seq))
            self._release(now)

    def _follow_role(self, engine: Engine, now: Nanoseconds) -> None:
        if engine.role is self._role:
            return
        if engine.role is Role.LEADER:
            self.own.begin(now)
        elif self._role is Role.LEADER:
            # What was proposed may or may not commit: its clients ask again and are told by the next leader.
            self.clients.pending.clear()
            self.applier.reject_reads()
            self.own.rules_said = False
        self._role = engine.role

    # -- chores -------------------------------------------------------------------------------------------------

    def _chores(self, engine: Engine, storage: Storage, now: Nanoseconds) -> None:
        """What need not happen in every turn. A write brings it forward: without any, next to nothing falls due."""
        self.disk_woke = False
        storage.maintain(now)
        storage.idle(now, self.applier.commit)
        due = storage.deadline(now)
        at_rest = not storage.busy and due is None
        self._chores_due = now + (CHORES_AT_REST if at_rest else CHORES_EVERY)
        if due is not None and due > now:  # else the turns that it calls for would find nothing to do until then
            self._chores_due = min(self._chores_due, due)
        if self.transport.notices:
            for event, node, reason in self.transport.notices:
                self.log_event(event, peer=node, reason=reason)
            self.transport.notices.clear()
        if engine.role is not Role.LEADER or self._role is not Role.LEADER:
            return  # a leadership of this very turn has not given the sessions their full TTL yet
        if engine.accepts_proposals:
            self._keep_house(engine, now)
        self._chores_due = min(self._chores_due, max(now + CHORES_EVERY, self.own.next_expiry))
        stalled = self.disk.oldest_pending_ns() > self.settings.disk_stall
        if (stalled or self.admission.full_alone) and now - self._transfer_told > limits.SECOND:
            self._hand_over(engine, now, "disk_stalled" if stalled else "disk_full")

    def _keep_house(self, engine: Engine, now: Nanoseconds) -> None:
        if self.store.rules and not self.own.rules_said:
            self._say_rules(engine)  # the log may say others than this leader goes by
        heard = self.applier.heard(now)
        # What it says of its own leadership must be in the log before an expiry that names it. (Once this node does not
        # lead, leads_from means nothing: another's no-op may be there.)
        if heard >= self.own.next_expiry and self.store.leadership == self.appender.leads_from:
            expiries = self.own.expiry.due(heard, self.store)
            if self._propose_own(engine, expiries.records()):
                expiries.proposed(self.store)
        self._propose_own(engine, self.own.compactions(now))
        if reclaims := self.own.reclaiming(now):
            if self._propose_own(engine, reclaims):
                self.own.reclaims_after = engine.last
            else:
                self.own.reclaims_at = now + CHORES_AT_REST  # a full disk has no room soon

    def _say_rules(self, engine: Engine) -> bool:
        """Whether the log says now what the commands that come next are judged by."""
        records = self.own.rules()
        self.own.rules_said = self._propose_own(engine, records)
        return self.own.rules_said or not records

    def _propose_own(self, engine: Engine, records: Records) -> bool:
        """Proposes entries of this leader's own. Refused ones are decided anew later."""
        if not records or not engine.accepts_proposals:
            return False
        self.settle()  # what comes before them in the log takes its room first
        size = len(records) * limits.ENTRY_HEADER_BYTES
        if not engine.accepts_proposals or not self.admission.own(len(records), size):
            return False
        self.appender.internal = records
        engine.step(Propose(len(records), size))
        self.settle()
        return True

    @property
    def _reclaims(self) -> bool:
        return self._role is Role.LEADER and self.own.reclaims

    def _hand_over(self, engine: Engine, now: Nanoseconds, why: str) -> None:
        """A leader whose disk hangs or is full, while a quorum of followers is alive, gives leadership away."""
        self._transfer_told = now
        silent, peers = self._silent(now), self.transport.peers
        if len(peers) - len(silent) >= self.admission.electing:
            self.log_event(why, pending_ms=self.disk.oldest_pending_ns() // limits.MILLISECOND)
            full = {peer.node for peer in peers.values() if peer.disk_full}
            engine.step(TransferLeadership(0, silent | full))

    def _silent(self, now: Nanoseconds) -> frozenset[NodeId]:
        """Peers that seem dead. A leader at rest reads what they say once in an election timeout."""
        since = now - max(limits.SECOND, 2 * self.settings.consensus.election_timeout_ns)
        return frozenset(peer.node for peer in self.transport.peers.values() if peer.heard_at < since)

    def give_away(self, now: Nanoseconds, to: NodeId = NOBODY) -> None:
        """Gives leadership, if it is here, to `to`, or to the most up-to-date follower, one that lives if any does."""
        if self.engine is not None:
            silent = self._silent(now)
            self.engine.step(TransferLeadership(to, silent if len(silent) < len(self.transport.peers) else frozenset()))

    def stalled(self, now: Nanoseconds) -> None:
        """The process did not run for a while until `now`: time known from before is stale.

        What holders of leases sent meanwhile is read only now, and as a rule confirmed within an election timeout.
        However often it stalls, a lease that nobody keeps alive ends.
        """
        self.store.put_off(now + self.settings.consensus.election_timeout_ns, self.settings.session_ttl)
        if self.engine is not None:
            self.engine.step(Stalled(now))

    def deadline(self, now: Nanoseconds) -> Nanoseconds:
        """When finish() must run again at the latest, input or not."""
        due = min(self.transport.deadline(), now + limits.SECOND)
        if (fragments := self.clients.deadline()) is not None:
            due = min(due, fragments)
        self.rests_until = 0
        if len(self.clients.replies):
            return now
        engine, storage = self.engine, self.storage
        if engine is None or storage is None:
            return due
        if self.applier.behind:
            return now
        if (chores := storage.deadline(now)) is not None:
            due = min(due, chores)
        if self._reclaims:
            due = min(due, self._chores_due)
        engine_due = engine.deadline()
        beat = engine_due == now + self.settings.consensus.heartbeat_ns
        if beat and (hears_at := self.hears_at) and len(self.peer_outbox) == len(self.transport.peers):
            self.rests_until = min(hears_at, due, self.store.next_lease_due)  # the other chores can wait so long
        return min(due, engine_due)

    @property
    def hears_at(self) -> Nanoseconds:
        """Until when the peer socket may wait, 0: not at all. An idle leader saves most of its wake-ups so."""
        engine, storage = self.engine, self.storage
        return 0 if engine is None or storage is None or storage.busy else engine.hears_at

    # -- what others may ask ------------------------------------------------------------------------------------

    def _leader_hint(self) -> tuple[NodeId, str]:
        leader = self.engine.leader if self.engine else 0
        return leader, self.settings.client_addresses.get(leader, "")

    def status(self) -> dict[str, Any]:
        """This node's figures (answers.py)."""
        return status_of(self)
