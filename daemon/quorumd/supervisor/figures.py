"""What is known of each node, merged from three places: its own STATUS reply, its process, the supervisor's record."""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypedDict

import psutil

from quorumd.client.probe import Status
from quorumd.config import Config
from quorumd.supervisor.record import NodeRecord
from quorumd.types import NodeId

ROLES: Final = {"leader": "leader", "follower": "follower", "candidate": "candidate", "pre_candidate": "candidate"}


class NodeFigures(TypedDict):
    """One entry of `quorumd status --json`'s nodes; None where nothing is known."""

    id: int
    pid: int | None
    alive: bool
    role: str | None
    term: int | None
    leader: int | None
    commit: int | None
    applied: int | None
    durable: int | None
    first: int | None
    last: int | None
    proposed: int | None
    accepted: int | None
    revision: int | None
    watch_streams: int | None
    watchers: int | None
    watchers_lagging: int | None
    ops_per_s: float | None
    rss_bytes: int | None
    cpu_percent: float | None
    fsync_p99_us: int | None
    restarts: int
    address: str
    auth: bool | None


class ProcessMeter:
    """Resident memory and CPU share of processes; the share counts from the previous question about the same one."""

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}

    def measure(self, pid: int | None) -> tuple[int | None, float | None]:
        """(rss_bytes, cpu_percent) of a process, 100 being one core; (None, None) if it is gone."""
        if pid is None:
            return None, None
        try:
            process = self._known.get(pid)
            if process is None or not process.is_running():
                process = self._known[pid] = psutil.Process(pid)
                process.cpu_percent()  # the first answer is always 0
            return process.memory_info().rss, process.cpu_percent()
        except psutil.Error:
            self._known.pop(pid, None)
            return None, None


class RateMeter:
    """Operations a second, from the running count in STATUS replies."""

    def __init__(self) -> None:
        self._earlier: dict[NodeId, tuple[object, int, float]] = {}
        self._rates: dict[NodeId, float] = {}

    def note(self, node_id: NodeId, status: Status, now_s: float) -> None:
        """Takes in a reply; a node that restarted counts afresh."""
        life, executed = status.get("incarnation"), _count(status, "executed")
        if executed is None:
            return
        earlier = self._earlier.get(node_id)
        if earlier is None or earlier[0] != life or executed < earlier[1]:
            self._rates.pop(node_id, None)
        elif now_s > earlier[2]:
            self._rates[node_id] = round((executed - earlier[1]) / (now_s - earlier[2]), 1)
        self._earlier[node_id] = (life, executed, now_s)

    def rate(self, node_id: NodeId) -> float | None:
        return self._rates.get(node_id)


def node_figures(
    config: Config, node_id: NodeId, *, status: Status | None, record: NodeRecord | None,
    process: tuple[int | None, float | None], rate: float | None,
) -> NodeFigures:
    """Merges what is known of one node. `process` is ProcessMeter's answer for its pid."""
    known = status or {}
    pid = record.process.pid if record and record.process else _count(known, "pid")
    alive = bool(status) or bool(record and record.process and record.process.alive)
    role = ROLES.get(str(known.get("role")))
    own_rate = known.get("ops_per_s")
    auth = known.get("auth")
    return NodeFigures(
        id=node_id, pid=pid if alive else None, alive=alive, role=role,
        term=_count(known, "term"), leader=_count(known, "leader") or None, commit=_count(known, "commit"),
        applied=_count(known, "applied"), durable=_count(known, "durable"), first=_count(known, "first"),
        last=_count(known, "last"), proposed=_count(known, "proposed"), accepted=_count(known, "accepted"),
        revision=_count(known, "revision"), watch_streams=_count(known, "watch_streams"),
        watchers=_count(known, "watchers"), watchers_lagging=_count(known, "watchers_lagging"),
        ops_per_s=float(own_rate) if isinstance(own_rate, int | float) else rate,
        rss_bytes=process[0], cpu_percent=process[1], fsync_p99_us=_count(known, "fsync_p99_us"),
        restarts=record.restarts if record else 0, address=config.node(node_id).client,
        auth=auth if isinstance(auth, bool) else None,
    )


class Acceptance(NamedTuple):
    """The share of the proposals that each node accepted, 0 to 1, and the cluster's, which is their mean."""

    cluster: float
    nodes: dict[NodeId, float]


def acceptance(rows: Sequence[NodeFigures], earlier: Sequence[NodeFigures] = ()) -> Acceptance | None:
    """P(x) = 1/n * sum(P_i(x)) over the nodes i, a node that does not answer having accepted nothing.

    earlier: what the same nodes said before; only what was proposed since then counts. Without it everything since the
    nodes' starts does, which are counted from zero: once one of them was restarted, that says nothing. None where
    nothing was proposed, or where a node says now what it did not say before.
    """
    silent = {row["id"] for row in earlier if row["proposed"] is None}
    if any(row["id"] in silent and row["proposed"] is not None for row in rows):
        return None
    before = {row["id"]: (row["proposed"] or 0, row["accepted"] or 0) for row in earlier}
    proposed = sum((row["proposed"] or 0) - before.get(row["id"], (0, 0))[0] for row in rows)
    if proposed <= 0:
        return None
    shares = {}
    for row in rows:
        accepted = (row["accepted"] or 0) - before.get(row["id"], (0, 0))[1]
        # What was under way at either look may put a node a few entries above what was proposed.
        shares[row["id"]] = round(min(1.0, max(0, accepted) / proposed), 4)
    return Acceptance(round(sum(shares.values()) / len(shares), 4), shares)


def leader_ready(rows: list[NodeFigures]) -> NodeFigures | None:
    """The node that leads and has applied something of its own term (its no-op), so that it serves."""
    leaders = [row for row in rows if row["role"] == "leader" and row["applied"]]
    return max(leaders, key=lambda row: row["term"] or 0, default=None)


def _count(status: Status, key: str) -> int | None:
    value = status.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
