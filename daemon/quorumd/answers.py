"""What a node answers about itself: hello, by which clients find the cluster; status, for `quorumd status`, the
supervisor and the probes; and commands of administration. Plain data that JSON can hold: a new field needs no new
format.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quorumd import limits
from quorumd.clientplane import ACCEPTED, refusal
from quorumd.consensus.engine import Role
from quorumd.types import Term

if TYPE_CHECKING:
    from quorumd.core import Core


def status_of(core: "Core") -> dict[str, Any]:
    """The node's figures."""
    engine, storage = core.engine, core.storage
    role = engine.role.name.lower() if engine else "follower"
    drops = {"peer": core.transport.counters.as_dict(), "client": core.clients.counters.as_dict()}
    return {
        "node": core.settings.node,
        "cluster": f"{core.transport.cluster:016x}",
        "role": "candidate" if role == "pre_candidate" else role,
        "term": engine.term if engine else 0,
        "leader": (engine.leader or None) if engine else None,
        "commit": core.applier.commit if engine else 0,
        "applied": core.applier.applied if engine else 0,
        "durable": storage.synced_to if storage else 0,
        "first": engine.first if engine else 0,
        "last": engine.last if engine else 0,
        "proposed": core.appender.proposed if engine else 0,
        "accepted": core.appender.accepted if engine else 0,
        "revision": core.store.revision,
        "compacted": core.store.compacted,
        "keys": core.store.keys,
        "store_bytes": core.store.bytes,
        "quota_bytes": core.store.quota_bytes,
        "sessions": core.store.sessions,
        "leases": core.store.leases,
        **core.clients.watches.status(),
        "executed": core.store.executed,
        "digest": f"{core.store.digest:016x}",
        "fsync_p99_us": core.disk.sync_p99_us(),
        "disk_full": storage.disk_full if storage else False,
        "auth": core.settings.mac_bytes > 0,
        "voter": engine is not None,
        "reason": core.out_of_quorum or core.waiting,
        "incarnation": core.transport.identity.incarnation,
        "drops": {plane: {k: v for k, v in counts.items() if v} for plane, counts in drops.items()},
        "refused_peers": {str(p.node): p.refusal for p in core.transport.peers.values() if p.refusal},
    }


def hello_of(core: "Core") -> Mapping[str, Any]:
    """Who the node is, who leads, and where the others are."""
    return {
        "cluster": f"{core.transport.cluster:016x}",
        "node": core.settings.node,
        "leader": (core.engine.leader or None) if core.engine else None,
        "term": core.engine.term if core.engine else 0,
        "members": {str(node): address for node, address in core.settings.client_addresses.items()},
        "mtu": core.settings.mtu_client,
        "session_ttl_ms": core.settings.session_ttl // limits.MILLISECOND,
        "auth": core.settings.mac_bytes > 0,
    }


def carry_out(core: "Core", command: Mapping[str, Any], term: Term) -> Mapping[str, Any]:
    """Carries out a command that is meant for the leadership of `term`; the answer.

    To a command for another term it names the present one. Who asks first with term 0, and then with that, is
    obeyed in that term or never.
    """
    engine = core.engine
    if command.get("command") != "transfer-leader":
        return refusal("unknown command; this node knows: transfer-leader")
    target = command.get("to", 0)
    if engine is None or engine.role is not Role.LEADER:
        leader = engine.leader if engine else 0
        return refusal(f"node {core.settings.node} is not the leader; ask node {leader}")
    if type(target) is not int:
        return refusal("'to' is a node's id, or 0 for any")
    if target and target not in core.settings.peers:
        return refusal(f"no node {target} in this cluster")
    if term != engine.term:
        error = f"the command is for term {term}, and this is term {engine.term}"
        return {**refusal(error), "term": engine.term}
    core.give_away(core.now, target)
    return ACCEPTED
