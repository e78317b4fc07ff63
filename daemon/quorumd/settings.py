"""What one node is told, in core.py's terms: the config's part for it, and the randomness it may use."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from quorumd import limits
from quorumd.compaction import Compaction
from quorumd.engines import EngineConfig, name_of
from quorumd.slotlog import USUAL, IslandRoom
from quorumd.types import Address, Nanoseconds, NodeId
from quorumd.watchplane import WatchRoom


class Settings(NamedTuple):
    """What a node is told. Addresses are raw for peers, "host:port" for clients; times nanoseconds."""

    node: NodeId
    peers: Mapping[NodeId, Address]
    client_addresses: Mapping[NodeId, str]
    consensus: EngineConfig
    hashes: Mapping[str, int]
    mtu_peer: int
    mtu_client: int
    mac_bytes: int = 0
    segment_bytes: int = limits.SEGMENT_BYTES
    quota_bytes: int = limits.DEFAULT_QUOTA_BYTES
    compaction: Compaction = Compaction()
    session_ttl: Nanoseconds = limits.SESSION_TTL
    disk_stall: Nanoseconds = 3 * limits.SECOND
    bootstrap: int | bool = False  # a cluster id, or True: found one together with every peer
    ring_bytes: int = limits.RING_BYTES
    ring_entries: int = limits.RING_ENTRIES
    islands: IslandRoom = USUAL
    filter_incarnations: bool = True
    watch_room: WatchRoom | None = None  # None: what limits.py says

    @property
    def engine(self) -> str:
        """The name of the engine that `consensus` configures."""
        return name_of(self.consensus)


class NodeRandom(NamedTuple):
    """The seeded randomness of one node."""

    uniform: Callable[[float, float], float]
    u64: Callable[[], int]
