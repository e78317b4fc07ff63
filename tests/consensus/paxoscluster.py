"""Nodes that run Multi-Paxos, for the clusters of cluster.py.

The log is a map from slot to (ballot, value): it has holes. `PaxosChecker` knows more than any node does: it sees every
acceptance reach a disk, so it knows what is chosen the moment that is true, and raises as soon as two values are chosen
for a slot or a node takes another value for chosen.
"""

import random
from typing import Any

from cluster import CONFIG, Checker, Entry, Node, Sizes, check

from quorumd.consensus.ballotlog import BallotLog
from quorumd.consensus.engine import KEPT, Append, Role
from quorumd.consensus.paxos import Paxos, PaxosConfig
from quorumd.consensus.paxos.messages import Accept, Accepted, Prepare, Promise, Values

PAXOS_CONFIG = PaxosConfig(
    CONFIG.heartbeat_ns,
    CONFIG.election_timeout_ns,
    CONFIG.max_append_bytes,
    CONFIG.max_inflight_bytes,
    CONFIG.max_inflight_messages,
)


class PaxosChecker(Checker):
    """What Paxos promises: one value chosen for a slot, for ever, and nobody who believes in another."""

    def __init__(self) -> None:
        super().__init__()
        self.acceptors: dict[tuple[int, int], set[int]] = {}  # (slot, ballot): disks that hold it
        self.chosen: dict[int, object] = {}

    def on_leader(self, node: Node) -> None:
        check(self.leaders.setdefault(node.engine.term, node.id) == node.id, "a ballot belongs to one node")

    def on_append(self, node: Node, first: int) -> None:
        raise NotImplementedError("of Raft's logs")

    def on_accept(self, node: Node, slot: int, entry: Entry) -> None:
        """P2a's premise: a proposal number has one value."""
        ballot, value = entry
        seen, _ = self.entries.setdefault((slot, ballot), (value, 0))
        check(seen == value, f"two values of slot {slot} in ballot {ballot}: {seen}, {value} at node {node.id}")

    def on_write(self, node: Node, first: int, entries: list[Entry]) -> None:
        for slot, (ballot, value) in enumerate(entries, first):
            holders = self.acceptors.setdefault((slot, ballot), set())
            holders.add(node.id)
            if len(holders) >= node.config.quorums(len(node.cluster.members))[1]:
                chosen = self.chosen.setdefault(slot, value)
                check(chosen == value, f"slot {slot} has two chosen values: {chosen} and {value}")

    def on_send(self, node: Node, message: Any) -> None:
        """What is said of a disk is on it."""
        if isinstance(message, (Promise, Prepare)) and not message.pre and getattr(message, "granted", True):
            check(node.disk_hard.term >= message.ballot, f"node {node.id} speaks of a promise that is not on its disk")
        if isinstance(message, Accepted):
            for slot in (message.match, *(slot for ends in message.above for slot in ends)):
                held = node.disk_log.get(slot, (0, None))[0]
                known = held >= message.ballot or slot in self.chosen or slot == 0
                check(known, f"node {node.id} speaks of slot {slot}, which is not on its disk in {message.ballot}")

    def on_committed(self, node: Node, first: int, last: int, nodes: object) -> None:
        for slot in range(first, last + 1):
            check(slot in self.chosen, f"node {node.id} takes slot {slot} for chosen, and it is not")
            value = node.log[slot][1]
            check(value == self.chosen[slot], f"node {node.id} takes {value} for the value of slot {slot}")
            if slot > len(self.committed):
                self.committed.append((0, value))


class PaxosNode(Node):
    """One engine with its disk."""

    checker = PaxosChecker
    config = PAXOS_CONFIG
    carriers = (Accept, Values)

    def empty(self) -> Any:
        return {}

    def make_engine(self, seed: random.Random) -> Any:
        ballots = BallotLog()
        self.top = max(self.log, default=0)
        for slot, (ballot, _) in sorted(self.log.items()):
            ballots.accept(slot, slot, ballot)
        members, now = self.cluster.members, self.cluster.now
        return Paxos(
            self.id, members, self.config, self.disk_hard, ballots, Sizes(), seed, now, commit=self.disk_commit
        )

    @staticmethod
    def put(log: Any, first: int, entries: list[Entry]) -> None:
        log.update(enumerate(entries, first))

    def payloads(self, item: Append) -> list[object]:
        if item.source is KEPT:
            return [self.log[slot][1] for slot in range(item.first, item.last + 1)]
        if item.source is None:
            check(item.first == self.top + 1, "what is proposed comes behind everything")
        return super().payloads(item)

    def _append(self, item: Append) -> list[Entry]:
        entries = [(item.term, payload) for payload in self.payloads(item)]
        for slot, entry in enumerate(entries, item.first):
            check(slot > self.applied or entry[1] == self.log[slot][1], f"applied slot {slot} is overwritten")
            self.cluster.checker.on_accept(self, slot, entry)
        self.put(self.log, item.first, entries)
        self.top = max(self.top, item.last)
        return entries

    def _fill(self, message: object) -> object:
        if isinstance(message, self.carriers):
            ballot = message.ballot if isinstance(message, Accept) else message.accepted_in
            slots = range(message.first, message.first + message.entries)
            check(all(self.log[slot][0] == ballot for slot in slots), "a message carries slots of its ballot")
            return message._replace(source=tuple(self.log[slot][1] for slot in slots))
        return message

    def agree(self) -> None:
        engine = self.engine
        check(engine.last == self.top, "engine and log agree on the last slot")
        held = engine.term_at(engine.last)
        check(not self.log or held == self.log[engine.last][0], "engine and log agree on the last ballot")
        if engine.role == Role.LEADER and engine.accepts_proposals:
            last = engine.last
            check(engine.term_at(last) == engine.term, "a leader that takes proposals has proposed all that was open")
