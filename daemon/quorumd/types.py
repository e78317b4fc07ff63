"""The words of the field as types. A leaf: imports nothing of ours."""

from typing import Final, TypeAlias

NodeId: TypeAlias = int
"""1..65535; 0 on the wire means "any" or "nobody"."""
Term: TypeAlias = int
"""Raft's term, Paxos's ballot: monotonic, durable before it is spoken."""
Index: TypeAlias = int
"""Position in the log; the first entry has index 1, 0 means "before the log"."""
Incarnation: TypeAlias = int
"""One life of one process: max(stored + 1, wall-clock ns), durable before the first frame leaves."""
Nanoseconds: TypeAlias = int
"""Reading of, or span on, the monotonic clock that the port supplies; on Linux since the boot, suspends included."""
Address: TypeAlias = bytes
"""Opaque raw socket address, at most 28 bytes; in the simulator any bytes."""
SessionId: TypeAlias = bytes
"""16 random bytes chosen by the client."""

NOBODY: NodeId = 0
RAFT: Final = "raft"
PAXOS: Final = "paxos"
ENGINES: Final = (RAFT, PAXOS)
"""The engines, as the config's `engine` and the stamp of a data directory name them."""

STAMP_FORMAT: Final = 4
"""Of a node's directory, in its stamp (meta.json). 1 and 2 had the same layout, but their logs, of before history and
leases, would come to another state; those of 3 do not say their quota, and knew less of what a transaction may cost."""
