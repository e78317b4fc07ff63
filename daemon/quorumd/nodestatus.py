"""A node's figures, as the STATUS reply has them: `quorumd status`, the supervisor and the probes show them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quorumd.core import Core


def status_of(core: "Core") -> dict[str, Any]:
    """Plain data that JSON can hold; a new field needs no new format."""
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
