"""What differs by the config's `engine`: the kind of log, its storage, how entries enter it, and the engine itself."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from quorumd import paxoscodec, peercodec
from quorumd.admission import Admission
from quorumd.appending import Appender, SlotAppender
from quorumd.applier import Applier
from quorumd.clientplane import ClientPlane
from quorumd.consensus.ballotlog import BallotLog
from quorumd.consensus.engine import Engine, HardState, LogSizes, Random
from quorumd.consensus.paxos import Paxos, PaxosConfig
from quorumd.consensus.quorum import majority
from quorumd.consensus.raft import Raft, RaftConfig
from quorumd.consensus.termlog import TermLog
from quorumd.invariants import InvariantBroken
from quorumd.log import Log
from quorumd.peercodec import Codec
from quorumd.recovery import Recovered
from quorumd.slotadmission import SlotAdmission
from quorumd.slotlog import USUAL, IslandRoom, SlotLog
from quorumd.slotstorage import SlotStorage
from quorumd.storage import Storage
from quorumd.transport import Transport
from quorumd.types import NOBODY, PAXOS, RAFT, Address, Nanoseconds, NodeId
from quorumd_fastpath.ring import Ring

EngineConfig: TypeAlias = RaftConfig | PaxosConfig


class EngineSettings(Protocol):
    """What of core.py's Settings an engine is made of."""

    @property
    def node(self) -> NodeId: ...
    @property
    def peers(self) -> Mapping[NodeId, Address]: ...
    @property
    def consensus(self) -> EngineConfig: ...


def name_of(config: EngineConfig) -> str:
    """The engine that a config is for."""
    return PAXOS if isinstance(config, PaxosConfig) else RAFT


def codec_of(engine: str) -> Codec:
    """The frames that its nodes exchange."""
    return paxoscodec.PAXOS if engine == PAXOS else peercodec.RAFT


def quorums_of(settings: EngineSettings) -> tuple[int, int]:
    """How many nodes elect a leader, and how many commit."""
    members = len(settings.peers)
    if isinstance(settings.consensus, PaxosConfig):
        return settings.consensus.quorums(members)
    return majority(members), majority(members)


def make_log(engine: str, ring: Ring, islands: IslandRoom = USUAL) -> Log:
    """The log that an engine writes: Multi-Paxos's may have holes, and what lies behind them has room of its own."""
    return SlotLog(ring, islands) if engine == PAXOS else Log(ring)


def empty(engine: str) -> Recovered:
    """What a node begins with that has no log yet."""
    return Recovered(HardState(0, NOBODY), BallotLog() if engine == PAXOS else TermLog(), 0)


def storage_of(log: Log) -> type[Storage]:
    """What writes it to the disk."""
    return SlotStorage if isinstance(log, SlotLog) else Storage


def make_appender(log: Log, storage: Storage, applier: Applier, clients: ClientPlane) -> Appender:
    """What copies entries into it."""
    if isinstance(log, SlotLog):
        return SlotAppender(log, storage, applier, clients)
    return Appender(log, storage, applier, clients)


def make_admission(
    settings: EngineSettings, log: Log, storage: Storage, transport: Transport, clients: ClientPlane
) -> Admission:
    """What decides which entries may enter it now."""
    quorums = quorums_of(settings)
    if isinstance(log, SlotLog):
        return SlotAdmission(log, storage, transport, clients, len(settings.peers), quorums)
    return Admission(log, storage, transport, clients, len(settings.peers), quorums)


def promise_of(config: EngineConfig) -> Nanoseconds:
    """For how long its nodes promise a leader its lease; a life that follows has to keep that."""
    return config.promise_ns if isinstance(config, RaftConfig) else 0


def make_engine(
    settings: EngineSettings, recovered: Recovered, log: LogSizes, random: Random, now: Nanoseconds,
    promised: Nanoseconds = 0,
) -> Engine:
    """The engine, as the log left it. promised: for how long any life so far may have promised a leader its lease."""
    node, members, config, entries = settings.node, sorted(settings.peers), settings.consensus, recovered.terms
    commit = recovered.applied
    if isinstance(config, PaxosConfig) and isinstance(entries, BallotLog):
        return Paxos(node, members, config, recovered.hard_state, entries, log, random, now, commit=commit)
    if isinstance(config, RaftConfig) and isinstance(entries, TermLog):
        return Raft(
            node, members, config, recovered.hard_state, entries, log, random, now, commit=commit, promised=promised
        )
    raise InvariantBroken("recovery reads the log of the engine that is configured")
