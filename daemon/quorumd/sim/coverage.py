"""What runs have reached: a campaign that never came to a torn write has not tested torn writes.

`words` of the engine must all come up once in a hundred seeds (campaign.py); the rest is for the curious.
"""

from collections import Counter

from quorumd.sim.cluster import Cluster

COMMON = (
    "elections", "transfers", "quorums lost", "stalls noticed", "turns interrupted", "cut tails",
    "refused damage", "lives", "segments begun",
    "deduplicated retries", "expired sessions", "revisions compacted", "reads confirmed", "redirects and refusals",
    "unknown outcomes", "writes without room", "writes refused by full disks", "stops for room", "hung disks noticed",
    "leases granted", "leases kept alive", "leases expired", "leases revoked", "keep-alives refused",
    "answers judged", "ranges judged", "ranges of compacted revisions",
    "watch batches", "watch batches of many events", "watch progress", "watches begun", "watch streams",
    "watches paused", "watchers behind", "watches compacted",
    "messages reassembled", "requests reassembled", "turns with messages parked", "acknowledgements",
    "datagrams lost", "datagrams doubled", "datagrams overtaken", "datagrams strayed", "datagrams flipped",
    "datagrams cut off", "sectors lost", "sectors read anew", "entries evicted", "dropped: old_incarnation",
    "dropped: stale_receiver", "dropped: bad_crc",
)


OF_ENGINE = {
    "raft": ("truncations", "superseded entries", "read-backs"),
    "paxos": ("holes closed", "values kept", "values fetched", "accepted behind holes", "promises refused"),
}


def words(engine: str) -> tuple[str, ...]:
    """What a hundred runs of an engine must have reached."""
    return (*COMMON, *OF_ENGINE[engine])


def reach(cluster: Cluster) -> Counter[str]:
    """What one run has reached so far, by `words` and more."""
    for machine in cluster.machines.values():
        if machine.core is not None:
            cluster.observer.add_up(machine.core)
    reached = Counter(cluster.observer.reached)
    reached.update(cluster.lease_rules.counts)
    network = cluster.network
    reached["datagrams lost"] += network.lost
    reached["datagrams doubled"] += network.doubled
    reached["datagrams overtaken"] += network.overtaken
    reached["datagrams strayed"] += network.strayed
    reached["datagrams flipped"] += network.flipped
    reached["datagrams cut off"] += network.blocked
    cores = [machine.core for machine in cluster.machines.values() if machine.core is not None]
    reached["entries evicted"] += max((core.log.ring.first - 1 for core in cores), default=0)
    reached["revisions compacted"] += max((core.store.compacted for core in cores), default=0)
    for machine in cluster.machines.values():
        reached["turns interrupted"] += machine.interrupted
        reached["sectors lost"] += machine.disk.sectors_lost
        reached["sectors read anew"] += machine.disk.sectors_distrusted
        reached["segments begun"] += machine.disk.segments_begun
        reached["read-backs"] += machine.disk.read_backs
    reached.update(cluster.audience.reached)
    reached["answers judged"] += cluster.answers.judged
    for reader in cluster.readers:
        reached["ranges judged"] += reader.judged
        reached["ranges of compacted revisions"] += reader.compacted
    for program in (*cluster.programs, *cluster.former):
        reached["unknown outcomes"] += program.unknown
        reached["writes without room"] += program.without_room
        reached["writes refused by full disks"] += program.disk_full
        reached["watch streams"] += program.protocol.counters["watch_streams"]
        reached["watches paused"] += program.protocol.counters["watches_paused"]
        reached["reads confirmed"] += program.reads_done
        reached["redirects and refusals"] += program.transmissions - program.done
    return reached
