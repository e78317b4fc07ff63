"""What differs by the config's `engine`: the kind of log, its storage, how entries enter it, and the engine itself."""

from collections.abc import Mapping
from typing import Protocol

from quorumd.appending import Appender, SlotAppender
from quorumd.applier import Applier
from quorumd.clientplane import ClientPlane
from quorumd.consensus.ballotlog import BallotLog
from quorumd.consensus.engine import Engine, HardState, LogSizes, Random
from quorumd.consensus.raft import Raft, RaftConfig
from quorumd.consensus.termlog import TermLog
from quorumd.errors import ConfigError
from quorumd.log import Log
from quorumd.recovery import Recovered
from quorumd.slotlog import SlotLog
from quorumd.slotstorage import SlotStorage
from quorumd.storage import Storage
from quorumd.types import PAXOS, RAFT, Address, Nanoseconds, NodeId
from quorumd_fastpath.ring import Ring


class EngineSettings(Protocol):
    """What of core.py's Settings an engine is made of."""

    @property
    def engine(self) -> str: ...
    @property
    def node(self) -> NodeId: ...
    @property
    def peers(self) -> Mapping[NodeId, Address]: ...
    @property
    def raft(self) -> RaftConfig: ...


def make_log(engine: str, ring: Ring) -> Log:
    """The log that an engine writes: Multi-Paxos's may have holes."""
    return SlotLog(ring) if engine == PAXOS else Log(ring)


def storage_of(log: Log) -> type[Storage]:
    """What writes it to the disk."""
    return SlotStorage if isinstance(log, SlotLog) else Storage


def nothing_logged(log: Log) -> Recovered:
    """What the recovery of an empty log would find."""
    return Recovered(HardState(0, 0), BallotLog() if isinstance(log, SlotLog) else TermLog(), 0)


def make_appender(log: Log, storage: Storage, applier: Applier, clients: ClientPlane) -> Appender:
    """What copies entries into it."""
    if isinstance(log, SlotLog):
        return SlotAppender(log, storage, applier, clients)
    return Appender(log, storage, applier, clients)


def make_engine(
    settings: EngineSettings, recovered: Recovered, log: LogSizes, random: Random, now: Nanoseconds
) -> Engine:
    """The engine, as the log left it. Raises ConfigError for one that this version does not have."""
    terms = recovered.terms
    if settings.engine != RAFT or not isinstance(terms, TermLog):
        raise ConfigError(f"this version has no engine {settings.engine!r}")
    return Raft(
        settings.node,
        sorted(settings.peers),
        settings.raft,
        recovered.hard_state,
        terms,
        log,
        random,
        now,
        commit=recovered.applied,
    )
